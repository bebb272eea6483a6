use std::collections::HashSet;

use super::super::hex;
use super::super::providers::RawKey;
use super::*;

const TEST: Environment = Environment::Test;
const LIVE: Environment = Environment::Production;

fn root(byte: u8) -> RootKey {
    RootKey::from_bytes(&mut [byte; 32])
}

fn provider(byte: u8) -> RawKey {
    RawKey::new([byte; 32])
}

fn handle(byte: u8) -> AccountHandle {
    AccountHandle::from_bytes([byte; 16])
}

fn keyring() -> (Keyring, Vec<u8>) {
    Keyring::create(&root(1), b"parameters").unwrap()
}

fn open(header: &[u8], roots: &[u8]) -> Result<Keyring, OpenKeyringError> {
    let providers: Vec<_> = roots.iter().map(|&byte| provider(byte)).collect();
    let providers: Vec<&dyn KeyProvider> = providers.iter().map(|provider| provider as &dyn KeyProvider).collect();
    Keyring::open(header, &providers)
}

/// A key provider that always fails.
struct Failing;

impl KeyProvider for Failing {
    fn root_key(&self, _: &[u8]) -> Result<RootKey, RootKeyError> {
        Err(RootKeyError::other("no connection"))
    }
}

/// A key provider that knows no vault but its own.
struct Foreign;

impl KeyProvider for Foreign {
    fn root_key(&self, _: &[u8]) -> Result<RootKey, RootKeyError> {
        Err(RootKeyError::ForeignParameters)
    }
}

#[test]
fn an_opened_keyring_has_the_keys_of_the_created_one() {
    let (created, header) = keyring();
    let opened = open(&header, &[1]).unwrap();
    assert_eq!(opened.vault_id(), created.vault_id());
    assert_eq!((opened.generation(), opened.is_rotating()), (1, false));
    for label in Label::ALL {
        assert_eq!(opened.mac(label, &[b"x"]), created.mac(label, &[b"x"]));
    }
    let wrapped = created.wrap(WrapPurpose::AccountKey, TEST, &handle(1), 7, &Key::copy_of(&[3; 32]));
    assert_eq!(opened.unwrap(WrapPurpose::AccountKey, TEST, &handle(1), &wrapped).unwrap().expose(), &[3; 32]);
    let row = created.seal_row(b"row", 5, b"content");
    assert_eq!(&*opened.open_row(b"row", &row).unwrap(), b"content");
}

#[test]
fn the_provider_gets_the_parameters_back() {
    struct Recorder;
    impl KeyProvider for Recorder {
        fn root_key(&self, parameters: &[u8]) -> Result<RootKey, RootKeyError> {
            assert_eq!(parameters, b"parameters");
            Ok(root(1))
        }
    }
    let (_, header) = keyring();
    assert!(Keyring::open(&header, &[&Recorder]).is_ok());
}

#[test]
fn parameters_over_the_limit_are_refused() {
    assert!(Keyring::create(&root(1), &[0; 512]).is_ok());
    assert!(matches!(Keyring::create(&root(1), &[0; 513]), Err(RootKeyError::TooManyParameters { bytes: 513 })));
    let (keyring, _) = keyring();
    let refused = keyring.begin_rotation(&root(2), &[0; 513]);
    assert!(matches!(refused, Err(RotationError::TooManyParameters { bytes: 513 })));
}

#[test]
fn what_keeps_a_keyring_shut_is_told_apart() {
    let (_, header) = keyring();
    let failure = |header: &[u8], providers: &[&dyn KeyProvider]| Keyring::open(header, providers).unwrap_err();
    assert!(matches!(failure(b"foreign", &[&provider(1)]), OpenKeyringError::Header(HeaderError::NotAVault)));
    let mut newer = header.clone();
    newer[12] = 2;
    assert!(matches!(failure(&newer, &[&provider(1)]), OpenKeyringError::Header(HeaderError::NewerFormat { .. })));
    assert!(matches!(failure(&header, &[&provider(2)]), OpenKeyringError::WrongRootKey));
    assert!(matches!(failure(&header, &[]), OpenKeyringError::WrongRootKey));
    assert!(matches!(failure(&header, &[&Foreign]), OpenKeyringError::WrongRootKey));
    assert!(matches!(failure(&header, &[&Failing]), OpenKeyringError::RootKey(_)));
    assert!(matches!(failure(&header, &[&provider(2), &Failing]), OpenKeyringError::RootKey(_)));
    assert!(Keyring::open(&header, &[&Failing, &Foreign, &provider(1)]).is_ok(), "one that fits is enough");
}

