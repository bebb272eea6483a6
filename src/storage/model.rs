//! The model engine: a vault's bytes in memory, for tests of this crate and of hosts. It keeps what is live and what is durable
//! apart, can fail any chosen operation, and lets a test read, change and restore everything that a disk would hold.

mod disk;
mod engine;
#[cfg(test)]
mod tests;

pub use disk::{ModelDisk, ModelImage, ModelTree};
pub(crate) use engine::ModelPlace;
