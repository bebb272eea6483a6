//! API keys: what each permission and each list allows, rotating with overlap, and that an end is an end for every handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anchorhold::testing::ModelDisk;
use anchorhold::{
    ApiKey, Backend, Clock as _, Credential, Environment, Error, Item, NewApiKey, PageRequest, Permission, Permissions,
    SessionOptions, Vault,
};

use crate::common::{
    Host, api_key_connection, block_on, customer, header_provider, id, new_clock, open, provider, revealed, secret,
};
use crate::tools::on_disk;

#[test]
fn rotated_key_and_the_one_that_takes_over_overlap_for_the_grace() {
    block_on(async {
        let (disk, clock) = (ModelDisk::new(), new_clock());
        let open = || on_disk(&disk).clock(clock.clone()).open();
        let vault = open().await.unwrap();
        let admin = vault.backend(&vault.bootstrap_api_key(Environment::Test).await.unwrap()).await.unwrap();
        let asked = NewApiKey::new("ci").permissions([Permission::Accounts, Permission::Use]).accounts([id("acme")]);
        let old = admin.create_api_key(asked).await.unwrap();
        let started = clock.now();
        let new = admin.rotate_api_key(&old.info.id, Duration::from_secs(60)).await.unwrap();

        // The same rights, the same list, and each key knows of the other.
        assert_eq!((new.info.permissions, new.info.account_limit), (old.info.permissions, Some(1)));
        let infos = admin.api_keys().await.unwrap();
        let info = |id| infos.iter().find(|info| info.id == id).unwrap();
        assert_eq!(info(old.info.id).rotated_to, Some(new.info.id));
        assert_eq!(info(old.info.id).expires_at, Some(started.plus(Duration::from_secs(60))));
        assert_eq!(info(new.info.id).expires_at, None);

        let handle = vault.backend(&old.key).await.unwrap();
        clock.set(started.plus(Duration::from_millis(59_999)));
        for key in [&old.key, &new.key] {
            vault.backend(key).await.unwrap().create_account(&id("acme")).await.unwrap();
        }
        handle.create_account(&id("acme")).await.unwrap();
        clock.set(started.plus(Duration::from_secs(60)));
        assert!(matches!(vault.backend(&old.key).await, Err(Error::InvalidApiKey)));
        assert!(matches!(handle.create_account(&id("acme")).await, Err(Error::InvalidApiKey)), "a handle from before ends too");
        vault.backend(&new.key).await.unwrap();
        let again = admin.rotate_api_key(&old.info.id, Duration::ZERO).await;
        assert!(matches!(again, Err(Error::NotFound { what: Item::ApiKey })), "a key that has ended is not rotated: {again:?}");

        // Without a grace the old one ends with the call; and all of it survives a restart.
        let newest = admin.rotate_api_key(&new.info.id, Duration::ZERO).await.unwrap();
        assert!(matches!(vault.backend(&new.key).await, Err(Error::InvalidApiKey)));
        drop((vault, admin, handle));
        let vault = open().await.unwrap();
        assert!(matches!(vault.backend(&old.key).await, Err(Error::InvalidApiKey)));
        assert!(matches!(vault.backend(&new.key).await, Err(Error::InvalidApiKey)));
        vault.backend(&newest.key).await.unwrap();
    });
}

