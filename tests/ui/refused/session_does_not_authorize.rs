//! No secret is used by a session.
use anchorhold::{ConnectionId, Session};

async fn send(session: &Session, id: &ConnectionId, request: &mut http::Request<()>) {
    let _ = session.authorize(id, request).await;
}

fn main() {}
