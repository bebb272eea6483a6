//! The laws, one by one.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anchorhold::testing::{ManualClock, ModelDisk};
use anchorhold::{
    AuditAction, AuditActor, Clock as _, Credential, Environment, Error, Grant, LinkedAccountId, NewApiKey, PageRequest,
    Permission, Permissions, SessionOptions, SessionToken,
};
use futures_util::future::{join, join_all};
use proptest::prelude::*;

use crate::common::{
    Host, api_key_connection, block_on, builder, customer, header_provider, id, new_clock, provider, revealed, secret,
};

fn all_grants() -> SessionOptions {
    SessionOptions::new().grants([Grant::ListConnections, Grant::Connect, Grant::Disconnect])
}

#[test]
fn session_of_a_never_reads_b() {
    block_on(async {
        let host = Host::new().await;
        let (a, of_a) = host.customer("a", "secret of a").await;
        let (b, of_b) = host.customer("b", "secret of b").await;
        let token = a.mint_session_token(all_grants()).await.unwrap().token;
        let session = host.vault.session(&token).await.unwrap();

        let listed: Vec<_> = session.connections().await.unwrap().iter().map(|info| info.id).collect();
        assert_eq!(listed, [of_a.id()], "the session sees its own connection and no other");
        assert_eq!(session.linked_account_id().await.unwrap(), id("a"));

        // Another's connection and one that never was give the same answer, so that neither tells anything.
        let foreign = session.disconnect(&of_b.id()).await.unwrap_err();
        let never = session.disconnect(&"cn_AAAAAAAAAAAAAAAAAAAAAA".parse().unwrap()).await.unwrap_err();
        assert!(matches!(foreign, Error::NotFound { .. }), "{foreign:?}");
        assert_eq!(foreign.to_string(), never.to_string());

        // Nothing of b changed, its audit included.
        assert_eq!(revealed(&of_b).await.unwrap(), "secret of b");
        assert_eq!(b.connections().await.unwrap().len(), 1);
        // The control: it can do to its own what it could not do to another's.
        session.disconnect(&of_a.id()).await.unwrap();
        assert_eq!(a.connections().await.unwrap().len(), 0);
    });
}

#[test]
fn account_of_a_never_reads_b() {
    block_on(async {
        let host = Host::new().await;
        let (a, of_a) = host.customer("a", "secret of a").await;
        let (_, of_b) = host.customer("b", "secret of b").await;
        assert!(matches!(a.connection(&of_b.id()).await, Err(Error::NotFound { .. })));
        let control = a.connection(&of_a.id()).await.unwrap();
        assert_eq!(revealed(&control).await.unwrap(), "secret of a");
    });
}

#[test]
fn token_of_test_is_nothing_in_production() {
    block_on(async {
        let host = Host::new().await;
        let production_key = host.vault.bootstrap_api_key(Environment::Production).await.unwrap();
        let production = host.vault.backend(&production_key).await.unwrap();
        // The same id in both, so that only the environment tells them apart.
        let (in_test, of_test) = host.customer("acme", "test secret").await;
        let (in_production, of_production) = customer(&production, "acme", "live secret").await;

        let token = in_test.mint_session_token(all_grants()).await.unwrap().token;
        let text = token.expose_secret();
        assert!(text.starts_with("st_test_"), "a test token says so");
        let relabelled = SessionToken::from(text.replacen("st_test_", "st_live_", 1));
        assert!(matches!(host.vault.session(&relabelled).await, Err(Error::InvalidToken)));

        let session = host.vault.session(&token).await.unwrap();
        let listed: Vec<_> = session.connections().await.unwrap().iter().map(|info| info.id).collect();
        assert_eq!(listed, [of_test.id()]);

        // Account handles and connections don't cross either, nor does revoking.
        assert!(matches!(in_production.connection(&of_test.id()).await, Err(Error::NotFound { .. })));
        in_production.revoke_all_session_tokens().await.unwrap();
        assert!(host.vault.session(&token).await.is_ok(), "revoking in production is nothing to a test token");
        assert_eq!(revealed(&of_production).await.unwrap(), "live secret");

        // The key of one environment with the other's prefix is no key.
        let key_text = production_key.expose_secret().replacen("ak_live_", "ak_test_", 1);
        assert!(matches!(host.vault.backend(&key_text.as_str().into()).await, Err(Error::InvalidApiKey)));
        in_production.delete().await.unwrap();
        assert_eq!(revealed(&of_test).await.unwrap(), "test secret", "deleting in production is nothing to test");
    });
}

