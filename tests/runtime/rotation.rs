//! Root keys and account keys are rotated while the vault is served, and a rotation that is interrupted anywhere is completed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anchorhold::testing::{ModelDisk, ModelImage, ModelTree};
use anchorhold::{
    ApiKey, AuditPolicy, Backend, Environment, Error, KeyProvider, OpenError, PageRequest, RootKey, RootKeyError, SessionOptions,
    SessionToken, Vault,
};

use crate::common::{Host, api_key_connection, block_on, builder, customer, id, revealed, root_key, root_key_of, vault_path};
use crate::tools::{action, eventually, on_disk, restored, within};

/// The first letter of the row that holds an account's key before, while its rotation is under way.
const PREVIOUS_ACCOUNT_KEY: &[u8] = b"o";

/// A vault with customers in both environments, and what must still be there after a rotation.
struct Kept {
    keys: Vec<ApiKey>,
    token: SessionToken,
}

const CUSTOMERS: usize = 3;

impl Kept {
    async fn fill(vault: &Vault) -> Self {
        let mut keys = Vec::new();
        let mut token = None;
        for environment in Environment::ALL {
            let key = vault.bootstrap_api_key(environment).await.unwrap();
            let backend = vault.backend(&key).await.unwrap();
            for n in 0..CUSTOMERS {
                let (account, _) = customer(&backend, &format!("customer {n}"), &format!("{environment} secret {n}")).await;
                token = Some(account.mint_session_token(SessionOptions::new()).await.unwrap().token);
            }
            keys.push(key);
        }
        Self { keys, token: token.unwrap() }
    }

    /// All of it is there and works.
    async fn check(&self, vault: &Vault, what: &str) {
        for (key, environment) in self.keys.iter().zip(Environment::ALL) {
            let backend = vault.backend(key).await.unwrap();
            for n in 0..CUSTOMERS {
                let account = backend.account(&id(&format!("customer {n}"))).await.unwrap();
                let info = account.connections().await.unwrap().remove(0);
                let text = revealed(&account.connection(&info.id).await.unwrap()).await;
                assert_eq!(text.unwrap_or_else(|error| panic!("{what}: {error:?}")), format!("{environment} secret {n}"));
                account.set_metadata(what).await.unwrap();
                assert!(account.verify_audit().await.unwrap().is_intact(), "{what}");
            }
        }
        vault.session(&self.token).await.unwrap_or_else(|error| panic!("{what}: a token from before: {error:?}"));
    }
}

#[test]
fn root_key_is_rotated_while_the_vault_is_served() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let path = vault_path(&folder);
        let vault = builder(&path).open().await.unwrap();
        let kept = Kept::fill(&vault).await;
        let backend = vault.backend(&kept.keys[0]).await.unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let served: Vec<_> = (0..CUSTOMERS)
            .map(|n| {
                let (backend, done) = (backend.clone(), Arc::clone(&done));
                tokio::spawn(async move {
                    let mut times = 0;
                    while !done.load(Ordering::SeqCst) {
                        let account = backend.account(&id(&format!("customer {n}"))).await.unwrap();
                        let info = account.connections().await.unwrap().remove(0);
                        let text = revealed(&account.connection(&info.id).await.unwrap()).await.unwrap();
                        assert_eq!(text, format!("test secret {n}"));
                        account.mint_session_token(SessionOptions::new()).await.unwrap();
                        times += 1;
                    }
                    times
                })
            })
            .collect();
        for generation in 2..=4_u8 {
            vault.rotate_root_key(root_key_of(100 + generation)).await.unwrap();
            let status = vault.status();
            assert_eq!((status.root_key_generation, status.rotating_root_key), (generation.into(), false));
        }
        done.store(true, Ordering::SeqCst);
        for task in served {
            assert!(task.await.unwrap() > 0, "it was served meanwhile");
        }
        kept.check(&vault, "after the rotations").await;
        let account = backend.account(&id("customer 0")).await.unwrap();
        // All pages: a fast machine mints more tokens meanwhile than stand on one.
        let (mut rewrapped, mut wanted) = (0, Some(PageRequest::first(1_000)));
        while let Some(request) = wanted {
            let page = account.audit(request).await.unwrap();
            rewrapped += page.items.iter().filter(|entry| action(entry) == "KeysRewrapped").count();
            wanted = page.next;
        }
        assert_eq!(rewrapped, 3);
        drop(backend);
        drop(account);
        vault.close().await.unwrap();

        for old in [root_key(), root_key_of(102), root_key_of(103)] {
            let opened = Vault::builder(&path).root_key(old).open().await;
            assert!(matches!(opened, Err(OpenError::WrongRootKey)), "{opened:?}");
        }
        let vault = Vault::builder(&path).root_key(root_key_of(104)).open().await.unwrap();
        kept.check(&vault, "with the newest key").await;
        assert!(vault.verify().await.unwrap().damaged.is_empty());
    });
}

