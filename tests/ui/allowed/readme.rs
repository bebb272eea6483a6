//! The ten lines of the README, which must compile as they stand there.
use anchorhold::{ApiKey, Credential, Grant, KeyFile, LinkedAccountId, NewConnection, ProviderName, SessionOptions, Vault};
use secrecy::SecretString;

#[rustfmt::skip]
async fn ten_lines(api_key: ApiKey, secret: SecretString) -> Result<(), Box<dyn std::error::Error>> {
let vault = Vault::builder("./vault").root_key(KeyFile::new("root.key")).open().await?;
let backend = vault.backend(&api_key).await?;                                // your API key opens one environment
let acme = backend.create_account(&LinkedAccountId::new("acme")?).await?;    // one customer, one key, one tree
let credential = Credential::api_key(secret);
let connection = acme.add_connection(NewConnection::new(ProviderName::new("github")?, credential)).await?;

let mut request = http::Request::get("https://api.github.com/user").body(())?;
connection.authorize(&mut request).await?;                                   // only toward the provider's hosts

let minted = acme.mint_session_token(SessionOptions::new().grants([Grant::ListConnections])).await?;
let session = vault.session(&minted.token).await?;                           // acme's browser: acme, and no secrets
    let _ = session;
    Ok(())
}

fn main() {
    let _ = ten_lines;
}
