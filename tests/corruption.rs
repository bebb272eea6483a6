//! Damage on disk, by accident and on purpose: flipped bytes, cut files, older copies, sealed rows in other places; another process
//! that opens the vault; hundreds of callers who write at once. What was acknowledged is returned whole or reported damaged or
//! rolled back: never silently missing, never older, never a panic, never a hang.

mod common;
// First by name, so that its minute begins with the first test and not after the last.
#[path = "corruption/crowds.rs"]
mod crowds;
#[path = "corruption/damage.rs"]
mod damage;
#[path = "corruption/every_byte.rs"]
mod every_byte;
#[path = "corruption/fixture.rs"]
mod fixture;
#[path = "corruption/named.rs"]
mod named;
#[path = "corruption/older.rs"]
mod older;
#[path = "corruption/rebuilt.rs"]
mod rebuilt;
#[path = "corruption/second_process.rs"]
mod second_process;
#[path = "corruption/swapped.rs"]
mod swapped;
