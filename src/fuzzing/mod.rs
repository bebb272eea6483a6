//! What the fuzz targets reach of the inside: each function reads untrusted bytes and, where they are accepted, writes them
//! again. The targets hold that what comes out is what went in. Not part of the API.

mod oauth;
mod stored;

pub use oauth::{
    Answer, Callback, Discovery, FlowParts, Obtained, Outcome, callback, catalog_file, discovery, flow_state, opened_flow,
    token_answer,
};
pub use stored::{anchor_file, opened_directory_row, row_name, row_value, sealed_anchor, sealed_directory_row};

use secrecy::SecretString;

use crate::crypto::derive::Label;
use crate::crypto::envelope;
use crate::crypto::header;
use crate::crypto::key::Key;
use crate::domain::api_key::ApiKeyParts;
use crate::domain::audit;
use crate::domain::base64url;
use crate::domain::credential::{Credential, Revealed};
use crate::domain::entries::Entries;
use crate::domain::inject;
use crate::domain::journal::{self, JournalRow};
use crate::domain::provider::ProviderSettings;
use crate::domain::session_token::{self, Room, SessionClaims, TokenParts};
use crate::ids::{AccountHandle, Environment, ProviderName, VaultId};
use crate::secret::{ApiKey, SessionToken};

/// The key, vault and handle of the vectors in `docs/token-format.md`, which are among the seeds.
fn vector_key() -> Key {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(0..).for_each(|(byte, at)| *byte = at);
    Key::copy_of(&bytes)
}

const VECTOR_VAULT: VaultId = VaultId::from_bytes(*b" !\"#$%&'()*+,-./");
const HANDLE: AccountHandle = AccountHandle::from_bytes(*b"0123456789:;<=>?");

/// A session token's text, taken apart and written again.
#[must_use]
pub fn session_token(text: &str) -> Option<String> {
    let mut room = Room::new();
    let parts = TokenParts::parse(&SessionToken::from(text), &mut room).ok()?;
    Some(parts.rewrite().expose_secret().to_owned())
}

/// The claims of a token that opens under the vectors' key, encoded.
#[must_use]
pub fn opened_token(text: &str) -> Option<Vec<u8>> {
    let mut room = Room::new();
    let claims = TokenParts::parse(&SessionToken::from(text), &mut room).ok()?.open(&vector_key(), &VECTOR_VAULT).ok()?;
    Some(claims.to_bytes())
}

/// Claims, decoded and encoded again.
#[must_use]
pub fn claims(bytes: &[u8]) -> Option<Vec<u8>> {
    SessionClaims::decode(bytes).map(|claims| claims.to_bytes())
}

/// A token with these claims under the vectors' key.
#[must_use]
pub fn sealed_claims(bytes: &[u8]) -> Option<String> {
    let claims = SessionClaims::decode(bytes)?;
    let token = session_token::seal(&vector_key(), &VECTOR_VAULT, Environment::Test, &HANDLE, &claims);
    Some(token.expose_secret().to_owned())
}

/// Bytes as base64url and back, in places of the right sizes, for the benchmark.
#[must_use]
pub fn base64url_and_back(bytes: &[u8], text: &mut [u8], back: &mut [u8]) -> bool {
    base64url::encode(bytes, text);
    base64url::decode(text, back).is_ok()
}

/// An API key's text, taken apart and written again.
#[must_use]
pub fn api_key(text: &str) -> Option<String> {
    let parts = ApiKeyParts::parse(&ApiKey::from(text)).ok()?;
    Some(parts.text().expose_secret().to_owned())
}

/// What an envelope shows without a key: key version, revision, tag.
#[must_use]
pub fn envelope_header(bytes: &[u8]) -> Option<(u32, u64, [u8; 16])> {
    envelope::header(bytes).ok().map(|header| (header.key_version, header.revision, header.tag))
}

/// Opens an envelope under a fixed key.
#[must_use]
pub fn opened_envelope(aad: &[&[u8]], revision: Option<u64>, bytes: &[u8]) -> Option<Vec<u8>> {
    envelope::open(&vector_key(), aad, revision, bytes).ok().map(|plaintext| plaintext.to_vec())
}

