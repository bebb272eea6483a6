//! The two ways out for a credential: use toward an allowed host, and revealing. Plaintext goes to the caller in one heap box
//! that wipes itself.

use std::rc::Rc;

use crate::domain::Plaintext;
use crate::domain::account::records::RecordKey;
use crate::domain::account::state::Damage;
use crate::domain::audit::AuditAction;
use crate::domain::credential::Revealed;
use crate::domain::denial::DenialReason;
use crate::domain::error::{Error, Item};
use crate::domain::grants::Permission;
use crate::domain::inject::Approach;
use crate::domain::oauth::refresh::Trigger;
use crate::domain::provider::ProviderSettings;
use crate::ids::ConnectionId;
use crate::runtime::account::Account;
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Needs, refuse};
use crate::runtime::events::EventKind;
use crate::runtime::ops::connections::read_connection;
use crate::runtime::ops::refresh::settings_of;
use crate::runtime::refresh::{Source, ensure};

/// Opens a credential for the host's code.
pub(crate) struct Reveal(pub(crate) ConnectionId);

impl Operation for Reveal {
    type Answer = Box<Revealed>;
    const DOING: &'static str = "revealing a credential";
    const NEEDS: Needs = Needs::enabled(&[Permission::Reveal]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<Box<Revealed>, Error> {
        let sequence = account.with_state(|state| state.facts.sequence)?;
        if read_connection(account, self.0).await?.disabled {
            return Err(Error::ConnectionDisabled);
        }
        let plain = account.read_secret(self.0, sequence).await?.ok_or(Error::NotFound { what: Item::Connection })?;
        let revealed = parse(account, plain)?;
        caller.again(account).await?;
        account.note(caller.actor(), AuditAction::SecretRevealed, Some(self.0)).await?;
        account.tell(EventKind::ConnectionRevealed { connection: self.0 })?;
        Ok(revealed)
    }
}

/// Opens a credential to be put into a request, if the request goes where the provider's credentials may go.
pub(crate) struct Use {
    pub(crate) connection: ConnectionId,
    /// Where the request goes; the request itself stays with its caller.
    pub(crate) approach: Box<Approach>,
    /// The generation of the tokens that the provider's API refused just now.
    pub(crate) refused: Option<u64>,
}

/// A credential and how it goes into a request.
pub(crate) struct Usable {
    pub(crate) settings: ProviderSettings,
    pub(crate) revealed: Box<Revealed>,
    /// Of tokens that the vault refreshes: counts their sets.
    pub(crate) generation: Option<u64>,
}

impl Operation for Use {
    type Answer = Box<Usable>;
    const DOING: &'static str = "using a credential";
    const NEEDS: Needs = Needs::enabled(&[Permission::Use]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<Box<Usable>, Error> {
        let record = read_connection(account, self.connection).await?;
        if record.disabled {
            return Err(Error::ConnectionDisabled);
        }
        let found = settings_of(account, &record.provider).await?;
        let settings = found.ok_or(Error::NotFound { what: Item::Provider })?;
        // Decided before the secret is opened.
        let host = match self.approach.check(&settings) {
            Ok(target) => target.to_string(),
            Err(error) => {
                refuse(account, caller.actor(), Self::DOING, DenialReason::TargetNotAllowed).await?;
                return Err(error.into());
            }
        };
        let generation = match settings.oauth_settings() {
            Some(oauth) => {
                let source = Source { connection: self.connection, provider: &settings, settings: oauth };
                let trigger = self.refused.map_or(Trigger::Use, |generation| Trigger::Rejected { generation });
                ensure(account, &source, trigger).await?
            }
            // Without them the host looks after the tokens itself.
            None => None,
        };
        let revealed = open_secret(account, self.connection).await?;
        caller.again(account).await?;
        account.note(caller.actor(), AuditAction::CredentialUsed { host }, Some(self.connection)).await?;
        account.tell(EventKind::ConnectionUsed { connection: self.connection })?;
        Ok(Box::new(Usable { settings, revealed, generation }))
    }
}

pub(crate) async fn open_secret(account: &Account, id: ConnectionId) -> Result<Box<Revealed>, Error> {
    let plain = account.read(RecordKey::Secret(id)).await?.ok_or(Error::NotFound { what: Item::Connection })?;
    parse(account, plain)
}

fn parse(account: &Account, plain: Plaintext) -> Result<Box<Revealed>, Error> {
    Revealed::parse(plain).map(Box::new).ok_or_else(|| account.damaged(Damage("a credential can't be read")))
}
