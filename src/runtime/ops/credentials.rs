//! The two ways out for a credential: use toward an allowed host, and revealing. Plaintext goes to the caller in one heap box
//! that wipes itself.

use std::rc::Rc;

use crate::domain::account::records::RecordKey;
use crate::domain::account::state::Damage;
use crate::domain::audit::AuditAction;
use crate::domain::credential::Revealed;
use crate::domain::denial::DenialReason;
use crate::domain::error::{Error, Item};
use crate::domain::grants::Permission;
use crate::domain::inject::Approach;
use crate::domain::provider::ProviderSettings;
use crate::ids::{ConnectionId, ProviderName};
use crate::runtime::account::Account;
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Needs, refuse};
use crate::runtime::events::EventKind;
use crate::runtime::ops::connections::read_connection;

/// Opens a credential for the host's code.
pub(crate) struct Reveal(pub(crate) ConnectionId);

impl Operation for Reveal {
    type Answer = Box<Revealed>;
    const DOING: &'static str = "revealing a credential";
    const NEEDS: Needs = Needs::enabled(&[Permission::Reveal]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<Box<Revealed>, Error> {
        let revealed = open_secret(account, self.0).await?;
        caller.again(account).await?;
        account.note(caller.actor(), AuditAction::SecretRevealed, Some(self.0)).await?;
        account.touch(self.0);
        account.schedule_flush();
        account.tell(EventKind::ConnectionRevealed { connection: self.0 })?;
        Ok(revealed)
    }
}

/// Opens a credential to be put into a request, if the request goes where the provider's credentials may go.
pub(crate) struct Use {
    pub(crate) connection: ConnectionId,
    /// Where the request goes; the request itself stays with its caller.
    pub(crate) approach: Box<Approach>,
}

/// A credential and how it goes into a request.
pub(crate) struct Usable {
    pub(crate) settings: ProviderSettings,
    pub(crate) revealed: Box<Revealed>,
}

impl Operation for Use {
    type Answer = Box<Usable>;
    const DOING: &'static str = "using a credential";
    const NEEDS: Needs = Needs::enabled(&[Permission::Use]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<Box<Usable>, Error> {
        let record = read_connection(account, self.connection).await?;
        let provider =
            ProviderName::new(&record.provider).map_err(|_| account.damaged(Damage("a connection's provider is none")))?;
        let environment = account.owner().environment;
        let settings = account.core.provider(environment, &provider).await?.ok_or(Error::NotFound { what: Item::Provider })?;
        // Decided before the secret is opened.
        let host = match self.approach.check(&settings) {
            Ok(target) => target.to_string(),
            Err(error) => {
                refuse(account, caller.actor(), Self::DOING, DenialReason::TargetNotAllowed).await?;
                return Err(error.into());
            }
        };
        let revealed = open_secret(account, self.connection).await?;
        caller.again(account).await?;
        account.note(caller.actor(), AuditAction::CredentialUsed { host }, Some(self.connection)).await?;
        account.touch(self.connection);
        account.schedule_flush();
        account.tell(EventKind::ConnectionUsed { connection: self.connection })?;
        Ok(Box::new(Usable { settings, revealed }))
    }
}

async fn open_secret(account: &Account, id: ConnectionId) -> Result<Box<Revealed>, Error> {
    let plain = account.read(RecordKey::Secret(id)).await?.ok_or(Error::NotFound { what: Item::Connection })?;
    Revealed::parse(plain).map(Box::new).ok_or_else(|| account.damaged(Damage("a credential can't be read")))
}
