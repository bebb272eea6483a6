//! What happened to accounts and is not in their own audits yet: the vault's journal has it, and nothing counts twice or not at all.

use std::time::Duration;

use anchorhold::testing::{ModelDisk, ModelTree, journal_len, merge_journal};
use anchorhold::{Account, ApiKey, AuditAction, AuditPolicy, Environment, Error, PageRequest, SessionOptions, Vault};

use crate::common::{block_on, customer, id, revealed};
use crate::tools::{action, eventually, on_disk, restored};

const ACCOUNTS: usize = 40;

async fn with_customers(disk: &ModelDisk) -> (Vault, ApiKey, Vec<(Account, anchorhold::Connection)>) {
    let vault = on_disk(disk).open().await.unwrap();
    let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
    let backend = vault.backend(&key).await.unwrap();
    let mut customers = Vec::new();
    for number in 0..ACCOUNTS {
        customers.push(customer(&backend, &format!("customer {number}"), "secret").await);
    }
    (vault, key, customers)
}

async fn use_all(customers: &[(Account, anchorhold::Connection)], times: usize) {
    for _ in 0..times {
        for (account, connection) in customers {
            account.mint_session_token(SessionOptions::new()).await.unwrap();
            revealed(connection).await.unwrap();
        }
    }
}

/// Waits until the journal has what was noted.
async fn kept(vault: &Vault) {
    eventually("the journal has the notes of all", || journal_len(vault).1 == ACCOUNTS).await;
    // What was noted while the first rows were written comes with the next.
    smol::Timer::after(Duration::from_millis(200)).await;
}

async fn check_all(vault: &Vault, key: &ApiKey, uses: usize) {
    let backend = vault.backend(key).await.unwrap();
    let used = ["SessionMinted", "SecretRevealed"].repeat(uses);
    let expected: Vec<_> = ["AccountCreated", "ConnectionAdded"].into_iter().chain(used).collect();
    for number in 0..ACCOUNTS {
        let account = backend.account(&id(&format!("customer {number}"))).await.unwrap();
        let entries = account.audit(PageRequest::first(1_000)).await.unwrap().items;
        assert_eq!(entries.iter().map(action).collect::<Vec<_>>(), expected, "customer {number}");
        assert!(entries.iter().enumerate().all(|(at, entry)| entry.sequence == at as u64 + 1));
        assert!(account.verify_audit().await.unwrap().is_intact());
        let connections = account.connections().await.unwrap();
        let last = entries.last().unwrap().at;
        assert_eq!(connections[0].last_used.is_some(), uses > 0);
        assert!(connections[0].last_used.is_none_or(|used| used >= last));
    }
}

#[test]
fn a_burst_over_many_accounts_is_a_few_commits_and_survives_a_power_cut() {
    block_on(async {
        let disk = ModelDisk::new();
        let (vault, key, customers) = with_customers(&disk).await;
        let (before, begun) = (disk.writes(), std::time::Instant::now());
        use_all(&customers, 3).await;
        kept(&vault).await;
        let (commits, took) = (disk.writes() - before, begun.elapsed());
        // Each of the two threads writes once in 60 ms at most, and the keeper its anchor.
        let most = 3 * (took.as_millis() / 60 + 2);
        assert!(u128::from(commits) <= most, "{commits} commits for {ACCOUNTS} accounts in {took:?}");

        let vault = on_disk(&restored(&disk.image())).open().await.unwrap();
        assert_eq!(journal_len(&vault).1, ACCOUNTS, "it was read again");
        check_all(&vault, &key, 3).await;
    });
}

#[test]
fn merged_notes_leave_the_journal_and_are_there_once() {
    block_on(async {
        let disk = ModelDisk::new();
        let (vault, key, customers) = with_customers(&disk).await;
        use_all(&customers, 2).await;
        kept(&vault).await;
        merge_journal(&vault).await.unwrap();
        assert_eq!(journal_len(&vault), (0, 0));
        use_all(&customers, 1).await;
        kept(&vault).await;
        check_all(&vault, &key, 3).await;
        // Reading an audit completes it, so that nothing is left to be asked for.
        assert_eq!(journal_len(&vault).1, 0);
        merge_journal(&vault).await.unwrap();
        assert_eq!(journal_len(&vault), (0, 0));
    });
}

#[test]
fn power_cut_at_any_write_of_merging_loses_nothing_and_doubles_nothing() {
    block_on(async {
        let disk = ModelDisk::new();
        let (vault, key, customers) = with_customers(&disk).await;
        use_all(&customers, 1).await;
        kept(&vault).await;
        let image = disk.image();
        vault.close().await.unwrap();
        let mut cut = 0;
        for nth in (1..).step_by(3) {
            let disk = restored(&image);
            let vault = on_disk(&disk).open().await.unwrap();
            if nth % 2 == 0 {
                disk.fail_nth_write(nth);
            } else {
                disk.fail_nth_write_in_doubt(nth);
            }
            let merged = merge_journal(&vault).await;
            let all_went_well = disk.disarm();
            disk.crash();
            drop(vault);
            let vault = on_disk(&disk).open().await.unwrap();
            check_all(&vault, &key, 1).await;
            if all_went_well {
                merged.unwrap();
                break;
            }
            cut += 1;
        }
        assert!(cut > 10, "merging was cut {cut} times");
    });
}

