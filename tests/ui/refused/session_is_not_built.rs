//! Only a verified token makes a session.
use anchorhold::Session;

fn build() -> Session {
    Session {}
}

fn main() {}
