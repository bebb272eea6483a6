//! What happens in a vault, as it happens, for the host to listen to. A slow reader loses the oldest events and is told how
//! many; it never makes anybody wait.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use async_broadcast::{InactiveReceiver, Receiver, Sender, TryRecvError};
use futures_core::Stream;

use crate::clock::Timestamp;
use crate::domain::oauth::refresh::{ReauthReason, RefreshFailure};
use crate::ids::{ApiKeyId, ConnectionId, Environment, LinkedAccountId, ProviderName, SessionTokenId};

/// How many events a reader may be behind before it loses the oldest.
const CAPACITY: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Something about one linked account.
    Account {
        /// The environment of the account.
        environment: Environment,
        /// The host's own id of the account. It is not shown by `Debug`.
        linked_account_id: LinkedAccountId,
        /// What happened.
        kind: EventKind,
    },
    /// Something about an API key.
    ApiKey {
        /// The environment of the key.
        environment: Environment,
        /// The key.
        id: ApiKeyId,
        /// What happened.
        kind: ApiKeyEventKind,
    },
    /// The reader was slow: this many events are lost to it.
    Missed(u64),
}

/// What happened to a linked account.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The account was created.
    AccountCreated,
    /// The account's metadata was changed.
    AccountUpdated,
    /// The account was disabled.
    AccountDisabled,
    /// The account was enabled again.
    AccountEnabled,
    /// The account was deleted, its bytes are gone.
    AccountDeleted,
    /// A connection was added.
    ConnectionAdded {
        /// The connection.
        connection: ConnectionId,
        /// Its provider.
        provider: ProviderName,
    },
    /// A connection's credential was replaced, or its label changed.
    ConnectionUpdated {
        /// The connection.
        connection: ConnectionId,
    },
    /// A connection's credential was used for a request.
    ConnectionUsed {
        /// The connection.
        connection: ConnectionId,
    },
    /// A connection's credential was shown to the host's code.
    ConnectionRevealed {
        /// The connection.
        connection: ConnectionId,
    },
    /// A connection was reported as refused by its provider.
    ConnectionFailed {
        /// The connection.
        connection: ConnectionId,
    },
    /// The provider gave new tokens.
    ConnectionRefreshed {
        /// The connection.
        connection: ConnectionId,
    },
    /// The provider gave no new tokens; they are asked for again. Told when that begins or the reason changes.
    ConnectionRetrying {
        /// The connection.
        connection: ConnectionId,
        /// When they are asked for again.
        until: Timestamp,
        /// Why there are none.
        reason: RefreshFailure,
    },
    /// The provider refuses the host's client or settings.
    ConnectionMisconfigured {
        /// The connection.
        connection: ConnectionId,
        /// What the provider said.
        reason: RefreshFailure,
    },
    /// The customer has to connect anew.
    ReauthRequired {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        reason: ReauthReason,
    },
    /// A connection was disabled.
    ConnectionDisabled {
        /// The connection.
        connection: ConnectionId,
    },
    /// A connection was enabled again.
    ConnectionEnabled {
        /// The connection.
        connection: ConnectionId,
    },
    /// A connection was removed.
    ConnectionRemoved {
        /// The connection.
        connection: ConnectionId,
    },
    /// A session token was minted.
    SessionMinted {
        /// The token's id.
        session: SessionTokenId,
    },
    /// A session token was revoked.
    SessionRevoked {
        /// The token's id.
        session: SessionTokenId,
    },
    /// A session token for single use was used.
    SessionUsedUp {
        /// The token's id.
        session: SessionTokenId,
    },
    /// All session tokens of the account were revoked.
    AllSessionsRevoked,
    /// Somebody was refused; the account's audit says who and why.
    Denied,
}

/// What happened to an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ApiKeyEventKind {
    /// The key was created.
    Created,
    /// The key was rotated: another one takes over.
    Rotated,
    /// The key was revoked.
    Revoked,
}

