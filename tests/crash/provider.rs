//! A provider in memory: it replaces refresh tokens, allows the one before for a day, and answers with the access token that the
//! task has told it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use anchorhold::{Backend, HttpClient, HttpFuture, HttpLimits, OAuthClient, OAuthSettings, ProviderSettings, RefreshProfile};
use anchorhold::{RequestBody, ResponseBody};

use crate::common::{provider, secret};

pub const NAME: &str = "idp";

/// The access token that comes next for each connection, by its label.
#[derive(Clone, Default)]
pub struct Provider(Arc<Mutex<HashMap<String, String>>>);

impl Provider {
    pub fn will_answer(&self, label: &str, access_token: &str) {
        self.0.lock().unwrap().insert(label.into(), access_token.into());
    }

    /// What a customer brings: a refresh token that tells the label.
    pub fn refresh_token(label: &str) -> String {
        format!("refresh.{label}.0")
    }
}

impl HttpClient for Provider {
    fn send(&self, request: http::Request<RequestBody>, _: HttpLimits) -> HttpFuture<'_> {
        let form: HashMap<_, _> = form_urlencoded::parse(request.body().as_bytes().unwrap()).into_owned().collect();
        let sent = form.get("refresh_token").cloned().unwrap_or_default();
        let mut parts = sent.split('.').skip(1);
        let (label, number) = (parts.next().unwrap_or_default(), parts.next().and_then(|number| number.parse::<u64>().ok()));
        let next = self.0.lock().unwrap().remove(label);
        // Whoever asks without having told, as the wheel does after a crash, is to come again later.
        let (status, body) = match (next, number) {
            (Some(access), Some(number)) => (
                200,
                format!(
                    r#"{{"access_token":"{access}","token_type":"Bearer","expires_in":86400,"refresh_token":"refresh.{label}.{}"}}"#,
                    number + 1
                ),
            ),
            _ => (503, String::new()),
        };
        let mut response = http::Response::new(ResponseBody::from_bytes(body));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        Box::pin(std::future::ready(Ok(response)))
    }
}

pub async fn set_up(backend: &Backend) {
    let profile = RefreshProfile::new().with_grace(std::time::Duration::from_secs(24 * 3_600)).unwrap();
    let oauth = OAuthSettings::new("https://idp.example.com/token").unwrap().with_refresh_profile(profile);
    let settings = ProviderSettings::new(provider(NAME)).allow_host("api.example.com").unwrap().oauth(oauth);
    backend.set_provider(settings).await.unwrap();
    let client = OAuthClient::new("client-1").unwrap().with_secret(secret("of the client")).unwrap();
    backend.set_oauth_client(&provider(NAME), client).await.unwrap();
}
