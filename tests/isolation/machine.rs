//! The vault under test: carries out each step, and compares what came of it with what the model expects.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use anchorhold::{
    Account, AccountStatus, Backend, Connection, ConnectionId, ConnectionInfo, ConnectionStatus, CreatedApiKey, Credential,
    Environment, Error, MintedToken, NewApiKey, NewConnection, OAuth2Tokens, ProviderSettings, Session, SessionOptions,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest_state_machine::StateMachineTest;

use crate::common::{block_on, id, in_header, provider, root_key_of, secret};
use crate::coverage;
use crate::forgeries::forged;
use crate::places::{Engine, Passivation, Place};
use crate::steps::{
    ConnectionAction, Ending, IDS, KeyAction, MintOptions, ORIGINS, Owner, PROVIDERS, SessionAction, Step, Through, pick,
};
use crate::world::{Facts, KEY_MINTS, Listed, Outcome, World, grants, label_text, metadata_text, permissions};

/// A connection id that was never given out.
const NEVER: &str = "cn_AAAAAAAAAAAAAAAAAAAAAA";

pub struct VaultMachine<E, P> {
    pub(crate) place: Place,
    /// What was made in this case, by its number in the model.
    pub(crate) made: Vec<ConnectionId>,
    pub(crate) minted: Vec<MintedToken>,
    pub(crate) keys: Vec<CreatedApiKey>,
    /// Handles kept since the last restart.
    held_connections: Vec<Connection>,
    held_backends: Vec<Backend>,
    held_sessions: Vec<Session>,
    held_accounts: Vec<Account>,
    kind: PhantomData<(E, P)>,
}

impl<E: Engine, P: Passivation> StateMachineTest for VaultMachine<E, P> {
    type SystemUnderTest = Self;
    type Reference = World;

    fn init_test(_: &World) -> Self {
        block_on(async {
            let place = Place::new::<E, P>().await;
            for environment in Environment::ALL {
                for number in 0..PROVIDERS.len() {
                    place.backend(environment).set_provider(settings(number)).await.unwrap();
                }
            }
            Self {
                place,
                made: Vec::new(),
                minted: Vec::new(),
                keys: Vec::new(),
                held_connections: Vec::new(),
                held_backends: Vec::new(),
                held_sessions: Vec::new(),
                held_accounts: Vec::new(),
                kind: PhantomData,
            }
        })
    }

    fn apply(mut machine: Self, world: &World, step: Step) -> Self {
        if world.expected == Outcome::Skipped {
            coverage::count(&step, &world.expected);
            return machine;
        }
        let seen = block_on(machine.step(world, &step)).unwrap_or_else(|error| outcome_of(&error));
        assert_eq!(seen, world.expected, "after {step:?}");
        coverage::count(&step, &seen);
        if matches!(step, Step::Restart(_)) {
            block_on(machine.compare_all(world));
        }
        machine.wait_for_passivation();
        machine
    }

    fn teardown(mut machine: Self, world: World) {
        block_on(async {
            machine.compare_all(&world).await;
            machine.restart(Ending::Close).await;
            machine.compare_all(&world).await;
            machine.place.vault().close().await.unwrap();
        });
    }
}

