//! The building blocks of `docs/format.md` and `docs/token-format.md`, written anew: nothing here is the library's.
#![allow(dead_code, reason = "every test file uses a part of it")]

use orion::hazardous::aead::xchacha20poly1305::{Nonce, SecretKey as SealKey, XChaCha20Poly1305};
use orion::hazardous::mac::blake2b::{Blake2b, SecretKey as HashKey};

pub type Key = [u8; 32];

/// The header's content.
pub struct Header {
    pub vault: [u8; 16],
    pub slots: Vec<Slot>,
}

pub struct Slot {
    pub generation: u32,
    pub parameters: Vec<u8>,
    pub sealed: Vec<u8>,
}

impl Header {
    pub fn parse(content: &[u8]) -> Self {
        assert_eq!(&content[..13], b"ANCHORHOLD\0\0\x01");
        let mut rest = &content[30..];
        let slots = (0..content[29])
            .map(|_| {
                let length = usize::from(u16::from_be_bytes([rest[4], rest[5]]));
                let (slot, after) = rest.split_at(6 + length + 117);
                rest = after;
                let generation = u32::from_be_bytes(slot[..4].try_into().unwrap());
                Slot { generation, parameters: slot[6..6 + length].to_vec(), sealed: slot[6 + length..].to_vec() }
            })
            .collect();
        assert_eq!(rest.len(), 32);
        Self { vault: content[13..29].try_into().unwrap(), slots }
    }
}

pub fn derive(key: &Key, label: &str, parts: &[&[u8]]) -> Key {
    hash(key, b'D', label, parts)
}

pub fn mac(key: &Key, label: &str, parts: &[&[u8]]) -> Key {
    hash(key, b'M', label, parts)
}

/// The data of an envelope, if it was sealed under this key for these parts.
pub fn open(key: &Key, parts: &[&[u8]], envelope: &[u8]) -> Option<Vec<u8>> {
    let (header, sealed) = envelope.split_at_checked(37)?;
    let (ciphertext, tag) = sealed.split_at_checked(sealed.len().checked_sub(16)?)?;
    let nonce = Nonce::from(<[u8; 24]>::try_from(&header[13..]).unwrap());
    let mut plain = ciphertext.to_vec();
    let aad = aad(header, parts);
    XChaCha20Poly1305::open_inplace(&SealKey::from(*key), &nonce, &tag.try_into().ok()?, Some(&aad), &mut plain).ok()?;
    let length = u32::from_le_bytes(plain[..4].try_into().unwrap()) as usize;
    Some(plain[4..4 + length].to_vec())
}

pub fn seal(key: &Key, key_version: u32, revision: u64, parts: &[&[u8]], data: &[u8]) -> Vec<u8> {
    let nonce: [u8; 24] = std::array::from_fn(|at| (at * 7) as u8 ^ revision as u8);
    let mut envelope = [&[1][..], &key_version.to_be_bytes(), &revision.to_be_bytes(), &nonce].concat();
    let mut text = (data.len() as u32).to_le_bytes().to_vec();
    text.extend_from_slice(data);
    text.resize(text.len().next_multiple_of(32), 0);
    let aad = aad(&envelope, parts);
    envelope.extend(encrypt(key, nonce, &aad, text));
    envelope
}

/// XChaCha20-Poly1305: ciphertext and tag.
pub fn encrypt(key: &Key, nonce: [u8; 24], aad: &[u8], mut text: Vec<u8>) -> Vec<u8> {
    let tag = XChaCha20Poly1305::seal_inplace(&SealKey::from(*key), &Nonce::from(nonce), Some(aad), &mut text).unwrap();
    text.extend_from_slice(tag.unprotected_as_ref());
    text
}

fn aad(header: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut aad = header.to_vec();
    for part in parts {
        aad.extend_from_slice(&(part.len() as u64).to_le_bytes());
        aad.extend_from_slice(part);
    }
    aad
}

fn hash(key: &Key, role: u8, label: &str, parts: &[&[u8]]) -> Key {
    let label = format!("anchorhold/{label}");
    let mut state = Blake2b::new(&HashKey::try_from(key).unwrap(), 32).unwrap();
    state.update(&[role, label.len() as u8]).unwrap();
    state.update(label.as_bytes()).unwrap();
    for part in parts {
        state.update(&(part.len() as u64).to_le_bytes()).unwrap();
        state.update(part).unwrap();
    }
    state.finalize().unwrap().unprotected_as_ref().try_into().unwrap()
}
