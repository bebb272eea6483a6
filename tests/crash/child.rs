//! The process that dies. It writes one line per event to its standard error: `opening`, `open`, `> TASK CHANGE` before a change and
//! `< TASK ANSWER` once it is acknowledged. Lines that were written survive it, in the pipe.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anchorhold::{ApiKey, Backend, Connection, Credential, Error, SessionOptions, SessionToken, SessionTokenId, Vault};

use crate::common::{api_key_connection, block_on, builder, from_env, id, provider, root_key_of, secret};
use crate::model::{ACCOUNTS, Chance, Change, TASKS, TREES_PER_SHARD};
use crate::provider::{self, Provider};

pub const PATH: &str = "ANCHORHOLD_CRASH_PATH";
pub const KEY: &str = "ANCHORHOLD_CRASH_KEY";
pub const SEED: &str = "ANCHORHOLD_CRASH_CHILD_SEED";
/// The number of the root key.
pub const ROOT: &str = "ANCHORHOLD_CRASH_ROOT";
/// The number of the root key that it is put under, if it is.
pub const NEXT_ROOT: &str = "ANCHORHOLD_CRASH_NEXT_ROOT";

/// Set for a process that opens the vault and does nothing with it.
pub const ONLY_OPENS: &str = "ANCHORHOLD_CRASH_ONLY_OPENS";

/// The root key of a number: what the vault is opened with, by child and parent.
pub async fn open(path: &Path, root: u8, next: Option<u8>) -> Result<Vault, anchorhold::OpenError> {
    open_with(path, root, next, Provider::default()).await
}

async fn open_with(path: &Path, root: u8, next: Option<u8>, provider: Provider) -> Result<Vault, anchorhold::OpenError> {
    let builder =
        builder(path).trees_per_shard(TREES_PER_SHARD).max_open_shards(4).commit_log_bytes(128 * 1024).section_from_bytes(0);
    let builder = builder.http_client(provider);
    match next {
        // A rotation that was under way may have ended or not.
        Some(next) => builder.root_key(root_key_of(next)).previous_root_key(root_key_of(root)).open().await,
        None => builder.root_key(root_key_of(root)).open().await,
    }
}

/// Not a test by itself: what runs in the child process.
#[test]
#[ignore = "started by the other tests"]
fn child() {
    let Ok(path) = std::env::var(PATH) else { return };
    tell("opening");
    let root = from_env(ROOT, 0) as u8;
    let next = std::env::var(NEXT_ROOT).ok().map(|number| number.parse().unwrap());
    if std::env::var_os(ONLY_OPENS).is_some() {
        let _vault = block_on(open(Path::new(&path), root, next)).unwrap();
        tell("open");
        loop {
            std::thread::park();
        }
    }
    let provider = Provider::default();
    let vault = block_on(open_with(Path::new(&path), root, None, provider.clone())).unwrap();
    tell("open");
    let backend = block_on(vault.backend(&ApiKey::from(std::env::var(KEY).unwrap()))).unwrap();
    let seed = from_env(SEED, 0);
    std::thread::scope(|scope| {
        for task in 0..TASKS {
            let (vault, backend, provider) = (&vault, &backend, &provider);
            scope.spawn(move || block_on(Task::new(task, vault, backend, provider, seed).run()));
        }
        if let Some(number) = next {
            let vault = &vault;
            scope.spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(Chance(seed).below(40)));
                tell(&format!("> {TASKS} {}", Change::RotateRoot { number }));
                block_on(vault.rotate_root_key(root_key_of(number))).unwrap();
                tell(&format!("< {TASKS}"));
            });
        }
    });
}

/// One write, so that lines of several threads stay whole.
fn tell(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Changes its own accounts, one change after the other, for as long as the process lives.
struct Task<'a> {
    number: usize,
    vault: &'a Vault,
    backend: &'a Backend,
    provider: &'a Provider,
    chance: Chance,
    /// Tokens that this process minted, by account.
    tokens: BTreeMap<String, Vec<(String, SessionTokenId)>>,
    /// Those for single use.
    once: BTreeMap<String, Vec<String>>,
}

impl<'a> Task<'a> {
    fn new(number: usize, vault: &'a Vault, backend: &'a Backend, provider: &'a Provider, seed: u64) -> Self {
        let chance = Chance(seed ^ ((number as u64 + 1) << 32));
        Self { number, vault, backend, provider, chance, tokens: BTreeMap::new(), once: BTreeMap::new() }
    }

    async fn run(&mut self) {
        loop {
            let account = format!("customer-{}-{}", self.number, self.chance.below(ACCOUNTS as u64));
            let change = self.draw(account).await;
            tell(&format!("> {} {change}", self.number));
            let answer = self.make(&change).await.unwrap_or_else(|error| panic!("{change}: {error:?}"));
            tell(format!("< {} {answer}", self.number).trim_end());
        }
    }

