//! A session does not extend itself.
use anchorhold::{Session, SessionOptions};

async fn extend(session: &Session) {
    let _ = session.mint_session_token(SessionOptions::new()).await;
}

fn main() {}
