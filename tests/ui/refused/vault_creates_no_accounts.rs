//! Without an API key no customer is made either.
use anchorhold::{LinkedAccountId, Vault};

async fn skip_the_key(vault: &Vault, id: &LinkedAccountId) {
    let _ = vault.create_account(id).await;
}

fn main() {}
