use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::Key;
use crate::domain::claims::{InvalidSessionOptions, SessionOptions};
use crate::domain::grants::{Grant, Grants};
use crate::ids::ProviderName;

const VAULT: VaultId = VaultId::from_bytes([0x11; 16]);
const HANDLE: AccountHandle = AccountHandle::from_bytes([0x22; 16]);
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn claims(options: SessionOptions) -> SessionClaims {
    options.claims(NOW, 3).unwrap()
}

fn sealed(key: &Key, claims: &SessionClaims) -> SessionToken {
    seal(key, &VAULT, Environment::Test, &HANDLE, claims)
}

fn opened(key: &Key, token: &SessionToken) -> Result<SessionClaims, InvalidToken> {
    TokenParts::parse(token, &mut Room::new())?.open(key, &VAULT)
}

fn parts<'a>(token: &SessionToken, room: &'a mut Room) -> TokenParts<'a> {
    TokenParts::parse(token, room).unwrap()
}

#[test]
fn the_text_names_environment_and_account() {
    let key = Key::random();
    for environment in Environment::ALL {
        let token = seal(&key, &VAULT, environment, &HANDLE, &claims(SessionOptions::new()));
        let mut room = Room::new();
        let parts = parts(&token, &mut room);
        assert_eq!((parts.environment, parts.handle), (environment, HANDLE));
    }
}

#[test]
fn another_key_vault_environment_or_account_opens_nothing() {
    let key = Key::random();
    let token = sealed(&key, &claims(SessionOptions::new()));
    assert!(parts(&token, &mut Room::new()).open(&key, &VAULT).is_ok());
    assert_eq!(parts(&token, &mut Room::new()).open(&Key::random(), &VAULT), Err(InvalidToken));
    assert_eq!(parts(&token, &mut Room::new()).open(&key, &VaultId::from_bytes([0x12; 16])), Err(InvalidToken));
    let mut room = Room::new();
    let moved = TokenParts { handle: AccountHandle::from_bytes([0x23; 16]), ..parts(&token, &mut room) };
    assert_eq!(moved.open(&key, &VAULT), Err(InvalidToken));
    let renamed = token.expose_secret().replacen("st_test_", "st_live_", 1);
    assert_eq!(opened(&key, &SessionToken::from(renamed)), Err(InvalidToken));
}

#[test]
fn the_largest_claims_fit_into_the_largest_text() {
    let origin = |n: usize| format!("https://{}{n}.{}.example", "a".repeat(60), ["b".repeat(60).as_str(); 2].join("."));
    let options = SessionOptions::new()
        .providers((10..26).map(|n| ProviderName::new(format!("{n}{}", "p".repeat(62))).unwrap()))
        .origins((0..8).map(origin))
        .subject("s".repeat(256));
    let key = Key::random();
    let token = sealed(&key, &claims(options.clone()));
    assert!(token.expose_secret().len() <= MAX_TEXT_BYTES);
    assert!(opened(&key, &token).is_ok());
    let one_more = ProviderName::new("q").unwrap();
    let over = options.clone().providers((0..17).map(|n| ProviderName::new(format!("{n}")).unwrap()).chain([one_more]));
    assert_eq!(over.claims(NOW, 0), Err(InvalidSessionOptions::TooManyProviders { limit: 16 }));
    let over = options.origins((0..9).map(|n| format!("https://a{n}.example")));
    assert_eq!(over.claims(NOW, 0), Err(InvalidSessionOptions::TooManyOrigins { limit: 8 }));
}

#[test]
fn options_out_of_range_are_refused() {
    let with = |lifetime| SessionOptions::new().lifetime(lifetime).claims(NOW, 0);
    assert!(with(Duration::from_secs(1)).is_ok() && with(Duration::from_secs(86_400)).is_ok());
    assert_eq!(with(Duration::from_millis(999)), Err(InvalidSessionOptions::Lifetime));
    assert_eq!(with(Duration::from_millis(86_400_001)), Err(InvalidSessionOptions::Lifetime));
    let origins = SessionOptions::new().origins(["https://a.example", "https://a.example/"]);
    assert_eq!(origins.claims(NOW, 0), Err(InvalidSessionOptions::Origin { index: 1 }));
    for subject in ["", "a\nb", &"s".repeat(257)] {
        let refused = SessionOptions::new().subject(subject).claims(NOW, 0);
        assert!(matches!(refused, Err(InvalidSessionOptions::Subject(_))), "{subject:?}");
    }
    assert_eq!(claims(SessionOptions::default()).expires, NOW.plus(Duration::from_secs(900)));
}

