//! Sealed rows in other places: under another account, another name, or in place of what came after them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anchorhold::testing::{ModelDisk, ModelImage, ModelTree};
use anchorhold::{ApiKey, AuditPolicy, Environment, Error, OpenError, Vault, VaultBuilder};

use crate::common::{block_on, builder, id};
use crate::fixture::{Outcome, fill, outcome, read};

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Three accounts, one state of each before the last changes and one after them.
struct Accounts {
    key: ApiKey,
    /// Each account's tree, in the order of the names.
    trees: Vec<ModelTree>,
    before: ModelImage,
    after: ModelImage,
}

fn open(disk: &ModelDisk) -> VaultBuilder {
    builder(Path::new("unused")).model_disk(disk.clone()).audit_policy(AuditPolicy::Strict)
}

fn rows(image: &ModelImage, tree: ModelTree) -> Rows {
    restored(image).rows(tree).into_iter().collect()
}

fn restored(image: &ModelImage) -> ModelDisk {
    let disk = ModelDisk::new();
    disk.restore(image);
    disk
}

impl Accounts {
    fn new() -> Self {
        block_on(async {
            let disk = ModelDisk::new();
            let vault = open(&disk).open().await.unwrap();
            let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
            let backend = vault.backend(&key).await.unwrap();
            let mut trees: Vec<ModelTree> = Vec::new();
            for name in NAMES {
                fill(&backend, name).await;
                let known: BTreeSet<ModelTree> = trees.iter().copied().chain([ModelTree::Directory]).collect();
                trees.extend(disk.trees().into_iter().filter(|tree| !known.contains(tree)));
            }
            assert_eq!(trees.len(), NAMES.len());
            vault.head().await.unwrap();
            let before = disk.image();
            for name in NAMES {
                // A change of every kind of row; what can be read is the same as before.
                let account = backend.account(&id(name)).await.unwrap();
                account.set_metadata("in between").await.unwrap();
                account.set_metadata(&format!("last metadata of {name}")).await.unwrap();
                for info in account.connections().await.unwrap() {
                    let connection = account.connection(&info.id).await.unwrap();
                    let text = crate::common::revealed(&connection).await.unwrap();
                    connection.set_label("relabelled").await.unwrap();
                    let again = anchorhold::Credential::api_key(crate::common::secret(&text));
                    connection.replace_credential(again).await.unwrap();
                }
            }
            vault.close().await.unwrap();
            Self { key, trees, before, after: disk.image() }
        })
    }

    /// What each account answers on a disk that was tampered with, the tampered one's first.
    fn answers(&self, disk: &ModelDisk, tampered: usize, what: &str) -> Outcome {
        block_on(async {
            let vault = open(disk).open().await.unwrap();
            let backend = vault.backend(&self.key).await.unwrap();
            for (n, name) in NAMES.iter().enumerate().filter(|(n, _)| *n != tampered) {
                let neighbour = outcome(&backend, name, &what).await;
                assert!(matches!(neighbour, Outcome::Intact), "{what}: account {n} was not touched: {neighbour:?}");
            }
            outcome_with_audit(&vault, &self.key, NAMES[tampered], what).await
        })
    }
}

/// [`outcome`], for an account whose audit may be what was tampered with.
async fn outcome_with_audit(vault: &Vault, key: &ApiKey, name: &str, what: &str) -> Outcome {
    let account = vault.backend(key).await.unwrap().account(&id(name)).await.unwrap();
    match account.verify_audit().await {
        Ok(report) => match report.broken {
            None => outcome(&vault.backend(key).await.unwrap(), name, &what).await,
            Some(_) => {
                let report = vault.verify().await.unwrap();
                assert_eq!(report.damaged.len(), 1, "{what}: verify names the broken chain: {report:?}");
                Outcome::Corrupted(report.damaged[0].clone())
            }
        },
        Err(Error::Corrupted(damaged)) => Outcome::Corrupted(damaged),
        Err(Error::RolledBack(damaged)) => Outcome::RolledBack(damaged),
        Err(other) => panic!("{what}: {other:?}"),
    }
}

