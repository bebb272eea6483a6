//! No way from a browser's session to the host's authority.
use anchorhold::Session;

fn climb(session: &Session) {
    let _ = session.backend();
}

fn main() {}
