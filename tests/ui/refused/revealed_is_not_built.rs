//! What was not opened from a seal is no credential.
use anchorhold::Revealed;

fn build() -> Revealed {
    Revealed {}
}

fn main() {}
