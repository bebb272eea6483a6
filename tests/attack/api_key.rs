//! The attacker has an API key with `Connections` and nothing else, for the first customer only; or one with no permission at all.

use anchorhold::{
    Account, Backend, Error, Injection, NewApiKey, PageRequest, Permission, Permissions, ProviderSettings, SessionOptions, Vault,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::common::{api_key_connection, block_on, id, provider, revealed};
use crate::world::{OF_A, OF_B, World};

async fn narrow(world: &World) -> anchorhold::CreatedApiKey {
    let options = NewApiKey::new("narrow").permissions([Permission::Connections]).accounts([world.a.id().clone()]);
    world.backend.create_api_key(options).await.unwrap()
}

/// What that key opens.
async fn opened(world: &World) -> (Backend, Account) {
    let backend = world.vault.backend(&narrow(world).await.key).await.unwrap();
    let account = backend.account(world.a.id()).await.unwrap();
    (backend, account)
}

fn lacks<T>(result: Result<T, Error>, permission: Permission) {
    match result {
        Err(Error::PermissionDenied { needed }) => assert_eq!(needed, permission),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("was let in without {permission:?}"),
    }
}

#[test]
fn a_key_without_reveal_and_use_sees_no_secret_neither_its_own_nor_anothers() {
    block_on(async {
        let world = World::new().await;
        let (backend, account) = opened(&world).await;
        let connection = account.connection(&world.of_a.id()).await.unwrap();
        lacks(revealed(&connection).await, Permission::Reveal);
        let mut request = http::Request::get("https://api.example.com/").body(()).unwrap();
        lacks(connection.authorize(&mut request).await, Permission::Use);
        assert!(request.headers().is_empty(), "the request stays as it was");
        let request = http::Request::get("https://api.example.com/").body("").unwrap();
        assert!(connection.send(request).await.is_err());
        assert!(matches!(backend.account(world.b.id()).await, Err(Error::NotFound { .. })));
        assert!(matches!(account.connection(&world.of_b.id()).await, Err(Error::NotFound { .. })));
        let told = format!("{backend:?} {account:?} {:?} {:?}", connection.info().await, account.connections().await.unwrap());
        assert!(told.contains("crm"), "the control: {told}");
        assert!(!told.contains(OF_A) && !told.contains(OF_B), "{told}");
    });
}

#[test]
fn a_key_changes_nothing_outside_its_list_and_administers_nothing() {
    block_on(async {
        let world = World::new().await;
        let (backend, account) = opened(&world).await;
        let (of_b, providers) = (world.rows_of_b(), world.backend.providers().await.unwrap());

        assert!(backend.account(world.b.id()).await.is_err());
        assert!(backend.create_account(&id("somebody new")).await.is_err());
        assert!(backend.create_account(world.b.id()).await.is_err());
        lacks(account.set_metadata("mine now").await, Permission::Accounts);
        lacks(account.delete().await, Permission::Accounts);
        let elsewhere =
            ProviderSettings::new(provider("crm")).allow_host("evil.test").unwrap().injection(Injection::Bearer).unwrap();
        assert!(backend.set_provider(elsewhere).await.is_err());
        assert!(backend.remove_provider(&provider("crm")).await.is_err());
        assert!(backend.create_api_key(NewApiKey::new("mightier").permissions(Permissions::ALL)).await.is_err());
        let keys = world.backend.api_keys().await.unwrap();
        for key in keys.iter().filter(|key| key.label != "narrow") {
            assert!(backend.revoke_api_key(&key.id).await.is_err());
            assert!(backend.rotate_api_key(&key.id, std::time::Duration::ZERO).await.is_err());
        }

        assert_eq!(world.rows_of_b(), of_b, "not one byte of the other's is another");
        assert_eq!(world.backend.providers().await.unwrap(), providers);
        assert_eq!(world.backend.api_keys().await.unwrap().len(), keys.len());
        assert!(world.backend.account(&id("somebody new")).await.is_err());
        // The control: what the key is for.
        account.add_connection(api_key_connection("crm", "added")).await.unwrap();
    });
}

#[test]
fn a_key_without_a_list_learns_which_ids_there_are_and_nothing_more() {
    block_on(async {
        let world = World::new().await;
        let options = NewApiKey::new("nothing").permissions(Permissions::default());
        let backend = world.vault.backend(&world.backend.create_api_key(options).await.unwrap().key).await.unwrap();
        let account = backend.account(world.b.id()).await.unwrap();
        assert!(matches!(backend.account(&id("nobody")).await, Err(Error::NotFound { .. })), "the gain: there or not");
        assert!(matches!(account.info().await, Err(Error::PermissionDenied { .. })));
        assert!(matches!(account.connections().await, Err(Error::PermissionDenied { .. })));
        assert!(matches!(account.audit(PageRequest::first(10)).await, Err(Error::PermissionDenied { .. })));
        lacks(backend.accounts(PageRequest::first(10)).await, Permission::Accounts);
        lacks(backend.api_keys().await, Permission::Keys);
    });
}

#[test]
fn a_key_mints_no_token_and_becomes_no_other_key() {
    block_on(async {
        let world = World::new().await;
        let created = narrow(&world).await;
        let backend = world.vault.backend(&created.key).await.unwrap();
        let account = backend.account(world.a.id()).await.unwrap();
        lacks(account.mint_session_token(SessionOptions::new()).await, Permission::Sessions);

        let text = created.key.expose_secret();
        let refused = async |text: String| matches!(world.vault.backend(&text.into()).await, Err(Error::InvalidApiKey));
        for at in 0..text.len() {
            let mut changed = text.to_owned();
            changed.replace_range(at..=at, if &text[at..=at] == "A" { "B" } else { "A" });
            assert!(refused(changed).await, "at {at}");
        }
        // The id of the mightiest key with the secret that the attacker has, its checksum in order.
        let own = URL_SAFE_NO_PAD.decode(&text[8..]).unwrap();
        let mightiest = URL_SAFE_NO_PAD.decode(&world.key.expose_secret()[8..]).unwrap();
        let with_checksum = |content: &[u8]| {
            let crc = crc32fast::hash(&[&text.as_bytes()[..8], content].concat());
            format!("{}{}", &text[..8], URL_SAFE_NO_PAD.encode([content, crc.to_be_bytes().as_slice()].concat()))
        };
        assert!(refused(with_checksum(&[&mightiest[..12], &own[12..44]].concat())).await);
        assert!(!refused(with_checksum(&own[..44])).await, "the control: so made, the attacker's own is good");
    });
}

#[test]
fn refused_calls_of_a_key_cost_its_own_account_a_few_entries_and_nobody_else_anything() {
    block_on(async {
        let world = World::new().await;
        let (_, account) = opened(&world).await;
        let connection = account.connection(&world.of_a.id()).await.unwrap();
        let (of_b, entries) = (world.rows_of_b(), world.audit_of_a().await.len());
        for _ in 0..1_000 {
            lacks(revealed(&connection).await, Permission::Reveal);
        }
        let made = world.audit_of_a().await.len() - entries;
        println!("1,000 refused calls made {made} entries");
        assert!((1..=100).contains(&made), "{made} entries");
        assert_eq!(world.rows_of_b(), of_b);
        assert_eq!(revealed(&world.of_b).await.unwrap(), OF_B);
        // The gain: what the permission is for can be misused on the key's own account.
        connection.remove().await.unwrap();
        assert_eq!(world.a.connections().await.unwrap().len(), 0);
    });
}

#[test]
fn what_ended_stays_ended_for_a_key() {
    block_on(async {
        let world = World::new().await;
        let (revoked, good) = (narrow(&world).await, narrow(&world).await);
        let held = world.vault.backend(&revoked.key).await.unwrap();
        world.backend.revoke_api_key(&revoked.info.id).await.unwrap();
        assert!(matches!(held.account(world.a.id()).await, Err(Error::InvalidApiKey)));
        let vault: Vault = world.reopened().await;
        assert!(matches!(vault.backend(&revoked.key).await, Err(Error::InvalidApiKey)));
        assert!(vault.backend(&good.key).await.is_ok(), "the control");
    });
}