#[test]
fn deleted_and_recreated_id_sees_nothing_old() {
    block_on(async {
        let host = Host::new().await;
        let (old, old_connection) = host.customer("acme", "old secret").await;
        old.set_metadata("old metadata").await.unwrap();
        let token = old.mint_session_token(all_grants()).await.unwrap().token;
        let session = host.vault.session(&token).await.unwrap();
        old.delete().await.unwrap();
        assert!(matches!(host.backend.account(&id("acme")).await, Err(Error::NotFound { .. })));

        let new = host.backend.create_account(&id("acme")).await.unwrap();
        let info = new.info().await.unwrap();
        assert_eq!(info.metadata, "", "metadata starts empty");
        assert_eq!(new.connections().await.unwrap().len(), 0);
        assert!(matches!(new.connection(&old_connection.id()).await, Err(Error::NotFound { .. })));
        let entries = new.audit(PageRequest::first(100)).await.unwrap();
        assert_eq!(entries.items.len(), 1, "the audit starts with the account: {:?}", entries.items);

        // Whatever was made from the old one stays with the old one.
        assert!(matches!(host.vault.session(&token).await, Err(Error::InvalidToken)));
        assert!(matches!(session.connections().await, Err(Error::InvalidToken)));
        assert!(matches!(old.connections().await, Err(Error::NotFound { .. })));
        assert!(matches!(revealed(&old_connection).await, Err(Error::NotFound { .. })));
        assert!(matches!(old.delete().await, Err(Error::NotFound { .. })), "an old handle can't delete the new account");

        new.add_connection(api_key_connection("crm", "new secret")).await.unwrap();
        assert_eq!(new.connections().await.unwrap().len(), 1);
    });
}

/// Ids that some normalisation, separator or prefix rule could take for one another.
const SIMILAR: [&str; 26] = [
    "a",
    "aa",
    "aaa",
    "A",
    "a ",
    " a",
    "a/",
    "a/b",
    "a/b/",
    "a\\b",
    "a:b",
    "a|b",
    "a.b",
    "a%2Fb",
    "a\u{2215}b",
    "\u{430}",
    "e\u{301}",
    "\u{e9}",
    "\u{212b}",
    "\u{c5}",
    "A\u{30a}",
    "\u{fb01}",
    "fi",
    "a\u{200b}",
    "a\u{202e}",
    "\u{1d5ba}",
];

#[test]
fn similar_ids_never_meet() {
    block_on(async {
        let disk = ModelDisk::new();
        let open = || builder(Path::new("unused")).model_disk(disk.clone()).open();
        let vault = open().await.unwrap();
        let mut keys = Vec::new();
        for environment in Environment::ALL {
            let key = vault.bootstrap_api_key(environment).await.unwrap();
            let backend = vault.backend(&key).await.unwrap();
            for (n, name) in SIMILAR.iter().enumerate() {
                customer(&backend, name, &format!("secret {n} {environment}")).await;
            }
            keys.push((environment, key));
        }
        vault.close().await.unwrap();

        let vault = open().await.unwrap();
        for (environment, key) in &keys {
            let backend = vault.backend(key).await.unwrap();
            for (n, name) in SIMILAR.iter().enumerate() {
                let account = backend.account(&id(name)).await.unwrap();
                assert_eq!(account.info().await.unwrap().id.as_str(), *name);
                let connections = account.connections().await.unwrap();
                assert_eq!(connections.len(), 1, "{name:?} has only its own");
                let connection = account.connection(&connections[0].id).await.unwrap();
                assert_eq!(revealed(&connection).await.unwrap(), format!("secret {n} {environment}"));
            }
            // One is gone, its neighbours are not.
            backend.account(&id("a")).await.unwrap().delete().await.unwrap();
            for name in SIMILAR.iter().filter(|name| **name != "a") {
                assert_eq!(backend.account(&id(name)).await.unwrap().connections().await.unwrap().len(), 1, "{name:?}");
            }
            assert!(matches!(backend.account(&id("a")).await, Err(Error::NotFound { .. })));
        }
    });
}