#[test]
fn a_token_is_good_in_its_time_and_epoch_until_it_is_spent() {
    let token = claims(SessionOptions::new().lifetime(Duration::from_secs(10)));
    let good = TokenFacts { epoch: 3, disabled: false, spent: None };
    let at = |millis: i64| Timestamp::from_millis(NOW.as_millis().checked_add_signed(millis).unwrap());
    assert_eq!(check(&token, &good, at(0)), Ok(()));
    assert_eq!(check(&token, &good, at(9_999)), Ok(()));
    assert_eq!(check(&token, &good, at(10_000)), Err(DenialReason::Expired));
    assert_eq!(check(&token, &good, at(-60_000)), Ok(()));
    assert_eq!(check(&token, &good, at(-60_001)), Err(DenialReason::NotYetValid));
    assert_eq!(check(&token, &TokenFacts { disabled: true, ..good }, NOW), Err(DenialReason::AccountDisabled));
    assert_eq!(check(&token, &TokenFacts { epoch: 4, ..good }, NOW), Err(DenialReason::OldEpoch));
    assert_eq!(check(&token, &TokenFacts { epoch: 2, ..good }, NOW), Err(DenialReason::OldEpoch));
    assert_eq!(check(&token, &TokenFacts { spent: Some(Spent::Revoked), ..good }, NOW), Err(DenialReason::Revoked));
    assert_eq!(check(&token, &TokenFacts { spent: Some(Spent::UsedUp), ..good }, NOW), Err(DenialReason::AlreadyUsed));
}

#[test]
fn providers_and_origins_are_those_named_or_all() {
    let github = ProviderName::new("github").unwrap();
    let slack = ProviderName::new("slack").unwrap();
    let any = claims(SessionOptions::new());
    assert!(any.allows_provider(&github) && any.allows_origin(None) && any.allows_origin(Some("whatever")));
    let some = claims(SessionOptions::new().providers([github.clone()]).origins(["https://B.example:443", "https://a.example"]));
    assert!(some.allows_provider(&github) && !some.allows_provider(&slack));
    assert!(some.allows_origin(Some("https://a.example")) && some.allows_origin(Some("https://b.example")));
    for origin in [None, Some("null"), Some("https://a.example:8443"), Some("http://a.example"), Some("https://x.a.example")] {
        assert!(!some.allows_origin(origin), "{origin:?}");
    }
}

#[test]
fn debug_shows_no_token() {
    let key = Key::random();
    let token = sealed(&key, &claims(SessionOptions::new()));
    let shown = format!("{:?} {:?}", parts(&token, &mut Room::new()), token);
    assert!(!shown.contains(&token.expose_secret()[40..]) && shown.contains("redacted"), "{shown}");
}

fn any_claims() -> impl Strategy<Value = SessionClaims> {
    let providers = proptest::collection::vec("[a-z0-9_.-]{1,64}", 0..=16);
    let origins = proptest::collection::vec("https://[a-z]{1,20}\\.example(:[1-9][0-9]{0,3})?", 0..=8);
    let subject = proptest::option::of("[^\\p{Cc}]{1,60}");
    (providers, origins, subject, 0u8..8, any::<bool>(), 1_000u64..=86_400_000, any::<u64>()).prop_map(
        |(providers, origins, subject, grants, single_use, lifetime, epoch)| {
            let options = SessionOptions::new()
                .lifetime(Duration::from_millis(lifetime))
                .grants(Grants::from_bits(grants).unwrap())
                .providers(providers.iter().map(|name| ProviderName::new(name).unwrap()))
                .origins(origins);
            let options = if single_use { options.single_use() } else { options };
            match subject {
                Some(subject) => options.subject(subject),
                None => options,
            }
            .claims(NOW, epoch)
            .unwrap()
        },
    )
}

