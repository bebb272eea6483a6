//! What belongs to a whole environment: API keys with their audit, and providers' settings.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::account::records::ChainEnds;
use crate::domain::api_key::{ApiKeyInfo, ApiKeyParts, ApiKeyRecord, CreatedApiKey, NewApiKey};
use crate::domain::audit::{self, AuditAction, AuditActor, AuditEntry, BrokenLink, ChainCheck, NewEntry};
use crate::domain::denial::DenialReason;
use crate::domain::directory::{CONTROL_BUCKET, EnvironmentRow, RowName};
use crate::domain::entries::Entries;
use crate::domain::error::{Error, Item};
use crate::domain::grants::Permissions;
use crate::domain::oauth::client::OAuthClient;
use crate::domain::provider::ProviderSettings;
use crate::domain::{Keyring, Label, Plaintext};
use crate::ids::{ApiKeyId, Environment, LinkedAccountId, ProviderName};
use crate::runtime::core::{AUDIT_DELAY, Core};
use crate::runtime::directory::{Change, Directory};
use crate::runtime::events::ApiKeyEventKind;
use crate::runtime::key_table::KeyEntry;
use crate::secret::ApiKey;

/// The most API keys of one environment, revoked and expired ones included.
const MAX_KEYS: usize = 1_000;

const NO_KEY: Error = Error::NotFound { what: Item::ApiKey };

impl Core {
    /// Fills the table of API keys at opening.
    pub(crate) async fn load_api_keys(&self) -> Result<(), Error> {
        for record in self.api_key_records(None).await? {
            self.api_keys.put(record);
        }
        Ok(())
    }

    /// The first API key of an environment, with all permissions; only once.
    pub(crate) async fn bootstrap(self: &Arc<Self>, environment: Environment) -> Result<ApiKey, Error> {
        let parts = ApiKeyParts::generate(environment);
        let name = RowName::ApiKey(environment, parts.id);
        let mut change = self.directory.change(&[RowName::Environment(environment), name]).await?;
        let row = environment_row(&change, environment).await?;
        if row.bootstrapped {
            return Err(Error::AlreadyBootstrapped { environment });
        }
        let record = ApiKeyRecord::new(&parts, self.hash(&parts), "bootstrap".into(), Permissions::ALL, None, self.clock.now());
        change.put(name, &record).await?;
        let action = AuditAction::ApiKeyCreated { key: parts.id };
        let entry = NewEntry { at: self.clock.now(), actor: AuditActor::Host, action, target: None };
        self.append(&mut change, environment, EnvironmentRow { bootstrapped: true, ..row }, &[entry]).await?;
        change.commit().await?;
        self.api_keys.put(record);
        self.events.send_key(environment, parts.id, ApiKeyEventKind::Created);
        Ok(parts.text())
    }

    pub(crate) async fn create_api_key(
        self: &Arc<Self>,
        environment: Environment,
        request: NewApiKey,
        actor: AuditActor,
    ) -> Result<CreatedApiKey, Error> {
        request.check()?;
        if self.api_key_records(Some(environment)).await?.len() >= MAX_KEYS {
            return Err(Error::TooMany { what: "API keys", limit: MAX_KEYS });
        }
        let parts = ApiKeyParts::generate(environment);
        let name = RowName::ApiKey(environment, parts.id);
        let accounts = request.accounts.map(|ids| self.locators(environment, &ids));
        let record = ApiKeyRecord::new(&parts, self.hash(&parts), request.label, request.permissions, accounts, self.clock.now());
        let mut change = self.directory.change(&[name]).await?;
        change.put(name, &record).await?;
        self.audit_keys_in(&mut change, environment, actor, AuditAction::ApiKeyCreated { key: parts.id }).await?;
        change.commit().await?;
        self.created(parts, record, ApiKeyEventKind::Created)
    }

    /// Makes a key with the same rights and lets the old one end after `grace`.
    pub(crate) async fn rotate_api_key(
        self: &Arc<Self>,
        environment: Environment,
        id: ApiKeyId,
        grace: Duration,
        actor: AuditActor,
    ) -> Result<CreatedApiKey, Error> {
        let parts = ApiKeyParts::generate(environment);
        let (old_name, new_name) = (RowName::ApiKey(environment, id), RowName::ApiKey(environment, parts.id));
        let mut change = self.directory.change(&[old_name, new_name]).await?;
        let mut old: ApiKeyRecord = change.get(old_name).await?.ok_or(NO_KEY)?;
        let now = self.clock.now();
        if old.check_valid(now).is_err() {
            return Err(NO_KEY);
        }
        let record = old.rotate(&parts, self.hash(&parts), now, grace);
        change.put(old_name, &old).await?;
        change.put(new_name, &record).await?;
        self.audit_keys_in(&mut change, environment, actor, AuditAction::ApiKeyRotated { from: id, to: parts.id }).await?;
        change.commit().await?;
        self.api_keys.put(old);
        self.created(parts, record, ApiKeyEventKind::Rotated)
    }

