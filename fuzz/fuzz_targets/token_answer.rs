//! Whatever a token endpoint answers: tokens within every limit, or a failure that shows no secret, after one request; and a
//! connection ends only when the provider says so.
#![no_main]

use std::time::Duration;

use anchorhold::FailureClass;
use anchorhold::fuzzing::{self, Answer, Obtained, Outcome};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const REFRESH_TOKEN: &str = "rt.8xLOxBtZp8-needle-4f0c91b7e2";
/// With a space, which is shown as a question mark.
const CLIENT_SECRET: &str = "cs.GqZ7f needle-a95d1be30c7742";
/// So much of a secret in a row is too much.
const RUN: usize = 24;
const MAX_ANSWER: usize = 64 * 1024;
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

// Lines: status, bytes that come at once, spaces behind the body; Retry-After; the body.
fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let (Some(head), Some(retry_after), Some(body)) = (lines.next(), lines.next(), lines.next()) else { return };
    let Ok(head) = std::str::from_utf8(head) else { return };
    let mut numbers = head.split(' ').map(|number| number.parse::<usize>().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    let (status, chunk, spaces) = (u16::try_from(number()).unwrap_or(0), number(), number() % (2 * MAX_ANSWER));
    let mut body = body.to_vec();
    body.resize(body.len() + spaces, b' ');

    let answer = Answer { status, retry_after, body: &body, chunk };
    let Some(outcome) = fuzzing::token_answer(answer, REFRESH_TOKEN, CLIENT_SECRET) else { return };
    assert_eq!(outcome.asked, ["https://auth.example/token"]);
    match &outcome.tokens {
        Ok(tokens) => {
            assert!((200..300).contains(&status), "tokens with status {status}");
            assert!(body.len() <= MAX_ANSWER);
            within_limits(tokens);
            is_what_the_json_says(tokens, &body);
            assert_eq!(outcome.lifetime, tokens.expires_in);
            assert_eq!(outcome.ended, None);
        }
        Err((shown, class)) => is_harmless(shown, *class, status, &outcome),
    }
    assert!(outcome.pause.is_none_or(|pause| pause <= DAY), "{:?}", outcome.pause);
});

fn within_limits(tokens: &Obtained) {
    for token in [Some(&tokens.access_token), tokens.refresh_token.as_ref()].into_iter().flatten() {
        assert!((1..=16 * 1024).contains(&token.len()) && !token.contains(char::is_control));
    }
    assert!(visible(&tokens.token_type, 64));
    assert!(tokens.expires_in.is_none_or(|time| time <= TEN_YEARS));
    let scopes = tokens.scopes.as_deref().unwrap_or_default();
    assert!(scopes.len() <= 64 && scopes.iter().all(|scope| visible(scope, 256) && !scope.contains(['"', '\\'])));
    assert!(scopes.iter().enumerate().all(|(at, scope)| !scopes[..at].contains(scope)), "a scope twice");
    assert!(tokens.api_host.as_ref().is_none_or(|host| visible(host, 2048)));
    assert_eq!(tokens.shown[0], tokens.shown[1], "Debug depends on the tokens");
    assert!(tokens.storable, "spent a refresh token for what can't be stored");
}

/// By a reader of JSON that is not the library's.
fn is_what_the_json_says(tokens: &Obtained, body: &[u8]) {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // It gives up on numbers past the largest double and on what is nested deeply; the library never looks into either.
    let Ok(json) = serde_json::from_slice::<Value>(body) else { return };
    let inner = if json["access_token"].is_null() { &json["authed_user"] } else { &json };
    let inner = if inner.is_array() { &inner[0] } else { inner };
    assert_eq!(inner["access_token"].as_str(), Some(&*tokens.access_token));
    assert_eq!(inner["refresh_token"].as_str().filter(|token| !token.is_empty()), tokens.refresh_token.as_deref());
    for (member, told) in [("error", true), ("ok", false), ("success", false)] {
        assert_ne!(json[member], told, "tokens beside an error");
    }
    assert!(json["error"].as_str().unwrap_or_default().is_empty(), "tokens beside an error");
}

fn is_harmless(shown: &str, class: FailureClass, status: u16, outcome: &Outcome) {
    assert!(visible(&shown.replace(' ', "_"), 600), "{shown}");
    for secret in [REFRESH_TOKEN, CLIENT_SECRET] {
        let secret = secret.replace(' ', "?");
        for at in 0..=secret.len() - RUN {
            assert!(!shown.contains(&secret[at..at + RUN]), "{shown}");
        }
    }
    assert_eq!(outcome.lifetime, None);
    assert_eq!(class == FailureClass::Revoked, outcome.ended.is_some());
    if outcome.ended.is_some() {
        let lower = shown.to_ascii_lowercase();
        assert!(lower.contains("\"invalid_grant\"") || lower.contains("\"bad_refresh_token\""), "{shown}");
        assert!(!(300..400).contains(&status));
    }
}

fn visible(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}
