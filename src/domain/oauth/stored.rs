//! OAuth settings as they stand in the directory: plain fields, checked again when they are read.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::profile::{FailureClass, RefreshProfile, RefreshRate};
use super::settings::{ClientAuth, OAuthSettings};

/// [`OAuthSettings`] in the order of `docs/format.md`.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredOAuth {
    token_endpoint: String,
    authorization_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    issuer: Option<String>,
    iss_required: bool,
    client_auth: StoredClientAuth,
    scopes: Vec<String>,
    scope_separator: char,
    authorization_parameters: Vec<(String, String)>,
    token_parameters: Vec<(String, String)>,
    api_host_from: Option<String>,
    refresh: StoredProfile,
}

#[derive(Serialize, Deserialize)]
enum StoredClientAuth {
    Basic,
    Post,
    None,
}

/// [`RefreshProfile`]; times in milliseconds.
#[derive(Serialize, Deserialize)]
struct StoredProfile {
    rotates: bool,
    grace: u64,
    margin: Option<u64>,
    keep_alive: Option<u64>,
    rate: Option<(u32, u64)>,
    concurrency: u16,
    errors: Vec<(String, FailureClass)>,
}

impl StoredOAuth {
    pub(crate) fn of(settings: &OAuthSettings) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Self {
            token_endpoint: settings.token_endpoint().to_owned(),
            authorization_endpoint: owned(settings.authorization_endpoint()),
            revocation_endpoint: owned(settings.revocation_endpoint()),
            issuer: owned(settings.issuer()),
            iss_required: settings.iss_required(),
            client_auth: match settings.client_auth() {
                ClientAuth::Basic => StoredClientAuth::Basic,
                ClientAuth::Post => StoredClientAuth::Post,
                ClientAuth::None => StoredClientAuth::None,
            },
            scopes: settings.scopes().to_vec(),
            scope_separator: settings.scope_separator(),
            authorization_parameters: owned_pairs(settings.authorization_parameters()),
            token_parameters: owned_pairs(settings.token_parameters()),
            api_host_from: owned(settings.api_host_from()),
            refresh: StoredProfile::of(settings.refresh_profile()),
        }
    }

    /// With the same checks that the host's own settings went through.
    pub(crate) fn settings(self) -> Option<OAuthSettings> {
        let mut settings = OAuthSettings::new(self.token_endpoint).ok()?;
        if let Some(url) = self.authorization_endpoint {
            settings = settings.with_authorization_endpoint(url).ok()?;
        }
        if let Some(url) = self.revocation_endpoint {
            settings = settings.with_revocation_endpoint(url).ok()?;
        }
        if let Some(issuer) = self.issuer {
            settings = settings.with_issuer(issuer).ok()?;
        }
        if self.iss_required {
            settings = settings.require_iss().ok()?;
        }
        settings = settings.with_client_auth(match self.client_auth {
            StoredClientAuth::Basic => ClientAuth::Basic,
            StoredClientAuth::Post => ClientAuth::Post,
            StoredClientAuth::None => ClientAuth::None,
        });
        settings = settings.with_scope_separator(self.scope_separator).ok()?.with_scopes(self.scopes).ok()?;
        for (name, value) in self.authorization_parameters {
            settings = settings.with_authorization_parameter(name, value).ok()?;
        }
        for (name, value) in self.token_parameters {
            settings = settings.with_token_parameter(name, value).ok()?;
        }
        if let Some(member) = self.api_host_from {
            settings = settings.with_api_host_from(member).ok()?;
        }
        Some(settings.with_refresh_profile(self.refresh.profile()?))
    }
}

impl StoredProfile {
    fn of(profile: &RefreshProfile) -> Self {
        Self {
            rotates: profile.rotates,
            grace: millis(profile.grace),
            margin: profile.margin.map(millis),
            keep_alive: profile.keep_alive.map(millis),
            rate: profile.rate.map(|rate| (rate.requests, millis(rate.per))),
            concurrency: profile.concurrency,
            errors: profile.errors.clone(),
        }
    }

    fn profile(self) -> Option<RefreshProfile> {
        let grace = Duration::from_millis(self.grace);
        let mut profile = RefreshProfile::new().with_rotation(self.rotates).with_grace(grace).ok()?;
        if let Some(margin) = self.margin {
            profile = profile.with_margin(Duration::from_millis(margin)).ok()?;
        }
        if let Some(keep_alive) = self.keep_alive {
            profile = profile.with_keep_alive(Duration::from_millis(keep_alive)).ok()?;
        }
        if let Some((requests, per)) = self.rate {
            profile = profile.with_rate(RefreshRate { requests, per: Duration::from_millis(per) }).ok()?;
        }
        profile = profile.with_concurrency(self.concurrency).ok()?;
        for (code, class) in self.errors {
            profile = profile.with_error(code, class).ok()?;
        }
        Some(profile)
    }
}

/// The bounds of [`RefreshProfile`] keep every time far below the type's end.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn owned_pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
