//! What grows with the number of customers: `cargo bench --bench scale -- --accounts N`.
//!
//! Makes a vault of N linked accounts with three connections each, closes it, and measures it from a fresh process: opening, a touch
//! of 10,000 accounts, minting and revealing over 1,000 hot ones, closing. Prints `figure: NAME = VALUE UNIT`, keeps the run as one line
//! of `docs/img/scale.csv`, and draws the curves over all runs kept there. Works in a directory that it removes again, where `TMPDIR`
//! says.

mod build;
mod plot;
mod run;
mod used;

use std::path::Path;
use std::process::ExitCode;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Of a run that names no number.
const ACCOUNTS: usize = 1_000;

/// Connections of each account.
const CONNECTIONS: usize = 3;

/// Customers differ; the ids do in their numbers.
fn linked_account(number: usize) -> Outcome<anchorhold::LinkedAccountId> {
    Ok(anchorhold::LinkedAccountId::new(format!("customer-{number}"))?)
}

fn builder(directory: &Path) -> anchorhold::VaultBuilder {
    let root = anchorhold::RootKey::from_bytes(&mut [7; 32]);
    anchorhold::Vault::builder(directory.join("vault")).root_key(anchorhold::RawKey::new(root))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
    let result = match (after("--use"), after("--accounts")) {
        (Some(directory), Some(accounts)) => {
            accounts.parse().map_err(Into::into).and_then(|accounts| used::measure(Path::new(directory), accounts))
        }
        (_, Some(accounts)) => match accounts.replace([',', '_'], "").parse() {
            Ok(accounts) if accounts >= 10 => measure(accounts),
            _ => Err(format!("--accounts {accounts}: not a number of at least 10").into()),
        },
        _ if arguments.iter().any(|argument| argument == "--plot") => plot::draw(),
        _ => measure(ACCOUNTS),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(accounts: usize) -> Outcome<()> {
    let directory = tempfile::tempdir()?;
    room_for(accounts, directory.path())?;
    let (mut run, api_key) = build::fill(directory.path(), accounts)?;
    used::from_a_fresh_process(directory.path(), accounts, &api_key, &mut run)?;
    directory.close()?;
    run.print();
    run.keep()?;
    plot::draw()
}

/// Refuses what would fill the disk: an account takes some 10 KiB.
fn room_for(accounts: usize, directory: &Path) -> Outcome<()> {
    const EACH: u64 = 12 * 1024;
    const MEBIBYTE: u64 = 1024 * 1024;
    let needed = accounts as u64 * EACH + 256 * MEBIBYTE;
    let df = std::process::Command::new("df").args(["--output=avail", "--block-size=1"]).arg(directory).output()?;
    let text = String::from_utf8(df.stdout)?;
    let free: u64 = text.lines().last().unwrap_or_default().trim().parse().map_err(|_| "df did not say what is free")?;
    if free < needed {
        return Err(format!(
            "{accounts} accounts need up to {} MiB of disk, and {} has {}: set TMPDIR to a directory with more",
            needed / MEBIBYTE,
            directory.display(),
            free / MEBIBYTE,
        )
        .into());
    }
    Ok(())
}
