//! Actors, one per linked account, and what they share. The only place that names actix.

pub(crate) mod account;
pub(crate) mod actor;
pub(crate) mod boot;
pub(crate) mod caller;
pub(crate) mod core;
pub(crate) mod directory;
mod environment;
pub(crate) mod events;
mod failure;
mod flights;
pub(crate) mod gate;
pub(crate) mod head;
pub(crate) mod journal;
pub(crate) mod key_table;
pub(crate) mod lifecycle;
mod limits;
pub(crate) mod listing;
mod notes;
pub(crate) mod ops;
mod pending;
pub(crate) mod refresh;
mod rotation;
pub(crate) mod router;
mod sessions;
pub(crate) mod system;
pub(crate) mod view;
mod wheel;
