//! The catalog: every entry gives settings, and says where it comes from.

use std::collections::BTreeSet;

use http::Uri;

use super::catalog::{CatalogEntry, CatalogError, catalog};
use crate::domain::{ClientAuth, FailureClass, Injection, ProviderSettings};

const SOURCE: &str = include_str!("catalog.toml");

/// With something in place of each placeholder that has no default.
fn filled(mut entry: CatalogEntry) -> CatalogEntry {
    for placeholder in entry.placeholders() {
        let values = ["acme", "acme.example.com", "acme.my.salesforce.com", "acme.snowflakecomputing.com"];
        if let Err(CatalogError::Unfilled { placeholder: missing, .. }) = entry.settings()
            && missing == placeholder
        {
            entry = values.iter().find_map(|value| entry.clone().with(placeholder, value).ok()).unwrap();
        }
    }
    entry
}

fn settings(name: &str) -> ProviderSettings {
    filled(CatalogEntry::find(name).unwrap()).settings().unwrap()
}

#[test]
fn the_file_parses() {
    toml::from_str::<super::catalog_file::Catalog>(SOURCE).unwrap();
    assert!(toml::from_str::<super::catalog_file::Catalog>(&SOURCE.replacen("title =", "tittle =", 1)).is_err());
}

#[test]
fn names_are_sorted_and_each_has_one_table() {
    let heads = SOURCE.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']'));
    let names: Vec<_> = heads.filter(|head| !head.contains('.')).collect();
    assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    assert_eq!(names, catalog().map(|entry| entry.name()).collect::<Vec<_>>());
    assert!(names.len() >= 50, "{} entries", names.len());
    assert!(catalog().filter(CatalogEntry::has_oauth).count() >= 40);
    assert!(catalog().filter(|entry| !entry.has_oauth()).count() >= 10);
}

#[test]
fn every_entry_gives_settings_that_can_be_stored() {
    for entry in catalog() {
        let name = entry.name();
        let settings = filled(entry).settings().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(settings.allowed_hosts().count() > 0, "{name} allows no host");
        assert_eq!(settings.name().as_str(), name);
        assert_eq!(ProviderSettings::decode(&settings.encode().unwrap()), Some(settings), "{name}");
    }
}

#[test]
fn every_entry_names_its_source() {
    for entry in catalog() {
        let docs: Uri = entry.docs_url().parse().unwrap();
        assert_eq!(docs.scheme_str(), Some("https"), "{}", entry.name());
        assert!(!entry.title().is_empty());
        // They stand in a cell of a table.
        assert!(!entry.differs().contains(['|', '\n']) && !entry.differs().ends_with('.'), "{}", entry.name());
    }
}

#[test]
fn every_endpoint_is_https_and_has_no_placeholder_left() {
    for entry in catalog().filter(CatalogEntry::has_oauth) {
        let name = entry.name();
        let settings = settings(name);
        let oauth = settings.oauth_settings().unwrap();
        let endpoints =
            [Some(oauth.token_endpoint()), oauth.authorization_endpoint(), oauth.revocation_endpoint(), oauth.issuer()];
        for url in endpoints.into_iter().flatten() {
            assert!(url.starts_with("https://") && !url.contains(['{', '}']), "{name}: {url}");
        }
        assert!(settings.allowed_hosts().all(|host| !host.contains(':')), "{name}");
        assert!([' ', ','].contains(&oauth.scope_separator()), "{name}");
        assert!(
            oauth.refresh_profile().grace() < oauth.refresh_profile().keep_alive().unwrap_or_default()
                || oauth.refresh_profile().grace().is_zero()
        );
    }
}

#[test]
fn settings_without_oauth_say_how_they_are_injected() {
    for entry in catalog().filter(|entry| !entry.has_oauth()) {
        assert!(settings(entry.name()).injected_as().is_some(), "{}", entry.name());
    }
}

#[test]
fn placeholders_are_used_explained_and_filled_with_what_they_take() {
    for entry in catalog() {
        for placeholder in entry.placeholders() {
            let used = SOURCE.contains(&format!("{{{placeholder}}}"));
            assert!(used, "{}: {placeholder}", entry.name());
            for value in ["", "a/b", "a:443", "a@b", "a.b.", "-a", "a..b", "{shop}", "evil.example/"] {
                let refused = entry.clone().with(placeholder, value);
                assert!(matches!(refused, Err(CatalogError::Value { .. })), "{}: {placeholder} = {value}", entry.name());
            }
        }
    }
    let shopify = CatalogEntry::find("shopify").unwrap();
    let missing = shopify.settings().unwrap_err();
    assert!(matches!(missing, CatalogError::Unfilled { provider: "shopify", placeholder: "shop", .. }), "{missing}");
    assert!(missing.to_string().contains("'shop'"), "{missing}");
    assert!(matches!(shopify.clone().with("shpo", "acme"), Err(CatalogError::UnknownPlaceholder { .. })));
    assert!(shopify.clone().with("shop", "evil.example").is_err());
    let acme = shopify.with("shop", "acme").unwrap().settings_named("shopify-acme".parse().unwrap()).unwrap();
    assert_eq!(acme.name().as_str(), "shopify-acme");
    assert_eq!(acme.allowed_hosts().collect::<Vec<_>>(), ["acme.myshopify.com"]);
    assert_eq!(acme.oauth_settings().unwrap().token_endpoint(), "https://acme.myshopify.com/admin/oauth/access_token");
}

