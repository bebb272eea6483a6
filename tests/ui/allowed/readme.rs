//! The lines of code of the README, which must compile as they stand there.
use anchorhold::{
    ApiKey, ConnectCallback, ConnectRequest, Grant, KeyFile, LinkedAccountId, ProviderName, SessionOptions, Vault,
};

#[rustfmt::skip]
async fn shown(api_key: ApiKey, came_back_with: String) -> Result<(), Box<dyn std::error::Error>> {
let vault = Vault::builder("./vault").root_key(KeyFile::new("root.key")).open().await?;
let backend = vault.backend(&api_key).await?;                                // your API key opens one environment
let acme = backend.create_account(&LinkedAccountId::new("acme")?).await?;    // one customer, one key, one tree

let github = ConnectRequest::new(ProviderName::new("github")?, "https://app.example.com/callback")?;
let go_there = acme.begin_connect(github).await?.url;                        // OAuth: send acme's browser there …
let connection = acme.complete_connect(ConnectCallback::from_query(&came_back_with)?).await?; // … the tokens stay in the vault

let request = http::Request::get("https://api.github.com/user").body("")?;
let answer = connection.send(request).await?;                                // refreshed if due; only toward GitHub's hosts

let minted = acme.mint_session_token(SessionOptions::new().grants([Grant::ListConnections])).await?;
let session = vault.session(&minted.token).await?;                           // acme's browser: acme, and no secrets
    let _ = (answer, session);
    Ok(())
}

fn main() {
    let _ = shown;
}
