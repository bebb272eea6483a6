//! Answers as real providers and hostile servers write them.

use std::time::Duration;

use http::StatusCode;
use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::answer::{TokenAnswer, error, read};
use crate::domain::oauth::failure::FailureKind;
use crate::domain::oauth::settings::OAuthSettings;

fn settings() -> OAuthSettings {
    OAuthSettings::new("https://auth.example/token").unwrap().with_api_host_from("instance_url").unwrap()
}

fn answer(body: &str) -> TokenAnswer {
    *read(StatusCode::OK, body.as_bytes(), &settings()).unwrap_or_else(|failure| panic!("{body}: {failure:?}"))
}

fn failure(status: u16, body: &str) -> FailureKind {
    match read(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &settings()) {
        Ok(_) => panic!("{body}: gave tokens"),
        Err(failure) => failure,
    }
}

fn refused(code: &str) -> FailureKind {
    FailureKind::Refused(code.into())
}

fn with(member: &str) -> TokenAnswer {
    answer(&format!("{{\"access_token\":\"at\",{member}}}"))
}

#[test]
fn an_answer_of_the_rfc_is_read() {
    let answer = answer(
        r#"{"access_token":"2YotnFZFEjr1zCsicMWpAA","token_type":"example","expires_in":3600,
            "refresh_token":"tGzv3JOkF0XG5Qx2TlKWIA","scope":"a b","id_token":"x.y.z","example_parameter":{"deep":[1]}}"#,
    );
    assert_eq!(answer.access_token.expose_secret(), "2YotnFZFEjr1zCsicMWpAA");
    assert_eq!(answer.refresh_token.unwrap().expose_secret(), "tGzv3JOkF0XG5Qx2TlKWIA");
    assert_eq!(answer.token_type, "example");
    assert_eq!(answer.expires_in, Some(Duration::from_secs(3600)));
    assert_eq!(answer.scopes.unwrap(), ["a", "b"]);
    assert_eq!(answer.api_host, None);
}

