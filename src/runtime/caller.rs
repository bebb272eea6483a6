//! Who asks, checked where it counts: on the account's arbiter, when the request's turn comes, and once more before its answer
//! goes out. A handle is no snapshot of authority.

use std::rc::Rc;
use std::sync::Arc;

use crate::domain::audit::{AuditAction, AuditActor};
use crate::domain::claims::SessionClaims;
use crate::domain::denial::DenialReason;
use crate::domain::error::Error;
use crate::domain::grants::{Grant, Permission};
use crate::domain::session_token;
use crate::ids::Environment;
use crate::runtime::account::{Account, GONE};
use crate::runtime::events::EventKind;
use crate::runtime::key_table::KeyEntry;
use crate::runtime::sessions::facts_for_session;

/// The authority behind a request.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// The host's backend.
    ApiKey(Arc<KeyEntry>),
    /// One browser session of this account.
    Session(Arc<SessionClaims>),
    /// The vault itself.
    Vault,
}

/// What an operation asks of its caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// Permissions of which an API key must carry one; none for what no API key may do.
    pub(crate) permissions: &'static [Permission],
    /// What a session's token must grant.
    pub(crate) session: SessionNeed,
    /// Whether the account must be enabled.
    pub(crate) enabled: bool,
}

/// What an operation asks of a session's token.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SessionNeed {
    /// No session may do this.
    Never,
    /// Every genuine token will do.
    Genuine,
    /// The token must grant it.
    Grant(Grant),
}

impl Needs {
    /// A backend's operation that works on disabled accounts too.
    pub(crate) const fn backend(permissions: &'static [Permission]) -> Self {
        Self { permissions, session: SessionNeed::Never, enabled: false }
    }

    /// A backend's operation that a disabled account refuses.
    pub(crate) const fn enabled(permissions: &'static [Permission]) -> Self {
        Self { permissions, session: SessionNeed::Never, enabled: true }
    }

    /// The vault's own work, which no handle leads to.
    pub(crate) const fn vault_only() -> Self {
        Self { permissions: &[], session: SessionNeed::Never, enabled: false }
    }

    /// What every genuine session may do, and nobody else.
    pub(crate) const fn any_session() -> Self {
        Self { permissions: &[], session: SessionNeed::Genuine, enabled: false }
    }

    /// What only sessions may do, with a grant.
    pub(crate) const fn any_session_with(grant: Grant) -> Self {
        Self { permissions: &[], session: SessionNeed::Grant(grant), enabled: true }
    }

    /// One that sessions may do as well, with a grant.
    pub(crate) const fn or_session(self, grant: Grant) -> Self {
        Self { session: SessionNeed::Grant(grant), ..self }
    }
}

impl Caller {
    /// The caller's name in the audit.
    pub(crate) fn actor(&self) -> AuditActor {
        match self {
            Caller::ApiKey(key) => AuditActor::ApiKey(key.id()),
            Caller::Session(claims) => AuditActor::Session { id: claims.id, subject: claims.subject.clone() },
            Caller::Vault => AuditActor::Vault,
        }
    }

    /// Lets the caller do what `needs` stands for, or notes the refusal in the account's audit.
    pub(crate) async fn admit(&self, account: &Rc<Account>, needs: Needs, doing: &'static str) -> Result<Admitted<'_>, Error> {
        account.ready().await?;
        let admitted = Admitted { caller: self, needs, doing };
        admitted.again(account).await?;
        Ok(admitted)
    }

    /// Whether a listing may name an account to this caller.
    pub(crate) fn may_know(&self, environment: Environment, locator: &[u8; 32]) -> bool {
        match self {
            Caller::ApiKey(key) => key.check_account(environment, locator).is_ok(),
            Caller::Session(_) => false,
            Caller::Vault => true,
        }
    }

    fn check(&self, account: &Account, needs: Needs) -> Result<Result<(), Refusal>, Error> {
        let disabled = account.with_state(|state| state.facts.disabled)?;
        Ok(match self {
            Caller::Vault => Ok(()),
            Caller::ApiKey(key) => check_key(key, account, needs, disabled),
            Caller::Session(claims) => {
                let facts =
                    account.with_state(|state| facts_for_session(state.facts.epoch, disabled, state.spent(&claims.id)))?;
                match (session_token::check(claims, &facts, account.now()), needs.session) {
                    (Err(reason), _) => Err((Error::InvalidToken, reason)),
                    (Ok(()), SessionNeed::Genuine) => Ok(()),
                    (Ok(()), SessionNeed::Grant(grant)) if claims.grants.contains(grant) => Ok(()),
                    (Ok(()), SessionNeed::Grant(grant)) => Err((Error::NotGranted { needed: grant }, DenialReason::NotGranted)),
                    (Ok(()), SessionNeed::Never) => Err((Error::InvalidToken, DenialReason::NotGranted)),
                }
            }
        })
    }
}

/// What the caller hears, and what the audit says.
pub(crate) type Refusal = (Error, DenialReason);

/// A caller that was let in. That was then: it is checked again when the request's turn to change something has come, and before
/// the answer goes out, so that nothing succeeds once a revocation has returned.
pub(crate) struct Admitted<'a> {
    caller: &'a Caller,
    needs: Needs,
    doing: &'static str,
}

impl Admitted<'_> {
    pub(crate) fn caller(&self) -> &Caller {
        self.caller
    }

    /// The caller's name in the audit.
    pub(crate) fn actor(&self) -> AuditActor {
        self.caller.actor()
    }

    /// Whether the caller would be let in now. The outer error is no refusal but a failure to tell.
    pub(crate) fn check(&self, account: &Account) -> Result<Result<(), Refusal>, Error> {
        self.caller.check(account, self.needs)
    }

    /// Checks the caller after a wait, before anything is done or noted in its name. Must not be called while the account's turn
    /// is held.
    pub(crate) async fn again(&self, account: &Rc<Account>) -> Result<(), Error> {
        match self.check(account)? {
            Ok(()) => Ok(()),
            Err(refusal) => Err(self.refused(account, refusal).await),
        }
    }

    /// Notes a refusal; returns what the caller hears. Must not be called while the account's turn is held.
    pub(crate) async fn refused(&self, account: &Rc<Account>, (error, reason): Refusal) -> Error {
        match refuse(account, self.actor(), self.doing, reason).await {
            Ok(()) => error,
            Err(failure) => failure,
        }
    }
}

fn check_key(key: &KeyEntry, account: &Account, needs: Needs, disabled: bool) -> Result<(), Refusal> {
    key.check(account.now()).map_err(|reason| (Error::InvalidApiKey, reason))?;
    key.check_account(account.owner().environment, account.locator()).map_err(|reason| (GONE, reason))?;
    let Some(needed) = needs.permissions.first().copied() else {
        return Err((Error::Internal { doing: "asking the vault's own work of an actor" }, DenialReason::PermissionMissing));
    };
    if !needs.permissions.iter().any(|permission| key.permissions().contains(*permission)) {
        return Err((Error::PermissionDenied { needed }, DenialReason::PermissionMissing));
    }
    if needs.enabled && disabled {
        return Err((Error::AccountDisabled, DenialReason::AccountDisabled));
    }
    Ok(())
}

/// Notes a refusal in the account's audit and tells the host's listeners.
pub(crate) async fn refuse(
    account: &Rc<Account>,
    actor: AuditActor,
    doing: &'static str,
    reason: DenialReason,
) -> Result<(), Error> {
    let action = AuditAction::Denied { what: doing.into(), reason, count: 1 };
    account.note(actor, action, None).await?;
    account.tell(EventKind::Denied)
}