#[test]
fn api_key_with_an_allowlist_never_learns_of_others() {
    block_on(async {
        let host = Host::new().await;
        let (_, _) = host.customer("mine", "secret of mine").await;
        let (_, _) = host.customer("other", "secret of other").await;
        let options = NewApiKey::new("narrow").permissions(Permissions::ALL).accounts([id("mine")]);
        let narrow = host.backend.create_api_key(options).await.unwrap().key;
        let backend = host.vault.backend(&narrow).await.unwrap();
        assert!(backend.account(&id("mine")).await.is_ok());

        // One that is there and one that never was must give the same answer.
        let there = backend.account(&id("other")).await.unwrap_err().to_string();
        let never = backend.account(&id("nobody")).await.unwrap_err().to_string();
        assert_eq!(there, never);
        let page = backend.accounts(PageRequest::first(100)).await.unwrap();
        let listed: Vec<_> = page.items.iter().map(|info| info.id.clone()).collect();
        assert_eq!(listed, [id("mine")]);
    });
}

#[test]
fn permission_that_a_key_lacks_is_refused_with_its_name() {
    block_on(async {
        let host = Host::new().await;
        let (_, connection) = host.customer("acme", "secret").await;
        let options = NewApiKey::new("no reveal").permissions([
            Permission::Accounts,
            Permission::Sessions,
            Permission::Connections,
            Permission::Use,
        ]);
        let key = host.backend.create_api_key(options).await.unwrap().key;
        let backend = host.vault.backend(&key).await.unwrap();
        let same = backend.account(&id("acme")).await.unwrap().connection(&connection.id()).await.unwrap();
        let refused = revealed(&same).await.unwrap_err();
        assert!(matches!(refused, Error::PermissionDenied { needed: Permission::Reveal }), "{refused:?}");
        assert_eq!(revealed(&connection).await.unwrap(), "secret", "the key with all permissions still may");
    });
}

#[test]
fn a_key_passes_on_no_more_than_it_has() {
    block_on(async {
        let host = Host::new().await;
        host.customer("mine", "secret of mine").await;
        host.customer("other", "secret of other").await;
        let open = async |new: NewApiKey| {
            let created = host.backend.create_api_key(new).await.unwrap();
            (host.vault.backend(&created.key).await.unwrap(), created.info.id)
        };
        let (all, all_id) = open(NewApiKey::new("all").permissions(Permissions::ALL)).await;
        let (keys_only, _) = open(NewApiKey::new("keys only").permissions(Permission::Keys)).await;
        let with_reveal = NewApiKey::new("more").permissions([Permission::Keys, Permission::Reveal]);
        let refused = keys_only.create_api_key(with_reveal.clone()).await.unwrap_err();
        assert!(matches!(refused, Error::PermissionDenied { needed: Permission::Reveal }), "{refused:?}");
        let refused = keys_only.rotate_api_key(&all_id, Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(refused, Error::PermissionDenied { .. }), "{refused:?}");
        keys_only.create_api_key(NewApiKey::new("as much").permissions(Permission::Keys)).await.unwrap();
        all.create_api_key(with_reveal).await.unwrap();

        // A key that reaches one customer makes none that reaches another, and administers nothing that others use.
        let (narrow, narrow_id) = open(NewApiKey::new("narrow").permissions(Permissions::ALL).accounts([id("mine")])).await;
        for accounts in [None, Some(vec![id("other")]), Some(vec![id("mine"), id("other")])] {
            let mut new = NewApiKey::new("wider").permissions(Permission::Use);
            if let Some(accounts) = accounts {
                new = new.accounts(accounts);
            }
            assert!(matches!(narrow.create_api_key(new).await, Err(Error::NotFound { .. })));
        }
        assert!(matches!(narrow.create_account(&id("another")).await, Err(Error::NotFound { .. })));
        assert!(matches!(narrow.api_keys().await, Err(Error::PermissionDenied { .. })));
        assert!(matches!(narrow.revoke_api_key(&all_id).await, Err(Error::PermissionDenied { .. })));
        assert!(matches!(narrow.rotate_api_key(&all_id, Duration::ZERO).await, Err(Error::PermissionDenied { .. })));
        assert!(matches!(narrow.api_key_audit(PageRequest::first(10)).await, Err(Error::PermissionDenied { .. })));
        assert!(matches!(narrow.set_provider(header_provider("crm")).await, Err(Error::PermissionDenied { .. })));
        let heir = narrow.rotate_api_key(&narrow_id, Duration::ZERO).await.unwrap();
        let heir = host.vault.backend(&heir.key).await.unwrap();
        assert!(heir.account(&id("mine")).await.is_ok());
        assert!(matches!(heir.account(&id("other")).await, Err(Error::NotFound { .. })), "the list is inherited");
        let same = NewApiKey::new("same").permissions(Permission::Use).accounts([id("mine")]);
        heir.create_api_key(same).await.unwrap();
    });
}

