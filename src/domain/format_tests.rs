//! `docs/format.md` against this layer: the rows of an account and of the directory, as one would find them in a vault.

use std::fmt::Debug;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde::Serialize;

use super::account::keys::AccountKeys;
use super::account::records::{ChainEnds, ConnectionRecord, Owner, RecordKey, RefreshRecord, Spent, SpentToken};
use super::account::state::AccountState;
use super::api_key::ApiKeyRecord;
use super::audit::{self, AuditAction, AuditActor, NewEntry};
use super::credential::{Credential, CredentialKind, Revealed};
use super::denial::DenialReason;
use super::directory::{AccountRow, BucketHeadRow, DueRow, EnvironmentRow, RowName, TombstoneRow, UnnamedRow, WheelRow};
use super::entries::Entries;
use super::grants::{Permission, Permissions};
use super::head::Digest;
use super::journal::{self, JournalRow};
use super::oauth::client::OAuthClient;
use super::oauth::profile::{FailureClass, RefreshProfile, RefreshRate};
use super::oauth::refresh::{Intent, ReauthReason, RefreshFailure, RefreshState, Renewal, Which};
use super::oauth::settings::{ClientAuth, OAuthSettings};
use super::provider::{Injection, ProviderSettings};
use super::{Key, Keyring, Label, RawKey};
use crate::clock::Timestamp;
use crate::codec;
use crate::ids::{AccountHandle, ApiKeyId, Environment, ProviderName, SessionTokenId, ShardId};
use crate::secret::RootKey;
use crate::vectors::Vector;

const PAGE: &str = include_str!("../../docs/format.md");
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn keyring() -> Keyring {
    let root = RawKey::new(RootKey::from_bytes(&mut Vector::of(PAGE, "derivation").array("root key")));
    Keyring::open(&Vector::of(PAGE, "header").bytes("content"), &[&root]).unwrap()
}

fn handle() -> AccountHandle {
    AccountHandle::from_bytes(Vector::of(PAGE, "account").array("handle"))
}

#[test]
fn documented_account_is_loaded_and_proven() {
    let vector = Vector::of(PAGE, "account");
    let keyring = keyring();
    let owner = Owner { vault: keyring.vault_id(), environment: Environment::Test, handle: handle() };
    let rows = vector.rows();
    let (audit, covered): (Vec<_>, Vec<_>) = rows.iter().partition(|[key, ..]| key[0] == b'u');
    let mut tree: Vec<_> = covered.iter().map(|[key, _, sealed]| (key.clone(), sealed.clone())).collect();
    tree.sort();
    let (state, _) = AccountState::load(&keyring, owner, &tree).unwrap();
    assert_eq!((&*state.facts.linked_account_id, state.facts.sequence, state.facts.key_version), ("acme-42", 1, 1));
    assert_eq!(state.facts.digest.bytes(), vector.array("digest"));

    let plain = |name: &[u8]| rows.iter().find(|[key, ..]| key == name).map(|[_, plain, _]| plain.clone()).unwrap();
    let key = |name| Key::copy_of(&plain(name).try_into().unwrap());
    let keys = AccountKeys::derive(&key(b"k"), None, &key(b"a"));
    let sealed_info = tree.iter().find(|(key, _)| key == b"i").map(|(_, sealed)| sealed.as_slice());
    assert_eq!(*state.open(&keys.records, RecordKey::Info, sealed_info).unwrap(), *plain(b"i"));

    let [[name, segment, sealed]] = &audit[..] else { panic!("one segment of the audit") };
    assert_eq!(name, &RecordKey::Audit(1).to_bytes());
    assert_eq!(*state.open_segment(&keys, 1, sealed).unwrap(), **segment);
    state.prove_last_segment(&keys, Some(sealed)).unwrap();
    let entries = audit::decode_segment(1, segment).unwrap();
    assert_eq!((entries.len(), entries[0].sequence, entries[0].at), (1, 1, NOW));
    assert_eq!((&entries[0].actor, &entries[0].action), (&AuditActor::Host, &AuditAction::AccountCreated));
}

