//! One who can write to the files: rows are moved, copied, exchanged and taken away while the vault is closed. Whatever is done
//! to a customer's rows is that customer's damage, reported as such; every other customer is as before.

use std::collections::BTreeSet;

use anchorhold::testing::{ModelDisk, ModelTree};
use anchorhold::{ApiKey, Backend, Credential, Environment, Error, OpenError, PageRequest, Vault};

use crate::common::{api_key_connection, block_on, header_provider, id, revealed, secret};
use crate::shelves::{Change, OnModel, OnSled, Row, Rows, Shelf, head_key};

const NAMES: [&str; 3] = ["a", "b", "untouched"];

/// A closed vault with three customers in one shard.
struct Closed<S> {
    shelf: S,
    key: ApiKey,
    /// The customers' trees, in the order of `NAMES`.
    trees: Vec<Vec<u8>>,
}

impl<S: Shelf> Closed<S> {
    fn new() -> Self {
        let shelf = S::new();
        let key = block_on(async {
            let vault = shelf.builder().open().await.unwrap();
            let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
            let backend = vault.backend(&key).await.unwrap();
            backend.set_provider(header_provider("crm")).await.unwrap();
            for (changes, name) in NAMES.iter().enumerate() {
                let account = backend.create_account(&id(name)).await.unwrap();
                // Each has come to another sequence than the others.
                for _ in 0..changes {
                    account.set_metadata("something").await.unwrap();
                }
                for n in 0..2 {
                    account.add_connection(api_key_connection("crm", &format!("secret {n} of {name}"))).await.unwrap();
                }
            }
            vault.close().await.unwrap();
            key
        });
        let mut closed = Self { shelf, key, trees: Vec::new() };
        let unordered: BTreeSet<Vec<u8>> = closed.shelf.rows().into_iter().map(|row| row.tree).collect();
        assert_eq!(unordered.len(), NAMES.len(), "each customer has a tree of its own in the one shard");
        // Whose a tree is shows when its head is gone.
        let headless = |tree: &Vec<u8>| closed.refused(&[Change::remove(tree, &head_key::<S>())], "no head");
        let mut whose: Vec<_> = unordered.into_iter().map(|tree| (headless(&tree), tree)).collect();
        whose.sort();
        closed.trees = whose.iter().map(|(_, tree)| tree.clone()).collect();
        let names: Vec<_> = whose.into_iter().flat_map(|(names, _)| names).collect();
        assert_eq!(names, NAMES, "the head of one customer is one customer's damage");
        closed
    }

    fn rows_of(&self, customer: usize) -> Rows {
        self.shelf.rows().into_iter().filter(|row| row.tree == self.trees[customer]).collect()
    }

    /// Makes the changes, reads everything of everybody from the opened vault, and puts all back as it was. Returns the
    /// customers that are reported damaged; all others are whole.
    fn refused(&self, changes: &[Change], what: &str) -> Vec<&'static str> {
        let read_all = async {
            let vault = self.shelf.builder().open().await.unwrap();
            let refused = refused(&vault, &self.key, what).await;
            // A customer's damage does not keep the vault from closing.
            vault.close().await.unwrap();
            refused
        };
        self.shelf.with_changes(changes, || block_on(read_all))
    }

    /// Replaces every credential twice, so that in the end each is as before and each row another revision.
    fn revise(&self) {
        block_on(async {
            let vault = self.shelf.builder().open().await.unwrap();
            let backend = vault.backend(&self.key).await.unwrap();
            let account = backend.account(&id("a")).await.unwrap();
            for info in account.connections().await.unwrap() {
                let connection = account.connection(&info.id).await.unwrap();
                let text = revealed(&connection).await.unwrap();
                connection.replace_credential(Credential::api_key(secret("other"))).await.unwrap();
                connection.replace_credential(Credential::api_key(secret(&text))).await.unwrap();
            }
            vault.close().await.unwrap();
        });
    }
}

async fn refused(vault: &Vault, key: &ApiKey, what: &str) -> Vec<&'static str> {
    let backend = vault.backend(key).await.unwrap();
    let mut refused = Vec::new();
    for name in NAMES {
        match read(&backend, name).await {
            Ok(Some(secrets)) => {
                assert_eq!(secrets, ["secret 0 of ", "secret 1 of "].map(|text| format!("{text}{name}")), "{what}");
            }
            Ok(None) | Err(Error::Corrupted { .. } | Error::RolledBack { .. }) => refused.push(name),
            Err(other) => panic!("{what}: {name} answered {other:?}"),
        }
    }
    refused
}