#[test]
fn key_of_one_environment_administers_nothing_of_the_other() {
    block_on(async {
        let host = Host::new().await;
        let production = host.vault.backend(&host.vault.bootstrap_api_key(Environment::Production).await.unwrap()).await.unwrap();
        let theirs = production.create_api_key(NewApiKey::new("theirs").permissions(Permission::Use)).await.unwrap();
        production.set_provider(header_provider("crm")).await.unwrap();

        assert!(matches!(host.backend.revoke_api_key(&theirs.info.id).await, Err(Error::NotFound { .. })));
        assert!(matches!(host.backend.rotate_api_key(&theirs.info.id, Duration::ZERO).await, Err(Error::NotFound { .. })));
        assert!(host.backend.api_keys().await.unwrap().iter().all(|key| key.environment == Environment::Test));
        assert_eq!(host.backend.providers().await.unwrap(), []);
        assert!(matches!(host.backend.remove_provider(&provider("crm")).await, Err(Error::NotFound { .. })));
        let entries = host.backend.api_key_audit(PageRequest::first(100)).await.unwrap().items;
        let of_theirs = AuditAction::ApiKeyCreated { key: theirs.info.id };
        assert!(entries.iter().all(|entry| entry.action != of_theirs), "{entries:?}");
        // The control.
        let entries = production.api_key_audit(PageRequest::first(100)).await.unwrap().items;
        assert!(entries.iter().any(|entry| entry.action == of_theirs), "{entries:?}");
        assert!(host.vault.backend(&theirs.key).await.is_ok());
    });
}

#[test]
fn nothing_succeeds_once_revoke_has_returned() {
    block_on(async {
        let host = Host::new().await;
        let (account, _) = host.customer("acme", "secret").await;
        let minted = account.mint_session_token(all_grants().lifetime(Duration::from_secs(600))).await.unwrap();
        let session = host.vault.session(&minted.token).await.unwrap();
        session.connections().await.unwrap();
        account.revoke_session_token(&minted.id).await.unwrap();
        assert!(matches!(session.connections().await, Err(Error::InvalidToken)));
        assert!(matches!(host.vault.session(&minted.token).await, Err(Error::InvalidToken)));

        let created = host.backend.create_api_key(NewApiKey::new("short").permissions(Permissions::ALL)).await.unwrap();
        let backend = host.vault.backend(&created.key).await.unwrap();
        let through = backend.account(&id("acme")).await.unwrap();
        host.backend.revoke_api_key(&created.info.id).await.unwrap();
        assert!(matches!(backend.account(&id("acme")).await, Err(Error::InvalidApiKey)));
        assert!(matches!(through.connections().await, Err(Error::InvalidApiKey)));
        assert!(matches!(host.vault.backend(&created.key).await, Err(Error::InvalidApiKey)));
    });
}

