//! The attacker has a session token of the first customer, with every grant.

use anchorhold::{ConnectCallback, ConnectRequest, ConnectionId, Environment, Error, SessionOptions, SessionToken};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::common::{block_on, provider, revealed};
use crate::world::{OF_A, OF_B, World, all_grants, handle_bytes};

fn request() -> ConnectRequest {
    ConnectRequest::new(provider("idp"), "https://app.example.com/callback").unwrap()
}

fn nobodys() -> ConnectionId {
    "cn_AAAAAAAAAAAAAAAAAAAAAA".parse().unwrap()
}

#[test]
fn a_session_sees_no_secret_neither_its_own_nor_anothers() {
    block_on(async {
        let world = World::new().await;
        let token = world.a.mint_session_token(all_grants()).await.unwrap().token;
        let session = world.vault.session(&token).await.unwrap();
        // All that it can be told, errors included.
        let told = [
            format!("{session:?}"),
            format!("{:?}", session.connections().await.unwrap()),
            format!("{:?}", session.linked_account_id().await.unwrap()),
            session.begin_connect(request()).await.unwrap().url,
            format!("{:?}", session.begin_connect(request().reconnect(world.of_b.id())).await),
            format!("{:?}", session.begin_connect(request().reconnect(world.of_a.id())).await),
            format!("{:?}", session.disconnect(&world.of_b.id()).await),
            format!("{:?}", session.disconnect(&world.of_a.id()).await),
        ]
        .join("\n");
        assert!(told.contains(&world.of_a.id().to_string()), "the control: {told}");
        for text in [OF_A, OF_B, world.b.id().as_str(), &world.of_b.id().to_string()] {
            assert!(!told.contains(text), "{told}");
        }
        assert_eq!(revealed(&world.of_b).await.unwrap(), OF_B, "the control: it was there to be seen");
    });
}

#[test]
fn a_session_changes_nothing_of_another() {
    block_on(async {
        let world = World::new().await;
        let token = world.a.mint_session_token(all_grants()).await.unwrap().token;
        let session = world.vault.session(&token).await.unwrap();
        let flow_of_b = world.b.begin_connect(request()).await.unwrap().url;
        let state_of_b = flow_of_b.split("state=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let (of_a, of_b) = (world.disk.rows(world.tree_a), world.rows_of_b());

        session.disconnect(&world.of_b.id()).await.unwrap_err();
        session.begin_connect(request().reconnect(world.of_b.id())).await.unwrap_err();
        let callback = ConnectCallback::from_query(&format!("code=stolen&state={state_of_b}")).unwrap();
        session.complete_connect(callback).await.unwrap_err();
        assert_eq!(world.rows_of_b(), of_b, "not one byte of the other's is another");
        // The control: its own it can change.
        session.disconnect(&world.of_a.id()).await.unwrap();
        assert_ne!(world.disk.rows(world.tree_a), of_a);
    });
}

#[test]
fn a_session_learns_of_nobody_else() {
    block_on(async {
        let world = World::new().await;
        let token = world.a.mint_session_token(all_grants()).await.unwrap().token;
        let session = world.vault.session(&token).await.unwrap();
        let answers = async |connection: ConnectionId| {
            let begun = session.begin_connect(request().reconnect(connection)).await.map(|_| ());
            format!("{begun:?} {:?}", session.disconnect(&connection).await)
        };
        assert_eq!(answers(world.of_b.id()).await, answers(nobodys()).await);
        // A token with another's handle, and one with a handle that nobody has.
        let with_handle = |handle: [u8; 16]| {
            let (prefix, body) = token.expose_secret().split_at(8);
            let mut raw = URL_SAFE_NO_PAD.decode(body).unwrap();
            raw[1..17].copy_from_slice(&handle);
            SessionToken::from(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(raw)))
        };
        let there = world.vault.session(&with_handle(handle_bytes(world.tree_b))).await.unwrap_err();
        let never = world.vault.session(&with_handle([0x55; 16])).await.unwrap_err();
        assert_eq!(format!("{there:?} {there}"), format!("{never:?} {never}"));
        assert!(world.vault.session(&with_handle(handle_bytes(world.tree_a))).await.is_ok(), "the control");
    });
}

