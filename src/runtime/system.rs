//! The vault's own threads: an actix system with its arbiters, apart from whatever the host runs.

use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;

use actix::{Arbiter, ArbiterHandle, System};

use crate::ids::AccountHandle;

/// The running threads. They end with [`stop`](Threads::stop), which must not be called from one of them.
#[derive(Debug)]
pub(crate) struct Threads {
    system: System,
    thread: JoinHandle<()>,
}

/// Where actors and housekeeping run; a clone goes wherever work is started.
#[derive(Clone, Debug)]
pub(crate) struct Arbiters(Vec<ArbiterHandle>);

impl Threads {
    /// Starts a system thread and `count` arbiters.
    ///
    /// # Errors
    /// What the operating system says when it refuses a thread.
    pub(crate) fn start(count: usize) -> io::Result<(Self, Arbiters)> {
        let (started, wait) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("anchorhold".into()).spawn(move || {
            let runner = System::new();
            let arbiters: Vec<Arbiter> = (0..count.max(1)).map(|_| Arbiter::new()).collect();
            // The receiver waits for exactly this message; if it is gone there is nobody to serve.
            let _ = started.send((System::current(), arbiters.iter().map(Arbiter::handle).collect::<Vec<_>>()));
            if let Err(error) = runner.run() {
                tracing::error!(%error, "the vault's actor system ended with an error");
            }
            for arbiter in arbiters {
                arbiter.stop();
                // An arbiter that panicked has nothing more to stop.
                let _ = arbiter.join();
            }
        })?;
        match wait.recv() {
            Ok((system, arbiters)) => Ok((Self { system, thread }, Arbiters(arbiters))),
            Err(_) => Err(io::Error::other("the vault's actor system did not start")),
        }
    }

    /// Stops all threads and waits for them.
    pub(crate) fn stop(self) {
        self.system.stop();
        if self.thread.join().is_err() {
            tracing::error!("the vault's system thread panicked");
        }
    }
}

impl Arbiters {
    /// The arbiter that an account always lives on.
    pub(crate) fn of(&self, handle: &AccountHandle) -> &ArbiterHandle {
        let bytes = handle.as_bytes();
        // Bytes other than those that choose the router's part and the directory's bucket.
        let spread = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        &self.0[spread as usize % self.0.len()]
    }

    /// Runs housekeeping on the first arbiter. False when the threads have ended.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        self.0[0].spawn(work)
    }
}
