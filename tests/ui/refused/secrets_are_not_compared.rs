//! `==` on secrets takes as long as they agree.
use anchorhold::{ApiKey, RootKey, SessionToken};

fn compared<T: PartialEq>() {}

fn main() {
    compared::<ApiKey>();
    compared::<SessionToken>();
    compared::<RootKey>();
}
