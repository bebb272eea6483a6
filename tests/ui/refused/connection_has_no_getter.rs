//! A credential is used, or looked at inside a closure.
use anchorhold::Connection;

async fn get(connection: &Connection) {
    let _ = connection.credential().await;
    let _ = connection.secret().await;
}

fn main() {}
