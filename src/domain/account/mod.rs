//! A linked account: its rows, its state, and how a change becomes one commit.

pub(crate) mod birth;
pub(crate) mod change;
pub(crate) mod info;
pub(crate) mod keys;
pub(crate) mod records;
pub(crate) mod sealed;
pub(crate) mod state;
pub(crate) mod status;
