//! The customer's browser at the server's pages: follows redirects, keeps cookies, answers forms.

use std::collections::BTreeMap;

use anchorhold::RequestBody;
use http::{Request, header};

use crate::server::{REDIRECT, Server};

/// Goes to the authorization page and answers each form there with yes or no, until the server sends the customer back. Gives the
/// query that arrives there.
pub async fn visit(server: &Server, url: &str, agrees: bool) -> String {
    let mut cookies = BTreeMap::new();
    let mut request = Request::get(url);
    let mut url = url.to_owned();
    let mut body = RequestBody::empty();
    for _ in 0..20 {
        let sent: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !sent.is_empty() {
            request = request.header(header::COOKIE, sent.join("; "));
        }
        let answer = server.exchange(request.body(body).unwrap()).await;
        for cookie in answer.headers.get_all(header::SET_COOKIE) {
            let (name, value) = cookie.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            cookies.insert(name.to_owned(), value.to_owned());
        }
        if let Some(location) = answer.headers.get(header::LOCATION) {
            let location = location.to_str().unwrap();
            if let Some(query) = location.strip_prefix(REDIRECT) {
                return query.trim_start_matches('?').to_owned();
            }
            url = if location.starts_with('/') { format!("{}{location}", server.issuer) } else { location.to_owned() };
            request = Request::get(&url);
            body = RequestBody::empty();
        } else {
            assert!(answer.status == 200 && answer.text.contains("<form"), "{} {}", answer.status, answer.text);
            request = Request::post(&url).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            body = RequestBody::from(if agrees { "answer=yes" } else { "answer=no" });
        }
    }
    panic!("the server sends the browser around");
}
