//! Futures that nobody finishes, several vaults, and every way to end one.

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use anchorhold::testing::{ModelDisk, ModelTree};
use anchorhold::{Account, Environment, Error, NewApiKey, OpenError, PageRequest, Permission, SessionOptions};

use crate::common::{Host, api_key_connection, block_on, builder, customer, id, open, revealed, root_key_of, vault_path};
use crate::tools::{on_disk, within};

/// Polls a future up to `times` times and lets it go; whether it had come to its end.
fn poll_and_drop<T>(future: impl Future<Output = T>, times: usize) -> Option<T> {
    let mut future = pin!(future);
    for _ in 0..times {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(result);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    None
}

// --- Futures that nobody finishes ---

#[test]
fn dropped_future_leaves_all_or_nothing() {
    block_on(async {
        let host = Host::new().await;
        let account = host.backend.create_account(&id("acme")).await.unwrap();
        let mut dropped = 0;
        for n in 0..200_usize {
            let text = format!("secret {n}");
            match poll_and_drop(account.add_connection(api_key_connection("crm", &text)), n % 4) {
                Some(result) => drop(result.unwrap()),
                None => dropped += 1,
            }
        }
        assert!(dropped > 50, "only {dropped} were dropped before they were done");

        // The account answers, and each connection that is there is whole.
        account.set_metadata("still here").await.unwrap();
        // What was dropped while it was under way may come to its end after that.
        let mut before = whole_connections(&account).await;
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = whole_connections(&account).await;
            if now == std::mem::replace(&mut before, now.clone()) {
                break;
            }
        }
        host.vault.close().await.unwrap();
        let vault = open(&host.path()).await;
        let backend = vault.backend(&host.key).await.unwrap();
        let account = backend.account(&id("acme")).await.unwrap();
        assert_eq!(whole_connections(&account).await, before, "what was there is there after a restart");
        assert!(account.verify_audit().await.unwrap().is_intact());
    });
}

async fn whole_connections(account: &Account) -> HashSet<String> {
    let mut found = HashSet::new();
    for info in account.connections().await.unwrap() {
        let text = revealed(&account.connection(&info.id).await.unwrap()).await.unwrap();
        assert!(text.starts_with("secret "), "{text}");
        assert!(found.insert(text), "a secret is there twice");
    }
    found
}

#[test]
fn dropped_steps_over_two_databases_leave_all_or_nothing() {
    block_on(async {
        let host = Host::new().await;
        for n in 0..60_usize {
            let name = id(&format!("customer {n}"));
            let made = poll_and_drop(host.backend.create_account(&name), n % 5);
            // Whatever came of it, the next one who asks gets one and the same account.
            let account = host.backend.create_account(&name).await.unwrap();
            if let Some(made) = made {
                assert_eq!(format!("{:?}", made.unwrap()), format!("{account:?}"));
            }
            account.add_connection(api_key_connection("crm", "secret 1")).await.unwrap();
            drop(poll_and_drop(account.rotate_key(), n % 3));
            drop(poll_and_drop(account.delete(), n % 6));
        }
        // All that is still there is whole, and deleting it again takes the rest.
        for n in 0..60_usize {
            match host.backend.account(&id(&format!("customer {n}"))).await {
                Ok(account) => match account.connections().await {
                    Ok(_) => {
                        assert_eq!(whole_connections(&account).await.len(), 1, "customer {n}");
                        account.delete().await.unwrap();
                    }
                    Err(error) => assert!(matches!(error, Error::NotFound { .. }), "customer {n}: {error:?}"),
                },
                Err(error) => assert!(matches!(error, Error::NotFound { .. }), "customer {n}: {error:?}"),
            }
        }
        assert!(host.backend.accounts(PageRequest::first(100)).await.unwrap().items.is_empty());
        let report = host.vault.verify().await.unwrap();
        assert!(report.damaged.is_empty() && report.intact == 0, "{report:?}");
    });
}

#[test]
fn dropped_opening_lets_go_of_the_place() {
    within(Duration::from_secs(60), || {
        block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = vault_path(&folder);
            for times in 1..8 {
                drop(poll_and_drop(builder(&path).open(), times));
            }
            let started = Instant::now();
            let vault = loop {
                match builder(&path).open().await {
                    Ok(vault) => break vault,
                    Err(OpenError::AlreadyOpen) => std::thread::sleep(Duration::from_millis(10)),
                    Err(other) => panic!("{other:?}"),
                }
                assert!(started.elapsed() < Duration::from_secs(20), "an opening that nobody wants keeps the place");
            };
            vault.bootstrap_api_key(Environment::Test).await.unwrap();
        });
    });
}

/// A vault with much to do at closing: accounts with entries that wait.
async fn busy_host() -> Host {
    let host = Host::new().await;
    for n in 0..40 {
        let (account, connection) = host.customer(&format!("customer {n}"), "secret").await;
        revealed(&connection).await.unwrap();
        account.mint_session_token(SessionOptions::new()).await.unwrap();
    }
    host
}

