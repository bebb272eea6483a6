//! Measures a vault that is already there, from a process that has not made it: what making it left in memory would count otherwise.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anchorhold::{ApiKey, Backend, SessionOptions, Vault};

use crate::run::Run;
use crate::{Outcome, builder, linked_account};

/// Accounts that are touched, each once, in no order.
const TOUCHED: usize = 10_000;

/// Accounts at work.
const HOT: usize = 1_000;

/// How often each of them mints and reveals.
const TURNS: usize = 4;

/// How often the vault is opened. The first may have more to do than the others.
const OPENINGS: usize = 3;

/// Runs [`measure`] in a process of its own. The API key goes by its standard input.
pub fn from_a_fresh_process(directory: &Path, accounts: usize, api_key: &ApiKey, run: &mut Run) -> Outcome<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--accounts", &accounts.to_string(), "--use"])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().ok_or("a pipe")?.write_all(api_key.expose_secret().as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err("the process that used the vault failed".into());
    }
    run.read(std::str::from_utf8(&output.stdout)?)
}

/// Prints a line `NAME VALUE` for each figure.
pub fn measure(directory: &Path, accounts: usize) -> Outcome<()> {
    let api_key = ApiKey::from(std::io::read_to_string(std::io::stdin())?.as_str());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut openings = Vec::new();
        let vault = loop {
            let begun = Instant::now();
            let vault = builder(directory).open().await?;
            openings.push(begun.elapsed().as_secs_f64());
            if openings.len() == OPENINGS {
                break vault;
            }
            vault.close().await?;
        };
        println!("open_first_s {}", openings[0]);
        println!("open_s {}", median(&mut openings));

        let backend = vault.backend(&api_key).await?;
        let mut touches = Vec::new();
        for number in scattered(TOUCHED, accounts) {
            let begun = Instant::now();
            backend.account(&linked_account(number)?).await?.connections().await?;
            touches.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        println!("touch_p50_ms {}", median(&mut touches));
        println!("rss_after_touch_mib {}", resident_bytes() / 1024.0 / 1024.0);

        // Those that were made together are in few shards; those at work in any one minute may be in more than are kept open.
        for (kind, numbers) in [("scattered", scattered(HOT, accounts)), ("together", (0..HOT.min(accounts)).collect())] {
            let (mut mints, mut reveals) = hot(&backend, &numbers).await?;
            println!("mint_{kind}_p50_us {}", median(&mut mints));
            println!("reveal_{kind}_p50_us {}", median(&mut reveals));
        }
        close(vault).await
    })
}

/// Microseconds of one caller's mints and reveals, of accounts that are resident.
async fn hot(backend: &Backend, numbers: &[usize]) -> Outcome<(Vec<f64>, Vec<f64>)> {
    let mut hot = Vec::new();
    for number in numbers {
        let account = backend.account(&linked_account(*number)?).await?;
        let first = account.connections().await?.first().ok_or("an account without connections")?.id;
        account.mint_session_token(SessionOptions::new()).await?;
        hot.push(account.connection(&first).await?);
    }
    let (mut mints, mut reveals) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        for connection in &hot {
            let begun = Instant::now();
            connection.account().mint_session_token(SessionOptions::new()).await?;
            mints.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        for connection in &hot {
            let begun = Instant::now();
            connection.reveal(|secret| secret.api_key().map(str::len)).await?.ok_or("not an API key")?;
            reveals.push(begun.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok((mints, reveals))
}

async fn close(vault: Vault) -> Outcome<()> {
    let begun = Instant::now();
    vault.close().await?;
    println!("close_s {}", begun.elapsed().as_secs_f64());
    Ok(())
}

/// So many different numbers below `of` (all, when there are no more), in an order that has none; the same in each run.
fn scattered(count: usize, of: usize) -> Vec<usize> {
    let (mut seen, mut numbers, mut state) = (BTreeSet::new(), Vec::new(), 0x9e37_79b9_7f4a_7c15_u64);
    while numbers.len() < count.min(of) {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let number = (state % of as u64) as usize;
        if seen.insert(number) {
            numbers.push(number);
        }
    }
    numbers
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Of this process.
pub fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0.0);
    pages * 4096.0
}
