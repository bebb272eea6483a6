use anchorhold::{
    ApiKey, ConnectionId, Credential, LinkedAccountId, NewConnection, ProviderName, SessionOptions, SessionToken, Vault,
};
use secrecy::SecretString;

async fn backend_side(vault: &Vault, key: &ApiKey, id: &LinkedAccountId) -> Result<SessionToken, anchorhold::Error> {
    let backend = vault.backend(key).await?;
    let account = backend.account(id).await?;
    let credential = Credential::api_key(SecretString::from("sk"));
    let connection = account.add_connection(NewConnection::new(ProviderName::new("crm").unwrap(), credential)).await?;
    let mut request = http::Request::get("https://api.example.com").body(()).unwrap();
    connection.authorize(&mut request).await?;
    let _length: usize = connection.reveal(|seen| seen.api_key().map_or(0, str::len)).await?;
    Ok(account.mint_session_token(SessionOptions::new()).await?.token)
}

async fn browser_side(vault: &Vault, token: &SessionToken, connection: &ConnectionId) -> Result<(), anchorhold::Error> {
    let session = vault.session(token).await?;
    session.connections().await?;
    session.disconnect(connection).await
}

fn main() {
    let _ = (backend_side, browser_side);
}