#[test]
fn no_changed_header_opens() {
    let (keyring, header) = keyring();
    let two_slots = keyring.begin_rotation(&root(2), b"").unwrap().header().to_vec();
    for header in [header, two_slots] {
        assert!(open(&header, &[1, 2]).is_ok());
        for at in 0..header.len() {
            let mut changed = header.clone();
            changed[at] ^= 0x10;
            assert!(open(&changed, &[1, 2]).is_err(), "byte {at} of {}", header.len());
        }
    }
}

#[test]
fn a_slot_cannot_be_taken_out_or_put_into_a_header() {
    let (keyring, one) = keyring();
    let two = keyring.begin_rotation(&root(2), b"").unwrap().header().to_vec();
    let (one, mac) = Header::parse(&one).unwrap();
    let (two, _) = Header::parse(&two).unwrap();
    for slots in [vec![two.slots[0].clone()], vec![two.slots[1].clone()], two.slots.clone()] {
        let forged = Header { vault: one.vault, slots };
        let forged = [&forged.content()[..], mac].concat();
        assert_eq!(open(&forged, &[1, 2]).is_ok(), forged == [&one.content()[..], mac].concat());
    }
}

#[test]
fn a_wrapped_key_unwraps_for_its_vault_purpose_environment_and_account_only() {
    let (keyring, _) = keyring();
    let key = Key::copy_of(&[3; 32]);
    let wrapped = keyring.wrap(WrapPurpose::AccountKey, TEST, &handle(1), 7, &key);
    let unwrap = |ring: &Keyring, purpose, environment, account| ring.unwrap(purpose, environment, &handle(account), &wrapped);
    assert_eq!(unwrap(&keyring, WrapPurpose::AccountKey, TEST, 1).unwrap().expose(), key.expose());
    assert!(unwrap(&keyring, WrapPurpose::TokenKey, TEST, 1).is_err());
    assert!(unwrap(&keyring, WrapPurpose::AccountKey, LIVE, 1).is_err());
    assert!(unwrap(&keyring, WrapPurpose::AccountKey, TEST, 2).is_err());
    // The same root key, another vault.
    let (other, _) = Keyring::create(&root(1), b"parameters").unwrap();
    assert!(unwrap(&other, WrapPurpose::AccountKey, TEST, 1).is_err());
}

#[test]
fn what_was_wrapped_that_is_no_key_does_not_unwrap() {
    let (keyring, _) = keyring();
    let ring = keyring.ring.load();
    let (environment, account) = ([TEST.byte()], handle(1));
    let aad = wrap_aad(&keyring.vault, &environment, &account, WrapPurpose::AccountKey);
    for len in [0, 31, 33] {
        let wrapped = envelope::seal_under(ring.current_wrap_key(), 1, &aad, 1, &vec![3; len]);
        assert!(keyring.unwrap(WrapPurpose::AccountKey, TEST, &account, &wrapped).is_err());
    }
    assert!(keyring.unwrap(WrapPurpose::AccountKey, TEST, &account, b"").is_err());
}

#[test]
fn a_row_opens_under_its_key_and_in_its_vault_only() {
    let (keyring, _) = keyring();
    let row = keyring.seal_row(b"row", 5, b"content");
    assert_eq!(envelope::header(&row).unwrap().revision, 5);
    assert_eq!(&*keyring.open_row(b"row", &row).unwrap(), b"content");
    assert!(keyring.open_row(b"rov", &row).is_err());
    let (other, _) = Keyring::create(&root(1), b"parameters").unwrap();
    assert!(other.open_row(b"row", &row).is_err());
}