/// Seals under the same fixed key. `plaintext` is cut to what an envelope takes.
#[must_use]
pub fn sealed_envelope(key_version: u32, aad: &[&[u8]], revision: u64, plaintext: &[u8]) -> Vec<u8> {
    let plaintext = &plaintext[..plaintext.len().min(envelope::MAX_PLAINTEXT)];
    envelope::seal(&vector_key(), key_version, aad, revision, plaintext)
}

/// Seals and opens a text once, for the benchmark; its length.
#[must_use]
pub fn seal_and_open(plaintext: &[u8]) -> Option<usize> {
    let sealed = sealed_envelope(1, &[b"benchmark"], 1, plaintext);
    opened_envelope(&[b"benchmark"], Some(1), &sealed).map(|plain| plain.len())
}

/// A credential's layout, read in place and written again.
#[must_use]
pub fn credential(bytes: &[u8]) -> Option<Vec<u8>> {
    let revealed = Revealed::parse_bytes(bytes)?;
    // What can be read can be stored again.
    revealed.rebuild().encode().ok().map(|layout| layout.expose().to_vec())
}

/// A provider's settings, decoded and encoded again.
#[must_use]
pub fn provider_settings(bytes: &[u8]) -> Option<Vec<u8>> {
    ProviderSettings::decode(bytes)?.encode().ok()
}

/// A segment of an audit: its entries, encoded again as a chain of their own.
#[must_use]
pub fn audit_segment(bytes: &[u8]) -> Option<Vec<u8>> {
    let entries: Vec<_> = audit::decode_segment(1, bytes).ok()?.into_iter().map(audit::NewEntry::from).collect();
    let key = vector_key();
    let mut encoded = Entries::of(&entries);
    Some(audit::encode_segment(|parts| key.mac(Label::AuditChain, parts), 1, &[0; 32], encoded.all()).0)
}

/// A row of the journal: its notes, put into a row again. `None` as well when there are none, or too many for one.
#[must_use]
pub fn journal_row(bytes: &[u8]) -> Option<Vec<u8>> {
    let row = JournalRow::decode(bytes).ok()?;
    let mut rows = journal::Rows::default();
    row.accounts.iter().for_each(|noted| rows.add(noted.handle, noted.first, Entries::of(&noted.entries).all()));
    let mut rows = rows.finish();
    if rows.len() == 1 { rows.pop().map(|row| row.plain) } else { None }
}

/// A vault's header, taken apart and written again.
#[must_use]
pub fn vault_header(bytes: &[u8]) -> Option<Vec<u8>> {
    header::rewritten(bytes)
}

