//! A session token opens no backend, and an API key no session.
use anchorhold::{ApiKey, SessionToken, Vault};

async fn mix_up(vault: &Vault, key: &ApiKey, token: &SessionToken) {
    let _ = vault.backend(token).await;
    let _ = vault.session(key).await;
}

fn main() {}