#[test]
fn lifetimes_are_read_in_every_form_and_bounded() {
    let ten_years = 10 * 365 * 24 * 3600;
    for (written, seconds) in [
        ("3600", Some(3600)),
        ("3600.0", Some(3600)),
        ("3.6e3", Some(3600)),
        ("\"3600\"", Some(3600)),
        ("\" 3600 \"", Some(3600)),
        ("0", Some(0)),
        ("-1", Some(0)),
        ("\"-3600\"", Some(0)),
        ("-1e999", Some(0)),
        ("99999999999", Some(ten_years)),
        ("18446744073709551616", Some(ten_years)),
        ("1e999", Some(ten_years)),
        ("\"infinity\"", Some(ten_years)),
        ("\"NaN\"", None),
        ("\"soon\"", None),
        ("\"\"", None),
        ("null", None),
        ("true", None),
        ("[3600]", None),
        ("{}", None),
    ] {
        let answer = with(&format!("\"expires_in\":{written}"));
        assert_eq!(answer.expires_in, seconds.map(Duration::from_secs), "{written}");
    }
    assert_eq!(with(r#""expires_in":9.0593"#).expires_in, Some(Duration::from_millis(9_059)));
    assert_eq!(answer(r#"{"access_token":"at"}"#).expires_in, None);
    // Zoho.
    assert_eq!(with(r#""expires_in_sec":3600,"expires_in":3600000"#).expires_in, Some(Duration::from_secs(3600)));
}

#[test]
fn scopes_are_read_in_every_form() {
    for (written, scopes) in [
        (r#""a b""#, Some(vec!["a", "b"])),
        (r#""a,b""#, Some(vec!["a", "b"])),
        (r#"" a,  b ,a""#, Some(vec!["a", "b"])),
        (r#"["a","b",7,null]"#, Some(vec!["a", "b"])),
        (r#""""#, Some(vec![])),
        ("[]", Some(vec![])),
        (r#""a b\"c ä d""#, Some(vec!["a", "d"])),
        ("null", None),
        ("7", None),
        ("{}", None),
    ] {
        let read = with(&format!("\"scope\":{written}")).scopes;
        assert_eq!(read.as_ref().map(|list| list.iter().map(String::as_str).collect::<Vec<_>>()), scopes, "{written}");
    }
    let bars = settings().with_scope_separator('|').unwrap();
    let body = br#"{"access_token":"at","scope":"a|b"}"#;
    assert_eq!(read(StatusCode::OK, body, &bars).unwrap().scopes.unwrap(), ["a", "b"]);
    let many: Vec<String> = (0..1000).map(|n| format!("s{n}")).collect();
    assert_eq!(with(&format!("\"scope\":\"{}\"", many.join(" "))).scopes.unwrap().len(), 64);
}

#[test]
fn what_is_missing_or_odd_does_not_cost_the_tokens() {
    assert_eq!(answer(r#"{"access_token":"at"}"#).token_type, "Bearer");
    for odd in ["null", "7", "\"\"", "\"Bea\\nrer\"", "{}"] {
        assert_eq!(with(&format!("\"token_type\":{odd}")).token_type, "Bearer", "{odd}");
    }
    for none in ["null", "\"\"", "7", "false"] {
        assert!(with(&format!("\"refresh_token\":{none}")).refresh_token.is_none(), "{none}");
    }
    // Members that say that all is well.
    for well in [
        r#""ok":true"#,
        r#""success":true"#,
        r#""error":null"#,
        r#""error":"""#,
        r#""error":false"#,
        r#""errors":[]"#,
        r#""errcode":0"#,
        r#""code":200"#,
        r#""status":"success""#,
        r#""status":"approved""#,
        r#""message":"ok""#,
    ] {
        assert_eq!(with(well).access_token.expose_secret(), "at", "{well}");
    }
    let created = read(StatusCode::CREATED, br#"{"access_token":"at"}"#, &settings()).unwrap();
    assert_eq!(created.access_token.expose_secret(), "at");
}

#[test]
fn provider_s_own_forms_of_tokens_are_read() {
    // Salesforce.
    let api_host = with(r#""instance_url":"https://acme.my.salesforce.com","issued_at":"1278448832702""#).api_host;
    assert_eq!(api_host.unwrap(), "https://acme.my.salesforce.com");
    for odd in ["7", "\"\"", "\"a b\"", "\"https://\\u00e4\""] {
        assert_eq!(with(&format!("\"instance_url\":{odd}")).api_host, None, "{odd}");
    }
    // Slack: a bot's token, and a user's token only.
    let slack = r#"{"ok":true,"access_token":"xoxb-1","token_type":"bot","authed_user":{"id":"U1","access_token":"xoxp-2"}}"#;
    assert_eq!(answer(slack).access_token.expose_secret(), "xoxb-1");
    let slack =
        r#"{"ok":true,"authed_user":{"access_token":"xoxe-2","refresh_token":"xoxe-1-r","expires_in":43200,"scope":"a,b"}}"#;
    let slack = answer(slack);
    assert_eq!(slack.access_token.expose_secret(), "xoxe-2");
    assert_eq!(slack.refresh_token.unwrap().expose_secret(), "xoxe-1-r");
    assert_eq!(slack.expires_in, Some(Duration::from_secs(43_200)));
    assert_eq!(slack.scopes.unwrap(), ["a", "b"]);
}

#[test]
fn errors_are_found_in_every_documented_form() {
    for (status, body, code) in [
        (400, r#"{"error":"invalid_grant","error_description":"Token has been expired or revoked."}"#, "invalid_grant"),
        (401, r#"{"error":"invalid_client"}"#, "invalid_client"),
        (503, r#"{"error":"temporarily_unavailable"}"#, "temporarily_unavailable"),
        // GitHub and Slack: with status 200.
        (200, r#"{"error":"bad_verification_code","error_uri":"https://docs.github.com"}"#, "bad_verification_code"),
        (200, r#"{"ok":false,"error":"invalid_refresh_token"}"#, "invalid_refresh_token"),
        // Zoho.
        (200, r#"{"error":"invalid_code"}"#, "invalid_code"),
        // HubSpot, before and after.
        (400, r#"{"status":"BAD_REFRESH_TOKEN","message":"missing or unknown refresh token"}"#, "BAD_REFRESH_TOKEN"),
        (400, r#"{"error":"invalid_grant","status":"BAD_REFRESH_TOKEN"}"#, "invalid_grant"),
        // Nested: Facebook, Google APIs, JSON:API.
        (400, r#"{"error":{"message":"Invalid code","type":"OAuthException","code":100}}"#, "OAuthException"),
        (400, r#"{"error":{"code":400,"status":"INVALID_ARGUMENT","message":"x"}}"#, "INVALID_ARGUMENT"),
        (400, r#"{"error":{"code":"invalid_grant"}}"#, "invalid_grant"),
        (400, r#"{"error":{"code":42}}"#, "42"),
        (422, r#"{"errors":[{"code":"token_expired","title":"x"},{"code":"b"}]}"#, "token_expired"),
        (400, r#"{"errors":[{"errorType":"invalid_grant","message":"x"}],"success":false}"#, "invalid_grant"),
        // Numbered.
        (200, r#"{"errcode":40029,"errmsg":"invalid code"}"#, "40029"),
        (400, r#"{"error":400,"error_code":"expired"}"#, "expired"),
        (400, r#"{"error":400,"status":"BAD_REFRESH_TOKEN"}"#, "BAD_REFRESH_TOKEN"),
        (400, r#"{"error":400,"code":401}"#, "400"),
        (400, r#"{"code":"invalid_grant","message":"x"}"#, "invalid_grant"),
        (200, r#"{"success":false,"code":7}"#, "7"),
    ] {
        assert_eq!(failure(status, body), refused(code), "{body}");
    }
}

#[test]
fn an_error_without_a_code_is_one_all_the_same() {
    for (status, body) in [
        (400, "{}"),
        (500, r#"{"message":"Something went wrong"}"#),
        (400, r#"{"status":400}"#),
        (400, r#"{"status":"error","message":"x"}"#),
        (200, r#"{"ok":false}"#),
        (200, r#"{"status":"error"}"#),
        (200, r#"{"error":true}"#),
        (200, r#"{"error":{"message":"x"}}"#),
        (200, r#"{"error":["x"]}"#),
        (400, r#"{"error":"  "}"#),
    ] {
        assert_eq!(failure(status, body), FailureKind::Malformed("an error without a code"), "{body}");
    }
}

#[test]
fn an_error_never_gives_tokens() {
    for body in [
        r#"{"access_token":"at","error":"invalid_grant"}"#,
        r#"{"access_token":"at","ok":false}"#,
        r#"{"access_token":"at","success":false}"#,
        r#"{"access_token":"at","status":"error"}"#,
        r#"{"access_token":"at","error":true}"#,
        r#"{"access_token":"at","error":{}, "errors":[1]}"#,
        r#"{"access_token":"at","errcode":-1}"#,
        r#"{"ok":false,"authed_user":{"access_token":"at"}}"#,
    ] {
        failure(200, body);
    }
    for status in [199, 301, 304, 400, 401, 429, 500] {
        failure(status, r#"{"access_token":"at","token_type":"Bearer","expires_in":1}"#);
    }
}

#[test]
fn codes_are_short_and_plain() {
    assert_eq!(failure(400, "{\"error\":\"a b\\u0007\\u00e4<c>\\n\"}"), refused("a?b??<c>"));
    let FailureKind::Refused(code) = failure(400, &format!("{{\"error\":\"{}\"}}", "ä".repeat(500))) else { panic!() };
    assert_eq!(&*code, "?".repeat(64));
}

#[test]
fn what_is_no_answer_is_malformed() {
    let page = "<!DOCTYPE html><html><body>Please sign in</body></html>";
    for status in [200, 400, 429, 502] {
        for body in [page, "", "access_token=at&expires_in=3600", "[]", "null", "{\"access_token\":\"at\"", "{\"error\":\"x\"}{}"]
        {
            assert_eq!(failure(status, body), FailureKind::Malformed("not one JSON object"), "{status} {body}");
        }
    }
    // Which of the two would be meant?
    failure(200, r#"{"access_token":"a","access_token":"b"}"#);
    for body in ["{}", r#"{"access_token":null}"#, r#"{"access_token":""}"#, r#"{"refresh_token":"rt"}"#] {
        assert_eq!(failure(200, body), FailureKind::Malformed("no access token"), "{body}");
    }
    failure(200, r#"{"access_token":7}"#);
    failure(200, r#"{"access_token":{"a":"b"}}"#);
    failure(200, "{\"access_token\":\"a\\u0000b\"}");
    failure(200, "{\"access_token\":\"a\\r\\nb\"}");
    failure(200, "{\"access_token\":\"a\\u0085b\"}");
    failure(200, "{\"access_token\":\"a\",\"refresh_token\":\"a\\nb\"}");
    assert!(answer(&format!("{{\"access_token\":\"{}\"}}", "a".repeat(16 * 1024))).refresh_token.is_none());
    failure(200, &format!("{{\"access_token\":\"{}\"}}", "a".repeat(16 * 1024 + 1)));
}

#[test]
fn debug_shows_no_token() {
    let shown = format!("{:?}", with(r#""refresh_token":"needle-2""#));
    assert!(shown.contains("access_token") && !shown.contains("\"at\"") && !shown.contains("needle"), "{shown}");
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z_]{1,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(name(), inner, 0..8).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    let known = vec![
        "access_token",
        "refresh_token",
        "token_type",
        "expires_in",
        "expires_in_sec",
        "scope",
        "scopes",
        "ok",
        "success",
        "status",
        "error",
        "errors",
        "errcode",
        "error_code",
        "errorCode",
        "code",
        "type",
        "message",
        "authed_user",
        "instance_url",
    ];
    prop_oneof![4 => proptest::sample::select(known).prop_map(str::to_owned), 1 => any::<String>()]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(status in 100..600_u16, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let status = StatusCode::from_u16(status).unwrap();
        let _ = read(status, &bytes, &settings());
        let _ = error(status, &bytes);
    }

    #[test]
    fn arbitrary_json_gives_usable_tokens_or_a_plain_failure(status in 100..600_u16, value in json()) {
        let status = StatusCode::from_u16(status).unwrap();
        match read(status, value.to_string().as_bytes(), &settings()) {
            Ok(answer) => {
                prop_assert!(status.is_success());
                prop_assert!(error(status, value.to_string().as_bytes()).is_none());
                prop_assert!(!answer.access_token.expose_secret().is_empty());
                prop_assert!(!answer.access_token.expose_secret().contains(char::is_control));
                prop_assert!(answer.expires_in.is_none_or(|time| time <= Duration::from_secs(10 * 365 * 24 * 3600)));
                prop_assert!(answer.refresh_token.is_none_or(|token| !token.expose_secret().is_empty()));
            }
            Err(FailureKind::Refused(code)) => {
                prop_assert!((1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_graphic()));
            }
            Err(FailureKind::Malformed(_)) => {}
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn an_answer_that_tells_of_an_error_never_gives_tokens(
        value in json(),
        told in proptest::sample::select(vec![("ok", "false"), ("success", "false"), ("error", "\"invalid_grant\""), ("error", "{\"code\":1}")]),
    ) {
        let serde_json::Value::Object(mut members) = value else { return Ok(()) };
        members.insert("access_token".to_owned(), "at".into());
        members.insert(told.0.to_owned(), serde_json::from_str(told.1).unwrap());
        prop_assert!(read(StatusCode::OK, serde_json::Value::Object(members).to_string().as_bytes(), &settings()).is_err());
    }
}