/// Puts a credential into a request to `uri` for a provider that allows `pattern` only; the URI as it is then.
#[must_use]
pub fn authorized_uri(pattern: &str, uri: &str, host_header: Option<&str>, secret: &str) -> Option<String> {
    let injection = crate::Injection::Query { name: "key".to_owned() };
    let settings = ProviderSettings::new(ProviderName::new("p").ok()?).allow_host(pattern).ok()?.injection(injection).ok()?;
    let mut request = http::Request::get(uri);
    if let Some(host) = host_header {
        request = request.header(http::header::HOST, host);
    }
    let mut request = request.body(()).ok()?;
    let layout = Credential::api_key(SecretString::from(secret)).encode().ok()?;
    inject::inject(&settings, &Revealed::parse_bytes(layout.expose())?, &mut request).ok()?;
    Some(request.uri().to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    /// A seed that the code no longer accepts would leave its target at the door.
    #[test]
    fn seeds_are_what_their_names_say() {
        let mut accepted = 0;
        for target in ["session_token", "api_key", "record"] {
            for seed in fs::read_dir(format!("fuzz/seeds/{target}")).unwrap() {
                let seed = seed.unwrap();
                let name = seed.file_name().into_string().unwrap();
                let bytes = fs::read(seed.path()).unwrap();
                let text = || String::from_utf8(bytes.clone()).unwrap();
                let good = match name.split('-').next().unwrap() {
                    "token" => super::session_token(&text()) == Some(text()),
                    "claims" => super::claims(&bytes) == Some(bytes),
                    "key" => super::api_key(&text()) == Some(text()),
                    "credential" => super::credential(&bytes[1..]).as_deref() == Some(&bytes[1..]),
                    "header" => super::vault_header(&bytes[1..]).as_deref() == Some(&bytes[1..]),
                    "provider" => super::provider_settings(&bytes[1..]).as_deref() == Some(&bytes[1..]),
                    "journal" => super::journal_row(&bytes[1..]).as_deref() == Some(&bytes[1..]),
                    "audit" => super::audit_segment(&bytes[1..]).as_deref() == Some(&bytes[1..]),
                    "refused" => super::opened_token(&text()).is_none() && super::api_key(&text()).is_none(),
                    other => panic!("seed of no kind: {other}"),
                };
                assert!(good, "{target}/{name}");
                accepted += 1;
            }
        }
        assert!(accepted >= 25, "only {accepted} seeds found");
    }

    fn seed(target: &str, name: &str) -> Vec<u8> {
        fs::read(format!("fuzz/seeds/{target}/{name}")).unwrap()
    }

    /// Each target's input begins with what its head says; these are the seeds that come through to the end.
    #[test]
    fn seeds_of_the_network_come_through() {
        for (name, tokens) in [("rfc", true), ("slack", true), ("zoho", true), ("hubspot", false), ("repeats-secret", false)] {
            let seed = seed("token_answer", name);
            let mut lines = seed.splitn(3, |byte| *byte == b'\n');
            let (head, body) = (lines.next().unwrap(), lines.nth(1).unwrap());
            let status = std::str::from_utf8(&head[..3]).unwrap().parse().unwrap();
            let answer = super::Answer { status, retry_after: b"", body, chunk: 0 };
            assert_eq!(super::token_answer(answer, "refresh token", "secret").unwrap().tokens.is_ok(), tokens, "{name}");
        }
        for (name, found) in [("oauth", true), ("local", true), ("minimal", true), ("another", false), ("plain-http", false)] {
            let seed = String::from_utf8(seed("discovery", name)).unwrap();
            let lines: Vec<_> = seed.splitn(3, '\n').collect();
            let body = lines[2].replace("{issuer}", lines[0]);
            let answer = super::Answer { status: 200, retry_after: b"", body: body.as_bytes(), chunk: 0 };
            assert_eq!(super::discovery(lines[0], [answer, answer]).unwrap().found.is_ok(), found, "{name}");
        }
        for (name, good) in [("code", true), ("error", true), ("opaque", true), ("twice", false), ("both", false)] {
            let seed = String::from_utf8(seed("callback", name)).unwrap();
            assert_eq!(super::callback(seed.lines().next().unwrap()).is_some(), good, "{name}");
        }
        for (name, good) in [("entry-shopify", true), ("entry-auth0", true), ("slash", false), ("user", false)] {
            let seed = String::from_utf8(seed("catalog", name)).unwrap();
            let (entry, value) = seed.split_once('\n').unwrap();
            let entry = crate::CatalogEntry::find(entry).unwrap();
            let placeholder = entry.placeholders().next().unwrap();
            assert_eq!(entry.with(placeholder, value).is_ok(), good, "{name}");
        }
        for name in ["file-0", "file-1", "file-2"] {
            let file = String::from_utf8(seed("catalog", name)).unwrap();
            let entries = super::catalog_file(file.strip_prefix("file\n").unwrap()).unwrap();
            assert!(matches!(&*entries, [Some(_)]), "{name}");
        }
    }

    #[test]
    fn seeds_of_the_disk_come_through() {
        for seed in fs::read_dir("fuzz/seeds/anchor").unwrap() {
            let seed = seed.unwrap();
            let bytes = fs::read(seed.path()).unwrap();
            let shard = (bytes[0] > 0).then(|| bytes[0].into());
            let good = super::anchor_file(&super::sealed_anchor(&bytes[4..], shard), shard).is_some();
            let name = seed.file_name().into_string().unwrap();
            assert_eq!(good, !name.starts_with("refused"), "{name}");
        }
        for seed in fs::read_dir("fuzz/seeds/directory_row").unwrap() {
            let seed = seed.unwrap();
            let bytes = fs::read(seed.path()).unwrap();
            let good = match bytes[0] {
                b'K' => super::row_name(&bytes[1..bytes.len() - 1]).is_some(),
                kind => super::row_value(kind, &bytes[1..]).as_deref() == Some(&bytes[1..]),
            };
            assert!(good, "{:?}", seed.file_name());
        }
    }
}
