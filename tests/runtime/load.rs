//! Floods and crowds: a full mailbox is an error of its account, and accounts come and go without anybody noticing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anchorhold::{Account, Error, SessionOptions};

use crate::common::{Host, api_key_connection, block_on, id, revealed};
use crate::tools::{eventually, within};

fn tokio() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

#[test]
fn flood_of_one_account_slows_itself_only() {
    tokio().block_on(async {
        let host = Host::with(|builder| builder.threads(1).mailbox_capacity(8)).await;
        let (flooded, _) = host.customer("flooded", "secret").await;
        let (_, quiet) = host.customer("quiet", "quiet secret").await;

        let calls: Vec<_> = (0..2_000)
            .map(|n| {
                let account = flooded.clone();
                tokio::spawn(async move { account.set_metadata(&format!("call {n}")).await })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            let started = Instant::now();
            assert_eq!(revealed(&quiet).await.unwrap(), "quiet secret");
            slowest = slowest.max(started.elapsed());
        }
        let (mut done, mut refused) = (0, 0);
        for call in calls {
            match call.await.unwrap() {
                Ok(()) => done += 1,
                Err(error) => {
                    assert!(matches!(error, Error::Overloaded), "{error:?}");
                    assert!(error.is_retryable(), "an overload passes");
                    refused += 1;
                }
            }
        }
        assert!(done > 0, "the mailbox takes what it has room for");
        assert!(refused > 0, "2,000 calls at once don't fit a mailbox of 8");
        assert!(slowest < Duration::from_secs(2), "the neighbour waited {slowest:?}");
        flooded.set_metadata("after the flood").await.unwrap();
        assert_eq!(flooded.info().await.unwrap().metadata, "after the flood");
        // A refused call was not carried out later.
        let changes = flooded.audit(anchorhold::PageRequest::first(1_000)).await.unwrap().items;
        let changes = changes.iter().filter(|entry| crate::tools::action(entry) == "MetadataChanged").count();
        assert_eq!(changes, done + 1);
    });
}

/// A row is on the disk a moment before its change is acknowledged; whoever reads it then gets the old or the new one.
#[test]
fn reads_beside_writes_are_never_taken_for_damage() {
    within(Duration::from_secs(120), || {
        tokio().block_on(async {
            let host = Host::with(|builder| builder.threads(1)).await;
            let (account, connection) = host.customer("acme", "secret 0").await;
            let end = Instant::now() + Duration::from_secs(3);
            let writer = {
                let (account, connection) = (account.clone(), connection.clone());
                tokio::spawn(async move {
                    let mut written = 0;
                    while Instant::now() < end {
                        written += 1;
                        let text = crate::common::secret(&format!("secret {written}"));
                        connection.replace_credential(anchorhold::Credential::api_key(text)).await.unwrap();
                        account.set_metadata(&format!("{written}")).await.unwrap();
                    }
                    written
                })
            };
            let readers: Vec<_> = (0..6)
                .map(|_| {
                    let (account, connection) = (account.clone(), connection.clone());
                    tokio::spawn(async move {
                        let (mut read, mut newest) = (0, 0);
                        while Instant::now() < end {
                            let text = revealed(&connection).await.unwrap();
                            let number: u64 = text.strip_prefix("secret ").unwrap().parse().unwrap();
                            assert!(number >= newest, "{number} after {newest}");
                            newest = number;
                            account.info().await.unwrap();
                            assert_eq!(account.connections().await.unwrap().len(), 1);
                            read += 1;
                        }
                        read
                    })
                })
                .collect();
            let written = writer.await.unwrap();
            let mut read = 0;
            for reader in readers {
                read += reader.await.unwrap();
            }
            assert!(written > 20 && read > 100, "{written} written, {read} read");
        });
    });
}

#[test]
fn no_more_accounts_stay_resident_than_asked_for() {
    block_on(async {
        let host = Host::with(|builder| builder.max_resident_accounts(4)).await;
        let mut connections = Vec::new();
        for n in 0..40 {
            connections.push(host.customer(&format!("customer {n}"), &format!("secret {n}")).await.1);
        }
        for round in 0..3 {
            for (n, connection) in connections.iter().enumerate() {
                assert_eq!(revealed(connection).await.unwrap(), format!("secret {n}"), "round {round}");
            }
        }
        eventually("residents fall to the bound", || host.vault.status().resident_accounts <= 4).await;
        assert!(host.vault.status().resident_accounts > 0, "the last ones used are still there");
    });
}

#[test]
fn more_busy_accounts_than_may_be_resident_are_all_served() {
    within(Duration::from_secs(120), || {
        tokio().block_on(async {
            let host = Host::with(|builder| builder.threads(1).max_resident_accounts(1)).await;
            let mut accounts = Vec::new();
            for n in 0..24 {
                accounts.push(host.backend.create_account(&id(&format!("customer {n}"))).await.unwrap());
            }
            let busy = |account: Account| async move {
                for round in 0..10 {
                    account.set_metadata(&format!("round {round}")).await.unwrap();
                }
                account.info().await.unwrap().metadata
            };
            let tasks: Vec<_> = accounts.iter().cloned().map(|account| tokio::spawn(busy(account))).collect();
            for task in tasks {
                assert_eq!(task.await.unwrap(), "round 9");
            }
            host.vault.close().await.unwrap();
        });
    });
}

#[test]
fn idle_account_leaves_and_comes_back() {
    block_on(async {
        let host = Host::with(|builder| builder.idle_after(Duration::from_millis(100))).await;
        let (account, connection) = host.customer("acme", "secret").await;
        let token = account.mint_session_token(SessionOptions::new().single_use()).await.unwrap().token;
        assert!(host.vault.status().resident_accounts >= 1, "in use, hence resident");
        eventually("the idle account leaves", || host.vault.status().resident_accounts == 0).await;
        assert_eq!(revealed(&connection).await.unwrap(), "secret");
        // What only the actor knew while it was there must not be gone with it.
        host.vault.session(&token).await.unwrap();
        eventually("it leaves again", || host.vault.status().resident_accounts == 0).await;
        assert!(matches!(host.vault.session(&token).await, Err(Error::InvalidToken)), "used up stays used up");
    });
}

#[test]
fn last_use_and_entries_that_wait_are_written_before_an_account_leaves() {
    block_on(async {
        let host = Host::with(|builder| builder.idle_after(Duration::from_millis(10))).await;
        let (account, connection) = host.customer("acme", "secret").await;
        let created = connection.info().await.unwrap();
        assert_eq!(created.last_used, None);
        for round in 1..=10 {
            revealed(&connection).await.unwrap();
            eventually("it leaves", || host.vault.status().resident_accounts == 0).await;
            assert!(connection.info().await.unwrap().last_used.is_some());
            let entries = account.audit(anchorhold::PageRequest::first(100)).await.unwrap().items;
            assert_eq!(entries.iter().filter(|entry| crate::tools::action(entry) == "SecretRevealed").count(), round);
        }
    });
}

/// Accounts that are passivated all the time, and sessions that are checked meanwhile: a good token is good, and never anything else.
#[test]
fn good_tokens_are_good_while_accounts_come_and_go() {
    within(Duration::from_secs(120), || {
        tokio().block_on(async {
            let options = |builder: anchorhold::VaultBuilder| builder.max_resident_accounts(2).idle_after(Duration::ZERO);
            let host = Host::with(options).await;
            let mut tokens = Vec::new();
            for n in 0..12 {
                let account = host.backend.create_account(&id(&format!("customer {n}"))).await.unwrap();
                tokens.push(Arc::new(account.mint_session_token(SessionOptions::new()).await.unwrap().token));
            }
            let checked = Arc::new(AtomicU64::new(0));
            let tasks: Vec<_> = (0..24)
                .map(|n| {
                    let (vault, token, checked) = (host.vault.clone(), Arc::clone(&tokens[n % 12]), Arc::clone(&checked));
                    tokio::spawn(async move {
                        for _ in 0..100 {
                            let session = vault.session(&token).await.unwrap();
                            let name = session.linked_account_id().await.unwrap();
                            assert_eq!(name.as_str(), format!("customer {}", n % 12));
                            checked.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(checked.load(Ordering::Relaxed), 2_400);
        });
    });
}

/// The moment when an actor leaves must not let a deleted account back in.
#[test]
fn deleted_account_is_gone_for_everybody_who_asks_while_it_goes() {
    within(Duration::from_secs(120), || {
        tokio().block_on(async {
            let options = |builder: anchorhold::VaultBuilder| builder.max_resident_accounts(1).idle_after(Duration::ZERO);
            let host = Host::with(options).await;
            for round in 0..40 {
                let account = host.backend.create_account(&id("acme")).await.unwrap();
                account.add_connection(api_key_connection("crm", "secret")).await.unwrap();
                let token = Arc::new(account.mint_session_token(SessionOptions::new()).await.unwrap().token);
                let askers: Vec<_> = (0..8)
                    .map(|_| {
                        let (vault, account, token) = (host.vault.clone(), account.clone(), Arc::clone(&token));
                        tokio::spawn(async move {
                            loop {
                                match account.connections().await {
                                    Ok(found) => assert_eq!(found.len(), 1),
                                    Err(Error::NotFound { .. }) => break,
                                    Err(other) => panic!("{other:?}"),
                                }
                                match vault.session(&token).await {
                                    Ok(_) | Err(Error::InvalidToken | Error::Overloaded) => {}
                                    Err(other) => panic!("{other:?}"),
                                }
                            }
                        })
                    })
                    .collect();
                tokio::time::sleep(Duration::from_micros(700 * round)).await;
                account.delete().await.unwrap();
                let (info, session) = (account.info().await, host.vault.session(&token).await);
                assert!(matches!(info, Err(Error::NotFound { .. })), "round {round}: {info:?}");
                assert!(matches!(session, Err(Error::InvalidToken)), "round {round}: {session:?}");
                for asker in askers {
                    asker.await.unwrap();
                }
            }
        });
    });
}
