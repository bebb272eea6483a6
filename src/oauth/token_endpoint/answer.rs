//! What an answer of a token endpoint says: tokens (RFC 6749 section 5.1), or which error (section 5.2).
//!
//! Lenient where real providers deviate and nothing is at stake, strict where it is: an answer that says error in any of the known
//! ways never gives tokens, and a token that no header could carry is none.

use std::time::Duration;

use http::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::value::RawValue;

use super::members::{Members, secret, text};
use crate::domain::credential::{MAX_SCOPES, is_scope};
use crate::domain::oauth::failure::FailureKind;
use crate::domain::oauth::settings::OAuthSettings;

const MAX_TOKEN_BYTES: usize = 16 * 1024;
const MAX_TOKEN_TYPE_BYTES: usize = 64;
const MAX_CODE_BYTES: usize = 64;
const MAX_URL_BYTES: usize = 2048;

/// Whatever a server says, a token is not trusted for longer.
const LONGEST_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Tokens and what came with them. An id token is dropped.
#[derive(Clone, Debug)]
pub(crate) struct TokenAnswer {
    pub(crate) access_token: SecretString,
    /// `None` when there is none in the answer: after a refresh the old one goes on (RFC 6749 section 6).
    pub(crate) refresh_token: Option<SecretString>,
    /// As the server wrote it; `Bearer` when it wrote nothing usable.
    pub(crate) token_type: String,
    /// In whole milliseconds: zero when it is negative, at most ten years; `None` when the server does not say.
    pub(crate) expires_in: Option<Duration>,
    /// `None` when the server does not say: then those that were asked for (RFC 6749 section 5.1).
    pub(crate) scopes: Option<Vec<String>>,
    /// The member that the settings name as the customer's API host, such as Salesforce's `instance_url`. Not checked.
    pub(crate) api_host: Option<String>,
}

/// Reads the tokens, or says why there are none.
pub(super) fn read(status: StatusCode, body: &[u8], settings: &OAuthSettings) -> Result<Box<TokenAnswer>, FailureKind> {
    let members = Members::read(body).ok_or(FailureKind::Malformed("not one JSON object"))?;
    if let Some(failure) = error_of(status, &members) {
        return Err(failure);
    }
    // Slack answers a grant of user scopes only with a token inside of this member.
    let inner = if members.get("access_token").is_none() { members.object("authed_user") } else { None };
    let tokens = inner.as_ref().unwrap_or(&members);
    let access_token = tokens.get("access_token").ok_or(FailureKind::Malformed("no access token"))?;
    let access_token = secret(access_token).ok_or(FailureKind::Malformed("an access token that is no text"))?;
    if access_token.expose_secret().is_empty() {
        return Err(FailureKind::Malformed("no access token"));
    }
    if !is_sendable(&access_token) {
        return Err(FailureKind::Malformed("an access token that is too long or has control characters"));
    }
    let refresh_token = tokens.get("refresh_token").and_then(secret).filter(|token| !token.expose_secret().is_empty());
    if refresh_token.as_ref().is_some_and(|token| !is_sendable(token)) {
        return Err(FailureKind::Malformed("a refresh token that is too long or has control characters"));
    }
    // Zoho's older servers give milliseconds in `expires_in` and seconds in the other.
    let expires_in = tokens.get("expires_in_sec").or_else(|| tokens.get("expires_in")).and_then(lifetime);
    Ok(Box::new(TokenAnswer {
        access_token,
        refresh_token,
        token_type: tokens.text("token_type").filter(|text| is_type(text)).map_or_else(|| "Bearer".to_owned(), Into::into),
        expires_in,
        scopes: tokens.get("scope").or_else(|| tokens.get("scopes")).and_then(|value| scopes(value, settings.scope_separator())),
        api_host: settings.api_host_from().and_then(|member| members.text(member)).filter(|text| is_url(text)).map(Into::into),
    }))
}

/// The error that an answer tells of; `None` when it tells of none, or is not JSON and no error by its status.
pub(super) fn error(status: StatusCode, body: &[u8]) -> Option<FailureKind> {
    match Members::read(body) {
        Some(members) => error_of(status, &members),
        None if status.is_success() => None,
        None => Some(FailureKind::Malformed("not one JSON object")),
    }
}

