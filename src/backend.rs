//! What an API key opens: one environment, with the key's permissions.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::account::Account;
use crate::domain::account::info::AccountInfo;
use crate::domain::audit::{AuditActor, AuditEntry, BrokenLink};
use crate::domain::denial::DenialReason;
use crate::domain::{ApiKeyInfo, CreatedApiKey, Error, Item, NewApiKey, OAuthClient, Permission, Permissions, ProviderSettings};
use crate::ids::{ApiKeyId, Environment, LinkedAccountId, ProviderName};
use crate::page::{Cursor, Page, PageRequest};
use crate::runtime::caller::Caller;
use crate::runtime::core::Core;
use crate::runtime::key_table::KeyEntry;
use crate::runtime::listing::AfterAccount;
use crate::runtime::ops::info::check_metadata;
use crate::vault::Inner;

/// Acts for your backend in one environment, as far as its API key's permissions reach. Made by [`Vault::backend`].
///
/// A handle is no snapshot of authority: each call checks the key again, so a revoked or expired key stops every handle made
/// from it with [`Error::InvalidApiKey`]. A call without the permission it needs gets [`Error::PermissionDenied`], and an
/// account that is not on the key's list is one that does not exist.
///
/// [`Vault::backend`]: crate::Vault::backend
#[derive(Clone)]
pub struct Backend {
    inner: Arc<Inner>,
    key: Arc<KeyEntry>,
}

impl Backend {
    pub(crate) fn new(inner: Arc<Inner>, key: Arc<KeyEntry>) -> Self {
        Self { inner, key }
    }

    /// The key's environment.
    #[must_use]
    pub fn environment(&self) -> Environment {
        self.key.environment()
    }

