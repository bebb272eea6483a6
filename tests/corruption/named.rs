//! `verify` names each thing that is damaged and goes on; a listing neither ends nor leaves anybody out.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64ct::{Base64UrlUnpadded, Encoding as _};

use anchorhold::testing::{ModelDisk, ModelTree};
use anchorhold::{
    AccountHandle, AccountStatus, ApiKey, Environment, Error, LinkedAccountId, PageRequest, VaultPart, VerifyReport,
};

use crate::common::{block_on, builder, customer, id};

const NAMES: [&str; 5] = ["customer-1", "customer-2", "customer-3", "customer-4", "customer-5"];

struct Shop {
    disk: ModelDisk,
    key: ApiKey,
    /// Of each name, its tree.
    trees: Vec<ModelTree>,
}

/// One customer for each kind of damage, and eight beside them.
async fn shop() -> Shop {
    let disk = ModelDisk::new();
    let vault = builder(Path::new("unused")).model_disk(disk.clone()).open().await.unwrap();
    let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
    let backend = vault.backend(&key).await.unwrap();
    let mut trees = Vec::new();
    for name in NAMES {
        let known: BTreeSet<ModelTree> = disk.trees().into_iter().collect();
        customer(&backend, name, "a secret").await;
        trees.extend(disk.trees().into_iter().filter(|tree| !known.contains(tree) && *tree != ModelTree::Directory));
    }
    for n in 0..8 {
        customer(&backend, &format!("whole {n}"), "a secret").await;
    }
    vault.close().await.unwrap();
    Shop { disk, key, trees }
}

impl Shop {
    /// Changes a byte of the ciphertext of the first row of this kind: neither its revision nor its tag.
    fn flip(&self, tree: ModelTree, kind: u8) {
        let (key, mut value) = self.disk.rows(tree).into_iter().find(|(key, _)| key[0] == kind).unwrap();
        value[40] ^= 1;
        self.disk.put_row(tree, &key, &value);
    }

    fn directory_row(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        self.disk.rows(ModelTree::Directory).into_iter().map(|(key, _)| key).find(|key| wanted(key)).unwrap()
    }

    async fn verify(&self) -> VerifyReport {
        let vault = builder(Path::new("unused")).model_disk(self.disk.clone()).open().await.unwrap();
        let report = vault.verify().await.unwrap();
        vault.close().await.unwrap();
        report
    }
}

#[test]
fn verify_names_everything_that_is_damaged_and_goes_on() {
    block_on(async {
        let shop = shop().await;
        let before = shop.verify().await;
        assert_eq!((before.intact, before.damaged.len(), before.unproven.len()), (13, 0, 0), "{before:?}");

        shop.flip(shop.trees[0], b's');
        shop.flip(shop.trees[0], b'c');
        shop.flip(shop.trees[1], b't');
        shop.flip(shop.trees[2], b'h');
        shop.flip(shop.trees[3], b'u');
        let ModelTree::Account(_, by_handle) = shop.trees[4] else { unreachable!() };
        // A handle begins as the locator in the key of its account's row does.
        let its_row = shop.directory_row(|key| key[2] == b'a' && key[3..7] == handle_bytes(&by_handle)[..4]);
        shop.disk.remove_row(ModelTree::Directory, &its_row);
        let report = shop.verify().await;
        let said: Vec<String> = report.damaged.iter().map(|damaged| format!("{damaged}")).collect();
        println!("{}", said.join("\n"));

        let mut expected = vec![
            (0, "the credential of connection"),
            (0, "the facts of connection"),
            (1, "the token key: "),
            (2, "the head does not open"),
            (3, "entry"),
        ];
        // Of whoever has a row in the bucket that lost one, nothing is proven; now and then that is one of those below.
        let in_directory = |damaged: &&anchorhold::Damaged| damaged.part == VaultPart::Directory;
        let unproven: Vec<_> = report.damaged.iter().filter(in_directory).flat_map(|damaged| &damaged.accounts).collect();
        for damaged in &report.damaged {
            if damaged.part == VaultPart::Directory {
                assert!(damaged.detail.starts_with("bucket "), "{damaged}");
                assert!(damaged.accounts.contains(&by_handle), "{damaged}");
                continue;
            }
            let place = expected.iter().position(|(n, what)| {
                let ModelTree::Account(_, handle) = shop.trees[*n] else { unreachable!() };
                damaged.accounts == [handle] && damaged.detail.contains(what)
            });
            let (n, _) = expected.remove(place.unwrap_or_else(|| panic!("not expected: {damaged:?}")));
            let named = &report.accounts[&damaged.accounts[0]];
            assert_eq!(named.environment, Environment::Test);
            if !unproven.contains(&&damaged.accounts[0]) {
                assert_eq!(named.id.as_ref().map(LinkedAccountId::as_str), Some(NAMES[n]));
            }
        }
        assert!(expected.is_empty(), "not named: {expected:?}");
        assert_eq!(report.damaged.iter().filter(|damaged| damaged.part == VaultPart::Directory).count(), 1, "{report:?}");
        assert_eq!((report.intact, report.unproven.len()), (13 - 5, 0), "{report:?}");
        assert!(!format!("{report:?}").contains("customer-"), "a customer's id stands in Debug");

        // Part of the API-key audit, after the rest was put right.
        let audit = shop.directory_row(|key| key[2] == b'u');
        shop.disk.remove_row(ModelTree::Directory, &audit);
        let report = shop.verify().await;
        assert!(report.damaged.iter().any(|damaged| damaged.detail.contains("API-key audit of the test")), "{report:?}");
    });
}