#[test]
fn closing_leaves_notes_to_the_journal_and_the_next_vault_has_them() {
    block_on(async {
        let disk = ModelDisk::new();
        let (vault, key, customers) = with_customers(&disk).await;
        use_all(&customers, 2).await;
        let before = disk.writes();
        vault.close().await.unwrap();
        let commits = disk.writes() - before;
        assert!(commits < ACCOUNTS as u64, "{commits} commits for {ACCOUNTS} accounts");
        let vault = on_disk(&disk).open().await.unwrap();
        check_all(&vault, &key, 2).await;
    });
}

#[test]
fn deleted_account_holds_up_no_row_and_comes_back_to_nobody() {
    block_on(async {
        let disk = ModelDisk::new();
        let (vault, key, customers) = with_customers(&disk).await;
        use_all(&customers, 1).await;
        kept(&vault).await;
        for (account, _) in &customers[1..] {
            account.delete().await.unwrap();
        }
        assert_eq!(journal_len(&vault).1, 1);
        // The same after reopening, when the rows still tell of accounts that are gone.
        vault.close().await.unwrap();
        let vault = on_disk(&disk).open().await.unwrap();
        assert!(journal_len(&vault).0 > 0);
        merge_journal(&vault).await.unwrap();
        assert_eq!(journal_len(&vault), (0, 0));
        let again = vault.backend(&key).await.unwrap().create_account(&id("customer 7")).await.unwrap();
        let entries = again.audit(PageRequest::first(10)).await.unwrap().items;
        assert_eq!(entries.iter().map(action).collect::<Vec<_>>(), ["AccountCreated"]);
    });
}

#[test]
fn row_that_is_lost_or_changed_is_damage_and_not_a_shorter_audit() {
    block_on(async {
        let disk = ModelDisk::new();
        let (vault, _, customers) = with_customers(&disk).await;
        use_all(&customers, 1).await;
        kept(&vault).await;
        let image = disk.image();
        vault.close().await.unwrap();
        let rows: Vec<_> = restored(&image)
            .rows(ModelTree::Directory)
            .into_iter()
            .filter(|(key, _)| key.starts_with(&[0x10, 0x01, b'j']))
            .collect();
        assert!(!rows.is_empty());
        for (key, value) in rows {
            let removed = restored(&image);
            removed.remove_row(ModelTree::Directory, &key);
            let mut flipped = value.clone();
            flipped[value.len() / 2] ^= 1;
            let changed = restored(&image);
            changed.put_row(ModelTree::Directory, &key, &flipped);
            let moved = restored(&image);
            moved.put_row(ModelTree::Directory, &[&key[..10], &[0x7f]].concat(), &value);
            for disk in [removed, changed, moved] {
                let opened = on_disk(&disk).open().await;
                assert!(matches!(opened, Err(anchorhold::OpenError::Corrupted(_))), "{opened:?}");
            }
        }
    });
}