    /// A change that can be made.
    async fn draw(&mut self, account: String) -> Change {
        let word = format!("{:016x}", self.chance.next());
        let found = match self.backend.account(&id(&account)).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Change::Create { account, metadata: word },
            Err(error) => panic!("looking for {account}: {error:?}"),
        };
        let labels: Vec<String> = found.connections().await.unwrap().into_iter().map(|info| info.label).collect();
        let (oauth, plain): (Vec<_>, Vec<_>) = labels.iter().partition(|label| label.starts_with('o'));
        let once = self.once.get(&account).and_then(|tokens| tokens.first());
        let minted = self.tokens.get(&account).filter(|tokens| !tokens.is_empty());
        // Large ones too, which the engine cuts into parts.
        let length = if self.chance.below(8) == 0 { 9_000 } else { 16 };
        let secret = word.repeat(length / 16);
        match (self.chance.below(30), plain.first(), oauth.first(), minted, once) {
            (0, ..) => Change::Delete { account },
            (1, ..) => Change::RotateKey { account },
            (2, ..) => Change::RevokeAll { account },
            (3..6, _, _, Some(tokens), _) => Change::Revoke { account, token: tokens[0].0.clone() },
            (6..8, ..) => Change::Mint { account },
            (8..10, ..) => Change::SetMetadata { account, metadata: word },
            (10, Some(label), ..) => Change::Remove { account, label: (*label).clone() },
            (11..17, Some(label), ..) => Change::Replace { account, label: (*label).clone(), secret },
            (17..22, _, _, _, Some(token)) => Change::UseUp { account, token: token.clone() },
            (17..22, ..) => Change::MintOnce { account },
            (22..28, _, Some(label), ..) => Change::Refresh { account, label: (*label).clone(), secret },
            (22..28, ..) if labels.len() < 4 => Change::Connect { account, label: format!("o{word}"), secret },
            _ if labels.len() < 4 => Change::Add { account, label: format!("l{word}"), secret },
            _ => Change::SetMetadata { account, metadata: word },
        }
    }

    async fn make(&mut self, change: &Change) -> Result<String, Error> {
        if let Change::Create { account, metadata } = change {
            self.backend.create_account_with(&id(account), metadata).await?;
            return Ok(String::new());
        }
        let name = change.account().expect("a task changes accounts").to_owned();
        let account = self.backend.account(&id(&name)).await?;
        let connection = async |label: &str| -> Result<Connection, Error> {
            let infos = account.connections().await?;
            account.connection(&infos.iter().find(|info| info.label == label).expect("it was drawn from these").id).await
        };
        match change {
            Change::SetMetadata { metadata, .. } => account.set_metadata(metadata).await?,
            Change::Add { label, secret: text, .. } => {
                account.add_connection(api_key_connection("crm", text).label(label)).await?;
            }
            Change::Replace { label, secret: text, .. } => {
                connection(label).await?.replace_credential(Credential::api_key(secret(text))).await?;
            }
            Change::Remove { label, .. } => connection(label).await?.remove().await?,
            Change::Connect { label, secret: text, .. } => {
                self.provider.will_answer(label, text);
                let token = secret(&Provider::refresh_token(label));
                account.import_refresh_token(&provider(provider::NAME), token, label).await?;
            }
            Change::Refresh { label, secret: text, .. } => {
                let connection = connection(label).await?;
                self.provider.will_answer(label, text);
                connection.refresh().await?;
            }
            Change::MintOnce { .. } => {
                let minted = account.mint_session_token(SessionOptions::new().single_use()).await?;
                let text = minted.token.expose_secret().to_owned();
                self.once.entry(name).or_default().push(text.clone());
                return Ok(text);
            }
            Change::UseUp { token, .. } => {
                self.once.get_mut(&name).expect("it was drawn from these").retain(|text| text != token);
                self.vault.session(&SessionToken::from(token.as_str())).await?;
            }
            Change::Mint { .. } => {
                let minted = account.mint_session_token(SessionOptions::new()).await?;
                let text = minted.token.expose_secret().to_owned();
                self.tokens.entry(name).or_default().push((text.clone(), minted.id));
                return Ok(text);
            }
            Change::Revoke { token, .. } => {
                let tokens = self.tokens.get_mut(&name).expect("it was drawn from these");
                let place = tokens.iter().position(|(text, _)| text == token).expect("it was drawn from these");
                account.revoke_session_token(&tokens.remove(place).1).await?;
            }
            Change::RevokeAll { .. } => {
                account.revoke_all_session_tokens().await?;
                self.forget_tokens(&name);
            }
            Change::RotateKey { .. } => {
                account.rotate_key().await?;
                self.forget_tokens(&name);
            }
            Change::Delete { .. } => {
                account.delete().await?;
                self.forget_tokens(&name);
            }
            Change::Create { .. } | Change::RotateRoot { .. } => unreachable!("made elsewhere"),
        }
        Ok(String::new())
    }
    fn forget_tokens(&mut self, account: &str) {
        self.tokens.remove(account);
        self.once.remove(account);
    }
}
