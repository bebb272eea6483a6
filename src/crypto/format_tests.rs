//! `docs/format.md` against this layer: derivation, envelope, header, wrapped keys.

use super::derive::Label;
use super::envelope;
use super::header::HeaderError;
use super::key::Key;
use super::keyring::{Keyring, OpenKeyringError, WrapPurpose};
use super::providers::RawKey;
use crate::ids::{AccountHandle, Environment};
use crate::secret::RootKey;
use crate::vectors::{Vector, from_hex};

const PAGE: &str = include_str!("../../docs/format.md");

fn root(vector: &Vector) -> RawKey {
    RawKey::new(RootKey::from_bytes(&mut vector.array("root key")))
}

#[test]
fn documented_derivations_hold() {
    let vector = Vector::of(PAGE, "derivation");
    let key = |name| Key::copy_of(&vector.array(name));
    let vault = vector.bytes("vault id");
    for (derived, name) in [
        (key("root key").derive(Label::VaultKeySeal, &[&vault]), "vault-key-seal"),
        (key("root key").derive(Label::Wrap, &[&vault, &1u32.to_be_bytes()]), "wrap"),
        (key("vault key").derive(Label::DirectorySeal, &[]), "directory-seal"),
        (key("vault key").derive(Label::Anchor, &[]), "anchor"),
        (key("account key").derive(Label::AccountRecord, &[]), "account-record"),
        (key("audit key").derive(Label::AuditChain, &[]), "audit-chain"),
    ] {
        assert_eq!(derived.expose(), &vector.array(name), "{name}");
    }
}

#[test]
fn every_label_is_documented_and_no_other() {
    for label in Label::ALL {
        assert_eq!(PAGE.matches(&format!("| `{}` |", label.text())).count(), 1, "{label:?}");
    }
    assert_eq!(PAGE.matches("| `anchorhold/").count(), Label::ALL.len());
}

#[test]
fn documented_envelope_holds() {
    let vector = Vector::of(PAGE, "envelope");
    let key = Key::copy_of(&vector.array("key"));
    let parts: Vec<Vec<u8>> = vector.all("part").into_iter().map(from_hex).collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let (key_version, revision) = (vector.text("key version").parse().unwrap(), vector.text("revision").parse().unwrap());
    let data = vector.bytes("data");
    let sealed = envelope::seal_with_nonce(&key, key_version, &parts, revision, &data, &vector.array("nonce"));
    assert_eq!(sealed, vector.bytes("envelope"));
    assert_eq!(*envelope::open(&key, &parts, Some(revision), &sealed).unwrap(), *data);
}

#[test]
fn documented_header_opens_with_its_root_key_and_no_other() {
    let header = Vector::of(PAGE, "header").bytes("content");
    let vector = Vector::of(PAGE, "derivation");
    let keyring = Keyring::open(&header, &[&root(&vector)]).unwrap();
    assert_eq!(keyring.vault_id().as_bytes(), &vector.array::<16>("vault id"));
    assert_eq!(keyring.generation(), 1);
    assert!(matches!(Keyring::open(&header, &[&RawKey::new([9; 32])]), Err(OpenKeyringError::WrongRootKey)));
    let mut other = header;
    *other.last_mut().unwrap() ^= 1;
    assert!(matches!(Keyring::open(&other, &[&root(&vector)]), Err(OpenKeyringError::Header(HeaderError::Malformed))));
}

#[test]
fn documented_keys_of_an_account_unwrap() {
    let keyring = Keyring::open(&Vector::of(PAGE, "header").bytes("content"), &[&root(&Vector::of(PAGE, "derivation"))]).unwrap();
    let account = Vector::of(PAGE, "account");
    let handle = AccountHandle::from_bytes(account.array("handle"));
    let purposes = [(b"k", WrapPurpose::AccountKey), (b"t", WrapPurpose::TokenKey), (b"a", WrapPurpose::AuditKey)];
    for (name, purpose) in purposes {
        let rows = account.rows();
        let [_, plain, sealed] = rows.iter().find(|[key, ..]| key == name).unwrap();
        let key = keyring.unwrap(purpose, Environment::Test, &handle, sealed).unwrap();
        assert_eq!(key.expose(), plain.as_slice());
        assert!(keyring.unwrap(purpose, Environment::Production, &handle, sealed).is_err());
    }
}
