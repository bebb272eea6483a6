//! A secret in a `format!` is a secret in a log.
use anchorhold::{ApiKey, Credential, Revealed, RootKey, SessionToken};

fn printed<T: std::fmt::Display + ?Sized>() {}

fn main() {
    printed::<ApiKey>();
    printed::<SessionToken>();
    printed::<RootKey>();
    printed::<Credential>();
    printed::<Revealed>();
}