#[test]
fn locators_and_hashes_differ_by_environment_id_vault_and_secret() {
    let (keyring, _) = keyring();
    let (other, _) = Keyring::create(&root(1), b"parameters").unwrap();
    let locators = [
        keyring.locator(TEST, "a"),
        keyring.locator(LIVE, "a"),
        keyring.locator(TEST, "ab"),
        keyring.locator(TEST, "A"),
        other.locator(TEST, "a"),
    ];
    let id = |byte| ApiKeyId::from_bytes([byte; 12]);
    let hashes = [
        keyring.api_key_hash(TEST, &id(1), b"secret"),
        keyring.api_key_hash(LIVE, &id(1), b"secret"),
        keyring.api_key_hash(TEST, &id(2), b"secret"),
        keyring.api_key_hash(TEST, &id(1), b"Secret"),
        other.api_key_hash(TEST, &id(1), b"secret"),
    ];
    assert_eq!(locators.iter().chain(&hashes).collect::<HashSet<_>>().len(), 10);
    assert_eq!(keyring.locator(TEST, "a"), keyring.locator(TEST, "a"));
}

#[test]
fn rotation_goes_from_one_root_key_over_both_to_the_other() {
    let (keyring, before) = keyring();
    let old = keyring.wrap(WrapPurpose::AccountKey, TEST, &handle(1), 1, &Key::copy_of(&[3; 32]));
    let row = keyring.seal_row(b"row", 1, b"content");
    let unwraps = |ring: &Keyring, wrapped: &[u8]| ring.unwrap(WrapPurpose::AccountKey, TEST, &handle(1), wrapped).is_ok();

    assert!(matches!(keyring.finish_rotation(), Err(RotationError::NotBegun)));
    let change = keyring.begin_rotation(&root(2), b"new").unwrap();
    let during = change.header().to_vec();
    assert_eq!((keyring.generation(), keyring.is_rotating()), (1, false), "not in force before it is applied");
    keyring.apply(change).unwrap();
    assert_eq!((keyring.generation(), keyring.is_rotating()), (2, true));
    assert!(matches!(keyring.begin_rotation(&root(3), b""), Err(RotationError::Unfinished)));

    let new = keyring.wrap(WrapPurpose::AccountKey, TEST, &handle(1), 2, &Key::copy_of(&[3; 32]));
    assert_eq!(Keyring::wrapped_generation(&old), Ok(1));
    assert_eq!(Keyring::wrapped_generation(&new), Ok(2));
    assert!(unwraps(&keyring, &old) && unwraps(&keyring, &new));

    // A crash at this point: the header has two slots, and both root keys are needed, in whichever order.
    for roots in [[1, 2], [2, 1]] {
        let reopened = open(&during, &roots).unwrap();
        assert_eq!((reopened.generation(), reopened.is_rotating()), (2, true));
        assert!(unwraps(&reopened, &old) && unwraps(&reopened, &new));
    }
    assert!(matches!(open(&during, &[2]), Err(OpenKeyringError::PreviousRootKeyNeeded)));
    assert!(matches!(open(&during, &[1]), Err(OpenKeyringError::NewRootKeyNeeded)));
    assert!(matches!(open(&during, &[9]), Err(OpenKeyringError::WrongRootKey)));
    assert!(matches!(Keyring::open(&during, &[&provider(2), &Failing]), Err(OpenKeyringError::RootKey(_))));

    let change = keyring.finish_rotation().unwrap();
    let after = change.header().to_vec();
    keyring.apply(change).unwrap();
    assert_eq!((keyring.generation(), keyring.is_rotating()), (2, false));
    assert!(!unwraps(&keyring, &old) && unwraps(&keyring, &new));
    let reopened = open(&after, &[2]).unwrap();
    assert!(!unwraps(&reopened, &old) && unwraps(&reopened, &new));
    assert!(matches!(open(&after, &[1]), Err(OpenKeyringError::WrongRootKey)));
    // The vault key outlives the rotation, and so does what was sealed under it.
    assert_eq!(&*reopened.open_row(b"row", &row).unwrap(), b"content");
    assert_eq!(open(&before, &[1]).unwrap().locator(TEST, "a"), reopened.locator(TEST, "a"));
}