fn error_of(status: StatusCode, members: &Members<'_>) -> Option<FailureKind> {
    let is_false = |name| members.get(name).is_some_and(|value| value.get() == "false");
    let says_error = |name| members.text(name).is_some_and(|text| is_failure_word(&text));
    // Slack says `"ok": false` with status 200.
    let mut failed = !status.is_success() || is_false("ok") || is_false("success") || says_error("status");
    let mut codes = Vec::new();
    // GitHub and Slack answer an `error` with status 200; the last three are of servers that number their errors.
    for name in ["error", "errors", "errcode", "error_code", "errorCode"] {
        let Some(value) = members.get(name).filter(|value| is_told(value)) else { continue };
        failed = true;
        codes.extend(code_of(value));
    }
    if !failed {
        return None;
    }
    // Members that are usual in good answers too: HubSpot's `{"status": "BAD_REFRESH_TOKEN"}`, and `code`.
    let word = |name| members.get(name).and_then(scalar).filter(|code| is_word(code) && !is_failure_word(code));
    codes.extend(word("code"));
    codes.extend(members.text("status").and_then(|_| word("status")));
    Some(clearest(codes).map_or(FailureKind::Malformed("an error without a code"), |code| FailureKind::Refused(code.into())))
}

/// The first code that is not a number such as 400, else the first.
fn clearest(codes: Vec<String>) -> Option<String> {
    let named = codes.iter().position(|code| !code.bytes().all(|b| b.is_ascii_digit() || b == b'-')).unwrap_or(0);
    codes.into_iter().nth(named)
}

/// Whether an error member tells of an error: not when it is there and says that there is none.
fn is_told(value: &RawValue) -> bool {
    !matches!(value.get(), "false" | "\"\"" | "0" | "\"0\"" | "[]" | "{}")
}

/// The error code in a text, a number, an object (`{"error": {"code": …}}`) or the first of a list; sanitised.
fn code_of(value: &RawValue) -> Option<String> {
    if let Some(text) = text(value) {
        return sanitised(&text);
    }
    if value.get().starts_with(['{', '[']) {
        let members = Members::of(value)?;
        let names = ["code", "status", "type", "error", "errorCode", "errorType", "reason"];
        return clearest(names.iter().filter_map(|name| members.get(name).and_then(scalar)).collect());
    }
    scalar(value)
}

/// A text or a number as a code.
fn scalar(value: &RawValue) -> Option<String> {
    match value.get().as_bytes().first()? {
        b'"' => sanitised(&text(value)?),
        b'-' | b'0'..=b'9' => sanitised(value.get()),
        _ => None,
    }
}

/// At most 64 visible ASCII characters, others replaced.
fn sanitised(code: &str) -> Option<String> {
    let visible = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    Some(code.trim().chars().take(MAX_CODE_BYTES).map(visible).collect()).filter(|code: &String| !code.is_empty())
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

fn is_failure_word(text: &str) -> bool {
    ["error", "fail", "failed", "failure"].iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// `expires_in`: a number, also one with a fraction, or a text of one.
fn lifetime(value: &RawValue) -> Option<Duration> {
    let seconds: f64 = match text(value) {
        Some(text) => text.trim().parse().ok()?,
        None => value.get().parse().ok()?,
    };
    if seconds.is_nan() {
        return None;
    }
    // `clamp` makes a duration of whatever is left, infinity included.
    let lifetime = Duration::from_secs_f64(seconds.clamp(0.0, LONGEST_LIFETIME.as_secs_f64()));
    // Times are kept in milliseconds; cut off, so that a token is never kept for longer than it was said to live.
    u64::try_from(lifetime.as_millis()).ok().map(Duration::from_millis)
}

/// A text with the provider's separator, a comma or spaces, or a list of texts. What no scope can be is left out, so that it does not
/// cost the tokens; so is what is past the most scopes that a credential can have.
fn scopes(value: &RawValue, separator: char) -> Option<Vec<String>> {
    let split = |text: &str| -> Vec<String> {
        let parts = text.split(|c: char| c == separator || c == ',' || c.is_ascii_whitespace());
        parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    let all = match text(value) {
        Some(text) => split(&text),
        None => {
            let elements: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
            elements.into_iter().filter_map(text).map(Into::into).collect()
        }
    };
    let mut scopes = Vec::new();
    for scope in all.into_iter().filter(|scope| is_scope(scope)) {
        if scopes.len() < MAX_SCOPES && !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    Some(scopes)
}

/// Whether a token can be kept and sent (RFC 6749 appendix A.12 allows less).
fn is_sendable(token: &SecretString) -> bool {
    let token = token.expose_secret();
    token.len() <= MAX_TOKEN_BYTES && !token.chars().any(char::is_control)
}

fn is_type(text: &str) -> bool {
    (1..=MAX_TOKEN_TYPE_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_url(text: &str) -> bool {
    (1..=MAX_URL_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}
