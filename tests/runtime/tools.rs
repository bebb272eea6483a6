//! What these tests share: waiting with an end, and vaults on a disk in memory.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anchorhold::testing::{ModelDisk, ModelImage};
use anchorhold::{AuditEntry, VaultBuilder};

use crate::common::builder;

/// Waits until something has come about, for twenty seconds at most.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        smol::Timer::after(Duration::from_millis(10)).await;
    }
}

/// Runs a test on a thread of its own, so that a hang is a failure and hangs nobody.
pub fn within(limit: Duration, test: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        done.send(()).unwrap();
    });
    match wait.recv_timeout(limit) {
        Ok(()) => {}
        Err(RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().unwrap_err()),
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
    }
}

/// A vault on a disk in memory.
pub fn on_disk(disk: &ModelDisk) -> VaultBuilder {
    builder(Path::new("unused")).model_disk(disk.clone())
}

/// Another disk with what an image holds.
pub fn restored(image: &ModelImage) -> ModelDisk {
    let disk = ModelDisk::new();
    disk.restore(image);
    disk
}

/// The name of an entry's action.
pub fn action(entry: &AuditEntry) -> String {
    let text = format!("{:?}", entry.action);
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}