/// All secrets of a customer, who is written to as well; `None` when the audit chain is broken.
async fn read(backend: &Backend, name: &str) -> Result<Option<Vec<String>>, Error> {
    let account = backend.account(&id(name)).await?;
    assert_eq!(account.info().await?.id, id(name));
    // First of all, since revealing adds to it.
    let mut request = PageRequest::first(2);
    while let Some(next) = account.audit(request).await?.next {
        request = next;
    }
    let is_whole = account.verify_audit().await?.is_intact();
    let mut secrets = Vec::new();
    for info in account.connections().await? {
        secrets.push(revealed(&account.connection(&info.id).await?).await?);
    }
    secrets.sort();
    // What is damaged is not written to either.
    account.set_metadata("something else").await?;
    Ok(is_whole.then_some(secrets))
}

#[test]
fn record_moved_between_trees_or_names_directly_in_sled_fails_to_open() {
    let closed = Closed::<OnSled>::new();
    assert_eq!(closed.refused(&[], "nothing changed"), [""; 0], "the control");
    let mut moved = 0;
    for (customer, name) in NAMES.iter().enumerate() {
        let rows = closed.rows_of(customer);
        let other = (customer + 1) % NAMES.len();
        for (n, row) in rows.iter().enumerate() {
            let kind = row.kind::<OnSled>();
            let refused = |change: Change, did: &str| closed.refused(&[change], &format!("{kind:?} of {name} {did}"));
            assert_eq!(refused(row.put_at(&closed.trees[other], &row.key), "in another's tree"), [NAMES[other]], "{kind:?}");
            // The engine's own mark is no record: under another name it is nothing.
            if kind.is_none() {
                continue;
            }
            let neighbour = &rows[(n + 1) % rows.len()].key;
            assert_eq!(refused(row.put_at(&row.tree, neighbour), "under its neighbour's name"), [*name], "{kind:?}");
            let mut new_name = row.key.clone();
            *new_name.last_mut().unwrap() ^= 0x10;
            if rows.iter().all(|taken| taken.key != new_name) {
                assert_eq!(refused(row.put_at(&row.tree, &new_name), "under a name that never was"), [*name], "{kind:?}");
            }
            assert_eq!(refused(Change::remove(&row.tree, &row.key), "removed"), [*name], "{kind:?}");
            moved += 1;
        }
    }
    assert!(moved >= 11 * NAMES.len(), "head, three keys, record, connections, secrets, audit: only {moved} were moved");
}

#[test]
fn older_revision_put_back_directly_in_sled_fails_to_open() {
    let closed = Closed::<OnSled>::new();
    let older = closed.rows_of(0);
    closed.revise();
    let newer = closed.rows_of(0);
    let is_changed = |row: &&Row| newer.iter().any(|new| new.key == row.key && new.value != row.value);
    let changed: Vec<&Row> = older.iter().filter(is_changed).collect();
    assert!(changed.len() >= 5, "two records, two secrets and the head changed, found {}", changed.len());
    for row in &changed {
        let what = format!("{:?} of yesterday", row.kind::<OnSled>());
        assert_eq!(closed.refused(&[row.put_at(&row.tree, &row.key)], &what), ["a"], "{what}");
    }
    // All of them together, head included: consistent in itself, and older than the anchor remembers.
    let mut all: Vec<Change> = changed.iter().map(|row| row.put_at(&row.tree, &row.key)).collect();
    let added = newer.iter().filter(|row| older.iter().all(|old| old.key != row.key));
    all.extend(added.map(|row| Change::remove(&row.tree, &row.key)));
    assert_eq!(closed.refused(&all, "the whole tree of yesterday"), ["a"]);
}

