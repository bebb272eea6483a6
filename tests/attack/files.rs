//! The attacker reads and writes every file of the vault, and has no key of it: rows are made and put in place as well as one can make
//! them. What is moved, damaged or put back from an older copy is tried in `tests/isolation.rs` and `tests/corruption.rs`.

use std::collections::BTreeSet;

use anchorhold::testing::{ModelDisk, ModelTree};
use anchorhold::{Environment, Error, SessionToken};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::common::{block_on, id, new_clock};
use crate::format::{Key, derive, encrypt, mac, open, seal};
use crate::world::{OF_A, OF_B, World, all_grants, builder, handle_bytes, seen};

/// Keys of the attacker's own.
const OWN_ROOT: Key = [0x66; 32];
const OWN_KEY: Key = [0x67; 32];

#[test]
fn no_row_opens_with_what_stands_in_the_files() {
    block_on(async {
        let world = World::new().await;
        let header = world.header();
        // Every run of 32 bytes in the files as a key, for every row, of the attacker's own account too.
        let mut rows: Vec<_> = world.disk.trees().into_iter().map(|tree| (tree, world.disk.rows(tree))).collect();
        rows.retain(|(tree, _)| *tree == world.tree_a || *tree == world.tree_b);
        let mut bytes = world.disk.header().unwrap();
        bytes.extend(rows.iter().flat_map(|(_, rows)| rows.iter().flat_map(|(key, value)| [key.as_slice(), value].concat())));
        for text in [OF_A, OF_B, world.a.id().as_str(), world.b.id().as_str()] {
            assert!(!crate::common::contains(&bytes, text.as_bytes()), "{text}");
        }
        let (mut tried, credential) = (0, rows[0].1.iter().find(|(key, _)| key[0] == b's').unwrap());
        let handle = handle_bytes(rows[0].0);
        for key in bytes.windows(32) {
            let key = Key::try_from(key).unwrap();
            for key in [derive(&key, "account-record", &[]), key] {
                assert!(open(&key, &world.parts(&header.vault, &handle, &credential.0), &credential.1).is_none());
                tried += 1;
            }
        }
        println!("{tried} keys tried");
        // The control: the right one opens it.
        let key = world.stolen(rows[0].0, b"k", "account-key");
        let record = derive(&key, "account-record", &[]);
        assert!(open(&record, &world.parts(&header.vault, &handle, &credential.0), &credential.1).is_some());
    });
}

#[test]
fn a_whole_account_under_keys_of_ones_own_is_refused() {
    block_on(async {
        let world = World::new().await;
        let token = world.a.mint_session_token(all_grants()).await.unwrap().token;
        let header = world.header();
        let handle = handle_bytes(world.tree_a);
        let parts = |row: &'static [u8]| [header.vault.as_slice(), &[1], handle.as_slice(), row].map(<[u8]>::to_vec);
        let made = |key: &Key, version, revision, row: &'static [u8], data: &[u8]| {
            let parts = parts(row);
            seal(key, version, revision, &parts.each_ref().map(Vec::as_slice), data)
        };
        let wrap = derive(&OWN_ROOT, "wrap", &[&header.vault, &header.slots[0].generation.to_be_bytes()]);
        // Shapes that the vault would take: what it wrote itself, opened with the keys that the attacker does not have.
        let true_key = world.stolen(world.tree_a, b"k", "account-key");
        let plain = |label: &str, row: &[u8]| {
            let sealed = world.disk.row(world.tree_a, row).unwrap();
            open(&derive(&true_key, label, &[]), &world.parts(&header.vault, &handle, row), &sealed).unwrap()
        };
        let (info, mut head) = (plain("account-record", b"i"), plain("account-head", b"h"));
        let sequence = u64::from_be_bytes(world.disk.row(world.tree_a, b"h").unwrap()[5..13].try_into().unwrap()) + 1;

        let keys = [(b"k", b"account-key".as_slice()), (b"t", b"token-key"), (b"a", b"audit-key")];
        let mut forged: Vec<(Vec<u8>, Vec<u8>)> =
            keys.iter().map(|(row, purpose)| (row.to_vec(), made(&wrap, 1, sequence, purpose, &OWN_KEY))).collect();
        forged.push((b"i".to_vec(), made(&derive(&OWN_KEY, "account-record", &[]), 1, sequence, b"i", &info)));
        let digest_key = derive(&OWN_KEY, "account-digest", &[]);
        let mut digest = [0; 32];
        for (row, value) in &forged {
            let element = mac(&digest_key, "account-digest", &[row, &value[5..13], &value[value.len() - 16..]]);
            digest.iter_mut().zip(element).for_each(|(sum, byte)| *sum ^= byte);
        }
        head[1..33].copy_from_slice(&digest);
        forged.push((b"h".to_vec(), made(&derive(&OWN_KEY, "account-head", &[]), 1, sequence, b"h", &head)));

        world.vault.close().await.unwrap();
        for (row, _) in world.disk.rows(world.tree_a) {
            if row[0] != b'u' {
                world.disk.remove_row(world.tree_a, &row);
            }
        }
        for (row, value) in &forged {
            world.disk.put_row(world.tree_a, row, value);
        }
        let vault = world.reopened().await;
        let answer = vault.backend(&world.key).await.unwrap().account(world.a.id()).await.unwrap().info().await;
        assert!(matches!(answer, Err(Error::Corrupted(_) | Error::RolledBack(_))), "{answer:?}");
        // Neither the true token nor one under the attacker's own token key opens anything.
        let own = token_under(&OWN_KEY, &header.vault, &handle, &[7; 51]);
        for token in [&token, &own] {
            assert!(vault.session(token).await.is_err());
        }
        assert_eq!(seen(&vault, &world.key, world.b.id().as_str(), world.of_b.id()).await.unwrap(), OF_B, "the other is served");
    });
}

#[test]
fn files_tell_how_many_there_are_and_not_who() {
    block_on(async {
        // The same customers under the same root key in two vaults.
        let (clock, mut rows) = (new_clock(), Vec::new());
        for _ in 0..2 {
            let disk = ModelDisk::new();
            let vault = builder(&disk, &clock).open().await.unwrap();
            let backend = vault.backend(&vault.bootstrap_api_key(Environment::Test).await.unwrap()).await.unwrap();
            for n in 0..20 {
                backend.create_account(&id(&format!("customer {n}"))).await.unwrap();
            }
            vault.close().await.unwrap();
            assert_eq!(disk.trees().len(), 21, "the gain: how many");
            // The key of an account's row is bucket(2) ‖ `a` ‖ locator(32) ‖ environment(1).
            let locators = disk.rows(ModelTree::Directory).into_iter().filter(|(key, _)| key.get(2) == Some(&b'a'));
            rows.push(locators.map(|(key, _)| key).collect::<BTreeSet<_>>());
        }
        assert_eq!((rows[0].len(), rows[1].len()), (20, 20), "the control");
        assert!(rows[0].is_disjoint(&rows[1]), "an id can be recognised by what stands for it");
    });
}

/// A token as `docs/token-format.md` describes it.
pub fn token_under(key: &Key, vault: &[u8; 16], handle: &[u8; 16], claims: &[u8]) -> SessionToken {
    let nonce = [9; 24];
    let aad = [b"anchorhold session token".as_slice(), &[1], vault, &[1], handle].concat();
    let raw = [&[1][..], handle, &nonce, &encrypt(key, nonce, &aad, claims.to_vec())].concat();
    SessionToken::from(format!("st_test_{}", URL_SAFE_NO_PAD.encode(raw)))
}
