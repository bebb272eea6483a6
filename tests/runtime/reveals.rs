//! A credential that was revealed lately is opened from its sealed copy in memory; nothing that changes it, or who may see it, is missed
//! by that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anchorhold::testing::{ModelDisk, ModelTree};
use anchorhold::{AuditAction, Credential, Environment, Error, NewApiKey, PageRequest, Permission, Permissions};

use crate::common::{Host, api_key_connection, block_on, customer, revealed, secret};
use crate::tools::on_disk;

#[test]
fn what_was_revealed_is_revealed_again_without_its_row_and_a_change_ends_that() {
    block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let (account, connection) = customer(&vault.backend(&key).await.unwrap(), "acme", "first").await;
        assert_eq!(revealed(&connection).await.unwrap(), "first");

        let secrets = || {
            let accounts = disk.trees().into_iter().filter(|tree| matches!(tree, ModelTree::Account(..)));
            let rows = accounts.flat_map(|tree| disk.rows(tree).into_iter().map(move |(name, value)| (tree, name, value)));
            rows.filter(|(_, name, _)| name.starts_with(b"s")).collect::<Vec<_>>()
        };
        let [(tree, name, value)] = secrets().try_into().unwrap();
        disk.remove_row(tree, &name);
        assert_eq!(revealed(&connection).await.unwrap(), "first", "from memory");
        connection.set_label("new").await.unwrap();
        assert_eq!(revealed(&connection).await.unwrap(), "first", "a label is not the credential");
        // Whoever is disabled is not kept, so the missing row is noticed.
        connection.disable().await.unwrap();
        connection.enable().await.unwrap();
        let missing = revealed(&connection).await;
        assert!(matches!(missing, Err(Error::Corrupted(_))), "{missing:?}");
        disk.put_row(tree, &name, &value);
        assert_eq!(revealed(&connection).await.unwrap(), "first");

        account.rotate_key().await.unwrap();
        assert_eq!(revealed(&connection).await.unwrap(), "first", "under another key");
        connection.replace_credential(Credential::api_key(secret("second"))).await.unwrap();
        assert_eq!(revealed(&connection).await.unwrap(), "second");
        assert_eq!(revealed(&connection).await.unwrap(), "second");
    });
}

#[test]
fn who_may_not_see_it_any_more_does_not_see_what_is_in_memory() {
    block_on(async {
        let host = Host::new().await;
        let (account, connection) = host.customer("acme", "secret").await;
        for _ in 0..2 {
            assert_eq!(revealed(&connection).await.unwrap(), "secret");
        }
        connection.disable().await.unwrap();
        assert!(matches!(revealed(&connection).await, Err(Error::ConnectionDisabled)));
        connection.enable().await.unwrap();
        assert_eq!(revealed(&connection).await.unwrap(), "secret");
        account.disable().await.unwrap();
        assert!(matches!(revealed(&connection).await, Err(Error::AccountDisabled)));
        account.enable().await.unwrap();
        assert_eq!(revealed(&connection).await.unwrap(), "secret");

        // A key without the permission.
        let but = |permissions: Permissions| NewApiKey::new("other").permissions(permissions);
        let request = but([Permission::Connections, Permission::Use].into_iter().collect());
        let other = host.backend.create_api_key(request).await.unwrap();
        let theirs = host.vault.backend(&other.key).await.unwrap().account(account.id()).await.unwrap();
        let theirs = theirs.connection(&connection.id()).await.unwrap();
        assert!(matches!(revealed(&theirs).await, Err(Error::PermissionDenied { .. })));
        // A key that is revoked.
        let other = host.backend.create_api_key(but(Permissions::ALL)).await.unwrap();
        let theirs = host.vault.backend(&other.key).await.unwrap().account(account.id()).await.unwrap();
        let theirs = theirs.connection(&connection.id()).await.unwrap();
        assert_eq!(revealed(&theirs).await.unwrap(), "secret");
        host.backend.revoke_api_key(&other.info.id).await.unwrap();
        assert!(matches!(revealed(&theirs).await, Err(Error::InvalidApiKey)));

        connection.remove().await.unwrap();
        assert!(matches!(revealed(&connection).await, Err(Error::NotFound { .. })));
        let (account, connection) = host.customer("leaving", "secret").await;
        for _ in 0..2 {
            assert_eq!(revealed(&connection).await.unwrap(), "secret");
        }
        account.delete().await.unwrap();
        assert!(matches!(revealed(&connection).await, Err(Error::NotFound { .. })));
    });
}

#[test]
fn every_reveal_is_in_the_audit_and_in_the_connections_last_use() {
    block_on(async {
        let host = Host::new().await;
        let (account, connection) = host.customer("acme", "secret").await;
        for _ in 0..10 {
            assert_eq!(revealed(&connection).await.unwrap(), "secret");
        }
        assert!(connection.info().await.unwrap().last_used.is_some());
        // A change brings what waits into the audit.
        account.set_metadata("new").await.unwrap();
        let entries = account.audit(PageRequest::first(1_000)).await.unwrap().items;
        let reveals = entries.iter().filter(|entry| matches!(entry.action, AuditAction::SecretRevealed));
        assert_eq!(reveals.filter(|entry| entry.connection == Some(connection.id())).count(), 10);
        assert!(account.verify_audit().await.unwrap().broken.is_none());
    });
}

#[test]
fn credentials_that_do_not_fit_into_memory_together_are_revealed_all_the_same() {
    block_on(async {
        let host = Host::new().await;
        let (account, _) = host.customer("acme", "secret").await;
        let mut connections = Vec::new();
        for bytes in [1_000, 2_000, 3_000, 5_000, 60_000] {
            let id = account.add_connection(api_key_connection("crm", &"k".repeat(bytes))).await.unwrap().id();
            connections.push((account.connection(&id).await.unwrap(), bytes));
        }
        for _ in 0..3 {
            for (connection, bytes) in &connections {
                for _ in 0..2 {
                    assert_eq!(revealed(connection).await.unwrap().len(), *bytes);
                }
            }
        }
    });
}

#[test]
fn no_reveal_that_begins_after_a_replacement_shows_what_was_replaced() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let host = Host::new().await;
        let (_, connection) = host.customer("acme", "0").await;
        let replaced = Arc::new(AtomicU64::new(0));
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (connection, replaced) = (connection.clone(), Arc::clone(&replaced));
                tokio::spawn(async move {
                    let mut reveals = 0_u64;
                    while replaced.load(Ordering::SeqCst) < u64::MAX / 2 {
                        let known = replaced.load(Ordering::SeqCst);
                        let shown: u64 = revealed(&connection).await.unwrap().parse().unwrap();
                        assert!(known > u64::MAX / 2 || shown >= known, "{shown} was replaced by {known}");
                        reveals += 1;
                        tokio::task::yield_now().await;
                    }
                    reveals
                })
            })
            .collect();
        for number in 1..=200_u64 {
            connection.replace_credential(Credential::api_key(secret(&number.to_string()))).await.unwrap();
            replaced.store(number, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        replaced.store(u64::MAX, Ordering::SeqCst);
        for reader in readers {
            assert!(reader.await.unwrap() > 200);
        }
    });
}
