//! A callback is read as any reader of queries reads it, or refused; a state opens where it was sealed, and unchanged only.
#![no_main]

use anchorhold::fuzzing::{self, FlowParts};
use libfuzzer_sys::fuzz_target;
use url::form_urlencoded;

const MAX_QUERY: usize = 18 * 1024 + 2048;
const MAX_STATE: usize = 8 * 1024;
const MAX_CODE: usize = 8 * 1024;

// Lines: a query; then a flow's provider, redirect URI, issuer, label and scopes.
fuzz_target!(|data: &str| {
    let mut lines = data.splitn(6, '\n');
    check_query(lines.next().unwrap_or_default());

    let mut text = || lines.next().unwrap_or_default().to_owned();
    let (provider, redirect_uri, issuer, label, scopes) = (text(), text(), text(), text(), text());
    let flow = FlowParts {
        provider,
        redirect_uri,
        issuer: Some(issuer).filter(|issuer| !issuer.is_empty()),
        scopes: scopes.split(' ').map(str::to_owned).collect(),
        label,
    };
    check_flow(flow, data.len());
});

fn check_query(query: &str) {
    let Some(read) = fuzzing::callback(query) else { return };
    assert!(query.len() <= MAX_QUERY);
    assert_eq!(read.shown, "ConnectCallback { .. }");
    let values = |name: &str| -> Vec<String> {
        form_urlencoded::parse(query.as_bytes()).filter(|(known, _)| known == name).map(|(_, value)| value.into_owned()).collect()
    };
    assert_eq!(values("state"), [read.state.as_str()]);
    assert!((1..=MAX_STATE).contains(&read.state.len()));
    assert_eq!(values("iss"), read.iss.clone().into_iter().collect::<Vec<_>>());
    let (codes, errors) = (values("code"), values("error"));
    match &read.answer {
        Ok(code) => {
            assert_eq!((codes, errors), (vec![code.clone()], Vec::new()));
            assert!((1..=MAX_CODE).contains(&code.len()) && code.bytes().all(|b| matches!(b, b' '..=b'~')));
        }
        Err(error) => {
            assert_eq!((codes.len(), errors.len()), (0, 1));
            assert!(error.len() <= 64 && error.bytes().all(|b| b.is_ascii_graphic()));
        }
    }
    let mut written = form_urlencoded::Serializer::new(String::new());
    written.append_pair("state", &read.state);
    match &read.answer {
        Ok(code) => written.append_pair("code", code),
        Err(error) => written.append_pair("error", error),
    };
    written.extend_pairs(read.iss.iter().map(|iss| ("iss", iss)));
    let written = written.finish();
    // What was written is longer where the query had bytes that must be escaped.
    assert!(written.len() > MAX_QUERY || fuzzing::callback(&written).as_ref() == Some(&read));
    assert_eq!(fuzzing::opened_flow(&read.state, 0), None, "a state was forged");
}

fn check_flow(flow: FlowParts, seed: usize) {
    let total =
        flow.provider.len() + flow.redirect_uri.len() + flow.label.len() + flow.scopes.iter().map(String::len).sum::<usize>();
    let Some((state, verifier)) = fuzzing::flow_state(flow.clone(), 0) else {
        assert!(total > 1024, "a small flow has no state");
        return;
    };
    assert!(state.len() <= MAX_STATE);
    // RFC 7636 section 4.1.
    assert!(verifier.len() == 43 && verifier.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)));
    let query = format!("code=x&state={state}");
    assert_eq!(fuzzing::callback(&query).map(|callback| callback.state).as_deref(), Some(&*state), "a state changes on its way");
    assert_eq!(fuzzing::opened_flow(&state, 0), Some(flow));
    assert_eq!(fuzzing::opened_flow(&state, 1), None, "a state opens for another account");
    assert_eq!(fuzzing::opened_flow(&state[..state.len() - 1 - seed % 32], 0), None);

    let mut changed = state.clone().into_bytes();
    let at = seed * 7919 % changed.len();
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    assert_eq!(fuzzing::opened_flow(std::str::from_utf8(&changed).unwrap(), 0), None, "a changed state opens");
}
