//! A secret that serialises ends up in a response or a queue.
use anchorhold::{ApiKey, Credential, Revealed, RootKey, SessionToken};

fn serialised<T: serde::Serialize + ?Sized>() {}

fn main() {
    serialised::<ApiKey>();
    serialised::<SessionToken>();
    serialised::<RootKey>();
    serialised::<Credential>();
    serialised::<Revealed>();
}
