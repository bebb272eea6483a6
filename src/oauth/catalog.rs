//! The built-in catalog of well-known providers: `catalog.toml`, read once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::domain::host::{AllowedHost, Target, is_label};
use crate::domain::{InvalidOAuth, InvalidProvider, ProviderSettings};
use crate::ids::ProviderName;

use super::catalog_file::{Catalog, Entry, Placeholder};

/// A test reads the file; should it ever not parse, there is no entry.
static CATALOG: LazyLock<Catalog> = LazyLock::new(|| toml::from_str(include_str!("catalog.toml")).unwrap_or_default());

/// All entries of the built-in catalog of well-known providers, by name.
///
/// They are written from the providers' public documentation, which [`CatalogEntry::docs_url`] names; `docs/oauth.md` lists them.
///
/// ```
/// assert!(anchorhold::catalog().count() >= 50);
/// assert!(anchorhold::catalog().any(|entry| entry.name() == "github"));
/// ```
pub fn catalog() -> impl Iterator<Item = CatalogEntry> {
    CATALOG.iter().map(|(name, entry)| CatalogEntry { name, entry, values: BTreeMap::new() })
}

/// The settings of each entry of a file of that form, its placeholders left as they are; `None` for what is no such file.
#[cfg(feature = "testing")]
pub(crate) fn settings_of_file(text: &str) -> Option<Vec<Option<ProviderSettings>>> {
    let catalog: Catalog = toml::from_str(text).ok()?;
    let settings = |(name, entry): (&String, &Entry)| entry.settings(name.parse().ok()?, &|text| Ok(text.to_owned())).ok();
    Some(catalog.iter().map(settings).collect())
}

/// Why a catalog entry gives no settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// A placeholder has no value, and no default.
    #[error("{provider}: '{placeholder}' ({what}) is not filled in: give it to CatalogEntry::with")]
    Unfilled {
        /// The entry's name.
        provider: &'static str,
        /// The placeholder's name.
        placeholder: &'static str,
        /// What it stands for.
        what: &'static str,
    },
    /// The entry has no placeholder of that name.
    #[error("{provider}: there is no placeholder of that name; CatalogEntry::placeholders names those that there are")]
    UnknownPlaceholder {
        /// The entry's name.
        provider: &'static str,
    },
    /// The value is not one that the placeholder takes.
    #[error("{provider}: '{placeholder}' must be {expected}")]
    Value {
        /// The entry's name.
        provider: &'static str,
        /// The placeholder's name.
        placeholder: &'static str,
        /// What it takes.
        expected: String,
    },
    /// The entry itself is not usable as provider settings.
    #[error(transparent)]
    Provider(#[from] InvalidProvider),
    /// The entry itself is not usable as OAuth settings.
    #[error(transparent)]
    OAuth(#[from] InvalidOAuth),
}

/// One provider of the built-in catalog.
///
/// Some providers give each customer or organisation a host of its own; their entries have placeholders, see
/// [`with`](Self::with).
///
/// ```
/// use anchorhold::CatalogEntry;
/// let github = CatalogEntry::find("github").unwrap().settings()?;
/// assert_eq!(github.oauth_settings().unwrap().token_endpoint(), "https://github.com/login/oauth/access_token");
///
/// let shopify = CatalogEntry::find("shopify").unwrap();
/// assert_eq!(shopify.placeholders().collect::<Vec<_>>(), ["shop"]);
/// assert!(shopify.settings().is_err());
/// let shop = shopify.with("shop", "acme")?.settings_named("shopify-acme".parse()?)?;
/// assert_eq!(shop.allowed_hosts().collect::<Vec<_>>(), ["acme.myshopify.com"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct CatalogEntry {
    name: &'static str,
    entry: &'static Entry,
    values: BTreeMap<&'static str, String>,
}

