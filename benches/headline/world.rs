//! What the figures share: a vault with accounts, tasks that hammer it, medians.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anchorhold::{
    Account, Backend, Credential, Environment, LinkedAccountId, NewConnection, ProviderName, RawKey, RootKey, Vault, VaultBuilder,
};

/// How many accounts share a shard.
pub const PER_SHARD: usize = 96;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A vault on disk with default settings, and its backend.
pub struct World {
    pub vault: Vault,
    pub backend: Backend,
    pub runtime: tokio::runtime::Runtime,
    key: [u8; 32],
    directory: tempfile::TempDir,
}

impl World {
    pub fn new() -> Outcome<Self> {
        Self::with(|builder| builder)
    }

    /// With other settings, where a figure needs them.
    pub fn with(options: impl FnOnce(VaultBuilder) -> VaultBuilder) -> Outcome<Self> {
        let directory = tempfile::tempdir()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let key = [7; 32];
        let (vault, backend) = runtime.block_on(async {
            let vault = options(builder(directory.path(), key)).open().await?;
            let api_key = vault.bootstrap_api_key(Environment::Test).await?;
            let backend = vault.backend(&api_key).await?;
            Outcome::Ok((vault, backend))
        })?;
        Ok(Self { vault, backend, runtime, key, directory })
    }

    /// Creates accounts, many at once.
    pub fn accounts(&self, count: usize) -> Outcome<Vec<Account>> {
        self.runtime.block_on(async {
            let mut accounts = Vec::with_capacity(count);
            for chunk in (0..count).collect::<Vec<_>>().chunks(256) {
                let tasks: Vec<_> = chunk
                    .iter()
                    .map(|number| {
                        let (backend, id) = (self.backend.clone(), LinkedAccountId::new(format!("customer-{number}")));
                        tokio::spawn(async move { Outcome::Ok(backend.create_account(&id?).await?) })
                    })
                    .collect();
                for task in tasks {
                    accounts.push(task.await??);
                }
            }
            Ok(accounts)
        })
    }

    /// Closes the vault and opens it again, so that nothing is resident.
    pub fn reopen(&mut self, api_key: &anchorhold::ApiKey) -> Outcome<()> {
        let (vault, backend) = self.runtime.block_on(async {
            self.vault.close().await?;
            let vault = open(self.directory.path(), self.key).await?;
            let backend = vault.backend(api_key).await?;
            Outcome::Ok((vault, backend))
        })?;
        (self.vault, self.backend) = (vault, backend);
        Ok(())
    }
}

async fn open(directory: &std::path::Path, key: [u8; 32]) -> Outcome<Vault> {
    Ok(builder(directory, key).open().await?)
}

fn builder(directory: &std::path::Path, mut key: [u8; 32]) -> VaultBuilder {
    let root = RootKey::from_bytes(&mut key);
    Vault::builder(directory.join("vault")).root_key(RawKey::new(root))
}

/// A connection with a credential of `bytes` bytes.
pub fn connection(bytes: usize) -> Outcome<NewConnection> {
    Ok(NewConnection::new(ProviderName::new("bench")?, Credential::api_key("k".repeat(bytes).into())))
}

/// Operations per second of `tasks` tasks that do `step(task, turn)` for a while.
pub fn per_second<F>(
    runtime: &tokio::runtime::Runtime,
    tasks: usize,
    time: Duration,
    step: impl Fn(usize, usize) -> F + Send + Sync + 'static,
) -> f64
where
    F: Future<Output = ()> + Send,
{
    let step = Arc::new(step);
    runtime.block_on(async {
        let begun = Instant::now();
        let end = begun + time;
        let running: Vec<_> = (0..tasks)
            .map(|task| {
                let step = Arc::clone(&step);
                tokio::spawn(async move {
                    let mut turn = 0;
                    while Instant::now() < end {
                        step(task, turn).await;
                        turn += 1;
                    }
                    turn
                })
            })
            .collect();
        let mut done = 0;
        for task in running {
            done += task.await.expect("a task of the benchmark panicked");
        }
        done as f64 / begun.elapsed().as_secs_f64()
    })
}

/// Waits until this process does next to nothing, at most 15 seconds. Where the system does not tell, three seconds.
pub fn wait_until_idle() {
    const STEP: Duration = Duration::from_millis(250);
    let Some(mut used) = processor_ticks() else { return std::thread::sleep(STEP * 12) };
    for _ in 0..60 {
        std::thread::sleep(STEP);
        let now = processor_ticks().unwrap_or(used);
        // A tick is 10 ms: less than a tenth of one core.
        if now - used < 3 {
            return;
        }
        used = now;
    }
}

/// What the process has used of the processor, in user and in system mode (`proc_pid_stat(5)`).
fn processor_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// Runs both sides in turn, five rounds each, and returns the medians.
pub fn rounds(mut ours: impl FnMut() -> f64, mut theirs: impl FnMut() -> f64) -> (f64, f64) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        a.push(ours());
        b.push(theirs());
    }
    (median(&mut a), median(&mut b))
}

pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

pub fn quantile(values: &mut [f64], at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * at).round() as usize]
}

pub fn figure(name: &str, value: f64, unit: &str) {
    println!("figure: {name} = {value:.3} {unit}");
}