#[test]
fn revoked_key_stops_every_handle_made_from_it() {
    block_on(async {
        let host = Host::new().await;
        host.backend.set_provider(header_provider("crm")).await.unwrap();
        let created = host.backend.create_api_key(NewApiKey::new("other").permissions(Permissions::ALL)).await.unwrap();
        let backend = host.vault.backend(&created.key).await.unwrap();
        let (account, connection) = customer(&backend, "acme", "secret").await;
        let minted = account.mint_session_token(SessionOptions::new()).await.unwrap();
        host.backend.revoke_api_key(&created.info.id).await.unwrap();
        host.backend.revoke_api_key(&created.info.id).await.unwrap();

        macro_rules! refused {
            ($($call:expr),+ $(,)?) => {
                $(let outcome = $call.await;
                assert!(matches!(outcome, Err(Error::InvalidApiKey)), "{}: {:?}", stringify!($call), outcome.err());)+
            };
        }
        let mut request = http::Request::get("https://api.example.com/").body(()).unwrap();
        refused!(
            host.vault.backend(&created.key),
            backend.create_account(&id("acme")),
            backend.account(&id("acme")),
            backend.accounts(PageRequest::first(1)),
            backend.api_keys(),
            backend.create_api_key(NewApiKey::new("new")),
            backend.revoke_api_key(&created.info.id),
            backend.providers(),
            backend.set_provider(header_provider("crm")),
            backend.api_key_audit(PageRequest::first(1)),
            account.info(),
            account.set_metadata("new"),
            account.disable(),
            account.delete(),
            account.rotate_key(),
            account.connections(),
            account.add_connection(api_key_connection("crm", "new")),
            account.connection(&connection.id()),
            account.mint_session_token(SessionOptions::new()),
            account.revoke_session_token(&minted.id),
            account.revoke_all_session_tokens(),
            account.audit(PageRequest::first(1)),
            account.verify_audit(),
            connection.info(),
            revealed(&connection),
            connection.authorize(&mut request),
            connection.replace_credential(Credential::api_key(secret("new"))),
            connection.set_label("new"),
            connection.report_failed(),
            connection.remove(),
        );
        assert!(request.headers().is_empty());

        // Nothing of it was carried out, and what the key made lives on.
        let account = host.backend.account(&id("acme")).await.unwrap();
        let info = account.connections().await.unwrap().remove(0);
        assert_eq!(info.label, "main");
        assert_eq!(revealed(&account.connection(&info.id).await.unwrap()).await.unwrap(), "secret");
        host.vault.session(&minted.token).await.unwrap();
        host.vault.close().await.unwrap();
        let vault = open(&host.path()).await;
        assert!(matches!(vault.backend(&created.key).await, Err(Error::InvalidApiKey)), "nor after a restart");
    });
}

#[test]
fn nothing_succeeds_that_begins_after_a_revocation_has_returned() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    runtime.block_on(async {
        let host = Host::new().await;
        let (_, _) = host.customer("acme", "secret").await;
        for round in 0..10 {
            let created = host.backend.create_api_key(NewApiKey::new("other").permissions(Permissions::ALL)).await.unwrap();
            let account = host.vault.backend(&created.key).await.unwrap().account(&id("acme")).await.unwrap();
            let info = account.connections().await.unwrap().remove(0);
            let connection = account.connection(&info.id).await.unwrap();
            let revoked = Arc::new(AtomicBool::new(false));
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let (connection, revoked) = (connection.clone(), Arc::clone(&revoked));
                    tokio::spawn(async move {
                        let mut answers = 0;
                        loop {
                            let late = revoked.load(Ordering::SeqCst);
                            match revealed(&connection).await {
                                Ok(_) => assert!(!late, "a secret was shown after the key was revoked"),
                                Err(Error::InvalidApiKey) => return answers,
                                Err(other) => panic!("{other:?}"),
                            }
                            answers += 1;
                        }
                    })
                })
                .collect();
            while host.vault.status().resident_accounts == 0 {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(2 * round));
            host.backend.revoke_api_key(&created.info.id).await.unwrap();
            revoked.store(true, Ordering::SeqCst);
            for caller in callers {
                caller.await.unwrap();
            }
        }
    });
}

