//! The rows of a closed vault, to be read and changed behind its back, on either engine.

use std::path::{Path, PathBuf};

use anchorhold::VaultBuilder;
use anchorhold::testing::{ModelDisk, ModelTree};

use crate::common::{builder, files, vault_path};

#[derive(Clone)]
pub struct Row {
    pub tree: Vec<u8>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

pub type Rows = Vec<Row>;

/// The head's key in the vault's format.
pub fn head_key<S: Shelf>() -> Vec<u8> {
    [S::ROW_PREFIX, b"h"].concat()
}

/// A row put somewhere, or taken away.
#[derive(Clone)]
pub struct Change {
    tree: Vec<u8>,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Row {
    pub fn put_at(&self, tree: &[u8], key: &[u8]) -> Change {
        Change { tree: tree.to_vec(), key: key.to_vec(), value: Some(self.value.clone()) }
    }

    /// What kind of row it is: the first letter of its key as the vault's format has it.
    pub fn kind<S: Shelf>(&self) -> Option<char> {
        self.key.strip_prefix(S::ROW_PREFIX).and_then(|key| key.first()).map(|letter| char::from(*letter))
    }
}

impl Change {
    pub fn remove(tree: &[u8], key: &[u8]) -> Self {
        Self { tree: tree.to_vec(), key: key.to_vec(), value: None }
    }
}

pub trait Shelf {
    /// What the engine puts before the key of a row. Keys without it are the engine's own.
    const ROW_PREFIX: &'static [u8];

    fn new() -> Self;

    fn builder(&self) -> VaultBuilder;

    /// The rows of all account trees.
    fn rows(&self) -> Rows;

    /// Runs `check` with the changes made, and puts everything back.
    fn with_changes<T>(&self, changes: &[Change], check: impl FnOnce() -> T) -> T;
}

pub struct OnSled(tempfile::TempDir);

impl OnSled {
    fn path(&self) -> PathBuf {
        vault_path(&self.0)
    }

    fn in_sled<T>(&self, work: impl FnOnce(&sled::Db) -> T) -> T {
        let database = sled::Config::new().path(shard_folder(&self.path())).flush_every_ms(None).open().unwrap();
        let result = work(&database);
        database.flush().unwrap();
        result
    }
}

impl Shelf for OnSled {
    const ROW_PREFIX: &'static [u8] = &[1];

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn builder(&self) -> VaultBuilder {
        builder(&self.path())
    }

    fn rows(&self) -> Rows {
        self.in_sled(|database| {
            let mut rows = Rows::new();
            for tree in database.tree_names().iter().filter(|name| **name != b"__sled__default") {
                for row in &database.open_tree(tree).unwrap() {
                    let (key, value) = row.unwrap();
                    rows.push(Row { tree: tree.to_vec(), key: key.to_vec(), value: value.to_vec() });
                }
            }
            rows
        })
    }

    fn with_changes<T>(&self, changes: &[Change], check: impl FnOnce() -> T) -> T {
        let before = files(&self.path());
        self.in_sled(|database| {
            for Change { tree, key, value } in changes {
                let tree = database.open_tree(tree).unwrap();
                match value {
                    Some(value) => tree.insert(key, value.as_slice()).unwrap(),
                    None => tree.remove(key).unwrap(),
                };
            }
        });
        let result = check();
        restore(&self.path(), &before);
        result
    }
}

pub struct OnModel(ModelDisk);

impl OnModel {
    pub fn disk(&self) -> &ModelDisk {
        &self.0
    }

    fn tree(&self, name: &[u8]) -> ModelTree {
        let is_it = |tree: &ModelTree| matches!(tree, ModelTree::Account(_, handle) if handle.to_string().as_bytes() == name);
        self.0.trees().into_iter().find(is_it).expect("a tree that was listed")
    }
}

impl Shelf for OnModel {
    const ROW_PREFIX: &'static [u8] = &[];

    fn new() -> Self {
        Self(ModelDisk::new())
    }

    fn builder(&self) -> VaultBuilder {
        builder(Path::new("unused")).model_disk(self.0.clone())
    }

    fn rows(&self) -> Rows {
        let mut rows = Rows::new();
        for tree in self.0.trees() {
            if let ModelTree::Account(_, handle) = tree {
                let named = |(key, value)| Row { tree: handle.to_string().into_bytes(), key, value };
                rows.extend(self.0.rows(tree).into_iter().map(named));
            }
        }
        rows
    }

    fn with_changes<T>(&self, changes: &[Change], check: impl FnOnce() -> T) -> T {
        let before = self.0.image();
        for Change { tree, key, value } in changes {
            let tree = self.tree(tree);
            match value {
                Some(value) => self.0.put_row(tree, key, value),
                None => self.0.remove_row(tree, key),
            }
        }
        let result = check();
        self.0.restore(&before);
        result
    }
}

/// The one shard of a small vault: the folder under `shards/` that holds a sled log.
fn shard_folder(vault: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = files(&vault.join("shards"))
        .into_iter()
        .filter(|(path, _)| path.file_name().is_some_and(|name| name == "db"))
        .map(|(path, _)| path.parent().unwrap().to_path_buf())
        .collect();
    assert_eq!(found.len(), 1, "one shard is expected: {found:?}");
    found.pop().unwrap()
}

/// Makes the folder hold exactly these files.
fn restore(folder: &Path, wanted: &[(PathBuf, Vec<u8>)]) {
    for (path, _) in files(folder) {
        if !wanted.iter().any(|(keep, _)| *keep == path) {
            std::fs::remove_file(path).unwrap();
        }
    }
    for (path, bytes) in wanted {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}
