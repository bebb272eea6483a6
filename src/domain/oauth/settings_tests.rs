//! OAuth settings: what is refused, and that what is stored reads back.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::invalid::InvalidOAuth;
use super::profile::{FailureClass, RefreshProfile, RefreshRate};
use super::settings::{ClientAuth, OAuthSettings};
use crate::crypto::envelope;
use crate::domain::provider::ProviderSettings;
use crate::ids::ProviderName;

const TOKEN: &str = "https://login.example.com/token";

fn settings() -> OAuthSettings {
    OAuthSettings::new(TOKEN).unwrap()
}

#[test]
fn endpoints_are_https_or_on_this_machine() {
    for url in [TOKEN, "https://example.com", "https://example.com:8443/a?b=c", "http://127.0.0.1:4000/token", "http://[::1]:1/"]
    {
        assert_eq!(OAuthSettings::new(url).unwrap().token_endpoint(), url);
    }
    let long = format!("https://example.com/{}", "x".repeat(2048 - 19));
    for url in [
        "",
        "/token",
        "example.com",
        "http://example.com/token",
        "http://localhost.example.com/",
        "ftp://example.com/",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://example.com/#fragment",
        "https://example.com/a b",
        "https://example.com/ä",
        "https://exa_mple.com/",
        "https://example.com./",
        "https:///token",
        &long,
    ] {
        assert_eq!(OAuthSettings::new(url).unwrap_err(), InvalidOAuth::Endpoint { what: "token endpoint" }, "{url}");
        assert!(settings().with_authorization_endpoint(url).is_err(), "{url}");
        assert!(settings().with_revocation_endpoint(url).is_err(), "{url}");
        assert!(settings().with_issuer(url).is_err(), "{url}");
    }
    assert!(OAuthSettings::new(&long[..2048]).is_ok());
}

#[test]
fn an_issuer_has_no_query_and_is_needed_where_answers_must_name_it() {
    assert_eq!(settings().with_issuer("https://example.com/?a=b").unwrap_err(), InvalidOAuth::IssuerQuery);
    assert_eq!(settings().require_iss().unwrap_err(), InvalidOAuth::IssuerMissing);
    assert!(settings().with_issuer("https://example.com").unwrap().require_iss().unwrap().iss_required());
}

#[test]
fn extra_parameters_override_nothing_of_the_protocol() {
    let all = "client_id client_secret client_assertion client_assertion_type code code_verifier code_challenge \
               code_challenge_method state redirect_uri response_type grant_type refresh_token scope request request_uri State";
    for name in all.split_whitespace() {
        for refused in [settings().with_authorization_parameter(name, "x"), settings().with_token_parameter(name, "x")] {
            assert!(matches!(refused, Err(InvalidOAuth::ReservedParameter { .. })), "{name}");
        }
    }
    let (long_name, long_value) = ("x".repeat(65), "x".repeat(257));
    for (name, value) in [("", "x"), ("a b", "x"), ("ä", "x"), ("a", "b\n"), (&long_name, "x"), ("a", &long_value)] {
        assert_eq!(settings().with_token_parameter(name, value).unwrap_err(), InvalidOAuth::Parameter, "{name} {value}");
    }
    let mut full = settings();
    for n in 0..32 {
        full = full.with_token_parameter(format!("p{n}"), "before").unwrap();
    }
    full = full.with_token_parameter("p0", "after").unwrap();
    assert_eq!(full.token_parameters().next(), Some(("p0", "after")));
    assert!(matches!(full.with_token_parameter("more", "x"), Err(InvalidOAuth::TooManyParameters { .. })));
}

#[test]
fn scopes_are_tokens_without_their_separator() {
    assert!(settings().with_scopes(["read:user", "https://example.com/a,b"]).is_ok());
    for scope in ["", "a b", "a\"", "a\\", "ä", &"x".repeat(257)] {
        assert_eq!(settings().with_scopes([scope]).unwrap_err(), InvalidOAuth::Scopes, "{scope}");
    }
    assert!(settings().with_scopes(vec!["s"; 65]).is_err());
    let commas = settings().with_scope_separator(',').unwrap();
    assert_eq!(commas.with_scopes(["a,b"]).unwrap_err(), InvalidOAuth::Scopes);
    assert_eq!(settings().with_scopes(["a,b"]).unwrap().with_scope_separator(',').unwrap_err(), InvalidOAuth::Scopes);
    for separator in ['a', '\n', '&', '"', 'ä'] {
        assert_eq!(settings().with_scope_separator(separator).unwrap_err(), InvalidOAuth::ScopeSeparator, "{separator:?}");
    }
}

#[test]
fn client_authentication_has_its_registered_names() {
    for (method, name) in
        [(ClientAuth::Basic, "client_secret_basic"), (ClientAuth::Post, "client_secret_post"), (ClientAuth::None, "none")]
    {
        assert_eq!((method.name(), ClientAuth::from_name(name)), (name, Some(method)));
    }
    assert_eq!(ClientAuth::from_name("private_key_jwt"), None);
}

