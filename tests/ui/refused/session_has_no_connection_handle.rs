//! A session names connections; it gets no handle that could use or reveal one.
use anchorhold::{ConnectionId, Session};

async fn climb(session: &Session, id: &ConnectionId) {
    let _ = session.connection(id).await;
}

fn main() {}