/// The header is all that says which root keys open a vault, so what a rotation leaves is told by who opens it.
#[derive(Debug, PartialEq)]
enum OpenedBy {
    Old,
    New,
    Both,
}

async fn opened_by(image: &ModelImage) -> OpenedBy {
    let open = async |key| on_disk(&restored(image)).root_key(root_key_of(key)).open().await;
    match (open(7).await, open(8).await) {
        (Ok(_), Err(OpenError::WrongRootKey)) => OpenedBy::Old,
        (Err(OpenError::WrongRootKey), Ok(_)) => OpenedBy::New,
        (Err(OpenError::BothRootKeysNeeded), Err(OpenError::BothRootKeysNeeded)) => {
            let stranger = on_disk(&restored(image)).root_key(root_key_of(9)).previous_root_key(root_key_of(10)).open().await;
            assert!(matches!(stranger, Err(OpenError::WrongRootKey)), "{stranger:?}");
            OpenedBy::Both
        }
        (old, new) => panic!("the old key: {old:?}; the new key: {new:?}"),
    }
}

#[test]
fn root_key_rotation_that_is_interrupted_anywhere_is_completed() {
    let (kept, image) = block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).audit_policy(AuditPolicy::Strict).open().await.unwrap();
        let kept = Kept::fill(&vault).await;
        vault.close().await.unwrap();
        (kept, disk.image())
    });
    for in_doubt in [false, true] {
        let (mut left, mut nth) = (Vec::new(), 1);
        loop {
            let what = format!("write {nth} fails, in doubt: {in_doubt}");
            let disk = restored(&image);
            let finished = block_on(async {
                let vault = on_disk(&disk).open().await.unwrap();
                if in_doubt {
                    disk.fail_nth_write_in_doubt(nth);
                } else {
                    disk.fail_nth_write(nth);
                }
                let rotated = vault.rotate_root_key(root_key_of(8)).await;
                let finished = disk.disarm();
                assert_eq!(rotated.is_ok(), finished, "{what}: {rotated:?}");
                // What was acknowledged is served, whichever keys wrap it, until the vault is opened again.
                let backend = vault.backend(&kept.keys[1]).await.unwrap();
                let account = backend.account(&id("customer 0")).await.unwrap();
                assert_eq!(account.connections().await.unwrap().len(), 1, "{what}");
                finished
            });
            disk.crash();
            let who = block_on(opened_by(&disk.image()));
            assert!(!finished || who == OpenedBy::New, "{what}");
            block_on(async {
                // Whoever does not know where it stopped gives both keys.
                let both = || on_disk(&disk).root_key(root_key_of(8)).previous_root_key(root_key_of(7)).open();
                let vault = both().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                assert_eq!(vault.status().rotating_root_key, who == OpenedBy::Both, "{what}");
                kept.check(&vault, &what).await;
                if who == OpenedBy::Both {
                    let third = vault.rotate_root_key(root_key_of(9)).await;
                    assert!(matches!(third, Err(Error::RotationUnfinished)), "{what}: {third:?}");
                }
                if who != OpenedBy::New {
                    vault.rotate_root_key(root_key_of(8)).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                }
                kept.check(&vault, &what).await;
                drop(vault);
                assert_eq!(opened_by(&disk.image()).await, OpenedBy::New, "{what}");
                let vault = on_disk(&disk).root_key(root_key_of(8)).open().await.unwrap();
                kept.check(&vault, &what).await;
                assert!(!vault.status().rotating_root_key);
            });
            left.push(who);
            if finished {
                break;
            }
            nth += 1;
        }
        println!("in doubt: {in_doubt}; {nth} writes; opened by {left:?}");
        // Two headers, and the keys of each account between them.
        assert!(left.iter().filter(|who| **who == OpenedBy::Both).count() >= 2 * CUSTOMERS, "{left:?}");
        assert_eq!(left[0] == OpenedBy::Old, !in_doubt);
    }
}

