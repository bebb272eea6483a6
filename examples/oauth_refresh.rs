//! A connection's life: connect, use, expiry, one refresh for a hundred callers, rotation, a consent that is withdrawn, reconnect.
//! Run it with `cargo run --release --example oauth_refresh`; the provider runs in this process, on a loopback port.
//!
//! It stops with an error when anything turns out differently from what it prints.

#[path = "oauth_refresh/demo_provider.rs"]
mod demo_provider;

use std::error::Error;

use anchorhold::{
    Account, ConnectCallback, ConnectRequest, Connection, ConnectionStatus, Environment, LinkedAccountId, OAuthClient,
    OAuthSettings, ProviderName, ProviderSettings, RawKey, SendError, Vault,
};
use demo_provider::{DemoProvider, LIFETIME};
use secrecy::SecretString;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How many callers come at the moment of expiry.
const CALLERS: usize = 100;

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let provider = DemoProvider::start()?;
    println!("Anchorhold and OAuth\n");

    step(1, "Say what the provider is like, and which client the host has there");
    let vault = Vault::builder(folder.path().join("vault")).root_key(RawKey::new([7; 32])).open().await?;
    let backend = vault.backend(&vault.bootstrap_api_key(Environment::Test).await?).await?;
    let demo = ProviderName::new("demo")?;
    let oauth = OAuthSettings::new(provider.url("/token"))?
        .with_authorization_endpoint(provider.url("/authorize"))?
        .with_scopes(["profile"])?;
    let settings = ProviderSettings::new(demo.clone()).allow_host(&provider.host())?.allow_http_loopback().oauth(oauth);
    backend.set_provider(settings).await?;
    let client = OAuthClient::new("anchorhold-demo")?.with_secret(SecretString::from("the client's secret"))?;
    backend.set_oauth_client(&demo, client).await?;
    said(format!("access tokens of {demo} live {} s; each refresh replaces the refresh token", LIFETIME.as_secs()));

    step(2, "Connect a customer");
    let acme = backend.create_account(&LinkedAccountId::new("acme")?).await?;
    let connection = connect(&provider, &acme, &demo, None).await?;
    said("authorization code with PKCE; the tokens are sealed, the host saw none");

    step(3, "Use it");
    let first = greeting(&provider, &connection).await?;
    said(format!("GET /me answered: {first}"));

    step(4, "Let the access token expire, then let a hundred callers come at once");
    tokio::time::sleep(LIFETIME).await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (provider, connection) = (provider.clone(), connection.clone());
            tokio::spawn(async move { greeting(&provider, &connection).await.map_err(|error| error.to_string()) })
        })
        .collect();
    let mut greetings = Vec::new();
    for caller in callers {
        greetings.push(caller.await??);
    }
    let refreshes = provider.state().refreshes;
    greetings.sort();
    greetings.dedup();
    said(format!("{CALLERS} callers, {refreshes} request to the token endpoint, {} access token used", greetings.len()));
    expect(refreshes == 1 && greetings.len() == 1 && greetings[0] != first, "one refresh served all callers")?;

    step(5, "Once more: the refresh token was rotated, and the new one works");
    tokio::time::sleep(LIFETIME).await;
    let third = greeting(&provider, &connection).await?;
    said(format!("GET /me answered: {third}"));
    expect(provider.state().refreshes == 2, "the second refresh used the rotated token")?;

    step(6, "The customer withdraws the consent at the provider");
    provider.customer_withdraws();
    tokio::time::sleep(LIFETIME).await;
    for _ in 0..3 {
        match greeting(&provider, &connection).await {
            Err(error) => said(format!("refused: {error}")),
            Ok(_) => return Err("a dead grant was used".into()),
        }
    }
    let status = connection.info().await?.status;
    said(format!("status: {status:?}"));
    let refreshes = provider.state().refreshes;
    said(format!("the dead refresh token was sent {} time, and never will be again", refreshes - 2));
    expect(matches!(status, ConnectionStatus::ReauthRequired { .. }) && refreshes == 3, "a dead token is sent once")?;

    step(7, "Reconnect: the same connection, new tokens");
    let again = connect(&provider, &acme, &demo, Some(&connection)).await?;
    expect(again.id() == connection.id(), "the connection keeps its id")?;
    said(format!("GET /me answered: {}", greeting(&provider, &connection).await?));

    vault.close().await?;
    let state = provider.state();
    let (tokens, api) = (state.token_requests, state.api_requests);
    println!("\nAll of it as printed: {tokens} token requests, {api} API requests.");
    Ok(())
}

/// What the host does: begin, send the browser to the provider, take what comes back to the redirect URI.
async fn connect(
    provider: &DemoProvider,
    account: &Account,
    name: &ProviderName,
    existing: Option<&Connection>,
) -> Result<Connection> {
    let request = ConnectRequest::new(name.clone(), "http://127.0.0.1/callback")?;
    let request = match existing {
        Some(connection) => request.reconnect(connection.id()),
        None => request,
    };
    let begun = account.begin_connect(request).await?;
    let query = provider.browser_agrees(&begun.url).ok_or("the authorization request lacks a parameter")?;
    Ok(account.complete_connect(ConnectCallback::from_query(&query)?).await?)
}

async fn greeting(provider: &DemoProvider, connection: &Connection) -> Result<String> {
    let request = http::Request::get(provider.url("/me")).body("")?;
    let response = match connection.send(request).await {
        Err(SendError::Vault(error)) => return Err(error.into()),
        other => other?,
    };
    expect(response.status() == 200, "the provider takes the access token")?;
    Ok(String::from_utf8(response.into_body().bytes(1024).await?.to_vec())?)
}

fn step(number: u8, title: &str) {
    println!("{}{number}. {title}", if number > 1 { "\n" } else { "" });
}

fn said(text: impl AsRef<str>) {
    println!("   {}", text.as_ref());
}

fn expect(holds: bool, what: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(format!("this should hold: {what}").into()) }
}
