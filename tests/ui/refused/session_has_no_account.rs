//! A session is of one account and gives no handle of it.
use anchorhold::{LinkedAccountId, Session};

async fn climb(session: &Session, id: &LinkedAccountId) {
    let _ = session.account(id).await;
}

fn main() {}