fn handle_bytes(handle: &AccountHandle) -> Vec<u8> {
    Base64UrlUnpadded::decode_vec(handle.to_string().strip_prefix("ah_").unwrap()).unwrap()
}

#[test]
fn a_listing_has_damaged_accounts_among_the_others() {
    block_on(async {
        let shop = shop().await;
        shop.flip(shop.trees[2], b'h');
        let vault = builder(Path::new("unused")).model_disk(shop.disk.clone()).open().await.unwrap();
        let backend = vault.backend(&shop.key).await.unwrap();
        let (mut seen, mut wanted) = (Vec::new(), Some(PageRequest::first(5)));
        while let Some(request) = wanted {
            let page = backend.accounts(request).await.unwrap();
            seen.extend(page.items);
            wanted = page.next;
        }
        assert_eq!(seen.len(), 13);
        for info in &seen {
            let damaged = info.id.as_str() == NAMES[2];
            assert_eq!(info.status == AccountStatus::Damaged, damaged, "{}", info.id.as_str());
            assert_eq!(info.connections, usize::from(!damaged));
        }
        let account = backend.account(&id(NAMES[2])).await.unwrap();
        assert!(matches!(account.info().await, Err(Error::Corrupted(_))));
        vault.close().await.unwrap();
    });
}

#[test]
fn verify_has_places_of_its_own_in_an_account_that_is_flooded() {
    block_on(async {
        let disk = ModelDisk::new();
        let vault = builder(Path::new("unused")).model_disk(disk).mailbox_capacity(1).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        let (busy, _) = customer(&backend, "busy", "a secret").await;
        customer(&backend, "idle", "a secret").await;
        let flooding = Arc::new(AtomicBool::new(true));
        let floods: Vec<_> = (0..4)
            .map(|_| {
                let (account, flooding) = (busy.clone(), Arc::clone(&flooding));
                std::thread::spawn(move || {
                    let mut refused = 0;
                    while flooding.load(Ordering::Relaxed) {
                        match block_on(account.set_metadata("again")) {
                            Ok(()) => {}
                            Err(Error::Overloaded) => refused += 1,
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    refused
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        let mut reports = Vec::new();
        for _ in 0..32 {
            reports.push(vault.verify().await.unwrap());
        }
        flooding.store(false, Ordering::Relaxed);
        let refused: u64 = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
        assert!(refused > 0, "the account was never too busy");
        for report in reports {
            assert_eq!((report.intact, report.damaged.len(), report.unproven.len()), (2, 0, 0), "{report:?}");
        }
        vault.close().await.unwrap();
    });
}
