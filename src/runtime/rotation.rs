//! Rotating the root key: the header learns the new key, every account's keys are wrapped anew, the header forgets the old one.
//! A crash in between leaves a header with both keys; the same call completes it.

use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;

use crate::domain::directory::ACCOUNT_BUCKETS;
use crate::domain::error::{Error, Item};
use crate::domain::{HeaderChange, KeyProvider, Keyring, RotationError};
use crate::runtime::core::Core;
use crate::runtime::ops::keys::Rewrap;

/// How soon to look again at what others have to finish first.
const PAUSE: Duration = Duration::from_millis(10);

impl Core {
    /// Rotates to the key of `provider`, or completes the rotation to it that is under way.
    pub(crate) async fn rotate_root_key(self: &Arc<Self>, provider: Box<dyn KeyProvider>) -> Result<(), Error> {
        // One after the other: the second of two callers begins when the first one's rotation is finished.
        let _alone = self.rotation.lock().await;
        if let Some(change) = self.prepare_rotation(provider).await? {
            self.put_header(change).await?;
        }
        self.creations_begun_so_far().await;
        self.rewrap_all().await?;
        let change = self.keyring.finish_rotation().map_err(fault)?;
        self.put_header(change).await
    }

    /// Asks the provider on a thread of its own, since it may take its time. `None` when the rotation has begun already.
    async fn prepare_rotation(&self, provider: Box<dyn KeyProvider>) -> Result<Option<HeaderChange>, Error> {
        let keyring = Arc::clone(&self.keyring);
        let (reply, answer) = oneshot::channel();
        let asked = std::thread::Builder::new().name("anchorhold-key".into()).spawn(move || {
            // Whoever waits for it is gone only with the whole vault.
            let _ = reply.send(prepare(&keyring, provider.as_ref()));
        });
        asked.map_err(|source| Error::Io { doing: "starting a thread", source: Arc::new(source) })?;
        answer.await.unwrap_or(Err(Error::Internal { doing: "asking for the new root key" }))
    }

    /// Waits for accounts that are being made: their keys may be wrapped under the old root key, and they are found here only
    /// when the directory knows them. What is begun from now on uses the new one.
    async fn creations_begun_so_far(&self) {
        let begun = self.creating().clone();
        while !begun.is_disjoint(&self.creating()) {
            actix::clock::sleep(PAUSE).await;
        }
    }

    async fn rewrap_all(self: &Arc<Self>) -> Result<(), Error> {
        for bucket in 0..ACCOUNT_BUCKETS {
            for (handle, _) in self.directory.accounts(bucket).await? {
                match self.ask_patiently(handle).await {
                    // Deleted since its row was read.
                    Ok(()) | Err(Error::NotFound { what: Item::LinkedAccount }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn ask_patiently(self: &Arc<Self>, handle: crate::ids::AccountHandle) -> Result<(), Error> {
        loop {
            match self.ask_aside(handle, Rewrap).await {
                Err(Error::Overloaded) => actix::clock::sleep(PAUSE).await,
                other => return other,
            }
        }
    }

    async fn put_header(&self, change: HeaderChange) -> Result<(), Error> {
        self.storage.write_header(change.header().to_vec()).await?;
        self.keyring.apply(change).map_err(fault)
    }
}

fn prepare(keyring: &Keyring, provider: &dyn KeyProvider) -> Result<Option<HeaderChange>, Error> {
    if keyring.is_rotating() {
        // Completing the rotation to another key would let the host believe that this one is in force.
        return if keyring.is_current(provider).map_err(Arc::new)? { Ok(None) } else { Err(Error::RotationUnfinished) };
    }
    let parameters = provider.parameters().map_err(Arc::new)?;
    let root = provider.root_key(&parameters).map_err(Arc::new)?;
    keyring.begin_rotation(&root, &parameters).map(Some).map_err(fault)
}

fn fault(error: RotationError) -> Error {
    tracing::error!(%error, "rotating the root key");
    Error::Internal { doing: "rotating the root key" }
}