/// Each call with the permissions of which a key needs one.
#[test]
fn each_call_needs_its_permission_and_no_other() {
    use Permission::{Accounts, Connections, Keys, Reveal, Sessions, Use};
    block_on(async {
        let host = Host::new().await;
        host.backend.set_provider(header_provider("crm")).await.unwrap();
        let (account, connection) = host.customer("acme", "secret").await;
        let minted = account.mint_session_token(SessionOptions::new()).await.unwrap();
        let mut refusals = 0;
        for &permission in Permission::ALL {
            let created = host.backend.create_api_key(NewApiKey::new("one").permissions(permission)).await.unwrap();
            let backend = host.vault.backend(&created.key).await.unwrap();
            assert_eq!(backend.permissions(), permission.into());
            let limited = backend.account(&id("acme")).await.unwrap();
            // A handle that another key made is that key's; this one is found anew, where the key may find it.
            let found = limited.connection(&connection.id()).await;
            let mut check = |call: &str, needed: &[Permission], outcome: Result<(), Error>| match outcome {
                Err(Error::PermissionDenied { needed: named }) => {
                    assert!(!needed.contains(&permission), "{permission} does not allow: {call}");
                    assert!(needed.contains(&named), "{call} asks for {named}");
                    refusals += 1;
                }
                outcome => {
                    assert!(needed.contains(&permission), "{permission} allows: {call}");
                    outcome.unwrap_or_else(|error| panic!("{call} with {permission}: {error:?}"));
                }
            };
            check("find a connection", &[Connections, Use, Reveal], found.as_ref().map(drop).map_err(Clone::clone));
            macro_rules! check {
                ($($needed:pat_param => $call:expr,)+) => {
                    $(check(stringify!($call), allowed!($needed), $call.await.map(drop));)+
                };
            }
            macro_rules! allowed {
                ($needed:pat_param) => {
                    &Permission::ALL.iter().copied().filter(|permission| matches!(permission, $needed)).collect::<Vec<_>>()
                };
            }
            check! {
                Accounts => backend.create_account(&id("acme")),
                Accounts => backend.accounts(PageRequest::first(1)),
                Keys => backend.create_api_key(NewApiKey::new("none")),
                Keys => backend.api_keys(),
                Keys => backend.rotate_api_key(&created.info.id, Duration::from_secs(3_600)),
                Keys => backend.api_key_audit(PageRequest::first(1)),
                Keys => backend.verify_api_key_audit(),
                Keys => backend.set_provider(header_provider("crm")),
                Connections => backend.providers(),
                Accounts => limited.info(),
                Accounts => limited.set_metadata("new"),
                Accounts => limited.disable(),
                Accounts => limited.enable(),
                Accounts => limited.audit(PageRequest::first(1)),
                Accounts => limited.verify_audit(),
                Keys => limited.rotate_key(),
                Connections => limited.connections(),
                Connections => limited.add_connection(api_key_connection("crm", "new")),
                Sessions => limited.mint_session_token(SessionOptions::new()),
                Sessions => limited.revoke_session_token(&minted.id),
                Sessions => limited.revoke_all_session_tokens(),
            }
            if let Ok(connection) = found {
                let mut request = http::Request::get("https://api.example.com/").body(()).unwrap();
                check! {
                    Connections => connection.info(),
                    Connections => connection.set_label("new"),
                    Connections => connection.replace_credential(Credential::api_key(secret("secret"))),
                    Connections => connection.report_failed(),
                    Reveal => revealed(&connection),
                    Use => connection.authorize(&mut request),
                }
                assert_eq!(request.headers().is_empty(), permission != Use);
            }
            check! {
                Keys => backend.remove_provider(&provider("crm")),
            }
            host.backend.set_provider(header_provider("crm")).await.unwrap();
        }
        assert!(refusals > 100, "{refusals}");
    });
}

#[test]
fn nobody_passes_on_more_than_they_have() {
    block_on(async {
        let host = Host::new().await;
        let own: Permissions = [Permission::Keys, Permission::Accounts].into();
        let keys = host.backend.create_api_key(NewApiKey::new("keys").permissions(own)).await.unwrap();
        let strong = host.backend.create_api_key(NewApiKey::new("strong").permissions(Permissions::ALL)).await.unwrap();
        let backend = host.vault.backend(&keys.key).await.unwrap();
        for &permission in Permission::ALL {
            let outcome = backend.create_api_key(NewApiKey::new("new").permissions(permission)).await;
            match outcome {
                Ok(_) => assert!(own.contains(permission), "{permission}"),
                Err(Error::PermissionDenied { needed }) => assert!(needed == permission && !own.contains(permission)),
                Err(other) => panic!("{other:?}"),
            }
        }
        // A rotation would hand out the other key's rights just as well.
        let rotated = backend.rotate_api_key(&strong.info.id, Duration::ZERO).await;
        assert!(matches!(rotated, Err(Error::PermissionDenied { .. })), "{rotated:?}");
        host.vault.backend(&strong.key).await.unwrap();
    });
}