#[test]
fn tree_of_another_customer_fails_to_open() {
    let closed = Closed::<OnSled>::new();
    let (a, b) = (closed.rows_of(0), closed.rows_of(1));
    let emptied = |rows: &Rows| rows.iter().map(|row| Change::remove(&row.tree, &row.key)).collect::<Vec<_>>();
    let put = |rows: &Rows, tree: usize| rows.iter().map(|row| row.put_at(&closed.trees[tree], &row.key)).collect::<Vec<_>>();
    assert_eq!(closed.refused(&[emptied(&a), put(&b, 0)].concat(), "a holds b's rows, all of them"), ["a"]);
    let exchanged = [emptied(&a), emptied(&b), put(&b, 0), put(&a, 1)].concat();
    assert_eq!(closed.refused(&exchanged, "a and b are exchanged"), ["a", "b"]);
    assert_eq!(closed.refused(&emptied(&a), "a's tree is empty"), ["a"]);
}

/// Every row of now and of before, put in every place of every customer.
#[test]
fn no_row_opens_in_a_place_that_is_not_its_own() {
    let closed = Closed::<OnModel>::new();
    let mut pool = closed.shelf.rows();
    closed.revise();
    let now = closed.shelf.rows();
    pool.extend(now.iter().cloned());
    let mut tried = 0;
    for place in &now {
        let whose = NAMES[closed.trees.iter().position(|tree| *tree == place.tree).unwrap()];
        for row in pool.iter().filter(|row| row.value != place.value) {
            let what = format!("{:?} in the place of {:?} of {whose}", row.kind::<OnModel>(), place.kind::<OnModel>());
            assert_eq!(closed.refused(&[row.put_at(&place.tree, &place.key)], &what), [whose], "{what}");
            tried += 1;
        }
    }
    assert!(tried > 1_500, "only {tried} were tried");
}

/// The rows that lead from a customer's id to its tree, exchanged in every way: none leads to another customer, and none makes a
/// customer look as if it never was.
#[test]
fn directory_row_in_anothers_place_leads_to_nobody() {
    let closed = Closed::<OnModel>::new();
    let disk: &ModelDisk = closed.shelf.disk();
    let before = disk.image();
    let rows = disk.rows(ModelTree::Directory);
    assert!(
        rows.len() >= 2 * NAMES.len() + 2,
        "a row and the head of its bucket for each customer, the key, the environment: {}",
        rows.len()
    );
    for (place, own) in &rows {
        for (row, value) in rows.iter().filter(|(_, value)| value != own) {
            let what = format!("directory row {row:?} in the place of {place:?}");
            disk.put_row(ModelTree::Directory, place, value);
            match block_on(closed.shelf.builder().open()) {
                Ok(vault) => {
                    let noticed = block_on(noticed(&vault, &closed.key, &what));
                    assert!(noticed, "{what}: nobody noticed");
                    let _ = block_on(vault.close());
                }
                Err(OpenError::Corrupted(_) | OpenError::RolledBack(_)) => {}
                Err(other) => panic!("{what}: {other:?}"),
            }
            disk.restore(&before);
        }
    }
}

/// Whether anything in the directory, or a customer that it leads to, is reported damaged. What is not is as it was.
async fn noticed(vault: &Vault, key: &ApiKey, what: &str) -> bool {
    let backend = vault.backend(key).await.unwrap();
    let providers = match backend.providers().await {
        Ok(providers) => {
            assert_eq!(providers, [header_provider("crm")], "{what}");
            false
        }
        Err(Error::Corrupted { .. } | Error::RolledBack { .. }) => true,
        Err(other) => panic!("{what}: {other:?}"),
    };
    let audit = match backend.verify_api_key_audit().await {
        Ok(report) => !report.is_intact(),
        Err(Error::Corrupted { .. } | Error::RolledBack { .. }) => true,
        Err(other) => panic!("{what}: {other:?}"),
    };
    !refused(vault, key, what).await.is_empty() || providers || audit
}

#[test]
fn key_of_another_vault_opens_nothing() {
    let (closed, other) = (Closed::<OnModel>::new(), Closed::<OnModel>::new());
    block_on(async {
        let vault = closed.shelf.builder().open().await.unwrap();
        assert!(matches!(vault.backend(&other.key).await, Err(Error::InvalidApiKey)), "same root key, another vault");
        assert!(matches!(vault.bootstrap_api_key(Environment::Test).await, Err(Error::AlreadyBootstrapped { .. })));
        vault.backend(&closed.key).await.unwrap();
    });
}
