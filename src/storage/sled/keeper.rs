//! The vault's own thread: writes the anchors when they are due, replaces the header, and closes the vault.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::{AnchorHead, Location, StorageError};
use super::core::{Core, io_error, locked};
use super::database::Failure;
use super::header;
use super::lane::{Job, Lane};
use super::place::Lock;
use super::watchdog::{Caller, Ticket};

/// What the thread is to do next.
#[derive(Default)]
pub(super) struct Keeper {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// When the anchors are to be written.
    due: Option<Instant>,
    requests: Vec<Request>,
    closing: bool,
    ended: Option<Result<(), StorageError>>,
}

enum Request {
    SyncAnchors(Ticket<AnchorHead>),
    WriteHeader(Vec<u8>, Ticket<()>),
}

enum Task {
    Serve(Vec<Request>, bool),
    Close,
}

impl Keeper {
    /// Starts the thread. It holds the lock of the vault's place, if it is given it, until everything is closed.
    pub(super) fn start(core: Arc<Core>, directory: Arc<Lane>, lock: Option<Lock>) -> std::io::Result<()> {
        let work = move || {
            while let Task::Serve(requests, due) = core.keeper.next() {
                serve(&core, requests, due);
            }
            let result = shut_down(&core, directory, lock);
            core.keeper.end(&result);
            core.watchdog.answer_closers(&result);
        };
        std::thread::Builder::new().name("anchorhold-keeper".into()).spawn(work).map(drop)
    }

    /// Something durable is not in the anchors yet.
    pub(super) fn note_behind(&self, interval: Duration) {
        let mut state = locked(&self.state);
        if state.due.is_none() {
            state.due = Some(Instant::now() + interval);
            self.changed.notify_all();
        }
    }

    pub(super) fn sync_anchors(&self, ticket: Ticket<AnchorHead>) {
        self.request(Request::SyncAnchors(ticket));
    }

    pub(super) fn write_header(&self, header: Vec<u8>, ticket: Ticket<()>) {
        self.request(Request::WriteHeader(header, ticket));
    }

    /// Asks for closing; what came of it, if that is over.
    pub(super) fn close(&self) -> Option<Result<(), StorageError>> {
        let mut state = locked(&self.state);
        state.closing = true;
        self.changed.notify_all();
        state.ended.clone()
    }

    /// Waits until the vault is closed, for as long as `patience` at most.
    pub(super) fn wait_until_ended(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = locked(&self.state);
        while state.ended.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn request(&self, request: Request) {
        let mut state = locked(&self.state);
        // Once it closes, the thread looks at no request any more; dropping this one answers it.
        if !state.closing {
            state.requests.push(request);
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Task {
        let mut state = locked(&self.state);
        loop {
            let now = Instant::now();
            let due = state.due.is_some_and(|due| due <= now);
            if due || !state.requests.is_empty() {
                if due {
                    state.due = None;
                }
                return Task::Serve(std::mem::take(&mut state.requests), due);
            }
            if state.closing {
                return Task::Close;
            }
            state = match state.due {
                Some(due) => self.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn end(&self, result: &Result<(), StorageError>) {
        let mut state = locked(&self.state);
        state.ended = Some(result.clone());
        // Dropping the tickets answers them.
        state.requests.clear();
        self.changed.notify_all();
    }
}

fn serve(core: &Core, requests: Vec<Request>, due: bool) {
    if core.watchdog.poisoned().is_some() {
        // The tickets have their answer, and what is durable is unknown.
        return;
    }
    if due {
        // A failure has poisoned the vault, which is all that there is to do about it.
        let _ = core.anchors.write_all(core);
    }
    for request in requests {
        match request {
            Request::SyncAnchors(ticket) => ticket.answer(core.anchors.write_all(core)),
            Request::WriteHeader(content, ticket) => {
                let written = core.watchdog.call(Caller::Keeper, "writing the header", || header::write(&core.root, &content));
                ticket.answer(written.map_err(|error| core.poison(Location::Header, "writing", &Failure::Io(error))));
            }
        }
    }
}

fn shut_down(core: &Arc<Core>, directory: Arc<Lane>, lock: Option<Lock>) -> Result<(), StorageError> {
    let mut result = core.watchdog.close();
    if result.is_ok() {
        result = core.anchors.write_all(core).map(drop);
    }
    core.anchors.clear();
    let quiet = !core.watchdog.stalled() || core.watchdog.wait_until_quiet();
    let closed = quiet && {
        let shards: Vec<_> = locked(&core.open).values().cloned().collect();
        shards.into_iter().chain([directory]).all(|lane| close_lane(core, lane))
    };
    if closed {
        core.leave_pool();
        if result.is_ok() && core.watchdog.poisoned().is_none() {
            result = core.log.close().map_err(|error| io_error("remove the commit log", error));
        }
        core.log.abandon();
    } else {
        // A call hangs, perhaps for ever, and may yet write: the databases and the lock stay as they are until the process ends,
        // so that no other vault opens the same files. Dropping a database here would hang as well.
        #[expect(clippy::mem_forget, reason = "what a hanging call may still use must not be dropped, see above")]
        {
            std::mem::forget(lock);
            std::mem::forget(core.clone());
        }
        core.leave_pool();
    }
    core.watchdog.stop();
    if let (Ok(()), Some(reason)) = (&result, core.watchdog.poisoned()) {
        result = Err(StorageError::Poisoned(reason));
    }
    result
}

/// Closes a database on a committer; whether that came to an end.
fn close_lane(core: &Core, lane: Arc<Lane>) -> bool {
    let (done, wait) = mpsc::channel();
    lane.submit_unbounded(Job::Run(Box::new(move |lane| {
        lane.close_now();
        // The keeper may have given up waiting.
        let _ = done.send(());
    })));
    loop {
        match wait.recv_timeout(Duration::from_millis(50)) {
            Ok(()) => return true,
            Err(RecvTimeoutError::Timeout) if core.watchdog.stalled() => return false,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}
