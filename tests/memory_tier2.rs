//! Tier 2: with the wiping allocator under the whole process nothing of any secret stays in memory, also none of the copies that the
//! host and its libraries made and freed. `memory/suite.rs` says how it is looked for.

mod common;
#[path = "memory/elsewhere.rs"]
mod elsewhere;
#[path = "memory/finder.rs"]
mod finder;
#[path = "common/format.rs"]
mod format;
#[path = "memory/keys.rs"]
mod keys;
#[path = "memory/process.rs"]
mod process;
#[path = "memory/provider.rs"]
mod provider;
#[path = "memory/scenarios.rs"]
mod scenarios;
#[path = "memory/stage.rs"]
mod stage;
#[path = "memory/suite.rs"]
mod suite;

/// Whether what the host's own code freed counts too.
const WIPING_ALLOCATOR: bool = true;

#[global_allocator]
static ALLOCATOR: anchorhold::ZeroizingAllocator = anchorhold::ZeroizingAllocator::new();