/// Requests that are under way when their authority ends: whatever is done after the end has been told is not done for them.
#[test]
fn requests_under_way_do_nothing_once_revoke_has_returned() {
    block_on(async {
        let clock = new_clock();
        let host = Host::with(|builder| builder.clock(Arc::<ManualClock>::clone(&clock)).threads(1)).await;
        for round in 0..12 {
            let name = format!("customer {round}");
            let (account, _) = host.customer(&name, "secret").await;
            for _ in 0..8 {
                account.add_connection(api_key_connection("crm", "secret")).await.unwrap();
            }
            let connections: Vec<_> = account.connections().await.unwrap().into_iter().map(|info| info.id).collect();
            let minted = account.mint_session_token(all_grants()).await.unwrap();
            let session = host.vault.session(&minted.token).await.unwrap();
            let created = host.backend.create_api_key(NewApiKey::new("short").permissions(Permissions::ALL)).await.unwrap();
            let through = host.vault.backend(&created.key).await.unwrap().account(&id(&name)).await.unwrap();

            let at_work = async {
                let by_session = join_all(connections[..4].iter().map(|id| session.disconnect(id)));
                let by_key =
                    join_all(connections[4..].iter().map(async |id| through.connection(id).await?.set_label("new").await));
                let revealing = join_all(connections[4..].iter().map(async |id| revealed(&through.connection(id).await?).await));
                join(join(by_session, by_key), revealing).await
            };
            let end = async {
                match round % 3 {
                    0 => account.revoke_session_token(&minted.id).await.unwrap(),
                    1 => host.backend.revoke_api_key(&created.info.id).await.unwrap(),
                    _ => account.disable().await.unwrap(),
                }
                clock.advance(Duration::from_secs(60));
                clock.now()
            };
            let (((by_session, by_key), revealing), ended) = join(at_work, end).await;

            let entries = account.audit(PageRequest::first(1_000)).await.unwrap().items;
            let late = entries.iter().filter(|entry| entry.at >= ended && !matches!(entry.action, AuditAction::Denied { .. }));
            let late: Vec<_> = late
                .filter(|entry| match (round % 3, &entry.actor) {
                    (0, actor) => matches!(actor, AuditActor::Session { .. }),
                    (1, actor) => *actor == AuditActor::ApiKey(created.info.id),
                    (_, actor) => matches!(actor, AuditActor::Session { .. }) || entry.action == AuditAction::SecretRevealed,
                })
                .collect();
            assert!(late.is_empty(), "done after the authority had ended: {late:?}");
            let all = by_session.iter().map(Result::is_ok).chain(by_key.iter().map(Result::is_ok));
            ENDED.count(all.chain(revealing.iter().map(Result::is_ok)));
        }
    });
    ENDED.assert_both();
}

/// How many requests came before the end of their authority, and how many after.
static ENDED: BeforeAndAfter = BeforeAndAfter { before: AtomicUsize::new(0), after: AtomicUsize::new(0) };

struct BeforeAndAfter {
    before: AtomicUsize,
    after: AtomicUsize,
}