#[test]
fn the_largest_settings_fit_into_one_row() {
    let url = format!("https://example.com/{}", "x".repeat(2048 - 20));
    let mut profile = RefreshProfile::new();
    for n in 0..32 {
        profile = profile.with_error(format!("{n:064}"), FailureClass::Revoked).unwrap();
    }
    let mut oauth = OAuthSettings::new(&url).unwrap().with_authorization_endpoint(&url).unwrap().with_revocation_endpoint(&url);
    oauth = oauth.unwrap().with_issuer(&url).unwrap().with_scopes(vec!["x".repeat(256); 64]);
    oauth = oauth.unwrap().with_api_host_from("x".repeat(64));
    for n in 0..32 {
        let (name, value) = (format!("{n:064}"), "x".repeat(256));
        oauth = oauth.unwrap().with_authorization_parameter(&name, &value).unwrap().with_token_parameter(name, value);
    }
    let mut provider =
        ProviderSettings::new(ProviderName::new("largest").unwrap()).oauth(oauth.unwrap().with_refresh_profile(profile));
    for n in 0..32 {
        let label = "x".repeat(63);
        provider = provider.allow_host(&format!("*.{label}.{label}.{label}.{n:058}.ab:65535")).unwrap();
    }
    let bytes = provider.encode().unwrap();
    assert!(bytes.len() <= envelope::MAX_PLAINTEXT * 3 / 4, "{} bytes", bytes.len());
    assert_eq!(ProviderSettings::decode(&bytes), Some(provider));
}

fn profiles() -> impl Strategy<Value = RefreshProfile> {
    let class = prop_oneof![Just(FailureClass::Transient), Just(FailureClass::ClientMisconfigured), Just(FailureClass::Revoked)];
    let rate = (1..u32::MAX, 1..=86_400u64).prop_map(|(requests, per)| RefreshRate { requests, per: Duration::from_secs(per) });
    (
        any::<bool>(),
        0..=2_592_000_000u64,
        option::of(0..=86_400_000_000u64),
        option::of(3_600..=31_536_000u64),
        option::of(rate),
        1..=1024u16,
        vec(("[!-~]{1,64}", class), 0..8),
    )
        .prop_map(|(rotates, grace, margin, keep_alive, rate, concurrency, errors)| {
            let mut profile = RefreshProfile::new().with_rotation(rotates).with_concurrency(concurrency).unwrap();
            profile = profile.with_grace(Duration::from_millis(grace)).unwrap();
            if let Some(margin) = margin {
                profile = profile.with_margin(Duration::from_micros(margin)).unwrap();
            }
            if let Some(keep_alive) = keep_alive {
                profile = profile.with_keep_alive(Duration::from_secs(keep_alive)).unwrap();
            }
            if let Some(rate) = rate {
                profile = profile.with_rate(rate).unwrap();
            }
            errors.into_iter().fold(profile, |profile, (code, class)| profile.with_error(code, class).unwrap())
        })
}

proptest! {
    #[test]
    fn settings_read_back_from_their_bytes(
        (authorization, revocation, issuer, require_iss) in (
            option::of("https://[a-z]{1,9}\\.test/[!-\"$-~]{0,9}"),
            option::of("http://127\\.0\\.0\\.1:9000/[a-z]{0,9}"),
            option::of("https://[a-z]{1,9}\\.test(/[a-z]{0,9})?"),
            any::<bool>(),
        ),
        client_auth in prop_oneof![Just(ClientAuth::Basic), Just(ClientAuth::Post), Just(ClientAuth::None)],
        separator in prop_oneof![Just(' '), Just(','), Just(';'), Just('+'), Just('|')],
        scopes in vec("[a-z:/.]{1,20}", 0..5),
        parameters in vec(("[a-b]{1,3}", "\\PC{0,9}"), 0..6),
        api_host_from in option::of("[a-z_]{1,20}"),
        profile in profiles(),
    ) {
        let mut settings = settings().with_client_auth(client_auth).with_scope_separator(separator).unwrap();
        settings = settings.with_scopes(scopes).unwrap().with_refresh_profile(profile);
        if let Some(Ok(with)) = authorization.map(|url| settings.clone().with_authorization_endpoint(url)) {
            settings = with;
        }
        if let Some(url) = revocation {
            settings = settings.with_revocation_endpoint(url).unwrap();
        }
        if let Some(issuer) = issuer {
            settings = settings.with_issuer(issuer).unwrap();
            settings = if require_iss { settings.require_iss().unwrap() } else { settings };
        }
        for (name, value) in parameters {
            settings = settings.with_authorization_parameter(&name, &value).unwrap().with_token_parameter(value.len().to_string(), name).unwrap();
        }
        if let Some(member) = api_host_from {
            settings = settings.with_api_host_from(member).unwrap();
        }
        let provider = ProviderSettings::new(ProviderName::new("acme").unwrap()).oauth(settings);
        prop_assert_eq!(ProviderSettings::decode(&provider.encode().unwrap()), Some(provider));
    }
}
