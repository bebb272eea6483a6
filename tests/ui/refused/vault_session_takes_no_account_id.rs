//! The account is in the token; the client can't name one beside it.
use anchorhold::{LinkedAccountId, SessionToken, Vault};

async fn name_another(vault: &Vault, token: &SessionToken, id: &LinkedAccountId) {
    let _ = vault.session(token, id).await;
}

fn main() {}