    /// The key's permissions.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        self.key.permissions()
    }

    /// Creates a linked account without metadata. Needs [`Permission::Accounts`].
    ///
    /// Idempotent: an account that has this id already is returned as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the key has a list of accounts and this id is not on it.
    pub async fn create_account(&self, id: &LinkedAccountId) -> Result<Account, Error> {
        self.create_account_with(id, "").await
    }

    /// [`create_account`](Self::create_account) with metadata, which must not be secret: up to 4 KiB of text. The metadata of an
    /// account that exists is left alone.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for the metadata.
    pub async fn create_account_with(&self, id: &LinkedAccountId, metadata: &str) -> Result<Account, Error> {
        let doing = "creating an account";
        self.demand(Permission::Accounts, doing)?;
        check_metadata(metadata)?;
        let locator = self.reachable(id, doing)?;
        let (environment, actor) = (self.environment(), self.actor());
        let (own_id, metadata) = (id.clone(), metadata.to_owned());
        let located =
            self.run(doing, move |core| async move { core.create_account(environment, own_id, metadata, actor).await }).await?;
        debug_assert_eq!(located.locator, locator);
        Ok(Account::new(Arc::clone(&self.inner), Arc::clone(&self.key), id.clone(), located))
    }

    /// The linked account with this id. Needs no permission; what may be done with the handle depends on the key.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, which is proven, or the key may not know of it.
    pub async fn account(&self, id: &LinkedAccountId) -> Result<Account, Error> {
        let doing = "looking up an account";
        self.valid()?;
        self.reachable(id, doing)?;
        let located = self.core().locate(self.environment(), id).await?;
        self.valid()?;
        Ok(Account::new(Arc::clone(&self.inner), Arc::clone(&self.key), id.clone(), located))
    }

    /// Lists linked accounts, in an order that tells nothing and stays the same. Needs [`Permission::Accounts`]. An account whose
    /// records can't be read stands among the others, with the status [`AccountStatus::Damaged`](crate::AccountStatus::Damaged).
    ///
    /// # Errors
    /// [`Error::InvalidCursor`] for a page of another listing. [`Error::Corrupted`] or [`Error::RolledBack`] when the part of the
    /// directory that lists the page can't be read.
    ///
    /// # Examples
    /// ```
    /// # use anchorhold::{Backend, Error, PageRequest};
    /// async fn count(backend: &Backend) -> Result<usize, Error> {
    ///     let (mut count, mut wanted) = (0, Some(PageRequest::first(100)));
    ///     while let Some(request) = wanted {
    ///         let page = backend.accounts(request).await?;
    ///         count += page.items.len();
    ///         wanted = page.next;
    ///     }
    ///     Ok(count)
    /// }
    /// ```
    pub async fn accounts(&self, page: PageRequest) -> Result<Page<AccountInfo>, Error> {
        let doing = "listing accounts";
        self.demand(Permission::Accounts, doing)?;
        let after = page.after_account()?.map(AfterAccount);
        let (environment, caller, limit) = (self.environment(), Caller::ApiKey(Arc::clone(&self.key)), page.limit());
        let (items, last) =
            self.run(doing, move |core| async move { core.list_accounts(environment, &caller, after, limit).await }).await?;
        Ok(Page::new(items, last.map(|AfterAccount(locator)| page.next(Cursor::Account(locator)))))
    }

    /// Creates an API key for the same environment. Needs [`Permission::Keys`]. The key's text is in the answer and is not shown
    /// again. Ended keys count toward the limit of 1,000.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] when the new key is to have a permission that this one lacks; [`Error::NotFound`] when it is
    /// to reach an account that this one does not reach; [`Error::InvalidApiKeyOptions`]; [`Error::TooMany`] past 1,000 keys.
    pub async fn create_api_key(&self, request: NewApiKey) -> Result<CreatedApiKey, Error> {
        let doing = "creating an API key";
        self.demand(Permission::Keys, doing)?;
        for needed in request.permissions.iter() {
            // Nobody passes on more than they have.
            self.demand(needed, doing)?;
        }
        match &request.accounts {
            Some(ids) => ids.iter().try_for_each(|id| self.reachable(id, doing).map(drop))?,
            None if self.key.account_list().is_some() => {
                return Err(self.denied(doing, DenialReason::AccountNotListed, Error::NotFound { what: Item::LinkedAccount }));
            }
            None => {}
        }
        let (environment, actor) = (self.environment(), self.actor());
        self.run(doing, move |core| async move { core.create_api_key(environment, request, actor).await }).await
    }

    /// Lists the environment's API keys, ended ones included. Needs [`Permission::Keys`].
    ///
    /// # Errors
    /// Those of every call of this handle.
    pub async fn api_keys(&self) -> Result<Vec<ApiKeyInfo>, Error> {
        let doing = "listing API keys";
        self.demand_whole_environment(doing)?;
        let environment = self.environment();
        self.run(doing, move |core| async move { core.api_key_infos(environment).await }).await
    }

    /// Makes an API key with the rights of another one, which ends after `grace`. Needs [`Permission::Keys`] and every permission
    /// of that key.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such key, or it has ended.
    pub async fn rotate_api_key(&self, id: &ApiKeyId, grace: Duration) -> Result<CreatedApiKey, Error> {
        let doing = "rotating an API key";
        if *id == self.key.id() {
            self.demand(Permission::Keys, doing)?;
        } else {
            self.demand_whole_environment(doing)?;
        }
        let other = self.core().api_keys.find(id).filter(|key| key.environment() == self.environment());
        for needed in other.ok_or(Error::NotFound { what: Item::ApiKey })?.permissions().iter() {
            self.demand(needed, doing)?;
        }
        let (environment, id, actor, core) = (self.environment(), *id, self.actor(), Arc::clone(self.core()));
        let created = self.core().run(doing, async move { core.rotate_api_key(environment, id, grace, actor).await }).await?;
        match self.key.check(self.core().clock.now()) {
            // A key that ends itself without grace is to hear of its heir: there is no other way to it.
            Err(DenialReason::Expired) if id == self.key.id() => Ok(created),
            _ => self.valid().map(|()| created),
        }
    }

    /// Ends an API key. When this returns, no handle made from it works any more. A key may end itself. Needs
    /// [`Permission::Keys`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such key in the environment.
    pub async fn revoke_api_key(&self, id: &ApiKeyId) -> Result<(), Error> {
        let doing = "revoking an API key";
        if *id == self.key.id() {
            self.demand(Permission::Keys, doing)?;
        } else {
            self.demand_whole_environment(doing)?;
        }
        let (environment, id, actor, core) = (self.environment(), *id, self.actor(), Arc::clone(self.core()));
        // No check afterwards: a key that ends itself is to hear that it did.
        self.core().run(doing, async move { core.revoke_api_key(environment, id, actor).await }).await
    }

    /// Reads the environment's audit of API keys, providers, deleted accounts and refused keys, oldest entries first. Needs
    /// [`Permission::Keys`]. Reading does not walk the chain: [`verify_api_key_audit`](Self::verify_api_key_audit) does.
    ///
    /// # Errors
    /// [`Error::InvalidCursor`] for a page of another listing.
    pub async fn api_key_audit(&self, page: PageRequest) -> Result<Page<AuditEntry>, Error> {
        let doing = "reading the API-key audit";
        self.demand_whole_environment(doing)?;
        let (environment, after, limit) = (self.environment(), page.after_entry()?, page.limit());
        let items = self.run(doing, move |core| async move { core.api_key_audit(environment, after, limit).await }).await?;
        Ok(audit_page(&page, items))
    }

    /// Walks the environment's audit chain. Needs [`Permission::Keys`].
    ///
    /// # Errors
    /// Those of every call of this handle; a broken chain is in the answer.
    pub async fn verify_api_key_audit(&self) -> Result<AuditReport, Error> {
        let doing = "verifying the API-key audit";
        self.demand_whole_environment(doing)?;
        let environment = self.environment();
        let walked = self.run(doing, move |core| async move { core.verify_api_key_audit(environment).await }).await?;
        Ok(AuditReport::of(walked))
    }

    /// Stores a provider's settings, in place of those that it had. Needs [`Permission::Keys`]: who can change where credentials
    /// may go could read them. Counts for the next [`authorize`](crate::Connection::authorize) of every connection at the provider.
    ///
    /// # Errors
    /// Those of every call of this handle.
    ///
    /// # Examples
    /// ```
    /// # use anchorhold::{Backend, Injection, ProviderName, ProviderSettings};
    /// # async fn example(backend: &Backend) -> Result<(), Box<dyn std::error::Error>> {
    /// let settings = ProviderSettings::new(ProviderName::new("stripe")?)
    ///     .allow_host("api.stripe.com")?
    ///     .injection(Injection::Bearer)?;
    /// backend.set_provider(settings).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_provider(&self, settings: ProviderSettings) -> Result<(), Error> {
        let doing = "storing a provider";
        self.demand_whole_environment(doing)?;
        let (environment, actor) = (self.environment(), self.actor());
        self.run(doing, move |core| async move { core.set_provider(environment, settings, actor).await }).await
    }

    /// Sets the client that you have at a provider: what its developer console calls client id and client secret. Sealed in the
    /// directory, opened only to ask the provider. The provider's settings come first. Needs [`Permission::Keys`] for the whole
    /// environment.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the provider has no settings in this environment.
    ///
    /// # Examples
    /// ```
    /// # async fn example(backend: &anchorhold::Backend, secret: String) -> Result<(), Box<dyn std::error::Error>> {
    /// use anchorhold::{OAuthClient, ProviderName};
    /// let client = OAuthClient::new("Iv1.8a61f9b3a7aba766")?.with_secret(secret.into())?;
    /// backend.set_oauth_client(&ProviderName::new("github")?, client).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_oauth_client(&self, provider: &ProviderName, client: OAuthClient) -> Result<(), Error> {
        let doing = "setting the client at a provider";
        self.demand_whole_environment(doing)?;
        let (environment, actor, provider, client) = (self.environment(), self.actor(), provider.clone(), Box::new(client));
        self.run(doing, move |core| async move { core.set_oauth_client(environment, &provider, &client, actor).await }).await
    }

    /// The environment's providers, by name. Needs [`Permission::Connections`].
    ///
    /// # Errors
    /// Those of every call of this handle.
    pub async fn providers(&self) -> Result<Vec<ProviderSettings>, Error> {
        let doing = "listing providers";
        self.demand(Permission::Connections, doing)?;
        let environment = self.environment();
        self.run(doing, move |core| async move { core.providers(environment).await }).await
    }

    /// Removes a provider's settings: its connections stay and can't be used for requests. Needs [`Permission::Keys`].
    ///
    /// # Errors
    /// [`Error::NotFound`] when the provider has none.
    pub async fn remove_provider(&self, provider: &ProviderName) -> Result<(), Error> {
        let doing = "removing a provider";
        self.demand_whole_environment(doing)?;
        let (environment, provider, actor) = (self.environment(), provider.clone(), self.actor());
        self.run(doing, move |core| async move { core.remove_provider(environment, &provider, actor).await }).await
    }

    /// Runs something on the vault's threads, and looks at the key again before the answer goes out.
    async fn run<T: Send + 'static, F>(&self, doing: &'static str, work: impl FnOnce(Arc<Core>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let answer = self.core().run(doing, work(Arc::clone(self.core()))).await?;
        self.valid()?;
        Ok(answer)
    }

    fn valid(&self) -> Result<(), Error> {
        if self.core().is_closing() {
            return Err(Error::Closed);
        }
        let now = self.core().clock.now();
        self.key.check(now).map_err(|reason| self.denied("using a handle", reason, Error::InvalidApiKey))?;
        self.key.touch(now);
        Ok(())
    }

    fn demand(&self, needed: Permission, doing: &'static str) -> Result<(), Error> {
        self.valid()?;
        if self.permissions().contains(needed) {
            Ok(())
        } else {
            Err(self.denied(doing, DenialReason::PermissionMissing, Error::PermissionDenied { needed }))
        }
    }

    /// [`Permission::Keys`] on the whole environment: a key with a list of accounts administers nothing beyond itself.
    fn demand_whole_environment(&self, doing: &'static str) -> Result<(), Error> {
        self.demand(Permission::Keys, doing)?;
        if self.key.account_list().is_some() {
            return Err(self.denied(doing, DenialReason::AccountNotListed, Error::PermissionDenied { needed: Permission::Keys }));
        }
        Ok(())
    }

    fn reachable(&self, id: &LinkedAccountId, doing: &'static str) -> Result<[u8; 32], Error> {
        let locator = self.core().keyring.locator(self.environment(), id.as_str());
        match self.key.check_account(self.environment(), &locator) {
            Ok(()) => Ok(locator),
            Err(reason) => Err(self.denied(doing, reason, Error::NotFound { what: Item::LinkedAccount })),
        }
    }

    fn denied(&self, doing: &'static str, reason: DenialReason, error: Error) -> Error {
        self.core().note_denial(self.environment(), self.actor(), doing, reason);
        error
    }

    fn actor(&self) -> AuditActor {
        AuditActor::ApiKey(self.key.id())
    }

    fn core(&self) -> &Arc<Core> {
        self.inner.core()
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("environment", &self.environment())
            .field("api_key", &self.key.id())
            .field("permissions", &self.permissions())
            .finish_non_exhaustive()
    }
}

/// What walking an audit chain found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditReport {
    /// How many entries were checked.
    pub entries: u64,
    /// The first entry that does not hold, if there is one; `entries` is 0 then.
    pub broken: Option<BrokenLink>,
}

impl AuditReport {
    pub(crate) fn of(walked: Result<u64, BrokenLink>) -> Self {
        match walked {
            Ok(entries) => Self { entries, broken: None },
            Err(broken) => Self { entries: 0, broken: Some(broken) },
        }
    }

    /// Whether the whole chain holds.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.broken.is_none()
    }
}

/// A page of an audit. It is followed by another one as long as it is full.
pub(crate) fn audit_page(page: &PageRequest, items: Vec<AuditEntry>) -> Page<AuditEntry> {
    let next = match items.last() {
        Some(last) if items.len() == page.limit() => Some(page.next(Cursor::Sequence(last.sequence))),
        _ => None,
    };
    Page::new(items, next)
}
