//! Guesses in two classes: class 0 is right but for its end, class 1 is wrong from the first byte that is secret.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};

use anchorhold::{ApiKey, Environment, LinkedAccountId, RawKey, RootKey, SessionOptions, SessionToken, Vault, fuzzing};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Texts of both classes.
pub type Guesses = Vec<[String; 2]>;

const PAIRS: usize = 1_024;
/// `ak_test_` and `st_test_`.
const PREFIX: usize = 8;

pub struct World {
    pub vault: Vault,
    pub key: ApiKey,
    token: SessionToken,
    _folder: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let root = RawKey::new(RootKey::generate());
        let vault = Vault::builder(folder.path().join("vault")).root_key(root).open().await.expect("a vault");
        let key = vault.bootstrap_api_key(Environment::Test).await.expect("an API key");
        let backend = vault.backend(&key).await.expect("a backend");
        let account = backend.create_account(&LinkedAccountId::new("bench").expect("an id")).await.expect("an account");
        let token = account.mint_session_token(SessionOptions::new()).await.expect("a token").token;
        Self { vault, key, token, _folder: folder }
    }

    /// id(12) ‖ secret(32) ‖ checksum(4), and the checksum is right.
    pub fn api_keys(&self) -> Guesses {
        let text = self.key.expose_secret();
        pairs(text, 12..44, |raw| {
            let crc = crc32fast::hash(&[&text.as_bytes()[..PREFIX], &raw[..44]].concat());
            raw[44..].copy_from_slice(&crc.to_be_bytes());
        })
    }

    /// version(1) ‖ handle(16) ‖ nonce(24) ‖ claims ‖ tag(16).
    pub fn session_tokens(&self) -> Guesses {
        pairs(self.token.expose_secret(), 17..usize::MAX, |_| {})
    }
}

/// Tokens under a key that the library's fuzz targets open, to see the check without what happens around it.
pub fn sealed_tokens() -> Guesses {
    let claims = include_bytes!("../../fuzz/seeds/session_token/claims-1");
    let good = fuzzing::sealed_claims(claims).expect("the claims of a seed");
    assert!(fuzzing::opened_token(&good).is_some());
    pairs(&good, 17..usize::MAX, |_| {})
}

/// Guesses of class 1 in both classes: whatever tells these apart is no property of the check.
pub fn alike(guesses: &Guesses) -> Guesses {
    guesses.iter().zip(guesses.iter().skip(1)).map(|(one, other)| [one[1].clone(), other[1].clone()]).collect()
}

/// `secret` is where the secret bytes are; of class 0 the last of them differs, of class 1 all but by chance and the first for certain.
fn pairs(good: &str, secret: std::ops::Range<usize>, finish: impl Fn(&mut Vec<u8>)) -> Guesses {
    let raw = URL_SAFE_NO_PAD.decode(&good[PREFIX..]).expect("base64url");
    let (first, last) = (secret.start, secret.end.min(raw.len()) - 1);
    let mut dice = Dice::new();
    let text = |mut raw: Vec<u8>| {
        finish(&mut raw);
        format!("{}{}", &good[..PREFIX], URL_SAFE_NO_PAD.encode(&raw))
    };
    let mut pair = || {
        let (mut all, mut none) = (raw.clone(), raw.clone());
        all[last] ^= dice.not_zero();
        none[first..=last].iter_mut().for_each(|byte| *byte = dice.not_zero());
        none[first] = raw[first] ^ dice.not_zero();
        [text(all), text(none)]
    };
    (0..PAIRS).map(|_| pair()).collect()
}

/// Which class comes next must not be foreseeable; for that xorshift* is good enough.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        Self(RandomState::new().build_hasher().finish() | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn not_zero(&mut self) -> u8 {
        1 + self.below(255) as u8
    }
}
