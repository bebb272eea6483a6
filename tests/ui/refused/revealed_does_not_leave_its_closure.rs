//! The buffer is wiped when the closure returns, so nothing may borrow from it longer.
use anchorhold::Connection;

async fn keep(connection: &Connection) {
    let _kept: Option<&str> = connection.reveal(|seen| seen.api_key()).await.unwrap();
}

fn main() {}
