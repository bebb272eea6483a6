//! From an account to a session token and back. Minting and checking run on the caller's thread, against the view that the account's
//! actor published; only loading an account, using a token up and noting a refusal take a hop. What hops is boxed, so that the futures of
//! those that don't stay small.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::domain::audit::{AuditAction, AuditActor, NewEntry};
use crate::domain::claims::{SessionClaims, SessionOptions};
use crate::domain::denial::DenialReason;
use crate::domain::error::Error;
use crate::domain::session_token::{self, InvalidToken, Room, Spent, TokenFacts, TokenParts};
use crate::domain::{PRIMITIVE_STACK, wiping_stack};
use crate::ids::{AccountHandle, Environment};
use crate::runtime::actor::Operation as _;
use crate::runtime::caller::Caller;
use crate::runtime::core::Core;
use crate::runtime::desk::Desk;
use crate::runtime::events::EventKind;
use crate::runtime::key_table::KeyEntry;
use crate::runtime::ops::audit::NoteDenial;
use crate::runtime::ops::sessions::{Consume, Load, Mint, MintedToken};
use crate::runtime::ready::Ready;
use crate::runtime::view::TokenView;
use crate::secret::SessionToken;

const DOING: &str = "opening a session";

/// How much of the stack is wiped after a token was sealed or opened: the frames above the primitives, which wipe what they use by themselves.
const TOKEN_STACK: usize = PRIMITIVE_STACK;

impl Core {
    /// Checks a token and finds its account. Every refusal is [`Error::InvalidToken`]; the reason stands in the account's audit.
    pub(crate) async fn open_session(
        self: &Arc<Self>,
        token: &SessionToken,
        origin: Option<&str>,
    ) -> Result<CheckedSession, Error> {
        if self.is_closing() {
            return Err(Error::Closed);
        }
        let (handle, checked) = match self.check(token, origin, |handle| self.router.token(self, handle)) {
            Ok(session) => (session.handle, Ok(session)),
            Err(Refused::NotAToken) => return Err(Error::InvalidToken),
            Err(Refused::NotLoaded(handle)) => {
                // Not looked for at the actor afterwards: it may be passivated by then.
                match Box::pin(self.ask(handle, Caller::Vault, Load)).await {
                    Ok(view) => (handle, self.check(token, origin, |_| Some(view))),
                    Err(Error::NotFound { .. }) => return Err(Error::InvalidToken),
                    Err(error) => return Err(error),
                }
            }
            Err(refused @ Refused::Because { handle, .. }) => (handle, Err(refused)),
        };
        match checked {
            Ok(session) => {
                if session.claims.single_use {
                    Box::pin(self.ask(handle, Caller::Vault, Consume(Arc::clone(&session.claims)))).await?;
                }
                Ok(session)
            }
            Err(Refused::Because { actor, reason, .. }) => {
                let noted = Box::pin(self.ask(handle, Caller::Vault, NoteDenial { actor, what: DOING, reason })).await;
                match noted {
                    // Overload is no reason to tell a bad token from a good one.
                    Ok(()) | Err(Error::Overloaded) => Err(Error::InvalidToken),
                    Err(error) => Err(error),
                }
            }
            Err(Refused::NotAToken | Refused::NotLoaded(_)) => Err(Error::InvalidToken),
        }
    }

    /// Mints a token for a backend's caller.
    pub(crate) async fn mint(
        self: &Arc<Self>,
        handle: AccountHandle,
        key: &Arc<KeyEntry>,
        options: SessionOptions,
    ) -> Result<MintedToken, Error> {
        let now = self.clock.now();
        if let Some(ready) = Ready::find(self, &handle, Desk::FOR_TOKENS, key, &Mint::NEEDS, now)
            && let Some(view) = ready.token(key)
        {
            let claims = options.claims(now, view.epoch)?;
            let sealed =
                catch_unwind(AssertUnwindSafe(|| wiping_stack::<TOKEN_STACK, _>(|| view.seal(&self.keyring, &handle, &claims))));
            let sealed = sealed.map_err(|_| Error::Internal { doing: Mint::DOING })?;
            // Asked again: a key that is revoked by now, or an account that is disabled, gets nothing.
            if let Some(token) = sealed
                && ready.still_mints(key, now, view.epoch)
            {
                let action = AuditAction::SessionMinted { session: claims.id, expires: claims.expires };
                let entry = NewEntry { at: claims.issued, actor: AuditActor::ApiKey(key.id()), action, target: None };
                ready.note(self, entry, EventKind::SessionMinted { session: claims.id });
                return Ok(MintedToken { token, id: claims.id, expires_at: claims.expires });
            }
        }
        let minted = Box::pin(self.ask(handle, Caller::ApiKey(Arc::clone(key)), Mint(Box::new(options)))).await?;
        Ok(*minted)
    }

    /// Takes a token apart, finds the account's view and checks the token against it, all in one stack frame that is wiped.
    fn check(
        &self,
        token: &SessionToken,
        origin: Option<&str>,
        view: impl FnOnce(&AccountHandle) -> Option<TokenView>,
    ) -> Result<CheckedSession, Refused> {
        wiping_stack::<TOKEN_STACK, _>(|| {
            let mut room = Room::new();
            let parts = TokenParts::parse(token, &mut room).map_err(|InvalidToken| Refused::NotAToken)?;
            let handle = parts.handle;
            let view = view(&handle).ok_or(Refused::NotLoaded(handle))?;
            let claims = self.check_parts(parts, &view, origin);
            let claims = claims.map_err(|(actor, reason)| Refused::Because { handle, actor, reason })?;
            Ok(CheckedSession { handle, environment: view.environment, claims: Arc::new(claims) })
        })
    }

    fn check_parts(
        &self,
        parts: TokenParts<'_>,
        view: &TokenView,
        origin: Option<&str>,
    ) -> Result<SessionClaims, (AuditActor, DenialReason)> {
        let forged = (AuditActor::Unknown, DenialReason::Forged);
        // The environment of the text decides nothing: the token must open under that of the account.
        if parts.environment != view.environment {
            return Err(forged);
        }
        let claims = view.with_key(&self.keyring, |key| parts.open(key, &self.keyring.vault_id()));
        let Some(Ok(claims)) = claims else { return Err(forged) };
        let facts = TokenFacts { epoch: view.epoch, disabled: view.disabled, spent: view.spent(&claims.id) };
        let reason = match session_token::check(&claims, &facts, self.clock.now()) {
            Ok(()) if claims.allows_origin(origin) => return Ok(claims),
            Ok(()) => DenialReason::OriginNotAllowed,
            Err(reason) => reason,
        };
        Err((AuditActor::Session { id: claims.id, subject: claims.subject }, reason))
    }
}

/// Whose a token is, and what it says.
pub(crate) struct CheckedSession {
    pub(crate) handle: AccountHandle,
    pub(crate) environment: Environment,
    pub(crate) claims: Arc<SessionClaims>,
}

/// Why a token opens nothing.
enum Refused {
    /// It names no account.
    NotAToken,
    /// The account that it names has to be loaded first.
    NotLoaded(AccountHandle),
    /// What the audit of the account that it names will say.
    Because { handle: AccountHandle, actor: AuditActor, reason: DenialReason },
}

/// What a session that was opened before is checked against: having used its token up itself is no reason to end it.
pub(crate) fn facts_for_session(epoch: u64, disabled: bool, spent: Option<Spent>) -> TokenFacts {
    TokenFacts { epoch, disabled, spent: spent.filter(|spent| *spent == Spent::Revoked) }
}
