//! Session tokens: minting, revoking, using up.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::domain::account::change::MAX_FORGOTTEN;
use crate::domain::account::records::{Spent, SpentToken};
use crate::domain::account::state::Damage;
use crate::domain::audit::{AuditAction, AuditActor};
use crate::domain::claims::{SessionClaims, SessionOptions};
use crate::domain::error::Error;
use crate::domain::grants::Permission;
use crate::domain::session_token::{self, TokenFacts};
use crate::ids::{LinkedAccountId, SessionTokenId};
use crate::runtime::account::{Account, Turn};
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Caller, Needs, refuse};
use crate::runtime::events::EventKind;
use crate::runtime::view::TokenView;
use crate::secret::SessionToken;

/// The longest that a token lives, and so the longest that it must be remembered as revoked.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The most tokens of one account that are remembered as revoked or used up; `revoke_all` forgets them.
const MAX_SPENT: usize = 20_000;

/// A session token that was just minted.
#[derive(Debug)]
#[non_exhaustive]
pub struct MintedToken {
    /// The token for the browser. It is not stored and can't be shown again.
    pub token: SessionToken,
    /// Its id, for revoking it and in the audit.
    pub id: SessionTokenId,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// Mints a session token.
pub(crate) struct Mint(pub(crate) Box<SessionOptions>);

impl Operation for Mint {
    type Answer = Box<MintedToken>;
    const DOING: &'static str = "minting a session token";
    const NEEDS: Needs = Needs::enabled(&[Permission::Sessions]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<Box<MintedToken>, Error> {
        let epoch = account.with_state(|state| state.facts.epoch)?;
        let claims = self.0.claims(account.now(), epoch)?;
        let token = account.loaded_token()?.seal(&account.core.keyring, &account.handle(), &claims);
        let token = token.ok_or_else(|| account.damaged(Damage("the account's token key does not open")))?;
        let action = AuditAction::SessionMinted { session: claims.id, expires: claims.expires };
        account.note(caller.actor(), action, None).await?;
        account.tell(EventKind::SessionMinted { session: claims.id })?;
        Ok(Box::new(MintedToken { token, id: claims.id, expires_at: claims.expires }))
    }
}

/// Revokes one token. A token that never was is revoked as well: nobody learns which ids exist.
pub(crate) struct RevokeSession(pub(crate) SessionTokenId);

impl Operation for RevokeSession {
    type Answer = ();
    const DOING: &'static str = "revoking a session token";
    const NEEDS: Needs = Needs::backend(&[Permission::Sessions]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<(), Error> {
        let id = self.0;
        let until = account.now().plus(LONGEST_LIFETIME);
        let turn = account.turn(caller).await?;
        if account.with_state(|state| state.spent(&id))? == Some(Spent::Revoked) {
            return Ok(());
        }
        spend(
            account,
            &turn,
            caller.actor(),
            id,
            SpentToken { spent: Spent::Revoked, until },
            Some(AuditAction::SessionRevoked { session: id }),
        )
        .await?;
        account.tell(EventKind::SessionRevoked { session: id })
    }
}

/// Revokes all tokens by beginning a new epoch.
pub(crate) struct RevokeAllSessions;

impl Operation for RevokeAllSessions {
    type Answer = ();
    const DOING: &'static str = "revoking all session tokens";
    const NEEDS: Needs = Needs::backend(&[Permission::Sessions]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<(), Error> {
        let turn = account.turn(caller).await?;
        let mut info = super::info::read_info(account).await?;
        info.epoch += 1;
        let entry = account.entry(caller.actor(), AuditAction::AllSessionsRevoked, None);
        account
            .change(&turn, |draft| {
                draft.put_info(&info)?;
                draft.audit([entry]);
                Ok(())
            })
            .await?;
        account.tell(EventKind::AllSessionsRevoked)?;
        // The marks say nothing any more: the epoch refuses those tokens. If a crash leaves some, they go as they expire.
        let marks: Vec<_> = account.with_state(|state| state.spent.keys().copied().collect())?;
        for marks in marks.chunks(MAX_FORGOTTEN) {
            account
                .change(&turn, |draft| {
                    draft.forget(marks);
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }
}

/// Uses a single-use token up. The answer comes when that is durable; of two callers with one token one succeeds.
pub(crate) struct Consume(pub(crate) Arc<SessionClaims>);

impl Operation for Consume {
    type Answer = ();
    const DOING: &'static str = "using up a session token";
    const NEEDS: Needs = Needs::vault_only();

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<(), Error> {
        let claims = self.0;
        let turn = account.turn(caller).await?;
        let bearer = Caller::Session(Arc::clone(&claims)).actor();
        // Checked again: between the check on the caller's thread and this turn anything may have happened.
        let good = account.with_state(|state| {
            let spent = state.spent(&claims.id);
            let facts = TokenFacts { epoch: state.facts.epoch, disabled: state.facts.disabled, spent };
            session_token::check(&claims, &facts, account.now())
        })?;
        if let Err(reason) = good {
            drop(turn);
            refuse(account, bearer, Self::DOING, reason).await?;
            return Err(Error::InvalidToken);
        }
        let token = SpentToken { spent: Spent::UsedUp, until: claims.expires };
        spend(account, &turn, bearer, claims.id, token, Some(AuditAction::SessionUsedUp { session: claims.id })).await?;
        account.tell(EventKind::SessionUsedUp { session: claims.id })
    }
}

/// Checks that a session is still good, and tells which account it is of.
pub(crate) struct ReadSession;

impl Operation for ReadSession {
    type Answer = LinkedAccountId;
    const DOING: &'static str = "checking a session";
    const NEEDS: Needs = Needs::any_session();

    async fn run(self, account: &Rc<Account>, _: &Admitted<'_>) -> Result<LinkedAccountId, Error> {
        let id = account.with_state(|state| LinkedAccountId::new(&state.facts.linked_account_id))?;
        id.map_err(|_| account.damaged(Damage("the account's id is none")))
    }
}

/// Loads the account and gives what a check of a token needs.
pub(crate) struct Load;

impl Operation for Load {
    type Answer = TokenView;
    const DOING: &'static str = "loading an account";
    const NEEDS: Needs = Needs::vault_only();

    async fn run(self, account: &Rc<Account>, _: &Admitted<'_>) -> Result<TokenView, Error> {
        account.ready().await?;
        account.loaded_token()
    }
}

/// Marks a token or connect flow as no longer good, durably.
pub(crate) async fn spend(
    account: &Account,
    turn: &Turn<'_>,
    actor: AuditActor,
    id: SessionTokenId,
    token: SpentToken,
    action: Option<AuditAction>,
) -> Result<(), Error> {
    let now = account.now();
    if account.with_state(|state| state.spent.values().filter(|token| token.until > now).count())? >= MAX_SPENT {
        return Err(Error::TooMany { what: "revoked or used session tokens of this account", limit: MAX_SPENT });
    }
    let entry = action.map(|action| account.entry(actor, action, None));
    account
        .change(turn, |draft| {
            draft.spend(id, token, now)?;
            draft.audit(entry);
            Ok(())
        })
        .await
}
