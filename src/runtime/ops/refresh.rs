//! Refreshing on the wheel's behalf and on the host's.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::domain::account::state::Damage;
use crate::domain::error::{Error, Item};
use crate::domain::grants::Permission;
use crate::domain::oauth::refresh::Trigger;
use crate::domain::provider::ProviderSettings;
use crate::ids::{ConnectionId, ProviderName};
use crate::runtime::account::Account;
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Needs};
use crate::runtime::ops::connections::read_connection;
use crate::runtime::refresh::{Source, ensure, phase, read_refresh};
use crate::runtime::wheel::LATER;

/// When the wheel asks again for a connection that it could do nothing for: disabled, or its provider has no settings.
const MUCH_LATER: Duration = Duration::from_secs(60 * 60);

/// When the wheel asks again for a connection whose provider was asked as often as it allows.
const SOON: Duration = Duration::from_secs(20);

/// Looks after every connection of the account that is due; answers when to come again.
pub(crate) struct RefreshDue;

impl Operation for RefreshDue {
    type Answer = Option<Timestamp>;
    const DOING: &'static str = "looking after due tokens";
    const NEEDS: Needs = Needs::vault_only();

    async fn run(self, account: &Rc<Account>, _: &Admitted<'_>) -> Result<Option<Timestamp>, Error> {
        let now = account.now();
        let due: Vec<_> =
            account.with_state(|state| state.dues.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect())?;
        let mut postponed = BTreeMap::new();
        for id in due {
            let again = match look_after(account, id).await {
                Ok(again) => again,
                Err(Error::Closed) => return Err(Error::Closed),
                // The account's other connections are looked after all the same, and their times stay known.
                Err(error) => {
                    tracing::warn!(account = %account.handle(), connection = %id, %error, "a connection's tokens could not be looked after");
                    Some(account.now().plus(LATER))
                }
            };
            postponed.extend(again.map(|again| (id, again)));
        }
        // What came due in the meantime is due still.
        account.with_state(|state| state.dues.iter().map(|(id, at)| *postponed.get(id).unwrap_or(at)).min())
    }
}

/// Answers when to come again for a connection that is still due.
async fn look_after(account: &Rc<Account>, id: ConnectionId) -> Result<Option<Timestamp>, Error> {
    let now = account.now();
    let record = match read_connection(account, id).await {
        Err(Error::NotFound { .. }) => return Ok(None),
        other => other?,
    };
    if record.disabled || account.with_state(|state| state.facts.disabled)? {
        return Ok(Some(now.plus(MUCH_LATER)));
    }
    let Some(settings) = settings_of(account, &record.provider).await? else {
        return Ok(Some(now.plus(MUCH_LATER)));
    };
    let Some(oauth) = settings.oauth_settings() else { return Ok(Some(now.plus(MUCH_LATER))) };
    let source = Source { connection: id, provider: &settings, settings: oauth };
    match ensure(account, &source, Trigger::Due).await {
        Ok(_) | Err(Error::ReauthRequired { .. } | Error::RefreshFailed { .. } | Error::Misconfigured { .. }) => {}
        Err(Error::NotConfigured { .. }) => return Ok(Some(now.plus(MUCH_LATER))),
        Err(Error::Overloaded) => return Ok(Some(now.plus(SOON))),
        Err(error) => return Err(error),
    }
    // The settings may say another time now than when the record was written.
    let turn = account.own_turn().await?;
    let Some(mut refresh) = read_refresh(account, id).await? else { return Ok(None) };
    let due = refresh.state.due_at(oauth.refresh_profile(), phase(account));
    if due != refresh.due {
        refresh.due = due;
        account.change(&turn, |draft| draft.put_refresh(id, &refresh)).await?;
    }
    let now = account.now();
    Ok(due.filter(|due| *due <= now).map(|_| now.plus(SOON)))
}

/// Asks the provider for new tokens now, whether they are due or not.
pub(crate) struct RefreshNow(pub(crate) ConnectionId);

impl Operation for RefreshNow {
    type Answer = ();
    const DOING: &'static str = "refreshing a connection";
    const NEEDS: Needs = Needs::enabled(&[Permission::Connections, Permission::Use]);

    async fn run(self, account: &Rc<Account>, _: &Admitted<'_>) -> Result<(), Error> {
        let record = read_connection(account, self.0).await?;
        if record.disabled {
            return Err(Error::ConnectionDisabled);
        }
        let found = settings_of(account, &record.provider).await?;
        let settings = found.ok_or(Error::NotFound { what: Item::Provider })?;
        let oauth = settings.oauth_settings().ok_or(Error::NotConfigured { what: "OAuth settings" })?;
        ensure(account, &Source { connection: self.0, provider: &settings, settings: oauth }, Trigger::Forced).await.map(drop)
    }
}

/// The settings of a connection's provider, if it has some.
pub(crate) async fn settings_of(account: &Account, name: &str) -> Result<Option<ProviderSettings>, Error> {
    let provider = ProviderName::new(name).map_err(|_| account.damaged(Damage("a connection's provider is none")))?;
    account.core.provider(account.owner().environment, &provider).await
}