impl<E: Engine, P: Passivation> VaultMachine<E, P> {
    #[expect(clippy::too_many_lines, reason = "one arm per kind of step")]
    async fn step(&mut self, world: &World, step: &Step) -> Result<Outcome, Error> {
        match *step {
            Step::Create { owner, metadata } => {
                let backend = self.place.backend(owner.environment);
                match metadata {
                    None => backend.create_account(&id(IDS[owner.id])).await?,
                    Some(number) => backend.create_account_with(&id(IDS[owner.id]), &metadata_text(number)).await?,
                };
            }
            Step::SetMetadata { owner, metadata } => self.account(owner).await?.set_metadata(&metadata_text(metadata)).await?,
            Step::Disable { owner } => self.account(owner).await?.disable().await?,
            Step::Enable { owner } => self.account(owner).await?.enable().await?,
            Step::Delete { owner } => self.account(owner).await?.delete().await?,
            Step::RotateKey { owner } => self.account(owner).await?.rotate_key().await?,
            Step::Describe { owner } => return Ok(Outcome::Account(facts(&self.account(owner).await?, owner).await?)),
            Step::ReadAudit { owner } => return self.read_audit(world, owner).await,
            Step::HoldAccount { owner } => {
                let account = self.account(owner).await?;
                self.held_accounts.push(account);
            }
            Step::UseHeldAccount { account, connection } => {
                let account = &self.held_accounts[pick(&self.held_accounts, account).unwrap()];
                return reveal(&account.connection(&self.id_of(connection)).await?).await;
            }

            Step::Connect { owner, provider: number, label } => {
                let account = self.account(owner).await?;
                let text = &world.connections.last().expect("the model made it in this step").secret;
                let new = NewConnection::new(provider(PROVIDERS[number]), credential(number, text)).label(label_text(label));
                let connection = account.add_connection(new).await?;
                self.made.push(connection.id());
                self.held_connections.push(connection);
            }
            Step::OnConnection { owner, connection: number, through, action } => {
                let held = if through == Through::Held { world.held_connection(number) } else { None };
                let connection = match held {
                    Some(held) => self.held_connections[held - world.handles_from.0].clone(),
                    None => self.account(owner).await?.connection(&self.id_of(number)).await?,
                };
                return self.on_connection(world, number, &connection, action).await;
            }

            Step::Mint { owner, options } => {
                let minted = self.account(owner).await?.mint_session_token(session_options(options)).await?;
                self.minted.push(minted);
            }
            Step::Present { token, forgery, origin, action } => {
                let token = forged(&self.minted, pick(&self.minted, token).unwrap(), forgery);
                let session = match origin {
                    None => self.place.vault().session(&token).await?,
                    Some(origin) => self.place.vault().session_from(&token, ORIGINS[origin]).await?,
                };
                self.held_sessions.push(session);
                return self.in_session(self.held_sessions.len() - 1, action).await;
            }
            Step::UseHeldSession { session, action } => {
                return self.in_session(pick(&self.held_sessions, session).unwrap(), action).await;
            }
            Step::RevokeToken { owner, token } => {
                let number = pick(&self.minted, token).unwrap();
                self.account(owner).await?.revoke_session_token(&self.minted[number].id).await?;
            }
            Step::RevokeAllTokens { owner } => self.account(owner).await?.revoke_all_session_tokens().await?,

            Step::ListAccounts { environment } => return self.list_accounts(environment).await,
            Step::SetProvider { environment, provider } => {
                self.place.backend(environment).set_provider(settings(provider)).await?;
            }
            Step::RemoveProvider { environment, provider: number } => {
                self.place.backend(environment).remove_provider(&provider(PROVIDERS[number])).await?;
            }
            Step::NewKey { environment, ids, permissions: bits } => {
                let mut new = NewApiKey::new("narrow").permissions(permissions(bits));
                if let Some(ids) = ids {
                    new = new.accounts((0..IDS.len()).filter(|n| ids & (1 << n) != 0).map(|n| id(IDS[n])));
                }
                let created = self.place.backend(environment).create_api_key(new).await?;
                self.hold_key(created).await?;
            }
            Step::RevokeKey { key } => {
                let number = pick(&self.keys, key).unwrap();
                self.place.backend(world.keys[number].environment).revoke_api_key(&self.keys[number].info.id).await?;
            }
            Step::RotateApiKey { key, grace_minutes } => {
                let number = pick(&self.keys, key).unwrap();
                let (backend, id) = (self.place.backend(world.keys[number].environment), self.keys[number].info.id);
                let created = backend.rotate_api_key(&id, Duration::from_secs(u64::from(grace_minutes) * 60)).await?;
                self.hold_key(created).await?;
            }
            Step::ListKeys { environment } => return self.list_keys(environment).await,
            Step::ActWithKey { key, through, id: number, connection, action } => {
                let key = pick(&self.keys, key).unwrap();
                let held = (through == Through::Held).then(|| key.checked_sub(world.handles_from.1)).flatten();
                let backend = match held {
                    Some(held) => self.held_backends[held].clone(),
                    None => self.place.vault().backend(&self.keys[key].key).await?,
                };
                return self.with_key(world, &backend, number, connection, action).await;
            }

            Step::RotateRootKey => {
                self.place.root_key += 1;
                self.place.vault().rotate_root_key(root_key_of(self.place.root_key)).await?;
            }
            Step::Verify => {
                let report = self.place.vault().verify().await?;
                assert!(report.damaged.is_empty(), "{report:?}");
                return Ok(Outcome::Verified { accounts: usize::try_from(report.intact).unwrap() });
            }
            Step::Wait { minutes } => self.place.clock.advance(Duration::from_secs(u64::from(minutes) * 60)),
            Step::Restart(ending) => self.restart(ending).await,
        }
        Ok(Outcome::Done)
    }

