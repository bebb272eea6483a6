//! Session tokens: sealing, opening, and whether one is good now. The format and its vectors are in `docs/token-format.md`.
//!
//! ```text
//! text = "st_test_" or "st_live_" ‖ base64url( version(1) = 1 ‖ handle(16) ‖ nonce(24) ‖ sealed claims ‖ tag(16) )
//! aad  = "anchorhold session token" ‖ version ‖ vault id(16) ‖ environment(1) ‖ handle(16)
//! ```
//!
//! XChaCha20-Poly1305 under the account's token key, so that a token can't be forged for, or opened by, another account.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::base64url::{self, encoded_len};
pub(crate) use super::claims::SessionClaims;
use super::claims::{MAX_CLAIMS_BYTES, MIN_CLAIMS_BYTES};
pub(crate) use super::denial::DenialReason;
use crate::clock::Timestamp;
use crate::crypto::key::KeyBytes;
use crate::ids::{AccountHandle, Environment, VaultId};
use crate::secret::{SecretBytes, SessionToken};

const VERSION: u8 = 1;
const PREFIX_BYTES: usize = 8;
const HANDLE_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + HANDLE_BYTES + NONCE_BYTES;

/// Nothing longer is looked at.
const MAX_TEXT_BYTES: usize = 6 * 1024;
const MIN_TEXT_BYTES: usize = PREFIX_BYTES + encoded_len(HEAD_BYTES + MIN_CLAIMS_BYTES + TAG_BYTES);
const _: () = assert!(PREFIX_BYTES + encoded_len(HEAD_BYTES + MAX_CLAIMS_BYTES + TAG_BYTES) <= MAX_TEXT_BYTES);

/// A minting clock may be ahead of a checking one by this much.
const MAX_SKEW_MILLIS: u64 = 60_000;

const AAD_LABEL: &[u8; 24] = b"anchorhold session token";
const AAD_BYTES: usize = AAD_LABEL.len() + 1 + 16 + 1 + HANDLE_BYTES;

/// A text that is no session token of the account whose key was tried. One reason for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidToken;

/// Most tokens have no more bytes than this, and are sealed and opened in the stack frame of their caller.
const USUAL_BYTES: usize = 256;

/// Room for the bytes of one token: on the stack as long as it is short.
pub(crate) struct Room {
    short: [u8; USUAL_BYTES],
    long: Option<SecretBytes>,
}

impl Room {
    /// To be made inside a stack frame that is wiped.
    pub(crate) fn new() -> Self {
        Self { short: [0; USUAL_BYTES], long: None }
    }

    fn take(&mut self, bytes: usize) -> &mut [u8] {
        match self.short.get_mut(..bytes) {
            Some(place) => place,
            None => self.long.insert(SecretBytes::zeroed(bytes)).expose_mut(),
        }
    }
}

/// Seals claims under the token key of an account. Call it inside a stack frame that is wiped.
pub(crate) fn seal(
    token_key: &KeyBytes,
    vault: &VaultId,
    environment: Environment,
    handle: &AccountHandle,
    claims: &SessionClaims,
) -> SessionToken {
    write(vault, environment, handle, claims, |aad, buffer| token_key.seal_in_place(aad, buffer))
}

/// A session token's text taken apart. It says whose it claims to be; whether it is, [`open`](Self::open) tells.
pub(crate) struct TokenParts<'a> {
    pub(crate) environment: Environment,
    pub(crate) handle: AccountHandle,
    raw: &'a mut [u8],
}

impl<'a> TokenParts<'a> {
    /// Takes a text apart, into `room`. Its length is checked before anything is decoded.
    ///
    /// # Security
    /// Base64 is decoded without branches or look-ups that depend on the text, and in its one spelling only.
    pub(crate) fn parse(token: &SessionToken, room: &'a mut Room) -> Result<Self, InvalidToken> {
        let text = token.expose_secret();
        if !(MIN_TEXT_BYTES..=MAX_TEXT_BYTES).contains(&text.len()) {
            return Err(InvalidToken);
        }
        let environment =
            Environment::ALL.into_iter().find(|&environment| text.starts_with(prefix(environment))).ok_or(InvalidToken)?;
        let body = text.get(PREFIX_BYTES..).ok_or(InvalidToken)?;
        let raw = room.take(base64url::decoded_len(body.len()));
        base64url::decode(body.as_bytes(), raw).map_err(|base64url::Malformed| InvalidToken)?;
        let (version, rest) = raw.split_first_chunk::<1>().ok_or(InvalidToken)?;
        let handle = AccountHandle::from_bytes(*rest.first_chunk::<HANDLE_BYTES>().ok_or(InvalidToken)?);
        if version != &[VERSION] {
            return Err(InvalidToken);
        }
        Ok(Self { environment, handle, raw })
    }

