//! No secret comes out of a session.
use anchorhold::{ConnectionId, Session};

async fn reveal(session: &Session, id: &ConnectionId) {
    let _ = session.reveal(id, |seen| seen.api_key().map(str::to_owned)).await;
}

fn main() {}
