//! Only a verified API key makes a backend.
use anchorhold::Backend;

fn build() -> Backend {
    Backend {}
}

fn main() {}