#[test]
fn documented_row_of_the_journal_is_read_and_written() {
    let plain = Vector::of(PAGE, "journal").bytes("row");
    let row = JournalRow::decode(&plain).unwrap();
    let [one, two] = &row.accounts[..] else { panic!("two accounts") };
    assert_eq!((one.handle, one.first, one.entries.len()), (handle(), 7, 3));
    assert_eq!((two.first, two.entries.len()), (1, 2));
    let minted = |entry: &NewEntry| match &entry.action {
        AuditAction::SessionMinted { session, expires } => (entry.at, session.as_bytes()[0], expires.since(entry.at)),
        other => panic!("{other:?}"),
    };
    let at = |millis| Timestamp::from_millis(NOW.as_millis() + millis);
    assert_eq!(minted(&one.entries[0]), (NOW, 0x10, Duration::from_secs(900)));
    assert_eq!(minted(&one.entries[1]), (at(40), 0x20, Duration::from_secs(60)));
    let reason = DenialReason::Revoked;
    assert_eq!(one.entries[2].action, AuditAction::Denied { what: "using a credential".into(), reason, count: 2 });
    assert_eq!(minted(&two.entries[0]), (at(30), 0x30, Duration::from_secs(900)));
    assert_eq!((two.entries[1].at, &two.entries[1].action), (at(30), &AuditAction::SecretRevealed));
    let first = AuditActor::ApiKey(ApiKeyId::from_bytes(std::array::from_fn(|at| 0x10 + at as u8)));
    assert!(one.entries[0].actor == first && two.entries[1].actor == first && two.entries[0].actor != first);

    let mut rows = journal::Rows::default();
    row.accounts.iter().for_each(|noted| rows.add(noted.handle, noted.first, Entries::of(&noted.entries).all()));
    assert_eq!(rows.finish().iter().map(|row| row.plain.as_slice()).collect::<Vec<_>>(), [&plain[..]]);
}

