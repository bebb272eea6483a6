//! A day of a host program in small, on a vault in a temporary directory. Run it with `cargo run --release --example quickstart`.
//!
//! It stops with an error when anything turns out differently from what it prints.

#[path = "quickstart/loopback.rs"]
mod loopback;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use anchorhold::{
    Account, ApiKey, Backend, Credential, Environment, Grant, Injection, KeyFile, LinkedAccountId, NewConnection, PageRequest,
    ProviderName, ProviderSettings, RootKey, SessionOptions, Vault,
};
use secrecy::SecretString;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let server = loopback::Server::start()?;
    // A host on tokio, actix or smol would await this instead; the vault has threads of its own and needs no executor.
    futures_lite::future::block_on(day(folder.path(), &server))
}

async fn day(folder: &Path, server: &loopback::Server) -> Result<()> {
    println!("Anchorhold quickstart\n");
    let root_key = folder.join("root.key");
    let path = folder.join("vault");

    step(1, "Open a vault");
    let vault = Vault::builder(&path).root_key(RootKey::generate_file(&root_key)?).open().await?;
    said(format!("at {}, with a new root key in {}", path.display(), root_key.display()));
    said(format!("keys are held in {}", vault.status().lock_kind));

    step(2, "Get the host's own API key");
    let api_key = vault.bootstrap_api_key(Environment::Test).await?;
    said(format!("{} (shown once; the vault keeps a keyed hash)", opening(api_key.expose_secret())));
    let backend = vault.backend(&api_key).await?;

    step(3, "Say how the provider wants to be called");
    let tracker = ProviderName::new("tracker")?;
    let settings =
        ProviderSettings::new(tracker.clone()).allow_host(&server.host())?.allow_http_loopback().injection(Injection::Bearer)?;
    backend.set_provider(settings).await?;
    said(format!("{tracker}: bearer token, toward {} and nowhere else", server.host()));

    step(4, "Onboard two customers and store a credential of each");
    let acme = onboard(&backend, &tracker, "acme", "token-of-acme").await?;
    let globex = onboard(&backend, &tracker, "globex", "token-of-globex").await?;
    said("each has a key and a tree of its own in the vault");

    step(5, "Use acme's credential");
    let connection = acme.connection(&acme.connections().await?[0].id).await?;
    let mut request = http::Request::get(format!("http://{}/issues", server.host())).body(())?;
    connection.authorize(&mut request).await?;
    let answer = loopback::send(&request)?;
    said(format!("GET /issues answered: {answer}"));
    expect(answer == "200 hello, token-of-acme", "the provider saw acme's credential")?;
    let mut elsewhere = http::Request::get("https://collector.example.com/").body(())?;
    let refused = connection.authorize(&mut elsewhere).await.err().ok_or("a host that is not the provider's was allowed")?;
    said(format!("toward another host: refused, \"{refused}\""));

    step(6, "Mint a session token for acme's browser, and check it");
    let options = SessionOptions::new()
        .lifetime(Duration::from_secs(15 * 60))
        .grants([Grant::ListConnections, Grant::Disconnect])
        .subject("user 17");
    let minted = acme.mint_session_token(options).await?;
    said(format!("{} (good for 15 minutes, for acme only)", opening(minted.token.expose_secret())));
    let session = vault.session(&minted.token).await?;
    for info in session.connections().await? {
        said(format!("the browser sees: {} \"{}\", and no secret", info.provider, info.label));
    }

    step(7, "Globex tries to reach acme's connection");
    let of_globex = globex.mint_session_token(SessionOptions::new().grants([Grant::Disconnect])).await?;
    let attempt = vault.session(&of_globex.token).await?.disconnect(&connection.id()).await;
    let refused = attempt.err().ok_or("one customer reached another's connection")?;
    said(format!("refused, \"{refused}\": the same answer as for a connection that never was"));

    step(8, "Revoke acme's token");
    acme.revoke_session_token(&minted.id).await?;
    let refused = session.connections().await.err().ok_or("a revoked token still worked")?;
    said(format!("its session stops at once: \"{refused}\""));

    step(9, "Restart");
    vault.close().await?;
    drop((vault, backend, acme, globex, connection, session));
    let (vault, acme) = reopen(&path, &root_key, &api_key).await?;
    let connection = acme.connection(&acme.connections().await?[0].id).await?;
    let whole = connection.reveal(|seen| seen.access_token() == Some("token-of-acme")).await?;
    expect(whole, "acme's credential is what it was")?;
    said("acme's credential is there, unchanged");

    step(10, "Read acme's audit");
    for entry in acme.audit(PageRequest::first(50)).await?.items {
        said(format!("{:>3}  {:?} by {:?}", entry.sequence, entry.action, entry.actor));
    }
    let report = acme.verify_audit().await?;
    said(format!("chain of {} entries verified", report.entries));
    vault.close().await?;

    println!("\nAll of it as printed. The vault was in a temporary directory, which is gone now.");
    Ok(())
}

async fn onboard(backend: &Backend, provider: &ProviderName, name: &str, token: &str) -> Result<Account> {
    let account = backend.create_account(&LinkedAccountId::new(name)?).await?;
    let credential = Credential::oauth2(anchorhold::OAuth2Tokens::new(SecretString::from(token)));
    account.add_connection(NewConnection::new(provider.clone(), credential).label(format!("issues of {name}"))).await?;
    said(format!("{name}: one connection to {provider}"));
    Ok(account)
}

async fn reopen(path: &Path, root_key: &Path, api_key: &ApiKey) -> Result<(Vault, Account)> {
    let vault = Vault::builder(path).root_key(KeyFile::new(root_key)).open().await?;
    let acme = vault.backend(api_key).await?.account(&LinkedAccountId::new("acme")?).await?;
    said("closed, opened again with the same root key");
    Ok((vault, acme))
}

fn step(number: u8, title: &str) {
    println!("{}{number:>2}. {title}", if number > 1 { "\n" } else { "" });
}

fn said(text: impl AsRef<str>) {
    println!("    {}", text.as_ref());
}

/// A token's first characters: enough to see its kind, far too few to use it.
fn opening(text: &str) -> String {
    format!("{}…", &text[..12])
}

fn expect(holds: bool, what: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(format!("this should hold: {what}").into()) }
}