    /// Ends a key. When this returns no handle made from it works any more.
    pub(crate) async fn revoke_api_key(
        self: &Arc<Self>,
        environment: Environment,
        id: ApiKeyId,
        actor: AuditActor,
    ) -> Result<(), Error> {
        let name = RowName::ApiKey(environment, id);
        let mut change = self.directory.change(&[name]).await?;
        let mut record: ApiKeyRecord = change.get(name).await?.ok_or(NO_KEY)?;
        if record.revoked.is_some() {
            return Ok(());
        }
        record.revoke(self.clock.now());
        change.put(name, &record).await?;
        self.audit_keys_in(&mut change, environment, actor, AuditAction::ApiKeyRevoked { key: id }).await?;
        change.commit().await?;
        self.api_keys.put(record);
        self.events.send_key(environment, id, ApiKeyEventKind::Revoked);
        Ok(())
    }

    pub(crate) async fn api_key_infos(&self, environment: Environment) -> Result<Vec<ApiKeyInfo>, Error> {
        let records = self.api_key_records(Some(environment)).await?;
        let last_used = |id: &ApiKeyId| self.api_keys.find(id).and_then(|entry| entry.last_used());
        Ok(records.iter().map(|record| ApiKeyInfo { last_used: last_used(&record.id), ..record.info() }).collect())
    }

