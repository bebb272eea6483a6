//! OAuth on the wire: the token endpoint's client, the default HTTP client, and what providers publish about themselves.

mod body;
pub(crate) mod catalog;
mod catalog_file;
#[cfg(test)]
mod catalog_tests;
pub(crate) mod discovery;
#[cfg(test)]
mod discovery_tests;
pub(crate) mod http;
pub(crate) mod limiter;
#[cfg(feature = "reqwest")]
pub(crate) mod reqwest_client;
pub(crate) mod token_endpoint;