#[test]
fn dropped_closing_is_completed_by_the_next() {
    within(Duration::from_secs(60), || {
        block_on(async {
            for times in [1, 2, 5, 20] {
                let host = busy_host().await;
                drop(poll_and_drop(host.vault.close(), times));
                host.vault.close().await.unwrap();
                let vault = builder(&host.path()).open().await.expect("close has returned, so the vault is closed");
                assert!(vault.verify().await.unwrap().damaged.is_empty());
            }
        });
    });
}

#[test]
fn dropped_closing_is_completed_by_dropping_the_handles() {
    within(Duration::from_secs(60), || {
        block_on(async {
            let Host { folder, vault, key, backend } = busy_host().await;
            drop(poll_and_drop(vault.close(), 1));
            drop((vault, backend));
            let vault = builder(&vault_path(&folder)).open().await.expect("the last handle is gone, so the vault is closed");
            vault.backend(&key).await.unwrap();
        });
    });
}

#[test]
fn whoever_closes_second_waits_for_the_end_as_well() {
    within(Duration::from_secs(60), || {
        block_on(async {
            for _ in 0..5 {
                let host = busy_host().await;
                let first = {
                    let vault = host.vault.clone();
                    std::thread::spawn(move || block_on(vault.close()))
                };
                while !host.vault.status().closed {
                    std::thread::yield_now();
                }
                host.vault.close().await.unwrap();
                builder(&host.path()).open().await.expect("close has returned, so the vault is closed");
                first.join().unwrap().unwrap();
            }
        });
    });
}

#[test]
fn what_is_under_way_at_closing_is_completed() {
    block_on(async {
        let host = Host::new().await;
        let names: Vec<_> = (0..20).map(|n| id(&format!("customer {n}"))).collect();
        let mut creations: Vec<_> = names.iter().map(|name| Box::pin(host.backend.create_account(name))).collect();
        for creation in &mut creations {
            // Each is asked for, none is waited for.
            let polled = creation.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending() || matches!(polled, Poll::Ready(Ok(_))));
        }
        host.vault.close().await.unwrap();
        for creation in creations {
            let created = creation.await;
            // Created, whether its caller is told so or that the vault is closed by now.
            assert!(matches!(created, Ok(_) | Err(Error::Closed)), "{created:?}");
        }
        let vault = open(&host.path()).await;
        let backend = vault.backend(&host.key).await.unwrap();
        for name in &names {
            backend.account(name).await.unwrap();
        }
    });
}

// --- Several vaults, and ending one ---

#[test]
fn several_vaults_in_one_process_know_nothing_of_each_other() {
    let hosts: Vec<Host> = block_on(async {
        let mut hosts = Vec::new();
        for n in 0..4_u8 {
            hosts.push(Host::with(|builder| builder.root_key(root_key_of(n))).await);
        }
        hosts
    });
    std::thread::scope(|scope| {
        for (n, host) in hosts.iter().enumerate() {
            scope.spawn(move || {
                block_on(async {
                    for m in 0..20 {
                        let (_, connection) = host.customer(&format!("customer {m}"), &format!("secret {n} {m}")).await;
                        assert_eq!(revealed(&connection).await.unwrap(), format!("secret {n} {m}"));
                    }
                });
            });
        }
    });
    block_on(async {
        for (n, host) in hosts.iter().enumerate() {
            let stranger = &hosts[(n + 1) % hosts.len()];
            assert!(matches!(host.vault.backend(&stranger.key).await, Err(Error::InvalidApiKey)));
            let account = stranger.backend.account(&id("customer 0")).await.unwrap();
            let token = account.mint_session_token(SessionOptions::new()).await.unwrap().token;
            assert!(matches!(host.vault.session(&token).await, Err(Error::InvalidToken)));
        }
        hosts[0].vault.close().await.unwrap();
        let (_, connection) = hosts[1].customer("after", "another vault was closed").await;
        assert_eq!(revealed(&connection).await.unwrap(), "another vault was closed");
    });
}

#[test]
fn dropping_the_last_handle_flushes_and_frees_the_place() {
    block_on(async {
        let Host { folder, vault, key, backend } = Host::new().await;
        let (account, connection) = customer(&backend, "acme", "secret").await;
        let entries = 3 + account.audit(PageRequest::first(100)).await.unwrap().items.len();
        for _ in 0..3 {
            // Batched entries: on their way when the handles go.
            revealed(&connection).await.unwrap();
        }
        drop((vault, backend, account));
        assert_eq!(revealed(&connection).await.unwrap(), "secret", "one handle is enough to keep the vault open");
        assert!(matches!(builder(&vault_path(&folder)).open().await, Err(OpenError::AlreadyOpen)));
        drop(connection);

        let vault = open(&vault_path(&folder)).await;
        let backend = vault.backend(&key).await.unwrap();
        let account = backend.account(&id("acme")).await.unwrap();
        assert_eq!(account.connections().await.unwrap().len(), 1);
        assert_eq!(account.audit(PageRequest::first(100)).await.unwrap().items.len(), entries + 1);
    });
}

