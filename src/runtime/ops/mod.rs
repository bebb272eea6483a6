//! What can be asked of an account's actor, by theme.

pub(crate) mod audit;
pub(crate) mod connect;
pub(crate) mod connections;
pub(crate) mod credentials;
pub(crate) mod info;
pub(crate) mod keys;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod panic;
pub(crate) mod refresh;
pub(crate) mod sessions;