#[test]
fn defaults_stand_where_nothing_was_said_and_hosts_stay_within_their_pattern() {
    let salesforce = CatalogEntry::find("salesforce").unwrap();
    let token = |entry: &CatalogEntry| entry.settings().unwrap().oauth_settings().unwrap().token_endpoint().to_owned();
    assert_eq!(token(&salesforce), "https://login.salesforce.com/services/oauth2/token");
    let own = salesforce.clone().with("domain", "acme.my.salesforce.com").unwrap();
    assert_eq!(token(&own), "https://acme.my.salesforce.com/services/oauth2/token");
    for elsewhere in ["salesforce.com.evil.example", "evilsalesforce.com", "salesforce.com", "acme.my.salesforce.com:8443"] {
        assert!(salesforce.clone().with("domain", elsewhere).is_err(), "{elsewhere}");
    }
    let zoho = CatalogEntry::find("zoho").unwrap();
    assert_eq!(token(&zoho.clone().with("center", "eu").unwrap()), "https://accounts.zoho.eu/oauth/v2/token");
    assert!(zoho.with("center", "evil").unwrap_err().to_string().contains("com.au"));
}

#[test]
fn facts_that_other_parts_rely_on() {
    let oauth = |name: &str| settings(name).oauth_settings().unwrap().clone();
    let google = oauth("google");
    let parameters: BTreeSet<_> = google.authorization_parameters().collect();
    assert_eq!(parameters, BTreeSet::from([("access_type", "offline"), ("prompt", "consent")]));
    assert!(!google.refresh_profile().rotates());
    assert_eq!(oauth("slack").scope_separator(), ',');
    assert_eq!(oauth("salesforce").api_host_from(), Some("instance_url"));
    assert_eq!(oauth("xero").refresh_profile().grace().as_secs(), 30 * 60);
    assert!(oauth("exact-online").refresh_profile().margin().unwrap().as_secs() <= 30);
    let hubspot = oauth("hubspot");
    assert!(hubspot.refresh_profile().errors().any(|known| known == ("BAD_REFRESH_TOKEN", FailureClass::Revoked)));
    assert_eq!(oauth("etsy").client_auth(), ClientAuth::None);
    let Some(Injection::Header { name, prefix }) = settings("anthropic").injected_as().cloned() else { panic!() };
    assert_eq!((name.as_str(), prefix.as_str()), ("x-api-key", ""));
}

/// The row of `docs/oauth.md` that tells of an entry.
fn row(entry: &CatalogEntry) -> String {
    let settings = settings(entry.name());
    let mut cells = vec![format!("[`{}`]({})", entry.name(), entry.docs_url()), entry.title().to_owned()];
    match settings.oauth_settings() {
        None => cells.extend(["–".to_owned(), "–".to_owned()]),
        Some(oauth) => {
            let profile = oauth.refresh_profile();
            let mut refresh = vec![if profile.rotates() { "rotate".to_owned() } else { "stay".to_owned() }];
            let grace = profile.grace().as_secs();
            refresh.extend((grace > 0).then(|| format!("grace {} min", grace / 60)));
            refresh.extend(profile.margin().map(|margin| format!("margin {} s", margin.as_secs())));
            refresh.extend(profile.keep_alive().map(|time| format!("kept alive every {} days", time.as_secs() / 86_400)));
            let client = match oauth.client_auth() {
                ClientAuth::Basic => "basic",
                ClientAuth::Post => "post",
                ClientAuth::None => "none",
            };
            cells.extend([client.to_owned(), refresh.join(", ")]);
        }
    }
    let mut differs = entry.differs().to_owned();
    let placeholders: Vec<_> = entry.placeholders().map(|name| format!("`{{{name}}}`")).collect();
    if !placeholders.is_empty() {
        differs = format!("{}: {differs}", placeholders.join(", "));
    }
    format!("| {} | {differs} |", cells.join(" | "))
}

#[test]
fn the_table_of_the_docs_is_the_catalog() {
    let page = include_str!("../../docs/oauth.md");
    let documented: Vec<_> = page.lines().filter(|line| line.starts_with("| [`")).collect();
    let expected: Vec<_> = catalog().map(|entry| row(&entry)).collect();
    assert!(documented == expected, "docs/oauth.md must have exactly these rows:\n{}", expected.join("\n"));
}