fn name_of(key: &[u8]) -> String {
    format!("row {:?} of {} bytes", char::from(key[0]), key.len())
}

#[test]
fn sealed_row_does_not_open_under_another_account_another_name_or_instead_of_a_later_one() {
    let accounts = Accounts::new();
    let (mut moved, mut renamed, mut older, mut removed) = (0, 0, 0, 0);
    for tampered in 0..NAMES.len() {
        let tree = accounts.trees[tampered];
        let own = rows(&accounts.after, tree);
        let strangers = rows(&accounts.after, accounts.trees[(tampered + 1) % NAMES.len()]);
        let yesterday = rows(&accounts.before, tree);
        let refused = |what: &str, tamper: &dyn Fn(&ModelDisk)| {
            let disk = restored(&accounts.after);
            tamper(&disk);
            let answer = accounts.answers(&disk, tampered, what);
            assert!(!matches!(answer, Outcome::Intact), "{what} is taken for the account's own");
        };
        for (key, value) in &own {
            // Another account's row of the same kind, sealed for the same place over there.
            let of_kind = strangers.iter().filter(|(other, _)| other[0] == key[0]);
            for (_, stranger) in of_kind.take(2) {
                moved += 1;
                refused(&format!("{} of another account", name_of(key)), &|disk| disk.put_row(tree, key, stranger));
            }
            // Another row of the same account, of the same kind and of others.
            for (other, other_value) in own.iter().filter(|(other, _)| *other != key).take(3) {
                renamed += 1;
                let what = format!("{} in the place of {}", name_of(other), name_of(key));
                refused(&what, &|disk| disk.put_row(tree, key, other_value));
            }
            // Both change places: all bytes that there were are still there.
            if let Some((other, other_value)) = own.iter().find(|(other, _)| other[0] == key[0] && *other > key) {
                renamed += 1;
                refused(&format!("{} and another one changed places", name_of(key)), &|disk| {
                    disk.put_row(tree, key, other_value);
                    disk.put_row(tree, other, value);
                });
            }
            match yesterday.get(key) {
                Some(before) if before != value => {
                    older += 1;
                    refused(&format!("{} of before", name_of(key)), &|disk| disk.put_row(tree, key, before));
                }
                _ => {}
            }
            removed += 1;
            refused(&format!("{} removed", name_of(key)), &|disk| disk.remove_row(tree, key));
        }
        // A row that was removed comes back.
        for (key, value) in yesterday.iter().filter(|(key, _)| !own.contains_key(*key)) {
            refused(&format!("{} is back", name_of(key)), &|disk| disk.put_row(tree, key, value));
        }
        // All rows of before, consistent with each other.
        refused("the whole account of before", &|disk| {
            own.keys().for_each(|key| disk.remove_row(tree, key));
            yesterday.iter().for_each(|(key, value)| disk.put_row(tree, key, value));
        });
        // A stranger's whole tree in the place of the account's.
        refused("the whole tree of another account", &|disk| {
            own.keys().for_each(|key| disk.remove_row(tree, key));
            strangers.iter().for_each(|(key, value)| disk.put_row(tree, key, value));
        });
    }
    println!("{moved} rows moved, {renamed} renamed, {older} of before, {removed} removed");
    assert!(moved > 40 && renamed > 100 && older > 20 && removed > 40);
    // The control: what was not tampered with opens.
    assert!(matches!(accounts.answers(&restored(&accounts.after), 0, "untouched"), Outcome::Intact));
}