#[test]
fn key_with_a_list_knows_no_account_but_those() {
    block_on(async {
        let host = Host::new().await;
        for name in ["listed", "other"] {
            host.customer(name, &format!("secret of {name}")).await;
        }
        let limited = async |permissions: Permissions| {
            let asked = NewApiKey::new("limited").permissions(permissions).accounts([id("listed"), id("not yet there")]);
            let created = host.backend.create_api_key(asked).await.unwrap();
            (host.vault.backend(&created.key).await.unwrap(), created)
        };
        let (backend, created) = limited(Permissions::ALL).await;
        let not_found = |outcome: Result<(), Error>, what: &str| {
            assert!(matches!(outcome, Err(Error::NotFound { what: Item::LinkedAccount })), "{what}: {outcome:?}");
        };
        // An account that is there and one that is not look alike.
        for name in ["other", "nobody"] {
            not_found(backend.account(&id(name)).await.map(drop), name);
            not_found(backend.create_account(&id(name)).await.map(drop), name);
        }
        assert!(host.backend.account(&id("nobody")).await.is_err(), "nor was it created by asking");
        let account = backend.account(&id("listed")).await.unwrap();
        let info = account.connections().await.unwrap().remove(0);
        assert_eq!(revealed(&account.connection(&info.id).await.unwrap()).await.unwrap(), "secret of listed");
        backend.create_account(&id("not yet there")).await.unwrap();
        let page = backend.accounts(PageRequest::first(100)).await.unwrap();
        let names: Vec<&str> = page.items.iter().map(|info| info.id.as_str()).collect();
        assert!(page.next.is_none() && names.len() == 2 && !names.contains(&"other"), "{names:?}");

        // The account that is not on the list was not asked, hence nobody was refused there.
        let other = host.backend.account(&id("other")).await.unwrap();
        let entries = other.audit(PageRequest::first(100)).await.unwrap().items;
        assert!(entries.iter().all(|entry| crate::tools::action(entry) != "Denied"), "{entries:?}");

        // It makes no key that reaches further, and administers nothing beyond itself.
        not_found(backend.create_api_key(NewApiKey::new("all")).await.map(drop), "a key without a list");
        not_found(backend.create_api_key(NewApiKey::new("more").accounts([id("other")])).await.map(drop), "another account");
        backend.create_api_key(NewApiKey::new("less").accounts([id("listed")])).await.unwrap();
        let denied = |outcome: Result<(), Error>, what: &str| {
            assert!(matches!(outcome, Err(Error::PermissionDenied { needed: Permission::Keys })), "{what}: {outcome:?}");
        };
        denied(backend.api_keys().await.map(drop), "list");
        denied(backend.api_key_audit(PageRequest::first(1)).await.map(drop), "audit");
        denied(backend.set_provider(header_provider("crm")).await, "provider");
        let others = host.backend.api_keys().await.unwrap();
        for info in others.iter().filter(|info| info.id != created.info.id) {
            denied(backend.revoke_api_key(&info.id).await, "revoke another");
            denied(backend.rotate_api_key(&info.id, Duration::ZERO).await.map(drop), "rotate another");
        }
        let newer = backend.rotate_api_key(&created.info.id, Duration::from_secs(60)).await.unwrap();
        let newer = host.vault.backend(&newer.key).await.unwrap();
        not_found(newer.account(&id("other")).await.map(drop), "the list goes with the rotation");
        backend.revoke_api_key(&created.info.id).await.unwrap();
        assert!(matches!(backend.account(&id("listed")).await, Err(Error::InvalidApiKey)), "it ended itself");
    });
}

#[test]
fn list_follows_the_name_and_not_the_account() {
    block_on(async {
        let host = Host::new().await;
        host.customer("listed", "old").await.0.delete().await.unwrap();
        let asked = NewApiKey::new("limited").permissions(Permissions::ALL).accounts([id("listed")]);
        let created = host.backend.create_api_key(asked).await.unwrap();
        let backend = host.vault.backend(&created.key).await.unwrap();
        assert!(matches!(backend.account(&id("listed")).await, Err(Error::NotFound { .. })));
        let (_, connection) = customer(&backend, "listed", "new").await;
        assert_eq!(revealed(&connection).await.unwrap(), "new");
    });
}

#[test]
fn last_use_of_a_key_is_known_and_outlives_the_vault() {
    block_on(async {
        let (disk, clock) = (ModelDisk::new(), new_clock());
        let open = || on_disk(&disk).clock(clock.clone()).open();
        let vault = open().await.unwrap();
        let admin_key: ApiKey = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let admin: Backend = vault.backend(&admin_key).await.unwrap();
        let created = admin.create_api_key(NewApiKey::new("ci").permissions(Permissions::ALL)).await.unwrap();
        let last_used = async |vault: &Vault| {
            let admin = vault.backend(&admin_key).await.unwrap();
            let infos = admin.api_keys().await.unwrap();
            infos.iter().find(|info| info.id == created.info.id).unwrap().last_used
        };
        assert_eq!(last_used(&vault).await, None);
        clock.advance(Duration::from_secs(100));
        let backend = vault.backend(&created.key).await.unwrap();
        assert_eq!(last_used(&vault).await, Some(clock.now()));
        clock.advance(Duration::from_secs(100));
        backend.create_account(&id("acme")).await.unwrap();
        let used = clock.now();
        assert_eq!(last_used(&vault).await, Some(used));
        drop((vault, admin, backend));
        clock.advance(Duration::from_secs(100));
        let vault = open().await.unwrap();
        assert_eq!(last_used(&vault).await, Some(used), "a restart is no use");
        // Somebody who guesses at its secret does not use it.
        let mut text = created.key.expose_secret().to_owned();
        text.replace_range(20..21, if &text[20..21] == "A" { "B" } else { "A" });
        assert!(matches!(vault.backend(&ApiKey::from(text.as_str())).await, Err(Error::InvalidApiKey)));
        assert_eq!(last_used(&vault).await, Some(used));
    });
}
