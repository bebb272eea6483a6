//! Anchor files, and rows with their names.

use std::sync::LazyLock;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::vector_key;
use crate::codec;
use crate::domain::account::records::{ConnectionRecord, HeadRecord, InfoRecord, RefreshRecord, SpentToken};
use crate::domain::api_key::ApiKeyRecord;
use crate::domain::directory::{AccountRow, BucketHeadRow, DueRow, EnvironmentRow, RowName, TombstoneRow, UnnamedRow, WheelRow};
use crate::domain::{Keyring, Label, OAuthClient};
use crate::ids::ShardId;
use crate::secret::RootKey;
use crate::storage::{AnchorSeal, rewritten_anchor};

/// Seals anchors as a vault does, under the vectors' key.
struct Seal;

impl AnchorSeal for Seal {
    fn mac(&self, file: &[u8], content: &[u8]) -> [u8; 32] {
        vector_key().mac(Label::Anchor, &[file, content])
    }
}

/// An anchor file of the directory or of a shard, taken apart and written again.
#[must_use]
pub fn anchor_file(bytes: &[u8], shard: Option<u32>) -> Option<Vec<u8>> {
    rewritten_anchor(bytes, shard.map(ShardId), &Seal)
}

/// `content` with the seal of the anchor of that shard, or of the directory.
#[must_use]
pub fn sealed_anchor(content: &[u8], shard: Option<u32>) -> Vec<u8> {
    let name = crate::storage::anchor_name(shard.map(ShardId));
    [content, Seal.mac(&name, content).as_slice()].concat()
}

/// The key of a row of the directory, taken apart and written again, and the range of keys that is read to find it.
#[must_use]
pub fn row_name(key: &[u8]) -> Option<(Vec<u8>, (Vec<u8>, Vec<u8>))> {
    let name = RowName::parse(key)?;
    let range = match (name, name.bucket()) {
        (RowName::AuditSegment(environment, _), _) => RowName::audit_range(environment),
        (_, Some(bucket)) => RowName::bucket_range(bucket),
        (_, None) => return None,
    };
    Some((name.to_bytes(), range))
}

/// What a row holds, decoded and encoded again: of the directory's `a n x d w e b k c`, of an account's `I C F R H`.
#[must_use]
pub fn row_value(kind: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    match kind {
        b'a' => again::<AccountRow>(bytes),
        b'n' => again::<UnnamedRow>(bytes),
        b'x' => again::<TombstoneRow>(bytes),
        b'd' => again::<DueRow>(bytes),
        b'w' => again::<WheelRow>(bytes),
        b'e' => again::<EnvironmentRow>(bytes),
        b'b' => again::<BucketHeadRow>(bytes),
        b'k' => again::<ApiKeyRecord>(bytes),
        b'c' => Some(OAuthClient::decode(bytes)?.encode().expose().to_vec()),
        b'I' => again::<InfoRecord>(bytes),
        b'C' => again::<ConnectionRecord>(bytes),
        b'F' => again::<RefreshRecord>(bytes),
        b'R' => again::<SpentToken>(bytes),
        b'H' => again::<HeadRecord>(bytes),
        _ => None,
    }
}

/// A row of the directory, sealed for its key in a vault that lives as long as the process.
#[must_use]
pub fn sealed_directory_row(key: &[u8], revision: u64, plaintext: &[u8]) -> Vec<u8> {
    keyring().seal_row(key, revision, plaintext)
}

/// The same opened.
#[must_use]
pub fn opened_directory_row(key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    keyring().open_row(key, sealed).ok().map(|plain| plain.to_vec())
}

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
    codec::encode(&codec::decode::<T>(bytes).ok()?).ok()
}

fn keyring() -> &'static Keyring {
    static KEYRING: LazyLock<Option<Keyring>> =
        LazyLock::new(|| Keyring::create(&RootKey::from_bytes(&mut [7; 32]), b"").ok().map(|(keyring, _)| keyring));
    #[expect(clippy::expect_used, reason = "no parameter of it can be refused, and a fuzzer has nothing to do without")]
    KEYRING.as_ref().expect("a keyring")
}