    /// The text that it was taken from.
    #[cfg(feature = "testing")]
    pub(crate) fn rewrite(&self) -> SessionToken {
        text(self.environment, self.raw)
    }

    /// The claims, if the token was sealed under this key for this vault, environment and account.
    pub(crate) fn open(self, token_key: &KeyBytes, vault: &VaultId) -> Result<SessionClaims, InvalidToken> {
        let aad = aad(vault, self.environment, &self.handle);
        let (head, rest) = self.raw.split_at_mut_checked(HEAD_BYTES).ok_or(InvalidToken)?;
        let nonce = head.last_chunk::<NONCE_BYTES>().ok_or(InvalidToken)?;
        let (claims, tag) = rest.split_last_chunk_mut::<TAG_BYTES>().ok_or(InvalidToken)?;
        token_key.open_in_place(nonce, &aad, claims, tag).map_err(|_| InvalidToken)?;
        SessionClaims::decode(claims).ok_or(InvalidToken)
    }
}

impl fmt::Debug for TokenParts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenParts({}, {}, redacted)", self.environment, self.handle)
    }
}

/// What a check needs to know of the account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenFacts {
    pub(crate) epoch: u64,
    pub(crate) disabled: bool,
    /// Whether the token was revoked or used up before.
    pub(crate) spent: Option<Spent>,
}

/// Why a session token is no longer good although it has not expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Spent {
    Revoked,
    UsedUp,
}

/// Whether an opened token is good at `now`. Where it may be used from is asked apart
/// ([`allows_origin`](SessionClaims::allows_origin)), once per session.
pub(crate) fn check(claims: &SessionClaims, facts: &TokenFacts, now: Timestamp) -> Result<(), DenialReason> {
    if claims.issued.as_millis() > now.as_millis().saturating_add(MAX_SKEW_MILLIS) {
        return Err(DenialReason::NotYetValid);
    }
    if now >= claims.expires {
        return Err(DenialReason::Expired);
    }
    if facts.disabled {
        return Err(DenialReason::AccountDisabled);
    }
    // An epoch that the account has not reached is none that it minted in: its state would have been rolled back.
    if claims.epoch != facts.epoch {
        return Err(DenialReason::OldEpoch);
    }
    match facts.spent {
        Some(Spent::Revoked) => Err(DenialReason::Revoked),
        Some(Spent::UsedUp) => Err(DenialReason::AlreadyUsed),
        None => Ok(()),
    }
}

/// Writes claims into one buffer, lets `seal` encrypt them in it, and the whole as text.
fn write(
    vault: &VaultId,
    environment: Environment,
    handle: &AccountHandle,
    claims: &SessionClaims,
    seal: impl FnOnce(&[u8], &mut [u8]) -> ([u8; NONCE_BYTES], [u8; TAG_BYTES]),
) -> SessionToken {
    let mut room = Room::new();
    let claims_bytes = claims.encoded_len();
    let raw = room.take(HEAD_BYTES + claims_bytes + TAG_BYTES);
    let (head, rest) = raw.split_at_mut(HEAD_BYTES);
    let (body, tag_place) = rest.split_at_mut(claims_bytes);
    claims.encode(body);
    let (nonce, tag) = seal(&aad(vault, environment, handle), body);
    tag_place.copy_from_slice(&tag);
    let (front, nonce_place) = head.split_at_mut(1 + HANDLE_BYTES);
    nonce_place.copy_from_slice(&nonce);
    let (version, handle_place) = front.split_at_mut(1);
    version.copy_from_slice(&[VERSION]);
    handle_place.copy_from_slice(handle.as_bytes());

    text(environment, raw)
}

fn text(environment: Environment, raw: &[u8]) -> SessionToken {
    let length = PREFIX_BYTES + encoded_len(raw.len());
    let mut text = Vec::with_capacity(length);
    text.extend_from_slice(prefix(environment).as_bytes());
    text.resize(length, 0);
    base64url::encode(raw, &mut text[PREFIX_BYTES..]);
    // Base64 is ASCII.
    SessionToken::from(String::from_utf8(text).unwrap_or_default())
}

fn aad(vault: &VaultId, environment: Environment, handle: &AccountHandle) -> [u8; AAD_BYTES] {
    let mut aad = [0; AAD_BYTES];
    let mut rest = &mut aad[..];
    for part in [&AAD_LABEL[..], &[VERSION], vault.as_bytes(), &[environment.byte()], handle.as_bytes()] {
        let (place, after) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = after;
    }
    aad
}

const fn prefix(environment: Environment) -> &'static str {
    match environment {
        Environment::Test => "st_test_",
        Environment::Production => "st_live_",
    }
}

#[cfg(test)]
#[path = "session_token_tests.rs"]
mod tests;