proptest! {
    #[test]
    fn claims_read_back_from_their_token(claims in any_claims()) {
        let key = Key::copy_of(&[7; 32]);
        prop_assert_eq!(opened(&key, &sealed(&key, &claims)), Ok(claims));
    }

    #[test]
    fn any_other_character_anywhere_is_refused(claims in any_claims(), at in any::<prop::sample::Index>(), c in "[A-Za-z0-9_ =+/-]") {
        let key = Key::copy_of(&[7; 32]);
        let mut text = sealed(&key, &claims).expose_secret().to_owned();
        let at = at.index(text.len());
        prop_assume!(text[at..=at] != c);
        text.replace_range(at..=at, &c);
        prop_assert_eq!(opened(&key, &SessionToken::from(text)), Err(InvalidToken));
    }

    #[test]
    fn other_lengths_are_refused(claims in any_claims(), cut in any::<prop::sample::Index>(), more in "[A-Za-z0-9_=-]{1,4}") {
        let key = Key::copy_of(&[7; 32]);
        let text = sealed(&key, &claims).expose_secret().to_owned();
        prop_assert_eq!(opened(&key, &SessionToken::from(&text[..cut.index(text.len())])), Err(InvalidToken));
        prop_assert_eq!(opened(&key, &SessionToken::from(text + &more)), Err(InvalidToken));
    }

    #[test]
    fn claims_have_one_encoding(claims in any_claims(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = claims.to_bytes();
        prop_assert_eq!(SessionClaims::decode(&bytes), Some(claims.clone()));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Some(other) = SessionClaims::decode(&bytes) {
            prop_assert_eq!(other.to_bytes(), bytes);
        }
    }

    #[test]
    fn arbitrary_texts_are_refused(text in "st_(test|live)_[A-Za-z0-9_-]{0,400}|.{0,40}") {
        prop_assert_eq!(opened(&Key::copy_of(&[7; 32]), &SessionToken::from(text)), Err(InvalidToken));
    }
}

/// The blocks of `docs/token-format.md` whose first line starts with `title`, without that line.
fn documented(title: &str) -> Vec<Vec<&'static str>> {
    const PAGE: &str = include_str!("../../docs/token-format.md");
    let blocks = PAGE.split("```text\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    blocks.filter(|block| block.starts_with(title)).map(|block| block.lines().skip(1).collect()).collect()
}

fn field(vector: &[&'static str], name: &str) -> &'static str {
    vector.iter().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("vector without {name}")).trim()
}

fn bytes<const N: usize>(vector: &[&'static str], name: &str) -> [u8; N] {
    from_hex(field(vector, name)).try_into().unwrap_or_else(|_| panic!("{name} has another length"))
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn documented_vectors_hold() {
    let vectors = documented("vector ");
    assert_eq!(vectors.len(), 2);
    for vector in &vectors {
        let key = Key::copy_of(&bytes(vector, "key"));
        let vault = VaultId::from_bytes(bytes(vector, "vault"));
        let handle = AccountHandle::from_bytes(bytes(vector, "handle"));
        let nonce = bytes(vector, "nonce");
        let environment = Environment::ALL.into_iter().find(|e| e.label() == field(vector, "environment")).unwrap();
        let claims = SessionClaims::decode(&from_hex(field(vector, "claims"))).unwrap();
        let text = field(vector, "token");

        let token =
            write(&vault, environment, &handle, &claims, |aad, buffer| (nonce, key.seal_in_place_with(&nonce, aad, buffer)));
        assert_eq!(token.expose_secret(), text);
        let mut room = Room::new();
        let parts = parts(&SessionToken::from(text), &mut room);
        assert_eq!((parts.environment, parts.handle), (environment, handle));
        assert_eq!(parts.open(&key, &vault), Ok(claims));
    }
}

#[test]
fn documented_fields_mean_what_the_page_says() {
    let vectors = documented("vector ");
    let claims = |at: usize| SessionClaims::decode(&from_hex(field(&vectors[at], "claims"))).unwrap();
    let (small, full) = (claims(0), claims(1));
    assert_eq!((small.issued, small.expires), (NOW, NOW.plus(Duration::from_secs(900))));
    assert_eq!((small.epoch, small.grants, small.single_use, &small.subject), (0, Grant::ListConnections.into(), false, &None));
    assert!(small.providers.is_empty() && small.origins.is_empty());
    assert_eq!(full.expires, NOW.plus(Duration::from_secs(86_400)));
    assert_eq!((full.epoch, full.grants, full.single_use), (7, Grants::ALL, true));
    assert_eq!(full.providers.iter().map(ProviderName::as_str).collect::<Vec<_>>(), ["github", "slack"]);
    assert_eq!(full.origins, ["http://localhost:3000", "https://app.example.com"]);
    assert_eq!(full.subject.as_deref(), Some("Zoë"));
}

#[test]
fn documented_texts_that_are_no_tokens_are_refused() {
    let vector = &documented("vector 1")[0];
    let key = Key::copy_of(&bytes(vector, "key"));
    let vault = VaultId::from_bytes(bytes(vector, "vault"));
    let refused = &documented("refused")[0];
    assert!(refused.len() >= 28, "only {} cases: is the test reading the page?", refused.len());
    for case in refused {
        let (reason, text) = case.split_once(": ").unwrap();
        let mut room = Room::new();
        let parts = TokenParts::parse(&SessionToken::from(text), &mut room);
        assert!(!parts.is_ok_and(|parts| parts.open(&key, &vault).is_ok()), "{reason}");
    }
}

#[test]
fn documented_sizes_are_those_of_the_code() {
    let page = include_str!("../../docs/token-format.md").replace(',', "");
    let largest = PREFIX_BYTES + encoded_len(HEAD_BYTES + MAX_CLAIMS_BYTES + TAG_BYTES);
    assert!(page.contains(&format!("has {largest} characters the smallest {MIN_TEXT_BYTES}.")), "{largest} {MIN_TEXT_BYTES}");
    assert!(page.contains(&format!("{AAD_BYTES} bytes in all")) && page.contains("No text over 6 KiB"));
}