    /// Writes when keys were last used.
    pub(crate) async fn write_last_used(&self) -> Result<(), Error> {
        for entry in self.api_keys.take_used() {
            let name = RowName::ApiKey(entry.environment(), entry.id());
            let mut change = self.directory.change(&[name]).await?;
            if let Some(mut record) = change.get::<ApiKeyRecord>(name).await? {
                record.last_used = entry.last_used();
                change.put(name, &record).await?;
                change.commit().await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn set_provider(
        &self,
        environment: Environment,
        settings: ProviderSettings,
        actor: AuditActor,
    ) -> Result<(), Error> {
        let name = self.provider_name(environment, settings.name());
        let encoded = settings.encode().map_err(|_| Error::Internal { doing: "encoding a provider's settings" })?;
        let mut change = self.directory.change(&[name]).await?;
        change.put_bytes(name, &encoded).await?;
        self.audit_keys_in(&mut change, environment, actor, AuditAction::provider_set(settings.name())).await?;
        change.commit().await
    }

    pub(crate) async fn remove_provider(
        &self,
        environment: Environment,
        provider: &ProviderName,
        actor: AuditActor,
    ) -> Result<(), Error> {
        let name = self.provider_name(environment, provider);
        let mut change = self.directory.change(&[name]).await?;
        if !change.remove(name).await? {
            return Err(Error::NotFound { what: Item::Provider });
        }
        change.remove(self.oauth_client_name(environment, provider)).await?;
        self.audit_keys_in(&mut change, environment, actor, AuditAction::provider_removed(provider)).await?;
        change.commit().await
    }

    /// Sets the client that the host has at a provider; the secret is sealed in a row of its own and read only to ask the provider.
    pub(crate) async fn set_oauth_client(
        &self,
        environment: Environment,
        provider: &ProviderName,
        client: &OAuthClient,
        actor: AuditActor,
    ) -> Result<(), Error> {
        let name = self.oauth_client_name(environment, provider);
        let settings = self.provider_name(environment, provider);
        let mut change = self.directory.change(&[name, settings]).await?;
        if change.get_bytes(settings).await?.is_none() {
            return Err(Error::NotFound { what: Item::Provider });
        }
        change.put_bytes(name, client.encode().expose()).await?;
        let action = AuditAction::OAuthClientSet { provider: provider.as_str().to_owned() };
        self.audit_keys_in(&mut change, environment, actor, action).await?;
        change.commit().await
    }

    pub(crate) async fn oauth_client(
        &self,
        environment: Environment,
        provider: &ProviderName,
    ) -> Result<Option<Box<OAuthClient>>, Error> {
        let plain = self.directory.get_bytes(self.oauth_client_name(environment, provider)).await?;
        let decode = |plain: Plaintext| {
            OAuthClient::decode(&plain).map(Box::new).ok_or(Error::Internal { doing: "decoding an OAuth client" })
        };
        plain.map(decode).transpose()
    }

    pub(crate) async fn provider(
        &self,
        environment: Environment,
        provider: &ProviderName,
    ) -> Result<Option<ProviderSettings>, Error> {
        let plain = self.directory.get_bytes(self.provider_name(environment, provider)).await?;
        plain.map(|plain| decode_settings(&plain)).transpose()
    }

    pub(crate) async fn providers(&self, environment: Environment) -> Result<Vec<ProviderSettings>, Error> {
        let wanted = |name: &RowName| matches!(name, RowName::Provider(of, _) if *of == environment);
        let rows = self.directory.list_bytes(CONTROL_BUCKET, wanted).await?;
        let mut settings = rows.iter().map(|(_, plain)| decode_settings(plain)).collect::<Result<Vec<_>, _>>()?;
        settings.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(settings)
    }

    /// A page of an environment's API-key audit.
    pub(crate) async fn api_key_audit(
        &self,
        environment: Environment,
        after: u64,
        limit: usize,
    ) -> Result<Vec<AuditEntry>, Error> {
        let mut page = Vec::new();
        self.write_denials().await?;
        let wanted = after.saturating_add(1);
        // The segment with the wanted entry begins at most a segment's length before it.
        let (_, end) = RowName::audit_range(environment);
        let start = RowName::AuditSegment(environment, wanted.saturating_sub(audit::SEGMENT_ENTRIES as u64 - 1)).to_bytes();
        for (name, plain) in self.directory.scan_range(start, &end, limit + audit::SEGMENT_ENTRIES).await? {
            if let RowName::AuditSegment(_, first) = name {
                let entries =
                    audit::decode_segment(first, &plain).map_err(|_| Error::Internal { doing: "decoding audit entries" })?;
                page.extend(entries.into_iter().filter(|entry| entry.sequence >= wanted));
            }
        }
        page.truncate(limit);
        Ok(page)
    }

    /// Walks an environment's API-key audit from its first entry to the end that the directory covers.
    pub(crate) async fn verify_api_key_audit(&self, environment: Environment) -> Result<Result<u64, BrokenLink>, Error> {
        self.write_denials().await?;
        verify_api_key_audit(&self.directory, &self.keyring, environment).await
    }

    /// Adds an entry to the API-key audit as part of a change that holds the control bucket.
    pub(crate) async fn audit_keys_in(
        &self,
        change: &mut Change<'_>,
        environment: Environment,
        actor: AuditActor,
        action: AuditAction,
    ) -> Result<(), Error> {
        let row = environment_row(change, environment).await?;
        let entry = NewEntry { at: self.clock.now(), actor, action, target: None };
        self.append(change, environment, row, &[entry]).await
    }

    /// Checks a presented API key.
    pub(crate) fn check_api_key(self: &Arc<Self>, key: &ApiKey) -> Result<Arc<KeyEntry>, Error> {
        if self.is_closing() {
            return Err(Error::Closed);
        }
        let parts = ApiKeyParts::parse(key).map_err(|_| Error::InvalidApiKey)?;
        let hash = self.hash(&parts);
        // An unknown id costs a hash like a known one, and is not noted: anybody can make ids up.
        let Some(entry) = self.api_keys.find(&parts.id) else { return Err(Error::InvalidApiKey) };
        let now = self.clock.now();
        match entry.verify(parts.environment, &hash, now) {
            Ok(()) => {
                entry.touch(now);
                Ok(entry)
            }
            Err(reason) => {
                self.note_denial(entry.environment(), AuditActor::ApiKey(parts.id), "using an API key", reason);
                Err(Error::InvalidApiKey)
            }
        }
    }

    /// Notes a refusal in the environment's audit; written within 100 ms together with those that come meanwhile.
    pub(crate) fn note_denial(
        self: &Arc<Self>,
        environment: Environment,
        actor: AuditActor,
        what: &'static str,
        reason: DenialReason,
    ) {
        let action = AuditAction::Denied { what: what.into(), reason, count: 1 };
        let entry = NewEntry { at: self.clock.now(), actor, action, target: None };
        let first = {
            let mut waiting = self.denials();
            let first = waiting.values().all(Vec::is_empty);
            audit::append(waiting.entry(environment).or_default(), entry);
            first
        };
        if first {
            let core = Arc::clone(self);
            self.arbiters.spawn(async move {
                actix::clock::sleep(AUDIT_DELAY).await;
                if let Err(error) = core.write_denials().await {
                    tracing::warn!(%error, "refusals could not be written to the API-key audit");
                }
            });
        }
    }

    /// Writes the refusals that wait.
    pub(crate) async fn write_denials(&self) -> Result<(), Error> {
        for environment in Environment::ALL {
            loop {
                let mut change = self.directory.change(&[RowName::Environment(environment)]).await?;
                let entries: Vec<_> = match self.denials().get_mut(&environment) {
                    Some(waiting) => waiting.drain(..waiting.len().min(audit::SEGMENT_ENTRIES)).collect(),
                    None => Vec::new(),
                };
                if entries.is_empty() {
                    break;
                }
                let row = environment_row(&change, environment).await?;
                self.append(&mut change, environment, row, &entries).await?;
                if let Err(error) = change.commit().await {
                    // They wait for the next time, in front of those that came meanwhile.
                    self.denials().entry(environment).or_default().splice(..0, entries);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn locators(&self, environment: Environment, ids: &[LinkedAccountId]) -> Vec<[u8; 32]> {
        ids.iter().map(|id| self.keyring.locator(environment, id.as_str())).collect()
    }

    async fn append(
        &self,
        change: &mut Change<'_>,
        environment: Environment,
        mut row: EnvironmentRow,
        entries: &[NewEntry],
    ) -> Result<(), Error> {
        let first = row.audit.next_sequence;
        let mac = |parts: &[&[u8]]| chain_mac(&self.keyring, environment, parts);
        let mut encoded = Entries::of(entries);
        let (segment, last_link) = audit::encode_segment(mac, first, &row.audit.last_link, encoded.all());
        row.audit = ChainEnds { next_sequence: first + entries.len() as u64, last_link, last_segment: first, ..row.audit };
        change.put_bytes(RowName::AuditSegment(environment, first), &segment).await?;
        change.put(RowName::Environment(environment), &row).await
    }

    fn created(&self, parts: ApiKeyParts, record: ApiKeyRecord, event: ApiKeyEventKind) -> Result<CreatedApiKey, Error> {
        let info = record.info();
        self.api_keys.put(record);
        self.events.send_key(parts.environment, parts.id, event);
        Ok(CreatedApiKey { key: parts.text(), info })
    }

    fn hash(&self, parts: &ApiKeyParts) -> [u8; 32] {
        self.keyring.api_key_hash(parts.environment, &parts.id, parts.secret.expose())
    }

    async fn api_key_records(&self, environment: Option<Environment>) -> Result<Vec<ApiKeyRecord>, Error> {
        let wanted = |name: &RowName| matches!(name, RowName::ApiKey(of, _) if environment.is_none_or(|wanted| wanted == *of));
        let rows = self.directory.list::<ApiKeyRecord>(CONTROL_BUCKET, wanted).await?;
        Ok(rows.into_iter().map(|(_, record)| record).collect())
    }

    fn oauth_client_name(&self, environment: Environment, provider: &ProviderName) -> RowName {
        RowName::OAuthClient(
            environment,
            self.keyring.mac(Label::Locator, &[b"provider", &[environment.byte()], provider.as_str().as_bytes()]),
        )
    }

    fn provider_name(&self, environment: Environment, provider: &ProviderName) -> RowName {
        RowName::Provider(
            environment,
            self.keyring.mac(Label::Locator, &[b"provider", &[environment.byte()], provider.as_str().as_bytes()]),
        )
    }
}

async fn environment_row(change: &Change<'_>, environment: Environment) -> Result<EnvironmentRow, Error> {
    let row = change.get(RowName::Environment(environment)).await?;
    Ok(row.unwrap_or(EnvironmentRow { bootstrapped: false, audit: ChainEnds::EMPTY }))
}

/// Walks an environment's API-key audit from its first entry to the end that the directory covers.
pub(crate) async fn verify_api_key_audit(
    directory: &Directory,
    keyring: &Keyring,
    environment: Environment,
) -> Result<Result<u64, BrokenLink>, Error> {
    let row = directory.get::<EnvironmentRow>(RowName::Environment(environment)).await?;
    let ends = row.map_or(ChainEnds::EMPTY, |row| row.audit);
    let (mut start, end) = RowName::audit_range(environment);
    let mac = |parts: &[&[u8]]| chain_mac(keyring, environment, parts);
    let mut check = ChainCheck::new(mac, ends.first_sequence, ends.first_link);
    loop {
        let rows = directory.scan_range(start, &end, 256).await?;
        let Some((last, _)) = rows.last() else { break };
        start = [last.to_bytes().as_slice(), &[0]].concat();
        for (name, plain) in &rows {
            // Entries past the end were appended after `ends` was read.
            match name {
                RowName::AuditSegment(_, first) if *first < ends.next_sequence => {
                    if let Err(broken) = check.segment(*first, plain) {
                        return Ok(Err(broken));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(check.finish(ends.next_sequence, &ends.last_link).map(|next| next - ends.first_sequence))
}

fn chain_mac(keyring: &Keyring, environment: Environment, parts: &[&[u8]]) -> [u8; 32] {
    let environment = [environment.byte()];
    let mut all: Vec<&[u8]> = vec![&environment];
    all.extend_from_slice(parts);
    keyring.mac(Label::ApiKeyChain, &all)
}

fn decode_settings(plain: &[u8]) -> Result<ProviderSettings, Error> {
    ProviderSettings::decode(plain).ok_or(Error::Internal { doing: "decoding a provider's settings" })
}
