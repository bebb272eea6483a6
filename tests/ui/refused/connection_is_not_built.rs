//! Only an account makes a handle of one of its connections.
use anchorhold::Connection;

fn build() -> Connection {
    Connection {}
}

fn main() {}