    async fn on_connection(
        &self,
        world: &World,
        number: u8,
        connection: &Connection,
        action: ConnectionAction,
    ) -> Result<Outcome, Error> {
        match action {
            ConnectionAction::Describe => return Ok(Outcome::Connection(self.listed(&connection.info().await?))),
            ConnectionAction::Reveal => return reveal(connection).await,
            ConnectionAction::Authorize => return authorize(connection, self.kind_of(world, number)).await,
            ConnectionAction::Replace => {
                let kind = self.kind_of(world, number);
                let text = &world.connections[pick(&self.made, number).unwrap()].secret;
                connection.replace_credential(credential(kind, text)).await?;
            }
            ConnectionAction::Relabel(label) => connection.set_label(&label_text(label)).await?,
            ConnectionAction::ReportFailed => connection.report_failed().await?,
            ConnectionAction::Remove => connection.remove().await?,
        }
        Ok(Outcome::Done)
    }

    async fn in_session(&self, session: usize, action: SessionAction) -> Result<Outcome, Error> {
        let session = &self.held_sessions[session];
        match action {
            SessionAction::WhoAmI => {
                let text = session.linked_account_id().await?;
                let number = IDS.iter().position(|name| *name == text.as_str()).expect("an id that nobody created");
                Ok(Outcome::Id(Owner { environment: session.environment(), id: number }))
            }
            SessionAction::List => Ok(Outcome::Connections(self.all_listed(&session.connections().await?))),
            SessionAction::Disconnect(number) => session.disconnect(&self.id_of(number)).await.map(|()| Outcome::Done),
        }
    }

    async fn with_key(
        &mut self,
        world: &World,
        backend: &Backend,
        number: usize,
        connection: u8,
        action: KeyAction,
    ) -> Result<Outcome, Error> {
        if let KeyAction::Create = action {
            backend.create_account(&id(IDS[number])).await?;
            return Ok(Outcome::Done);
        }
        let account = backend.account(&id(IDS[number])).await?;
        let owner = Owner { environment: backend.environment(), id: number };
        let found = async || account.connection(&self.id_of(connection)).await;
        match action {
            KeyAction::Create => unreachable!("handled above"),
            KeyAction::Describe => return Ok(Outcome::Account(facts(&account, owner).await?)),
            KeyAction::List => return Ok(Outcome::Connections(self.all_listed(&account.connections().await?))),
            KeyAction::Reveal => return reveal(&found().await?).await,
            KeyAction::Authorize => return authorize(&found().await?, self.kind_of(world, connection)).await,
            KeyAction::Relabel(label) => found().await?.set_label(&label_text(label)).await?,
            KeyAction::Mint => {
                let minted = account.mint_session_token(session_options(KEY_MINTS)).await?;
                self.minted.push(minted);
            }
            KeyAction::RevokeAllTokens => account.revoke_all_session_tokens().await?,
            KeyAction::RotateKey => account.rotate_key().await?,
        }
        Ok(Outcome::Done)
    }

    async fn hold_key(&mut self, created: CreatedApiKey) -> Result<(), Error> {
        self.held_backends.push(self.place.vault().backend(&created.key).await?);
        self.keys.push(created);
        Ok(())
    }

    async fn restart(&mut self, ending: Ending) {
        self.held_connections.clear();
        self.held_backends.clear();
        self.held_sessions.clear();
        self.held_accounts.clear();
        self.place.restart::<P>(ending).await;
    }

    /// With one resident account, the one before is passivated before the next step begins.
    fn wait_for_passivation(&self) {
        let patience = Instant::now() + Duration::from_secs(10);
        while self.place.vault().status().resident_accounts > P::MAX_RESIDENT {
            assert!(Instant::now() < patience, "accounts past the bound stay resident");
            std::thread::yield_now();
        }
    }

