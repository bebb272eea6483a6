//! What a session lists is facts, not a handle.
use anchorhold::ConnectionInfo;

async fn reveal(info: &ConnectionInfo) {
    let _ = info.reveal(|seen| seen.api_key().map(str::to_owned)).await;
}

fn main() {}
