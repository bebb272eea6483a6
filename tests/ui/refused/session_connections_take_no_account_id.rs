//! Listing is of the session's own account.
use anchorhold::{LinkedAccountId, Session};

async fn list_of(session: &Session, id: &LinkedAccountId) {
    let _ = session.connections(id).await;
}

fn main() {}