/// The same behind the back of a vault that is open and has the account's facts in memory.
#[test]
fn row_that_changes_under_an_open_vault_is_noticed_when_it_is_read() {
    let accounts = Accounts::new();
    let tree = accounts.trees[0];
    let (own, yesterday) = (rows(&accounts.after, tree), rows(&accounts.before, tree));
    let strangers = rows(&accounts.after, accounts.trees[1]);
    let mut noticed = 0;
    for (key, value) in own.iter().filter(|(key, _)| matches!(key[0], b'i' | b'c' | b's')) {
        let other = own.iter().find(|(other, _)| other[0] == key[0] && *other != key).map(|(_, value)| value);
        let stranger = strangers.iter().find(|(other, _)| other[0] == key[0]).map(|(_, value)| value);
        for (what, tampered) in [("of before", yesterday.get(key)), ("of another name", other), ("of another account", stranger)]
        {
            let Some(tampered) = tampered.filter(|tampered| *tampered != value) else { continue };
            let disk = restored(&accounts.after);
            block_on(async {
                let vault = open(&disk).open().await.unwrap();
                let backend = vault.backend(&accounts.key).await.unwrap();
                read(&backend, NAMES[0]).await.unwrap();
                // Reading wrote when the credential was last used.
                let present = disk.row(tree, key).unwrap();
                disk.put_row(tree, key, tampered);
                let answer = read(&backend, NAMES[0]).await;
                assert!(matches!(answer, Err(Error::Corrupted(_))), "{} {what}: {answer:?}", name_of(key));
                disk.put_row(tree, key, &present);
                read(&backend, NAMES[0]).await.unwrap();
                noticed += 1;
            });
        }
    }
    assert!(noticed > 10, "{noticed}");
}

/// The directory's rows: an account, an API key or a part of the API-key audit that is moved, older, or missing.
#[test]
fn directory_row_that_was_tampered_with_is_reported_and_never_an_answer() {
    let accounts = Accounts::new();
    let own = rows(&accounts.after, ModelTree::Directory);
    let yesterday = rows(&accounts.before, ModelTree::Directory);
    let mut tried = 0;
    let mut refused = |key: &[u8], what: &str, tamper: &dyn Fn(&ModelDisk)| {
        let disk = restored(&accounts.after);
        tamper(&disk);
        let what = format!("{what}, {}", directory_name_of(key));
        assert!(block_on(notices(&disk, &accounts.key, &what)), "{what}: nobody notices");
        tried += 1;
    };
    for (key, value) in &own {
        refused(key, "a row is removed", &|disk| disk.remove_row(ModelTree::Directory, key));
        for (other, other_value) in own.iter().filter(|(other, _)| *other != key).take(8) {
            let what = format!("{} in the place of another row", directory_name_of(other));
            refused(key, &what, &|disk| disk.put_row(ModelTree::Directory, key, other_value));
        }
        match yesterday.get(key) {
            Some(before) if before != value => {
                refused(key, "a row of before", &|disk| disk.put_row(ModelTree::Directory, key, before));
            }
            _ => {}
        }
    }
    println!("{tried} tampered directories");
    assert!(tried > 60);
}

fn directory_name_of(key: &[u8]) -> String {
    format!("row {:?} of bucket {}", key.get(2).map(|kind| char::from(*kind)), u16::from_be_bytes([key[0], key[1]]))
}

/// Whether opening, one of the accounts, or the API-key audit says that something is wrong. Any other answer fails here.
async fn notices(disk: &ModelDisk, key: &ApiKey, what: &str) -> bool {
    let vault = match open(disk).open().await {
        Ok(vault) => vault,
        Err(OpenError::Corrupted(_) | OpenError::RolledBack(_)) => return true,
        Err(other) => panic!("{what}: {other:?}"),
    };
    let backend = vault.backend(key).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let mut noticed = false;
    for name in NAMES {
        noticed |= !matches!(outcome(&backend, name, &what).await, Outcome::Intact);
    }
    match backend.verify_api_key_audit().await {
        Ok(report) => noticed | !report.is_intact(),
        Err(Error::Corrupted(_) | Error::RolledBack(_)) => true,
        Err(other) => panic!("{what}: {other:?}"),
    }
}