#[test]
fn root_key_rotation_that_failed_to_read_is_completed_by_the_next_call() {
    block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).open().await.unwrap();
        let kept = Kept::fill(&vault).await;
        // Looking through the directory takes thousands of reads, and few of the operations write.
        let operations = [20_u64, 400, 2_000, 4_000];
        for (key, nth) in (50..).zip(operations) {
            disk.fail_nth(nth);
            let failed = vault.rotate_root_key(root_key_of(key)).await;
            assert!(matches!(failed, Err(Error::Io { .. })) && !disk.disarm(), "operation {nth}: {failed:?}");
            assert!(vault.status().rotating_root_key && vault.status().poisoned.is_none(), "operation {nth} was a write");
            kept.check(&vault, "between the calls").await;
            vault.rotate_root_key(root_key_of(key)).await.unwrap();
            assert!(!vault.status().rotating_root_key);
            kept.check(&vault, "after the second call").await;
        }
        drop(vault);
        let vault = on_disk(&disk).root_key(root_key_of(53)).open().await.unwrap();
        kept.check(&vault, "opened again").await;
    });
}

/// A key service that can't be reached.
struct Unreachable;

impl KeyProvider for Unreachable {
    fn root_key(&self, _: &[u8]) -> Result<RootKey, RootKeyError> {
        Err(RootKeyError::other("no route to host"))
    }
}

#[test]
fn provider_that_fails_begins_no_rotation() {
    block_on(async {
        let host = Host::new().await;
        let failed = host.vault.rotate_root_key(Unreachable).await;
        assert!(matches!(failed, Err(Error::RootKey(_))), "{failed:?}");
        let status = host.vault.status();
        assert_eq!((status.root_key_generation, status.rotating_root_key), (1, false));
        host.vault.close().await.unwrap();
        builder(&host.path()).open().await.unwrap();
    });
}

#[test]
fn two_who_rotate_the_root_key_at_once_get_one_rotation_after_the_other() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let vault = builder(&vault_path(&folder)).open().await.unwrap();
        let kept = Kept::fill(&vault).await;
        let (one, other) =
            futures_lite::future::zip(vault.rotate_root_key(root_key_of(8)), vault.rotate_root_key(root_key_of(9))).await;
        one.unwrap();
        other.unwrap();
        assert_eq!(vault.status().root_key_generation, 3);
        vault.close().await.unwrap();
        let opened = async |key| Vault::builder(vault_path(&folder)).root_key(root_key_of(key)).open().await;
        let vault = match opened(8).await {
            Ok(vault) => vault,
            Err(OpenError::WrongRootKey) => opened(9).await.unwrap(),
            Err(other) => panic!("{other:?}"),
        };
        kept.check(&vault, "after both").await;
    });
}

#[test]
fn accounts_created_while_the_root_key_is_rotated_are_readable_after_it() {
    within(Duration::from_secs(240), || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let vault = builder(&vault_path(&folder)).open().await.unwrap();
            let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
            let backend = vault.backend(&key).await.unwrap();
            let done = Arc::new(AtomicBool::new(false));
            let creators: Vec<_> = (0..16)
                .map(|creator| {
                    let (backend, done): (Backend, _) = (backend.clone(), Arc::clone(&done));
                    tokio::spawn(async move {
                        let mut created = 0;
                        while !done.load(Ordering::SeqCst) && created < 60 {
                            let name = id(&format!("customer {creator}/{created}"));
                            backend.create_account(&name).await.unwrap();
                            created += 1;
                        }
                        created
                    })
                })
                .collect();
            for generation in 0..6 {
                vault.rotate_root_key(root_key_of(50 + generation)).await.unwrap();
            }
            done.store(true, Ordering::SeqCst);
            let mut created = Vec::new();
            for creator in creators {
                created.push(creator.await.unwrap());
            }
            assert!(created.iter().sum::<usize>() > 50, "{created:?}");
            drop(backend);
            vault.close().await.unwrap();
            let vault = Vault::builder(vault_path(&folder)).root_key(root_key_of(55)).open().await.unwrap();
            let backend = vault.backend(&key).await.unwrap();
            for (creator, count) in created.iter().enumerate() {
                for n in 0..*count {
                    let account = backend.account(&id(&format!("customer {creator}/{n}"))).await.unwrap();
                    let outcome = account.set_metadata("readable").await;
                    outcome.unwrap_or_else(|error| panic!("customer {creator}/{n}: {error:?}"));
                }
            }
        });
    });
}

