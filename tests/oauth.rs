//! OAuth through the public API, against a provider in memory: connecting, refreshing, using, disconnecting, and everything that can
//! go wrong between.

#[path = "oauth/callbacks.rs"]
mod callbacks;
mod common;
#[path = "oauth/connecting.rs"]
mod connecting;
#[path = "oauth/crashes.rs"]
mod crashes;
#[path = "oauth/provider.rs"]
mod provider;
#[path = "oauth/refreshing.rs"]
mod refreshing;
#[path = "oauth/using.rs"]
mod using;
#[path = "oauth/wheel.rs"]
mod wheel;
#[path = "oauth/world.rs"]
mod world;