impl BeforeAndAfter {
    fn count(&self, succeeded: impl Iterator<Item = bool>) {
        for succeeded in succeeded {
            let counter = if succeeded { &self.before } else { &self.after };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn assert_both(&self) {
        let (before, after) = (self.before.load(Ordering::Relaxed), self.after.load(Ordering::Relaxed));
        assert!(before > 0 && after > 0, "the race was none: {before} before, {after} after");
    }
}

#[test]
fn token_for_single_use_opens_one_session_however_many_ask() {
    block_on(async {
        let host = Host::new().await;
        let (account, _) = host.customer("acme", "secret").await;
        for _ in 0..20 {
            let token = account.mint_session_token(all_grants().single_use()).await.unwrap().token;
            let sessions = join_all((0..8).map(|_| host.vault.session(&token))).await;
            assert_eq!(sessions.iter().filter(|session| session.is_ok()).count(), 1);
            assert!(sessions.iter().flat_map(Result::as_ref).all(|session| session.environment() == Environment::Test));
            let refused = sessions.iter().filter_map(|session| session.as_ref().err());
            assert!(refused.clone().all(|error| matches!(error, Error::InvalidToken)), "{:?}", refused.collect::<Vec<_>>());
        }
    });
}

/// A record that is being replaced is not damaged: readers see the old one or the new one.
#[test]
fn reading_beside_a_change_gives_the_old_or_the_new() {
    block_on(async {
        let host = Host::with(|builder| builder.threads(1)).await;
        let (_, connection) = host.customer("acme", "secret 0").await;
        for round in 1..=60 {
            let (old, new) = (format!("secret {}", round - 1), format!("secret {round}"));
            let replacing = connection.replace_credential(Credential::api_key(secret(&new)));
            let reading = join_all((0..16).map(|_| join(revealed(&connection), connection.info())));
            let (replaced, read) = join(replacing, reading).await;
            replaced.unwrap();
            for (text, info) in read {
                let text = text.unwrap();
                assert!(text == old || text == new, "{text}");
                info.unwrap();
            }
            assert_eq!(revealed(&connection).await.unwrap(), new);
        }
    });
}

/// More customers at once than may be resident, all on one thread of the vault.
#[test]
fn customers_at_work_at_once_never_meet() {
    let host = block_on(Host::with(|builder| builder.threads(1).max_resident_accounts(1).trees_per_shard(2)));
    std::thread::scope(|scope| {
        for number in 0..6 {
            let host = &host;
            scope.spawn(move || {
                block_on(async {
                    let name = format!("customer {number}");
                    let account = host.backend.create_account(&id(&name)).await.unwrap();
                    let token = account.mint_session_token(all_grants()).await.unwrap().token;
                    let mut made = Vec::new();
                    for round in 0..20 {
                        let text = format!("secret {round} of {name}");
                        let connection = account.add_connection(api_key_connection("crm", &text)).await.unwrap();
                        assert_eq!(revealed(&connection).await.unwrap(), text);
                        made.push(connection.id());
                        made.sort();
                        let session = host.vault.session(&token).await.unwrap();
                        assert_eq!(session.linked_account_id().await.unwrap(), id(&name));
                        let listed: Vec<_> = session.connections().await.unwrap().iter().map(|info| info.id).collect();
                        assert_eq!(listed, made, "{name} sees its own and nothing else");
                    }
                });
            });
        }
    });
    let report = block_on(host.vault.verify()).unwrap();
    assert_eq!((report.intact, report.damaged.len()), (6, 0));
}

#[test]
fn one_id_is_one_account_however_many_create_it() {
    block_on(async {
        let host = Host::new().await;
        let names = ["a", "b"];
        let accounts = join_all((0..16).map(async |n| host.backend.create_account(&id(names[n % 2])).await.unwrap())).await;
        for (n, account) in accounts.iter().enumerate() {
            let text = format!("secret {n}");
            account.add_connection(api_key_connection("crm", &text)).await.unwrap();
        }
        for name in names {
            let account = host.backend.account(&id(name)).await.unwrap();
            assert_eq!(account.connections().await.unwrap().len(), 8);
        }
        assert_eq!(host.vault.status().accounts, 2);
    });
}

proptest! {
    #![proptest_config(crate::config(256))]

    #[test]
    fn ids_that_differ_in_a_byte_are_two_accounts(first in "\\PC{1,24}", second in "\\PC{1,24}", cut in 0usize..24, how in 0..4) {
        let second = match how {
            0 => second,
            1 => format!("{first}{second}"),
            2 => first.chars().take(cut).collect(),
            _ => first.chars().enumerate().map(|(n, c)| if n == cut { '/' } else { c }).collect(),
        };
        let (Ok(a), Ok(b)) = (LinkedAccountId::new(&first), LinkedAccountId::new(&second)) else { return Ok(()) };
        prop_assume!(first != second);
        block_on(async {
            let vault = builder(Path::new("unused")).model_disk(ModelDisk::new()).open().await.unwrap();
            let backend = vault.backend(&vault.bootstrap_api_key(Environment::Test).await.unwrap()).await.unwrap();
            backend.create_account_with(&a, "of a").await.unwrap();
            assert!(matches!(backend.account(&b).await, Err(Error::NotFound { .. })));
            backend.create_account_with(&b, "of b").await.unwrap();
            for (id, metadata) in [(&a, "of a"), (&b, "of b")] {
                let info = backend.account(id).await.unwrap().info().await.unwrap();
                assert_eq!((&info.id, info.metadata.as_str()), (id, metadata));
            }
        });
    }
}
