//! Without an API key there is no way to a customer.
use anchorhold::{LinkedAccountId, Vault};

async fn skip_the_key(vault: &Vault, id: &LinkedAccountId) {
    let _ = vault.account(id).await;
}

fn main() {}