// --- Account keys ---

/// Large enough that sealing all of them anew takes several commits.
const SECRETS: usize = 9;

fn large_secret(n: usize) -> String {
    format!("secret {n} ").repeat(1_500)
}

async fn account_with_large_secrets(backend: &Backend) -> anchorhold::Account {
    let account = backend.create_account_with(&id("acme"), "metadata").await.unwrap();
    for n in 0..SECRETS {
        let connection = api_key_connection("crm", &large_secret(n)).label(format!("{n}"));
        account.add_connection(connection).await.unwrap();
    }
    account
}

async fn check_large_secrets(account: &anchorhold::Account, what: &str) {
    read_large_secrets(account, what).await;
    assert!(account.verify_audit().await.unwrap().is_intact(), "{what}");
}

/// What can be read where nothing can be written.
async fn read_large_secrets(account: &anchorhold::Account, what: &str) {
    let infos = account.connections().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_eq!(infos.len(), SECRETS, "{what}");
    for info in infos {
        let text = revealed(&account.connection(&info.id).await.unwrap()).await.unwrap();
        assert!(text == large_secret(info.label.parse().unwrap()), "{what}: secret {}", info.label);
    }
    assert_eq!(account.info().await.unwrap().metadata, "metadata", "{what}");
}

fn account_tree(disk: &ModelDisk) -> ModelTree {
    let trees = disk.trees();
    *trees.iter().find(|tree| matches!(tree, ModelTree::Account(..))).unwrap()
}

fn is_rotating(disk: &ModelDisk) -> bool {
    disk.row(account_tree(disk), PREVIOUS_ACCOUNT_KEY).is_some()
}

#[test]
fn account_key_rotation_seals_every_record_anew_and_ends_all_tokens() {
    block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).audit_policy(AuditPolicy::Strict).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let account = account_with_large_secrets(&vault.backend(&key).await.unwrap()).await;
        let token = account.mint_session_token(SessionOptions::new()).await.unwrap();
        let spent = account.mint_session_token(SessionOptions::new()).await.unwrap();
        account.revoke_session_token(&spent.id).await.unwrap();
        let session = vault.session(&token.token).await.unwrap();
        let before = disk.rows(account_tree(&disk));
        account.rotate_key().await.unwrap();
        assert!(!is_rotating(&disk));
        let mut anew = 0;
        for (key, value) in &before {
            match (disk.row(account_tree(&disk), key), key[0]) {
                // Which tokens were revoked need not be known when all are.
                (now, b'r') => assert_eq!(now, None),
                // The audit has a key of its own, which stays.
                (now, b'u' | b'a') => assert_eq!(now.as_ref(), Some(value)),
                (now, kind) => {
                    assert!(now.is_some_and(|now| now != *value), "row {}", char::from(kind));
                    anew += 1;
                }
            }
        }
        // Two rows for each connection; two keys, the head and the account's own record.
        assert_eq!(anew, 2 * SECRETS + 4);
        assert!(matches!(vault.session(&token.token).await, Err(Error::InvalidToken)));
        assert!(matches!(session.connections().await, Err(Error::InvalidToken)), "a session that was open ends as well");
        check_large_secrets(&account, "after the rotation").await;
        let newer = account.mint_session_token(SessionOptions::new()).await.unwrap();
        vault.session(&newer.token).await.unwrap();
    });
}