#[test]
fn documented_directory_rows_hold() {
    let vector = Vector::of(PAGE, "directory");
    let keyring = keyring();
    let locator = keyring.locator(Environment::Test, vector.text("id"));
    assert_eq!(locator, vector.array("locator"));
    let anchor = Vector::of(PAGE, "anchors").bytes("directory");
    let rows = vector.rows();
    assert_eq!(rows.len(), 4);
    for [key, plain, sealed] in &rows {
        assert_eq!(**plain, *keyring.open_row(key, sealed).unwrap());
        match RowName::parse(key).unwrap() {
            RowName::Account(Environment::Test, found) => {
                assert_eq!(found, locator);
                let (start, end) = RowName::beside(&handle());
                assert!(start <= *key && *key < end, "it is found by the handle");
                let row: AccountRow = codec::decode(plain).unwrap();
                assert_eq!(
                    (row.linked_account_id.as_str(), row.handle, row.shard, row.created),
                    ("acme-42", handle(), ShardId(0), NOW)
                );
            }
            RowName::Unnamed(_) => {
                assert_eq!(codec::decode::<UnnamedRow>(plain).unwrap(), UnnamedRow { shard: ShardId(0) });
            }
            RowName::BucketHead(bucket) => {
                let head: BucketHeadRow = codec::decode(plain).unwrap();
                let [other, _, value] = rows.iter().find(|[other, ..]| other[..2] == key[..2] && other != key).unwrap();
                let mut digest = Digest::EMPTY;
                digest.toggle_element(&keyring.mac(Label::DirectoryElement, &[other, value]));
                assert_eq!(digest.bytes(), head.digest);
                let mark = [&key[..2], &1u64.to_be_bytes(), &digest.mark(&keyring, bucket, 1)].concat();
                assert!(anchor.windows(mark.len()).any(|window| window == mark), "the anchor does not remember {bucket}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn documented_anchors_and_the_commit_log_are_sealed_by_the_vault() {
    let files = [
        ("anchors", "directory", b"directory.anchor".to_vec()),
        ("anchors", "shard", [&b"shard.anchor"[..], &[0; 4]].concat()),
        ("commit log", "header", b"commits".to_vec()),
    ];
    for (vector, anchor, file) in files {
        let bytes = Vector::of(PAGE, vector).bytes(anchor);
        let (content, mac) = bytes.split_last_chunk::<32>().unwrap();
        assert_eq!(&keyring().mac(Label::Anchor, &[&file, content]), mac, "{anchor}");
    }
}

#[test]
fn documented_credential_layout_holds() {
    let layout = Vector::of(PAGE, "credential").bytes("layout");
    let credential = Credential::custom([("client_id", "abc".into()), ("client_secret", "".into())]);
    assert_eq!(credential.encode().unwrap().expose(), layout);
    let read = Revealed::parse_bytes(&layout).unwrap();
    assert_eq!(read.fields().collect::<Vec<_>>(), [("client_id", "abc"), ("client_secret", "")]);
}

#[test]
fn documented_records_read_back() {
    let vector = Vector::of(PAGE, "records");
    let hour_later = NOW.plus(Duration::from_secs(3600));
    let locator = keyring().locator(Environment::Test, "acme-42");

    let connection = ConnectionRecord {
        provider: "github".into(),
        label: "main".into(),
        kind: CredentialKind::OAuth2,
        created: NOW,
        updated: NOW,
        last_used: None,
        expires_at: Some(hour_later),
        scopes: vec!["repo".into()],
        requested_scopes: vec!["repo".into()],
        failed: false,
        disabled: false,
        api_origin: None,
    };
    let refresh = RefreshRecord {
        state: RefreshState {
            renewal: Renewal::RefreshToken,
            generation: 3,
            obtained: NOW,
            expires_at: Some(hour_later),
            dead: false,
            previous_until: Some(NOW),
            intent: Some(Intent { generation: 3, attempt: 2, at: NOW, which: Which::Current }),
            doubt: None,
            failures: 1,
            retry_at: Some(NOW),
            last_failure: Some((FailureClass::Transient, RefreshFailure::Refused { code: "slow_down".into() })),
            last_refresh: Some(NOW),
            ended: Some(ReauthReason::InDoubt),
        },
        due: Some(NOW),
    };
    let environment = EnvironmentRow { bootstrapped: true, audit: ChainEnds::EMPTY };
    let api_key = ApiKeyRecord {
        id: ApiKeyId::from_bytes(std::array::from_fn(|at| 0x10 + at as u8)),
        environment: Environment::Test,
        label: "ci".into(),
        hash: std::array::from_fn(|at| 0x40 + at as u8),
        permissions: Permissions::from([Permission::Accounts, Permission::Keys]),
        accounts: Some(vec![locator]),
        created: NOW,
        last_used: None,
        expires: Some(NOW),
        revoked: None,
        rotated_to: None,
    };
    let header = Injection::Header { name: http::HeaderName::from_static("x-key"), prefix: String::new() };
    let provider = ProviderSettings::new(ProviderName::new("crm").unwrap()).allow_host("api.example.com").unwrap();
    let provider = provider.injection(header).unwrap().inject_field("token").unwrap();

    assert_eq!(codec::encode(&connection).unwrap(), vector.bytes("connection"));
    assert_eq!(codec::encode(&refresh).unwrap(), vector.bytes("refresh"));
    assert_eq!(codec::encode(&DueRow { shard: ShardId(300) }).unwrap(), vector.bytes("due"));
    assert_eq!(codec::encode(&UnnamedRow { shard: ShardId(300) }).unwrap(), vector.bytes("unnamed"));
    assert_eq!(codec::encode(&WheelRow { slot: 300 }).unwrap(), vector.bytes("wheel"));
    assert_eq!(codec::encode(&SpentToken { spent: Spent::UsedUp, until: NOW }).unwrap(), vector.bytes("spent token"));
    let tombstone = TombstoneRow { environment: Environment::Production, shard: ShardId(300) };
    assert_eq!(codec::encode(&tombstone).unwrap(), vector.bytes("tombstone"));
    assert_eq!(codec::encode(&environment).unwrap(), vector.bytes("environment"));
    assert_eq!(codec::encode(&api_key).unwrap(), vector.bytes("api key"));
    assert_eq!(codec::decode::<ApiKeyRecord>(&vector.bytes("api key")).unwrap(), api_key);
    assert_eq!(ProviderSettings::decode(&vector.bytes("provider")), Some(provider));
}

#[test]
fn documented_oauth_settings_read_back() {
    let vector = Vector::of(PAGE, "records");
    let rate = RefreshRate { requests: 10, per: Duration::from_secs(600) };
    let profile = RefreshProfile::new().with_rotation(false).with_grace(Duration::from_secs(30)).unwrap();
    let profile = profile.with_margin(Duration::from_secs(60)).unwrap().with_keep_alive(Duration::from_secs(3600)).unwrap();
    let profile = profile.with_rate(rate).unwrap().with_error("BAD", FailureClass::Revoked).unwrap();
    let oauth = OAuthSettings::new("https://example.com/token").unwrap().with_client_auth(ClientAuth::Post);
    let oauth = oauth.with_authorization_endpoint("https://example.com/authorize").unwrap();
    let oauth = oauth.with_issuer("https://example.com").unwrap().require_iss().unwrap();
    let oauth = oauth.with_scopes(["a", "b"]).unwrap().with_scope_separator(',').unwrap();
    let oauth = oauth.with_authorization_parameter("prompt", "consent").unwrap().with_api_host_from("instance_url").unwrap();
    let settings = ProviderSettings::new(ProviderName::new("crm").unwrap()).oauth(oauth.with_refresh_profile(profile));
    assert_eq!(ProviderSettings::decode(&vector.bytes("oauth")), Some(settings.clone()));
    assert_eq!(settings.encode().unwrap(), vector.bytes("oauth"));

    let client = OAuthClient::decode(&vector.bytes("oauth client")).unwrap();
    assert_eq!((client.id(), client.secret().map(ExposeSecret::expose_secret)), ("abc", Some("xyz")));
    assert_eq!(client.encode().expose(), vector.bytes("oauth client"));
}

/// The number that each variant is written as, and its name.
fn numbered<T: Serialize + Debug>(variants: &[T]) -> Vec<String> {
    let name = |variant: &T| format!("{variant:?}").split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned();
    for (number, variant) in variants.iter().enumerate() {
        assert_eq!(usize::from(codec::encode(variant).unwrap()[1]), number, "{variant:?}");
    }
    variants.iter().map(name).collect()
}

#[test]
fn documented_variants_have_their_numbers() {
    use AuditAction as Action;
    let vector = Vector::of(PAGE, "variants");
    let documented = |name: &str| vector.all(name).join(" ").split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (key, session) = (ApiKeyId::from_bytes([1; 12]), SessionTokenId::from_bytes([2; 16]));
    let text = || "text".to_owned();

    assert_eq!(documented("Environment"), numbered(&Environment::ALL));
    let kinds = [CredentialKind::ApiKey, CredentialKind::Basic, CredentialKind::OAuth2, CredentialKind::Custom];
    assert_eq!(documented("CredentialKind"), numbered(&kinds));
    let renewals = [Renewal::None, Renewal::RefreshToken, Renewal::ClientCredentials];
    assert_eq!(documented("Renewal"), numbered(&renewals));
    let reasons = [ReauthReason::Revoked, ReauthReason::InDoubt, ReauthReason::Expired, ReauthReason::Reported];
    assert_eq!(documented("ReauthReason"), numbered(&reasons));
    let failures = [
        RefreshFailure::Unreachable,
        RefreshFailure::TimedOut,
        RefreshFailure::BadAnswer { status: None },
        RefreshFailure::Refused { code: text() },
    ];
    assert_eq!(documented("RefreshFailure"), numbered(&failures));
    assert_eq!(documented("Spent"), numbered(&[Spent::Revoked, Spent::UsedUp]));
    let actors = [
        AuditActor::ApiKey(key),
        AuditActor::Session { id: session, subject: None },
        AuditActor::Unknown,
        AuditActor::Host,
        AuditActor::Vault,
    ];
    assert_eq!(documented("AuditActor"), numbered(&actors));
    let actions = [
        Action::AccountCreated,
        Action::MetadataChanged,
        Action::AccountDisabled,
        Action::AccountEnabled,
        Action::AccountKeyRotated,
        Action::KeysRewrapped,
        Action::ConnectionAdded,
        Action::CredentialReplaced,
        Action::ConnectionRelabelled,
        Action::ConnectionFailed,
        Action::ConnectionRemoved,
        Action::CredentialUsed { host: text() },
        Action::SecretRevealed,
        Action::SessionMinted { session, expires: NOW },
        Action::SessionRevoked { session },
        Action::SessionUsedUp { session },
        Action::AllSessionsRevoked,
        Action::Pruned { entries: 1 },
        Action::Denied { what: text(), reason: DenialReason::Forged, count: 1 },
        Action::AccountDeleted { account: handle() },
        Action::ApiKeyCreated { key },
        Action::ApiKeyRotated { to: key, from: key },
        Action::ApiKeyRevoked { key },
        Action::ProviderSet { provider: text() },
        Action::ProviderRemoved { provider: text() },
        Action::ConnectBegun { provider: text() },
        Action::ConnectFailed { provider: text(), reason: text() },
        Action::TokensRefreshed { generation: 1 },
        Action::RefreshFailed { reason: RefreshFailure::Unreachable },
        Action::ReauthRequired { reason: ReauthReason::Revoked },
        Action::ProviderRevocation { revoked: true },
        Action::ConnectionDisabled,
        Action::ConnectionEnabled,
        Action::OAuthClientSet { provider: text() },
    ];
    assert_eq!(documented("AuditAction"), numbered(&actions));
    let reasons = [
        DenialReason::Forged,
        DenialReason::Expired,
        DenialReason::NotYetValid,
        DenialReason::Revoked,
        DenialReason::OldEpoch,
        DenialReason::AlreadyUsed,
        DenialReason::AccountDisabled,
        DenialReason::OriginNotAllowed,
        DenialReason::NotGranted,
        DenialReason::PermissionMissing,
        DenialReason::AccountNotListed,
        DenialReason::TargetNotAllowed,
    ];
    assert_eq!(documented("DenialReason"), numbered(&reasons));
    assert_eq!(
        documented("FailureClass"),
        numbered(&[FailureClass::Transient, FailureClass::ClientMisconfigured, FailureClass::Revoked])
    );
    for (number, (method, name)) in
        [ClientAuth::Basic, ClientAuth::Post, ClientAuth::None].into_iter().zip(documented("ClientAuth")).enumerate()
    {
        assert_eq!(format!("{method:?}"), name);
        let oauth = OAuthSettings::new("https://a.test").unwrap().with_client_auth(method);
        let settings = ProviderSettings::new(ProviderName::new("p").unwrap()).oauth(oauth);
        // Version, name, five fields before the settings, a token endpoint, four fields that are nothing.
        assert_eq!(settings.encode().unwrap()[3 + 5 + 15 + 4], number as u8);
    }
    let header = Injection::Header { name: http::HeaderName::from_static("x"), prefix: String::new() };
    let injections = [header, Injection::Query { name: "q".into() }, Injection::Basic, Injection::Bearer];
    for (number, (injection, name)) in injections.into_iter().zip(documented("Injection")).enumerate() {
        assert!(format!("{injection:?}").starts_with(&name));
        let settings = ProviderSettings::new(ProviderName::new("p").unwrap()).injection(injection).unwrap();
        // Version, name, no host, an injection, and which.
        assert_eq!(settings.encode().unwrap()[..6], [1, 1, b'p', 0, 1, number as u8]);
    }
}