    pub(crate) async fn account(&self, owner: Owner) -> Result<Account, Error> {
        self.place.backend(owner.environment).account(&id(IDS[owner.id])).await
    }

    fn id_of(&self, connection: u8) -> ConnectionId {
        pick(&self.made, connection).map_or_else(|| NEVER.parse().unwrap(), |number| self.made[number])
    }

    /// Of what kind the picked connection's credential is: its provider's.
    fn kind_of(&self, world: &World, connection: u8) -> usize {
        pick(&self.made, connection).map_or(0, |number| world.connections[number].provider)
    }

    pub(crate) fn all_listed(&self, infos: &[ConnectionInfo]) -> BTreeSet<Listed> {
        infos.iter().map(|info| self.listed(info)).collect()
    }

    fn listed(&self, info: &ConnectionInfo) -> Listed {
        Listed {
            number: self.made.iter().position(|made| *made == info.id).expect("a connection that nobody made"),
            provider: PROVIDERS.iter().position(|name| *name == info.provider.as_str()).expect("a provider that nobody named"),
            label: info.label.clone(),
            failed: matches!(info.status, ConnectionStatus::ReauthRequired { .. }),
        }
    }
}

pub async fn facts(account: &Account, owner: Owner) -> Result<Facts, Error> {
    let info = account.info().await?;
    assert_eq!(info.id, id(IDS[owner.id]), "an account has another's id");
    let disabled = info.status == AccountStatus::Disabled;
    Ok(Facts { metadata: info.metadata, disabled, connections: info.connections })
}

pub async fn reveal(connection: &Connection) -> Result<Outcome, Error> {
    let text = connection
        .reveal(|shown| {
            let text = shown.api_key().or(shown.access_token()).or(shown.basic().map(|(_, password)| password));
            text.expect("every kind has a secret").to_owned()
        })
        .await?;
    Ok(Outcome::Secret(text))
}

async fn authorize(connection: &Connection, kind: usize) -> Result<Outcome, Error> {
    let mut request = http::Request::get("https://api.example.com/me").body(()).unwrap();
    connection.authorize(&mut request).await?;
    let header = if kind == 0 { "x-provider-key" } else { "authorization" };
    let value = request.headers()[header].to_str().unwrap();
    let text = match kind {
        0 => value.to_owned(),
        1 => value.strip_prefix("Bearer ").unwrap().to_owned(),
        _ => {
            let pair = STANDARD.decode(value.strip_prefix("Basic ").unwrap()).unwrap();
            String::from_utf8(pair).unwrap().strip_prefix("user:").unwrap().to_owned()
        }
    };
    Ok(Outcome::Secret(text))
}

fn settings(number: usize) -> ProviderSettings {
    use anchorhold::Injection::{Basic, Bearer};
    let settings = ProviderSettings::new(provider(PROVIDERS[number])).allow_host("api.example.com").unwrap();
    settings.injection([in_header(), Bearer, Basic][number].clone()).unwrap()
}

fn credential(kind: usize, text: &str) -> Credential {
    match kind {
        0 => Credential::api_key(secret(text)),
        1 => Credential::oauth2(OAuth2Tokens::new(secret(text)).refresh_token(secret("a refresh token"))),
        _ => Credential::basic("user", secret(text)),
    }
}

fn session_options(options: MintOptions) -> SessionOptions {
    let MintOptions { grants: bits, provider: only, origin, single_use, minutes } = options;
    let mut options = SessionOptions::new().lifetime(Duration::from_secs(u64::from(minutes) * 60)).grants(grants(bits));
    if let Some(only) = only {
        options = options.providers([provider(PROVIDERS[only])]);
    }
    if origin {
        options = options.origins([ORIGINS[0]]);
    }
    if single_use { options.single_use() } else { options }
}

fn outcome_of(error: &Error) -> Outcome {
    match error {
        Error::NotFound { what } => Outcome::NotFound(*what),
        Error::AccountDisabled => Outcome::AccountDisabled,
        Error::InvalidToken => Outcome::InvalidToken,
        Error::InvalidApiKey => Outcome::InvalidApiKey,
        Error::PermissionDenied { needed } => Outcome::PermissionDenied(*needed),
        Error::NotGranted { needed } => Outcome::NotGranted(*needed),
        other => panic!("an error that no step may give: {other:?}"),
    }
}
