//! Every key of a vault, worked out from its files and its root keys by what `docs/format.md` says and by nothing of the library.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::copy_folder;
use crate::format::{Header, Key, derive, mac, open};

const OF_ROOT: [&str; 2] = ["vault-key-seal", "wrap"];
const OF_VAULT: [&str; 9] = [
    "header",
    "locator",
    "directory-seal",
    "directory-element",
    "bucket-head",
    "anchor",
    "api-key-hash",
    "api-key-chain",
    "vault-head",
];
const OF_ACCOUNT: [&str; 3] = ["account-record", "account-head", "account-digest"];
const OF_AUDIT: [&str; 2] = ["audit-chain", "audit-record"];
const PURPOSES: [(u8, &str); 4] =
    [(b'k', "account-key"), (b't', "token-key"), (b'a', "audit-key"), (b'o', "previous-account-key")];

/// All keys that follow from what lies on disk now, each with a name. The vault may be open: a copy is read.
pub fn of_vault(path: &Path, roots: &[Key]) -> Vec<(String, Key)> {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(path, copy.path());
    let content = &content(copy.path());
    let header = Header::parse(content);
    let mut keys = Vec::new();
    let mut wraps = BTreeMap::new();
    let mut vault_key = None;
    for root in roots {
        for slot in &header.slots {
            let generation = slot.generation.to_be_bytes();
            let contexts: [&[&[u8]]; 2] = [&[&header.vault], &[&header.vault, &generation]];
            let [seal, wrap] = std::array::from_fn(|n| derive(root, OF_ROOT[n], contexts[n]));
            let parts: [&[u8]; 3] = [&content[..13], &header.vault, &slot.parameters];
            let Some(opened) = open(&seal, &parts, &slot.sealed) else { continue };
            vault_key = Some(Key::try_from(&opened[..]).unwrap());
            wraps.insert(slot.generation, wrap);
            keys.push((format!("vault key's seal, generation {}", slot.generation), seal));
            keys.push((format!("wrap key, generation {}", slot.generation), wrap));
        }
    }
    let vault_key = vault_key.expect("one of the root keys opens the header");
    keys.push(("vault key".to_owned(), vault_key));
    keys.extend(OF_VAULT.iter().map(|label| (format!("{label} key"), derive(&vault_key, label, &[]))));
    for shard in fs::read_dir(copy.path().join("shards")).into_iter().flatten() {
        let shard = shard.unwrap().path();
        let db = sled::Config::new().path(&shard).segment_size(512 * 1024).flush_every_ms(None).open().unwrap();
        for name in db.tree_names() {
            let Ok(handle) = <[u8; 16]>::try_from(&name[..]) else { continue };
            of_account(&db.open_tree(&name).unwrap(), &header.vault, &handle, &wraps, &mut keys);
        }
    }
    keys
}

/// The public parameters of the only root key.
pub fn parameters(path: &Path) -> Vec<u8> {
    Header::parse(&content(path)).slots[0].parameters.clone()
}

fn content(path: &Path) -> Vec<u8> {
    let file = fs::read(path.join("header.a")).unwrap();
    file.strip_prefix(b"AHHEADER").and_then(|rest| rest.get(12..rest.len() - 4)).unwrap().to_vec()
}

/// Changes one bit of every sealed credential of a closed vault; of each the seal is broken then.
pub fn damage_credentials(path: &Path) {
    let mut damaged = 0;
    for shard in fs::read_dir(path.join("shards")).unwrap() {
        let shard = shard.unwrap().path();
        let db = sled::Config::new().path(&shard).segment_size(512 * 1024).flush_every_ms(None).open().unwrap();
        for name in db.tree_names() {
            let tree = db.open_tree(&name).unwrap();
            let rows: Vec<_> = tree.scan_prefix([1, b's']).map(Result::unwrap).collect();
            for (key, value) in rows {
                let mut value = value.to_vec();
                // In the ciphertext: the tag, by which a row is known, stays.
                let place = value.len() - 20;
                value[place] ^= 1;
                tree.insert(key, value).unwrap();
                damaged += 1;
            }
        }
        db.flush().unwrap();
    }
    assert!(damaged > 0);
}

fn of_account(tree: &sled::Tree, vault: &[u8; 16], handle: &[u8; 16], wraps: &BTreeMap<u32, Key>, keys: &mut Vec<(String, Key)>) {
    let who = format!("{:02x}{:02x}…", handle[0], handle[1]);
    for (row, purpose) in PURPOSES {
        let Some(value) = tree.get([1, row]).unwrap() else { continue };
        let wrapped = value.strip_prefix(&[0]).unwrap();
        let generation = u32::from_be_bytes(wrapped[1..5].try_into().unwrap());
        // A copy that was made in the middle of a rotation may have either; a tree of before has neither.
        let Some(wrap) = wraps.get(&generation) else { continue };
        let parts: [&[u8]; 4] = [vault, &[1], handle, purpose.as_bytes()];
        let key = Key::try_from(&open(wrap, &parts, wrapped).expect("a wrapped key opens")[..]).unwrap();
        let subkeys: &[&str] = match row {
            b'k' | b'o' => &OF_ACCOUNT,
            b'a' => &OF_AUDIT,
            _ => &[],
        };
        keys.push((format!("{purpose} of {who}, {}", fingerprint(&key)), key));
        for label in subkeys {
            keys.push((format!("{label} key of {who}, {}", fingerprint(&key)), derive(&key, label, &[])));
        }
    }
}

/// Tells keys of one name apart.
fn fingerprint(key: &Key) -> String {
    let hash = mac(key, "fingerprint", &[]);
    format!("{:02x}{:02x}", hash[0], hash[1])
}