#[test]
fn a_change_that_another_one_overtook_is_refused() {
    let (keyring, _) = keyring();
    let (first, second) = (keyring.begin_rotation(&root(2), b"").unwrap(), keyring.begin_rotation(&root(3), b"").unwrap());
    keyring.apply(first).unwrap();
    assert_eq!(keyring.apply(second), Err(RotationError::Stale));
    assert_eq!(keyring.generation(), 2);
}

/// Computed independently, in Python, from the root key, the vault id and the vault key.
#[test]
fn known_answers() {
    let header = KNOWN_HEADER.replace(char::is_whitespace, "");
    let header: Vec<u8> = (0..header.len()).step_by(2).map(|at| u8::from_str_radix(&header[at..at + 2], 16).unwrap()).collect();
    let mut root = std::array::from_fn(|i| i as u8);
    let provider = RawKey::new(RootKey::from_bytes(&mut root));
    let keyring = Keyring::open(&header, &[&provider]).unwrap();
    assert_eq!(hex(keyring.vault_id().as_bytes()), "a5".repeat(16));
    assert_eq!(keyring.generation(), 7);
    assert_eq!(hex(&keyring.locator(LIVE, "acme-42")), KNOWN_LOCATOR);
    let wrapped = KNOWN_WRAPPED.replace(char::is_whitespace, "");
    let wrapped: Vec<u8> =
        (0..wrapped.len()).step_by(2).map(|at| u8::from_str_radix(&wrapped[at..at + 2], 16).unwrap()).collect();
    let key = keyring.unwrap(WrapPurpose::TokenKey, LIVE, &handle(0x11), &wrapped).unwrap();
    assert_eq!(key.expose(), &[0x33; 32]);
    assert_eq!(keyring.ring.load().header_bytes(), header);
}

#[test]
fn a_keyring_that_forgot_opens_nothing_and_seals_under_no_known_key() {
    let (keyring, _) = keyring();
    let wrapped = keyring.wrap(WrapPurpose::AccountKey, TEST, &handle(1), 1, &Key::copy_of(&[3; 32]));
    let row = keyring.seal_row(b"row", 1, b"content");
    let change = keyring.begin_rotation(&root(2), b"").unwrap();
    keyring.forget();
    assert!(keyring.unwrap(WrapPurpose::AccountKey, TEST, &handle(1), &wrapped).is_err());
    assert!(keyring.open_row(b"row", &row).is_err());
    assert_eq!(keyring.apply(change), Err(RotationError::Stale), "a change from before must not bring the keys back");
    let mut keys = HashSet::new();
    keyring.ring.load().keys.keys().iter().for_each(|key| assert!(keys.insert(*key) && key != &[0; 32]));
}

#[test]
fn debug_shows_no_key() {
    let (keyring, _) = keyring();
    assert_eq!(format!("{keyring:?}"), format!("Keyring({}, redacted)", keyring.vault_id()));
}

const KNOWN_HEADER: &str = "\
    414e43484f52484f4c44000001a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5010000000700076578616d706c6501000000070000000000000000 \
    a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b70b8daabd3db17480f59a93aec2db939c30844c42ba1723e8119f0fa410e1ad91 \
    f8919fe44cc6b6560b15ee9b9d04bcf0b2cb325d9e35918ad59ff741d117f557283bb38141b42c32642389e93e9a560b03d1632b01ff5479 \
    1bf19326994780e1bbf8bca2aa290d9d66c916be7de07699";
const KNOWN_LOCATOR: &str = "62ef48c6667813d509bcb18040ebe8726dc446b18650d27b512631d2a472f5af";
const KNOWN_WRAPPED: &str = "\
    01000000070000000000000009c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d72cfcfd8518e7d3fa90ddd0ec04437204eb12fe \
    1fd0f004ac376b873989d76f190afc110bd12a7ce14bcef5f362deba397a03c842a14077ba3cc9968d89e8f964d05064244977e1ecb45554 \
    725ef9a48a";
