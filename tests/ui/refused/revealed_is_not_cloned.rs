//! One buffer, wiped once.
use anchorhold::{Connection, Revealed};

async fn keep(connection: &Connection) {
    let _kept: Revealed = connection.reveal(|seen| Clone::clone(seen)).await.unwrap();
}

fn main() {}