#[test]
fn account_key_rotation_that_is_interrupted_anywhere_is_completed() {
    let (key, token, image) = block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let account = account_with_large_secrets(&vault.backend(&key).await.unwrap()).await;
        let token = account.mint_session_token(SessionOptions::new()).await.unwrap().token;
        vault.close().await.unwrap();
        (key, token, disk.image())
    });
    for in_doubt in [false, true] {
        let (mut begun, mut nth) = (0, 1);
        loop {
            let what = format!("write {nth} fails, in doubt: {in_doubt}");
            let disk = restored(&image);
            let finished = block_on(async {
                let vault = on_disk(&disk).open().await.unwrap();
                let account = vault.backend(&key).await.unwrap().account(&id("acme")).await.unwrap();
                if in_doubt {
                    disk.fail_nth_write_in_doubt(nth);
                } else {
                    disk.fail_nth_write(nth);
                }
                let rotated = account.rotate_key().await;
                let finished = disk.disarm();
                assert_eq!(rotated.is_ok(), finished, "{what}: {rotated:?}");
                read_large_secrets(&account, &format!("{what}, in the same vault")).await;
                finished
            });
            disk.crash();
            block_on(async {
                let unfinished = is_rotating(&disk);
                begun += usize::from(unfinished);
                let vault = on_disk(&disk).audit_policy(AuditPolicy::Strict).open().await.unwrap();
                let account = vault.backend(&key).await.unwrap().account(&id("acme")).await.unwrap();
                let started = disk.rows(account_tree(&disk)) != restored(&image).rows(account_tree(&disk));
                let token = vault.session(&token).await;
                assert_eq!(token.is_err(), started, "{what}: a token from before: {token:?}");
                check_large_secrets(&account, &what).await;
                // Using the account is enough to have it completed.
                eventually("the rotation is completed", || !is_rotating(&disk)).await;
                check_large_secrets(&account, &what).await;
                account.rotate_key().await.unwrap();
                check_large_secrets(&account, &what).await;
            });
            if finished {
                break;
            }
            nth += 1;
        }
        println!("in doubt: {in_doubt}; {nth} writes; {begun} left unfinished");
        assert!(begun >= 2, "the rotation takes several commits");
    }
}

#[test]
fn account_is_served_while_its_key_is_rotated() {
    within(Duration::from_secs(120), || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let host = Host::new().await;
            let account = account_with_large_secrets(&host.backend).await;
            let done = Arc::new(AtomicBool::new(false));
            let tasks: Vec<_> = (0..4)
                .map(|task| {
                    let (account, done) = (account.clone(), Arc::clone(&done));
                    tokio::spawn(async move {
                        let mut times = 0;
                        while !done.load(Ordering::SeqCst) {
                            let added = account.add_connection(api_key_connection("crm", &format!("from {task}"))).await.unwrap();
                            assert_eq!(revealed(&added).await.unwrap(), format!("from {task}"));
                            added.remove().await.unwrap();
                            times += 1;
                        }
                        times
                    })
                })
                .collect();
            for _ in 0..10 {
                account.rotate_key().await.unwrap();
            }
            done.store(true, Ordering::SeqCst);
            for task in tasks {
                assert!(task.await.unwrap() > 0);
            }
            check_large_secrets(&account, "after ten rotations").await;
            host.vault.close().await.unwrap();
            let vault = builder(&host.path()).open().await.unwrap();
            let account = vault.backend(&host.key).await.unwrap().account(&id("acme")).await.unwrap();
            check_large_secrets(&account, "after a restart").await;
        });
    });
}

/// Sealing makes a small record several times as large, so a step that counts plaintext only would be more than one commit takes.
#[test]
fn account_key_rotation_ends_for_an_account_of_many_small_connections() {
    block_on(async {
        let vault = builder(&vault_path(&tempfile::tempdir().unwrap())).model_disk(ModelDisk::new()).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let account = vault.backend(&key).await.unwrap().create_account(&id("acme")).await.unwrap();
        let mut last = None;
        for n in 0..700 {
            last = Some(account.add_connection(api_key_connection("crm", &n.to_string())).await.unwrap());
        }
        account.rotate_key().await.unwrap();
        assert_eq!(account.connections().await.unwrap().len(), 700);
        assert_eq!(revealed(&last.unwrap()).await.unwrap(), "699");
    });
}