/// The stream of a vault's events from the moment it was asked for. It ends when the vault is closed.
///
/// Any number of streams may be open. Each holds up to 1,024 events; a reader that falls behind finds
/// [`Event::Missed`] in the place of those that it lost.
///
/// # Examples
/// ```
/// # use anchorhold::{Environment, Event, EventKind, LinkedAccountId, RawKey, Vault};
/// use futures_lite::StreamExt;
/// # futures_lite::future::block_on(async {
/// # let folder = tempfile::tempdir()?;
/// # let vault = Vault::builder(folder.path().join("vault")).root_key(RawKey::new([7; 32])).open().await?;
/// # let backend = vault.backend(&vault.bootstrap_api_key(Environment::Test).await?).await?;
/// let mut events = vault.events();
/// backend.create_account(&LinkedAccountId::new("acme-42")?).await?;
/// assert!(matches!(events.next().await, Some(Event::Account { kind: EventKind::AccountCreated, .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct Events {
    receiver: Pin<Box<Receiver<Event>>>,
    readers: Arc<AtomicUsize>,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Events {
    /// The next event if one is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        match self.receiver.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Overflowed(missed)) => Some(Event::Missed(missed)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.receiver.as_mut().poll_recv(context).map(|received| match received? {
            Ok(event) => Some(event),
            Err(async_broadcast::RecvError::Overflowed(missed)) => Some(Event::Missed(missed)),
            Err(async_broadcast::RecvError::Closed) => None,
        })
    }
}

/// The vault's side of the stream.
#[derive(Debug)]
pub(crate) struct EventSender {
    sender: Sender<Event>,
    // Keeps the channel open while nobody listens.
    idle: InactiveReceiver<Event>,
    /// How many streams there are. The channel's own count stands behind its lock, at which all that mint would meet.
    readers: Arc<AtomicUsize>,
}

impl EventSender {
    pub(crate) fn new() -> Self {
        let (mut sender, receiver) = async_broadcast::broadcast(CAPACITY);
        sender.set_overflow(true);
        sender.set_await_active(false);
        Self { sender, idle: receiver.deactivate(), readers: Arc::default() }
    }

    pub(crate) fn subscribe(&self) -> Events {
        let receiver = Box::pin(self.idle.activate_cloned());
        self.readers.fetch_add(1, Ordering::Relaxed);
        Events { receiver, readers: Arc::clone(&self.readers) }
    }

    /// Whether anybody listens.
    pub(crate) fn has_readers(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Tells of an account. Costs nothing while nobody listens.
    pub(crate) fn send(&self, environment: Environment, id: &str, kind: EventKind) {
        if !self.has_readers() {
            return;
        }
        // The id was checked when the account was created.
        if let Ok(linked_account_id) = LinkedAccountId::new(id) {
            self.broadcast(Event::Account { environment, linked_account_id, kind });
        }
    }

    /// Tells of an API key.
    pub(crate) fn send_key(&self, environment: Environment, id: ApiKeyId, kind: ApiKeyEventKind) {
        if self.has_readers() {
            self.broadcast(Event::ApiKey { environment, id, kind });
        }
    }

    /// Ends all streams.
    pub(crate) fn close(&self) {
        self.sender.close();
    }

    fn broadcast(&self, event: Event) {
        // With overflow on, sending fails only when the channel is closed or the last reader just left.
        let _ = self.sender.try_broadcast(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::StreamExt as _;

    #[test]
    fn a_slow_reader_is_told_what_it_lost_and_blocks_nobody() {
        let sender = EventSender::new();
        sender.send(Environment::Test, "early", EventKind::AccountCreated);
        let mut events = sender.subscribe();
        for _ in 0..CAPACITY + 3 {
            sender.send(Environment::Test, "a", EventKind::Denied);
        }
        assert_eq!(events.try_next(), Some(Event::Missed(3)));
        sender.close();
        let rest = futures_lite::future::block_on(events.collect::<Vec<_>>());
        assert_eq!(rest.len(), CAPACITY);
    }
}