/// In a process of its own, where no other test's vault has threads.
#[test]
fn vault_stops_its_threads() {
    const CHILD: &str = "ANCHORHOLD_TEST_COUNTS_THREADS";
    if std::env::var_os(CHILD).is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lifecycle::vault_stops_its_threads", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("threads: all gone"), "{said}{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    // sled keeps a pool for the process: whatever it has after one vault is there for good.
    let open_and_close = |close: bool| {
        block_on(async {
            let host = Host::new().await;
            host.customer("acme", "secret").await;
            assert!(threads() > 3, "an open vault has threads of its own");
            if close {
                host.vault.close().await.unwrap();
            }
        });
    };
    open_and_close(true);
    let started = Instant::now();
    let mut least = usize::MAX;
    while started.elapsed() < Duration::from_secs(2) {
        least = least.min(threads());
        std::thread::sleep(Duration::from_millis(10));
    }
    for close in [true, false] {
        open_and_close(close);
        let started = Instant::now();
        while threads() > least {
            assert!(started.elapsed() < Duration::from_secs(30), "{} threads, there were {least}", threads());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // The control: one that is open has more.
    let _host = block_on(Host::new());
    assert!(threads() > least);
    println!("threads: all gone");
}

#[test]
fn after_close_every_handle_says_so() {
    block_on(async {
        let host = Host::new().await;
        let (account, connection) = host.customer("acme", "secret").await;
        let token = account.mint_session_token(SessionOptions::new()).await.unwrap().token;
        let session = host.vault.session(&token).await.unwrap();
        host.vault.close().await.unwrap();
        host.vault.close().await.unwrap();
        assert!(host.vault.status().closed);
        assert!(matches!(host.backend.account(&id("acme")).await, Err(Error::Closed)));
        assert!(matches!(host.backend.create_account(&id("new")).await, Err(Error::Closed)));
        assert!(matches!(host.backend.api_keys().await, Err(Error::Closed)));
        assert!(matches!(account.connections().await, Err(Error::Closed)));
        assert!(matches!(account.delete().await, Err(Error::Closed)));
        assert!(matches!(revealed(&connection).await, Err(Error::Closed)));
        assert!(matches!(session.connections().await, Err(Error::Closed)));
        assert!(matches!(host.vault.session(&token).await, Err(Error::Closed)));
        assert!(matches!(host.vault.backend(&host.key).await, Err(Error::Closed)));
        assert!(matches!(host.vault.head().await, Err(Error::Closed)));
        assert!(matches!(host.vault.verify().await, Err(Error::Closed)));
        assert!(matches!(host.vault.rotate_root_key(root_key_of(9)).await, Err(Error::Closed)));
        assert!(matches!(host.vault.bootstrap_api_key(Environment::Production).await, Err(Error::Closed)));
    });
}

#[test]
fn first_key_is_given_once_per_environment() {
    block_on(async {
        let host = Host::new().await;
        let again = host.vault.bootstrap_api_key(Environment::Test).await;
        assert!(matches!(again, Err(Error::AlreadyBootstrapped { environment: Environment::Test })), "{again:?}");
        let (one, other) = futures_lite::future::zip(
            host.vault.bootstrap_api_key(Environment::Production),
            host.vault.bootstrap_api_key(Environment::Production),
        )
        .await;
        assert!(one.is_ok() != other.is_ok(), "of two who ask at once, one gets it: {one:?}, {other:?}");
        let production = one.or(other).unwrap();
        assert_eq!(host.vault.backend(&production).await.unwrap().environment(), Environment::Production);
        host.vault.close().await.unwrap();
        let vault = open(&host.path()).await;
        for environment in Environment::ALL {
            assert!(
                matches!(vault.bootstrap_api_key(environment).await, Err(Error::AlreadyBootstrapped { .. })),
                "after a restart"
            );
        }
    });
}

#[test]
fn damaged_account_can_be_deleted_and_its_id_used_again() {
    block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        let (account, _) = customer(&backend, "acme", "secret").await;
        let weak = backend.create_api_key(NewApiKey::new("weak").permissions([Permission::Connections])).await.unwrap().key;
        vault.close().await.unwrap();
        let tree = disk.trees().into_iter().find(|tree| matches!(tree, ModelTree::Account(..))).unwrap();
        let (row, _) = disk.rows(tree).into_iter().find(|(key, _)| key[0] == b's').unwrap();
        disk.remove_row(tree, &row);

        let vault = on_disk(&disk).open().await.unwrap();
        assert!(matches!(account.info().await, Err(Error::Closed)));
        let damaged = vault.backend(&key).await.unwrap().account(&id("acme")).await.unwrap();
        assert!(matches!(damaged.info().await, Err(Error::Corrupted(_))));
        let refused = vault.backend(&weak).await.unwrap().account(&id("acme")).await.unwrap().delete().await;
        assert!(matches!(refused, Err(Error::PermissionDenied { needed: Permission::Accounts })), "{refused:?}");
        damaged.delete().await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        assert!(matches!(backend.account(&id("acme")).await, Err(Error::NotFound { .. })));
        let (_, connection) = customer(&backend, "acme", "another secret").await;
        assert_eq!(revealed(&connection).await.unwrap(), "another secret");
    });
}
