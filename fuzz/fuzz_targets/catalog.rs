//! A value for a placeholder of the catalog stays in its place: every address has the host that it had, but for the value, and the
//! rest is as it was. And a catalog file of any content is refused, or gives settings that can be stored.
#![no_main]

use anchorhold::fuzzing;
use anchorhold::{CatalogEntry, CatalogError, ProviderSettings};
use libfuzzer_sys::fuzz_target;
use url::Url;

// Lines: the name of an entry and a value for its placeholders, or `file` and a catalog file.
fuzz_target!(|data: &str| {
    let Some((name, rest)) = data.split_once('\n') else { return };
    if name == "file" {
        for settings in fuzzing::catalog_file(rest).unwrap_or_default().into_iter().flatten() {
            assert_eq!(fuzzing::provider_settings(&settings), Some(settings.clone()), "what a file gives can't be stored");
        }
    } else if let Some(entry) = CatalogEntry::find(name) {
        for placeholder in entry.placeholders() {
            check(&entry, placeholder, rest);
        }
    }
});

fn check(entry: &CatalogEntry, placeholder: &'static str, value: &str) {
    let shape = match entry.clone().with(placeholder, "\n") {
        Err(CatalogError::Value { expected, .. }) => expected,
        other => panic!("a line break is a value: {other:?}"),
    };
    let Ok(filled) = entry.clone().with(placeholder, value) else { return };
    // One of a list of values is not the caller's choice.
    if shape.starts_with("one of ") {
        assert!(shape.contains(value));
        return;
    }
    let stand_in = match shape.rsplit_once("like *") {
        Some((_, suffix)) => format!("standin{suffix}"),
        None if shape.starts_with("a host name") => "standin.test".to_owned(),
        None => "standin".to_owned(),
    };
    if let Some((_, suffix)) = shape.rsplit_once("like *") {
        assert!(value.to_ascii_lowercase().ends_with(suffix), "{value}");
    }
    let Some(usual) = settings(entry.clone().with(placeholder, &stand_in).unwrap(), placeholder) else {
        panic!("{} takes no {stand_in} for {placeholder}", entry.name());
    };
    // A value may be refused as a host in the end, as a whole number is.
    let Some(settings) = settings(filled, placeholder) else { return };

    let value = value.to_ascii_lowercase();
    let hosts: Vec<_> = usual.allowed_hosts().map(|host| host.replace(&stand_in, &value)).collect();
    assert_eq!(settings.allowed_hosts().collect::<Vec<_>>(), hosts);
    for (url, usual) in addresses(&settings).into_iter().zip(addresses(&usual)) {
        let usual = Url::parse(&usual).unwrap();
        // A client that can't read the address sends nothing.
        let Ok(url) = Url::parse(&url) else { continue };
        assert_eq!(url.host_str(), usual.host_str().map(|host| host.replace(&stand_in, &value)).as_deref(), "{url}");
        let rest =
            |url: &Url| (url.scheme().to_owned(), url.port(), url.username().to_owned(), url.password().map(str::to_owned));
        assert_eq!(rest(&url), rest(&usual), "{url}");
        assert_eq!(url.path().to_ascii_lowercase(), usual.path().replace(&stand_in, &value).to_ascii_lowercase(), "{url}");
        assert_eq!((url.query(), url.fragment()), (usual.query(), usual.fragment()), "{url}");
    }
}

/// With something in place of the other placeholders.
fn settings(mut entry: CatalogEntry, but: &str) -> Option<ProviderSettings> {
    loop {
        match entry.settings() {
            Err(CatalogError::Unfilled { placeholder, .. }) if placeholder != but => {
                let values = ["other", "other.test", "other.my.salesforce.com", "other.snowflakecomputing.com"];
                entry = values.iter().find_map(|value| entry.clone().with(placeholder, value).ok())?;
            }
            settings => return settings.ok(),
        }
    }
}

fn addresses(settings: &ProviderSettings) -> Vec<String> {
    let Some(oauth) = settings.oauth_settings() else { return Vec::new() };
    let urls = [Some(oauth.token_endpoint()), oauth.authorization_endpoint(), oauth.revocation_endpoint(), oauth.issuer()];
    urls.into_iter().flatten().map(str::to_owned).collect()
}
