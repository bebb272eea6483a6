//! The form of `catalog.toml`, which its head describes, and how its parts become settings.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;
use serde::{Deserialize, Deserializer, de};

use crate::domain::{ClientAuth, FailureClass, Injection, InvalidProvider, OAuthSettings, ProviderSettings, RefreshProfile};
use crate::ids::ProviderName;

use super::catalog::CatalogError;

pub(super) type Catalog = BTreeMap<String, Entry>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) title: String,
    pub(super) docs: String,
    pub(super) differs: String,
    hosts: Vec<String>,
    injection: Option<HowInjected>,
    #[serde(default)]
    pub(super) placeholders: BTreeMap<String, Placeholder>,
    pub(super) oauth: Option<OAuth>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Placeholder {
    pub(super) what: String,
    pub(super) is: Option<String>,
    #[serde(default)]
    pub(super) one_of: Vec<String>,
    pub(super) default: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum HowInjected {
    Bearer,
    Basic,
    Header {
        name: String,
        #[serde(default)]
        prefix: String,
    },
    Query {
        name: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OAuth {
    authorize: Option<String>,
    token: String,
    revoke: Option<String>,
    issuer: Option<String>,
    #[serde(default)]
    client_auth: Method,
    #[serde(default)]
    scopes: Vec<String>,
    separator: Option<char>,
    #[serde(default)]
    authorize_params: BTreeMap<String, String>,
    #[serde(default)]
    token_params: BTreeMap<String, String>,
    api_host_from: Option<String>,
    #[serde(default)]
    refresh: Refresh,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Method {
    #[default]
    Basic,
    Post,
    None,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Refresh {
    rotates: Option<bool>,
    grace: Option<Time>,
    margin: Option<Time>,
    keep_alive: Option<Time>,
    errors: BTreeMap<String, Class>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Class {
    Transient,
    Misconfigured,
    Revoked,
}

/// `30s`, `30m`, `12h` or `60d`.
#[derive(Clone, Copy, Debug)]
struct Time(Duration);

impl Entry {
    /// `fill` puts values in place of placeholders.
    pub(super) fn settings(
        &self,
        name: ProviderName,
        fill: &impl Fn(&str) -> Result<String, CatalogError>,
    ) -> Result<ProviderSettings, CatalogError> {
        let mut settings = ProviderSettings::new(name);
        for host in &self.hosts {
            settings = settings.allow_host(&fill(host)?)?;
        }
        if let Some(injection) = &self.injection {
            settings = settings.injection(injection.injection()?)?;
        }
        match &self.oauth {
            Some(oauth) => Ok(settings.oauth(oauth.settings(fill)?)),
            None => Ok(settings),
        }
    }
}

impl HowInjected {
    fn injection(&self) -> Result<Injection, InvalidProvider> {
        Ok(match self {
            HowInjected::Bearer => Injection::Bearer,
            HowInjected::Basic => Injection::Basic,
            HowInjected::Header { name, prefix } => Injection::Header {
                name: name.parse::<HeaderName>().map_err(|_| InvalidProvider::HeaderName)?,
                prefix: prefix.clone(),
            },
            HowInjected::Query { name } => Injection::Query { name: name.clone() },
        })
    }
}

impl OAuth {
    fn settings(&self, fill: &impl Fn(&str) -> Result<String, CatalogError>) -> Result<OAuthSettings, CatalogError> {
        let mut settings = OAuthSettings::new(fill(&self.token)?)?.with_client_auth(match self.client_auth {
            Method::Basic => ClientAuth::Basic,
            Method::Post => ClientAuth::Post,
            Method::None => ClientAuth::None,
        });
        if let Some(url) = &self.authorize {
            settings = settings.with_authorization_endpoint(fill(url)?)?;
        }
        if let Some(url) = &self.revoke {
            settings = settings.with_revocation_endpoint(fill(url)?)?;
        }
        if let Some(issuer) = &self.issuer {
            settings = settings.with_issuer(fill(issuer)?)?;
        }
        if let Some(separator) = self.separator {
            settings = settings.with_scope_separator(separator)?;
        }
        settings = settings.with_scopes(&self.scopes)?;
        for (name, value) in &self.authorize_params {
            settings = settings.with_authorization_parameter(name, value)?;
        }
        for (name, value) in &self.token_params {
            settings = settings.with_token_parameter(name, value)?;
        }
        if let Some(member) = &self.api_host_from {
            settings = settings.with_api_host_from(member)?;
        }
        Ok(settings.with_refresh_profile(self.refresh.profile()?))
    }
}

impl Refresh {
    fn profile(&self) -> Result<RefreshProfile, CatalogError> {
        let mut profile = RefreshProfile::new();
        if let Some(rotates) = self.rotates {
            profile = profile.with_rotation(rotates);
        }
        if let Some(Time(grace)) = self.grace {
            profile = profile.with_grace(grace)?;
        }
        if let Some(Time(margin)) = self.margin {
            profile = profile.with_margin(margin)?;
        }
        if let Some(Time(keep_alive)) = self.keep_alive {
            profile = profile.with_keep_alive(keep_alive)?;
        }
        for (code, class) in &self.errors {
            profile = profile.with_error(
                code,
                match class {
                    Class::Transient => FailureClass::Transient,
                    Class::Misconfigured => FailureClass::ClientMisconfigured,
                    Class::Revoked => FailureClass::Revoked,
                },
            )?;
        }
        Ok(profile)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = || {
            let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 60 * 60,
                "d" => 24 * 60 * 60,
                _ => return None,
            };
            Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
        };
        time().map(Time).ok_or_else(|| de::Error::custom("not a time such as 30s, 30m, 12h or 60d"))
    }
}
