//! Makes a vault of many accounts, and times each tenth of it.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anchorhold::{ApiKey, Backend, Credential, Environment, NewConnection, ProviderName};

use crate::run::Run;
use crate::{CONNECTIONS, Outcome, builder, linked_account};

/// Accounts that are made at the same time.
const TASKS: usize = 256;

const TENTHS: usize = 10;

/// Bytes of each credential.
const CREDENTIAL: usize = 64;

/// What the tasks share.
struct Work {
    backend: Backend,
    accounts: usize,
    begun: Instant,
    next: AtomicUsize,
    done: AtomicUsize,
    /// Nanoseconds from the beginning to the end of each tenth.
    ends: [AtomicUsize; TENTHS],
}

/// The vault with its accounts, closed; what it took, and the API key to it.
pub fn fill(directory: &Path, accounts: usize) -> Outcome<(Run, ApiKey)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let vault = builder(directory).open().await?;
        let api_key = vault.bootstrap_api_key(Environment::Test).await?;
        let backend = vault.backend(&api_key).await?;
        let begun = Instant::now();
        let [next, done] = [0, 0].map(AtomicUsize::new);
        let work = Arc::new(Work { backend, accounts, begun, next, done, ends: Default::default() });
        let bar = tokio::spawn(progress(Arc::clone(&work)));
        let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(create(Arc::clone(&work)))).collect();
        for task in tasks {
            task.await??;
        }
        bar.abort();
        if std::io::stderr().is_terminal() {
            eprintln!();
        }
        let took = begun.elapsed();
        let resident = crate::used::resident_bytes();
        let closing = Instant::now();
        vault.close().await?;
        let closed = closing.elapsed();
        let mut run = Run::new(accounts);
        run.set("create_per_s", accounts as f64 / took.as_secs_f64());
        let tenths = work.per_second_by_tenth();
        run.set("create_last_to_first_tenth", tenths[TENTHS - 1] / tenths[0]);
        for (tenth, rate) in tenths.into_iter().enumerate() {
            run.set(&format!("create_tenth_{}_per_s", tenth + 1), rate);
        }
        run.set("rss_after_create_mib", resident / 1024.0 / 1024.0);
        run.set("close_after_create_s", closed.as_secs_f64());
        run.set("disk_per_account_kib", bytes_in(directory)? as f64 / 1024.0 / accounts as f64);
        Ok((run, api_key))
    })
}

async fn create(work: Arc<Work>) -> Outcome<()> {
    loop {
        let number = work.next.fetch_add(1, Ordering::Relaxed);
        if number >= work.accounts {
            return Ok(());
        }
        let account = work.backend.create_account(&linked_account(number)?).await?;
        for connection in 0..CONNECTIONS {
            let provider = ProviderName::new(format!("provider-{connection}"))?;
            let credential = Credential::api_key("k".repeat(CREDENTIAL).into());
            account.add_connection(NewConnection::new(provider, credential)).await?;
        }
        let done = work.done.fetch_add(1, Ordering::Relaxed) + 1;
        for (tenth, end) in work.ends.iter().enumerate() {
            if done == work.accounts * (tenth + 1) / TENTHS {
                end.store(work.begun.elapsed().as_nanos() as usize, Ordering::Relaxed);
            }
        }
    }
}

impl Work {
    fn per_second_by_tenth(&self) -> [f64; TENTHS] {
        let mut begun = 0;
        std::array::from_fn(|tenth| {
            let ended = self.ends[tenth].load(Ordering::Relaxed);
            let accounts = self.accounts * (tenth + 1) / TENTHS - self.accounts * tenth / TENTHS;
            let rate = accounts as f64 / ((ended - begun) as f64 / 1e9);
            begun = ended;
            rate
        })
    }
}

/// Says how far it has come: over and over on a terminal, every ten seconds elsewhere.
async fn progress(work: Arc<Work>) {
    let terminal = std::io::stderr().is_terminal();
    let (mut before, mut shown) = (0, Instant::now());
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if shown.elapsed() < Duration::from_secs(if terminal { 1 } else { 10 }) {
            continue;
        }
        let done = work.done.load(Ordering::Relaxed);
        let rate = (done - before) as f64 / shown.elapsed().as_secs_f64();
        let left = (work.accounts - done) as f64 / (done as f64 / work.begun.elapsed().as_secs_f64()).max(1.0);
        let (filled, width) = (30 * done / work.accounts, 30);
        let line = format!(
            "[{}{}] {done} of {} accounts, {rate:.0} a second, {left:.0} s left",
            "#".repeat(filled),
            ".".repeat(width - filled),
            work.accounts
        );
        // Only shown; nobody acts on it.
        let _ = if terminal { write!(std::io::stderr(), "\r{line}  ") } else { writeln!(std::io::stderr(), "{line}") };
        (before, shown) = (done, Instant::now());
    }
}

fn bytes_in(directory: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        bytes += if facts.is_dir() { bytes_in(&entry.path())? } else { facts.len() };
    }
    Ok(bytes)
}