impl CatalogEntry {
    /// The entry of that name, if there is one.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        CATALOG.get_key_value(name).map(|(name, entry)| Self { name, entry, values: BTreeMap::new() })
    }

    /// Its name, which is a [`ProviderName`].
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The provider's name for people.
    #[must_use]
    pub fn title(&self) -> &'static str {
        &self.entry.title
    }

    /// The page of the provider's documentation that the entry was written from.
    #[must_use]
    pub fn docs_url(&self) -> &'static str {
        &self.entry.docs
    }

    /// What one has to know beside the settings, in a few words; often empty. Code stands between backticks.
    #[must_use]
    pub fn differs(&self) -> &'static str {
        &self.entry.differs
    }

    /// Whether it has OAuth settings. If not, its credentials are API keys, or basic ones.
    #[must_use]
    pub const fn has_oauth(&self) -> bool {
        self.entry.oauth.is_some()
    }

    /// The names of the placeholders, with and without a default.
    pub fn placeholders(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.entry.placeholders.keys().map(String::as_str)
    }

    /// Fills a placeholder in.
    ///
    /// A value where one label of a host name stands, such as a shop's name, can't leave the provider's domain and may come from a
    /// customer. Where a whole host stands (`auth0`, `okta`, `gitlab`), the value says where the client's secret is sent: take it
    /// from your own configuration.
    ///
    /// # Errors
    /// [`CatalogError::UnknownPlaceholder`], and `Value` when the placeholder takes no such value.
    pub fn with(mut self, placeholder: &str, value: &str) -> Result<Self, CatalogError> {
        let provider = self.name;
        let (name, rule) =
            self.entry.placeholders.get_key_value(placeholder).ok_or(CatalogError::UnknownPlaceholder { provider })?;
        if !takes(rule, value) {
            return Err(CatalogError::Value { provider, placeholder: name, expected: expected(rule) });
        }
        self.values.insert(name, value.to_owned());
        Ok(self)
    }

    /// The provider's settings, under the entry's own name.
    ///
    /// # Errors
    /// [`CatalogError::Unfilled`] when a placeholder has no value.
    pub fn settings(&self) -> Result<ProviderSettings, CatalogError> {
        // A test makes a provider name of every entry's.
        let name = ProviderName::new(self.name).map_err(|_| CatalogError::UnknownPlaceholder { provider: self.name })?;
        self.settings_named(name)
    }

    /// The same under another name, for several tenants of one provider.
    ///
    /// # Errors
    /// [`CatalogError::Unfilled`] when a placeholder has no value.
    pub fn settings_named(&self, name: ProviderName) -> Result<ProviderSettings, CatalogError> {
        self.entry.settings(name, &|template| self.fill(template))
    }

    /// The text with values in place of its `{placeholders}`.
    fn fill(&self, template: &str) -> Result<String, CatalogError> {
        let mut filled = template.to_owned();
        for (name, rule) in &self.entry.placeholders {
            let mark = format!("{{{name}}}");
            if !filled.contains(&mark) {
                continue;
            }
            let value = self.values.get(name.as_str()).or(rule.default.as_ref());
            let value = value.ok_or(CatalogError::Unfilled { provider: self.name, placeholder: name, what: &rule.what })?;
            // Values have no braces, so what is filled in is not filled again.
            filled = filled.replace(&mark, value);
        }
        Ok(filled)
    }
}

/// Whether the value is one that the placeholder takes.
fn takes(rule: &Placeholder, value: &str) -> bool {
    match rule.is.as_deref() {
        None => rule.one_of.iter().any(|known| known == value),
        Some("label") => is_label(value),
        Some("host") => is_host(value),
        Some(pattern) => {
            let target = is_host(value).then(|| Target::from_authority(true, value)).flatten();
            target.is_some_and(|target| AllowedHost::parse(pattern).is_some_and(|pattern| pattern.allows(&target)))
        }
    }
}

/// A host name of one label or more; no address, no port.
fn is_host(value: &str) -> bool {
    value.len() <= 253 && value.split('.').all(is_label)
}

fn expected(rule: &Placeholder) -> String {
    match rule.is.as_deref() {
        None => format!("one of {}", rule.one_of.join(", ")),
        Some("label") => "one label of a host name: 1 to 63 letters, digits and hyphens".to_owned(),
        Some("host") => "a host name".to_owned(),
        Some(pattern) => format!("a host name like {pattern}"),
    }
}