#[test]
fn no_token_is_put_together_from_others() {
    block_on(async {
        let world = World::new().await;
        let production_key = world.vault.bootstrap_api_key(Environment::Production).await.unwrap();
        let production = world.vault.backend(&production_key).await.unwrap();
        let twin = production.create_account(world.a.id()).await.unwrap();
        let mut tokens = Vec::new();
        for account in [&world.a, &world.a, &world.b, &twin] {
            let token = account.mint_session_token(SessionOptions::new()).await.unwrap().token;
            tokens.push(URL_SAFE_NO_PAD.decode(&token.expose_secret()[8..]).unwrap());
        }
        let mut tried = 0;
        for (first, second) in tokens.iter().flat_map(|first| tokens.iter().map(move |second| (first, second))) {
            for cut in 0..=first.len().min(second.len()) {
                let spliced = [&first[..cut], &second[cut..]].concat();
                for prefix in ["st_test_", "st_live_"] {
                    let token = SessionToken::from(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(&spliced)));
                    let own = tokens.iter().position(|token| *token == spliced);
                    let genuine = own.is_some_and(|number| (number == 3) == (prefix == "st_live_"));
                    match world.vault.session(&token).await {
                        Ok(_) => assert!(genuine, "cut at {cut}"),
                        Err(Error::InvalidToken) => assert!(!genuine, "cut at {cut}"),
                        Err(other) => panic!("{other:?}"),
                    }
                    tried += 1;
                }
            }
        }
        println!("{tried} tokens put together");
        assert!(tried > 2_000);
    });
}

#[test]
fn refused_tokens_cost_their_own_account_a_few_entries_and_nobody_else_anything() {
    block_on(async {
        let world = World::new().await;
        let token = world.a.mint_session_token(all_grants()).await.unwrap().token;
        let (of_b, entries) = (world.rows_of_b(), world.audit_of_a().await.len());
        let mut altered = token.expose_secret().to_owned();
        altered.replace_range(60..61, if &altered[60..61] == "A" { "B" } else { "A" });
        let altered = SessionToken::from(altered);
        for _ in 0..1_000 {
            assert!(matches!(world.vault.session(&altered).await, Err(Error::InvalidToken)));
        }
        assert!(world.vault.session(&token).await.is_ok(), "the genuine one still is");
        assert_eq!(revealed(&world.of_b).await.unwrap(), OF_B);
        let told = &world.audit_of_a().await[entries..];
        let counts = told.iter().map(|entry| match entry.action {
            anchorhold::AuditAction::Denied { count, .. } => count,
            _ => 0,
        });
        assert_eq!(counts.sum::<u64>(), 1_000, "each is counted: {told:?}");
        println!("1,000 refused tokens made {} entries", told.len());
        assert!(told.len() <= 100, "{} entries", told.len());
        // The secret was shown once, which its audit tells; beside that nothing of the other's is another.
        assert!(world.rows_of_b().len() <= of_b.len() + 1);
    });
}

#[test]
fn what_ended_stays_ended_for_a_session() {
    block_on(async {
        let world = World::new().await;
        let mint = async |options: SessionOptions| world.a.mint_session_token(options).await.unwrap();
        let (good, revoked) = (mint(all_grants()).await, mint(all_grants()).await);
        let single = mint(all_grants().single_use()).await;
        world.vault.session(&single.token).await.unwrap();
        world.a.revoke_session_token(&revoked.id).await.unwrap();
        let vault = world.reopened().await;
        for ended in [&revoked, &single] {
            assert!(matches!(vault.session(&ended.token).await, Err(Error::InvalidToken)));
        }
        assert!(vault.session(&good.token).await.is_ok(), "the control");
    });
}
