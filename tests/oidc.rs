//! OAuth over real sockets and in real time against `oidc-provider`, a certified `OpenID` server on Node. `scripts/oidc.sh` installs
//! the server and runs this; `cargo test` alone needs no Node.

#[path = "oidc/browser.rs"]
mod browser;
mod common;
#[path = "oidc/connecting.rs"]
mod connecting;
#[path = "oidc/refreshing.rs"]
mod refreshing;
#[path = "oidc/server.rs"]
mod server;
#[path = "oidc/world.rs"]
mod world;
