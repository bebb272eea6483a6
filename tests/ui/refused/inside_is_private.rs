//! Keys, actors, storage and the rules between them can't be reached from outside.
use anchorhold::{crypto, domain, runtime, storage};

fn main() {}