#[test]
fn account_that_can_not_take_its_notes_holds_up_nobody_else() {
    block_on(async {
        let disk = ModelDisk::new();
        let (vault, key, customers) = with_customers(&disk).await;
        use_all(&customers, 1).await;
        kept(&vault).await;
        vault.close().await.unwrap();
        let tree = disk.trees().into_iter().find(|tree| *tree != ModelTree::Directory).unwrap();
        let (row, _) = disk.rows(tree).into_iter().next().unwrap();
        disk.remove_row(tree, &row);
        let vault = on_disk(&disk).open().await.unwrap();
        merge_journal(&vault).await.unwrap();
        assert_eq!(journal_len(&vault).1, 1, "its notes wait for the account to be mended or deleted");
        let backend = vault.backend(&key).await.unwrap();
        let mut damaged = 0;
        for number in 0..ACCOUNTS {
            let account = backend.account(&id(&format!("customer {number}"))).await.unwrap();
            match account.audit(PageRequest::first(10)).await {
                Ok(page) => assert_eq!(page.items.len(), 4),
                Err(Error::Corrupted(_)) => {
                    damaged += 1;
                    account.delete().await.unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(damaged, 1);
        merge_journal(&vault).await.unwrap();
        assert_eq!(journal_len(&vault), (0, 0));
    });
}

#[test]
fn mints_on_many_threads_are_all_in_the_audit_while_actors_come_and_go() {
    const THREADS: usize = 4;
    const MINTS: usize = 300;
    block_on(async {
        let disk = ModelDisk::new();
        // Room for a fifth of the accounts: housekeeping passivates all the time.
        let vault = on_disk(&disk).max_resident_accounts(ACCOUNTS / 5).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        let mut accounts = Vec::new();
        for number in 0..ACCOUNTS {
            accounts.push(backend.create_account(&id(&format!("customer {number}"))).await.unwrap());
        }
        let minting: Vec<_> = (0..THREADS)
            .map(|thread| {
                let accounts = accounts.clone();
                std::thread::spawn(move || {
                    let mut minted = Vec::new();
                    for turn in 0..MINTS {
                        // Some accounts far more often than others, so that some stay and some leave.
                        let number = (turn * turn + thread * 7) % ACCOUNTS;
                        let token = block_on(accounts[number].mint_session_token(SessionOptions::new())).unwrap();
                        minted.push((number, token.id));
                        if turn % 20 == 0 {
                            std::thread::sleep(Duration::from_millis(10));
                        }
                    }
                    minted
                })
            })
            .collect();
        let mut minted: Vec<_> = minting.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        // A power cut once the journal has had its time.
        smol::Timer::after(Duration::from_millis(400)).await;
        let vault = on_disk(&restored(&disk.image())).open().await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        let mut noted = Vec::new();
        for number in 0..ACCOUNTS {
            let account = backend.account(&id(&format!("customer {number}"))).await.unwrap();
            assert!(account.verify_audit().await.unwrap().is_intact());
            for entry in account.audit(PageRequest::first(1_000)).await.unwrap().items {
                if let AuditAction::SessionMinted { session, .. } = entry.action {
                    noted.push((number, session));
                }
            }
        }
        minted.sort_unstable();
        noted.sort_unstable();
        assert_eq!(noted, minted);
    });
}

#[test]
fn key_that_is_revoked_or_account_that_is_disabled_mints_nothing_more() {
    block_on(async {
        let disk = ModelDisk::new();
        let (vault, key, customers) = with_customers(&disk).await;
        let backend = vault.backend(&key).await.unwrap();
        let (account, _) = &customers[0];
        account.mint_session_token(SessionOptions::new()).await.unwrap();
        account.disable().await.unwrap();
        assert!(matches!(account.mint_session_token(SessionOptions::new()).await, Err(Error::AccountDisabled)));
        account.enable().await.unwrap();

        let other =
            backend.create_api_key(anchorhold::NewApiKey::new("other").permissions(anchorhold::Permissions::ALL)).await.unwrap();
        let through_other = vault.backend(&other.key).await.unwrap().account(&id("customer 0")).await.unwrap();
        let minted = through_other.mint_session_token(SessionOptions::new()).await.unwrap();
        vault.session(&minted.token).await.unwrap();
        backend.revoke_api_key(&other.info.id).await.unwrap();
        assert!(matches!(through_other.mint_session_token(SessionOptions::new()).await, Err(Error::InvalidApiKey)));

        // A token that was minted before all were revoked is dead, one minted after is not.
        let before = account.mint_session_token(SessionOptions::new()).await.unwrap();
        account.revoke_all_session_tokens().await.unwrap();
        let after = account.mint_session_token(SessionOptions::new()).await.unwrap();
        assert!(matches!(vault.session(&before.token).await, Err(Error::InvalidToken)));
        vault.session(&after.token).await.unwrap();
        account.delete().await.unwrap();
        assert!(matches!(account.mint_session_token(SessionOptions::new()).await, Err(Error::NotFound { .. })));
        assert!(matches!(vault.session(&after.token).await, Err(Error::InvalidToken)));
    });
}

#[test]
fn last_use_is_kept_by_a_record_or_by_what_will_write_it_there() {
    block_on(async {
        for policy in [AuditPolicy::Batched, AuditPolicy::Strict] {
            for (change_in_between, wait) in [(false, false), (false, true), (true, false), (true, true)] {
                let disk = ModelDisk::new();
                let vault = on_disk(&disk).audit_policy(policy).open().await.unwrap();
                let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
                let (account, connection) = customer(&vault.backend(&key).await.unwrap(), "acme", "secret").await;
                revealed(&connection).await.unwrap();
                if change_in_between {
                    // Its commit takes the entry of the use along, and not the connection's record.
                    account.set_metadata("changed").await.unwrap();
                }
                let used = account.connections().await.unwrap()[0].last_used;
                assert!(used.is_some());
                if wait {
                    smol::Timer::after(Duration::from_millis(400)).await;
                }
                let after_power_cut = wait.then(|| restored(&disk.image()));
                vault.close().await.unwrap();
                for disk in after_power_cut.into_iter().chain([disk]) {
                    let vault = on_disk(&disk).open().await.unwrap();
                    let account = vault.backend(&key).await.unwrap().account(&id("acme")).await.unwrap();
                    let last_used = account.connections().await.unwrap()[0].last_used;
                    assert_eq!(last_used, used, "{policy:?}, with a change in between: {change_in_between}");
                }
            }
        }
    });
}
