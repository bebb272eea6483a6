//! OAuth without I/O: what a provider's settings say, what a token endpoint's answer means, and when to refresh.

pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod failure;
pub(crate) mod invalid;
pub(crate) mod profile;
pub(crate) mod refresh;
pub(crate) mod settings;
#[cfg(test)]
mod settings_tests;
pub(crate) mod stored;
