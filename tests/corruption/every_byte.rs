//! Each byte of each file of a small vault, one at a time: shard, directory, anchors, header, snapshots, and the empty lock file.
//!
//! `ANCHORHOLD_BYTES` says at how many places of each file, `used` at every one up to the last that is not zero, and `all` at every one; `ANCHORHOLD_BYTES_PART=2/6` takes the second
//! of six parts of them, for several runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anchorhold::{ApiKey, Environment, Error, OpenError, VaultBuilder};

use crate::common::{block_on, builder, copy_folder, customer, files, id, revealed, vault_path};

const NAMES: [&str; 2] = ["alpha", "beta"];

fn options(path: &Path) -> VaultBuilder {
    // One account to a shard. A machine that has much to do besides is no disk that hangs.
    builder(path).threads(1).trees_per_shard(1).stall_timeout(Duration::from_secs(120))
}

/// A vault of two shards, each opened often enough to have a snapshot.
fn small_vault(path: &Path) -> ApiKey {
    block_on(async {
        let vault = options(path).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        for name in NAMES {
            let (account, _) = customer(&backend, name, &format!("secret of {name}")).await;
            account.set_metadata(&format!("metadata of {name}")).await.unwrap();
        }
        vault.close().await.unwrap();
        let vault = options(path).open().await.unwrap();
        assert!(vault.verify().await.unwrap().damaged.is_empty());
        vault.close().await.unwrap();
        key
    })
}

/// What a vault with one wrong byte does: refuses to open, reports some accounts, or is whole.
fn answer(path: &Path, key: &ApiKey, what: &str) -> &'static str {
    block_on(async {
        let vault = match options(path).open().await {
            Ok(vault) => vault,
            Err(OpenError::Corrupted(_) | OpenError::RolledBack(_) | OpenError::NotAVault | OpenError::NewerFormat { .. }) => {
                return "not opened";
            }
            Err(other) => panic!("{what}: {other:?}"),
        };
        let backend = vault.backend(key).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let mut hurt = 0;
        for name in NAMES {
            let read = async || -> Result<(String, String), Error> {
                let account = backend.account(&id(name)).await?;
                let metadata = account.info().await?.metadata;
                let infos = account.connections().await?;
                let secret = match infos.as_slice() {
                    [info] => revealed(&account.connection(&info.id).await?).await?,
                    _ => panic!("{what}: {} connections", infos.len()),
                };
                let audit = account.verify_audit().await?;
                Ok((metadata, if audit.is_intact() { secret } else { String::from("the audit is broken") }))
            };
            match read().await {
                Ok((_, secret)) if secret == "the audit is broken" => hurt += 1,
                Ok(read) => assert_eq!(read, (format!("metadata of {name}"), format!("secret of {name}")), "{what}: silent loss"),
                Err(Error::Corrupted(_) | Error::RolledBack(_)) => hurt += 1,
                Err(other) => panic!("{what}: {name}: {other:?}"),
            }
        }
        let in_shard = what.contains(" of shards/");
        assert!(!in_shard || hurt < NAMES.len(), "{what}: one shard hurts the accounts of another");
        let report = vault.verify().await.unwrap();
        let named = !report.damaged.is_empty();
        assert!(hurt == 0 || named, "{what}: {hurt} accounts are hurt, and verify names nothing");
        vault.close().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        match (hurt, named) {
            (0, false) => "intact",
            (0, true) => "named by verify only",
            _ => "reported",
        }
    })
}

#[test]
fn a_wrong_byte_anywhere_is_harmless_or_a_precise_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = vault_path(&folder);
    let key = small_vault(&path);
    let offsets = std::env::var("ANCHORHOLD_BYTES").unwrap_or_else(|_| "12".into());
    let part = std::env::var("ANCHORHOLD_BYTES_PART").unwrap_or_else(|_| "1/1".into());
    let (part, parts) =
        part.split_once('/').map(|(part, parts)| (part.parse::<usize>().unwrap(), parts.parse().unwrap())).unwrap();
    assert!((1..=parts).contains(&part));
    let mut cases: Vec<(PathBuf, usize)> = Vec::new();
    for (file, bytes) in files(&path) {
        let file = file.strip_prefix(&path).unwrap().to_path_buf();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        println!("{:<44} {used:>9} of {:>9} bytes hold something", file.display(), bytes.len());
        // At odd distances, so that they fall on all kinds of bytes.
        let places = |length: usize, count: usize| (0..length).step_by((length / count.max(1)).max(1) | 1);
        cases.extend(match offsets.as_str() {
            "all" => places(bytes.len(), bytes.len()).map(|at| (file.clone(), at)).collect::<Vec<_>>(),
            "used" => places(used, used).map(|at| (file.clone(), at)).collect(),
            count => {
                let count = count.parse::<usize>().unwrap();
                places(used, count).chain(places(bytes.len(), count / 4)).map(|at| (file.clone(), at)).collect()
            }
        });
    }
    let cases: Vec<_> = cases.into_iter().skip(part - 1).step_by(parts).collect();
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(BTreeMap::<(String, &str), usize>::new()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(|| {
                let copy = tempfile::tempdir().unwrap();
                while let Some((file, at)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let damaged = vault_path(&copy);
                    copy_folder(&path, &damaged);
                    let mut bytes = std::fs::read(damaged.join(file)).unwrap();
                    bytes[*at] ^= 1 << (at % 8);
                    std::fs::write(damaged.join(file), bytes).unwrap();
                    let answer = answer(&damaged, &key, &format!("byte {at} of {}", file.display()));
                    let kind = file.to_string_lossy().replace(|c: char| c.is_ascii_digit(), "#");
                    *tally.lock().unwrap().entry((kind, answer)).or_default() += 1;
                    std::fs::remove_dir_all(&damaged).unwrap();
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap();
    for ((file, answer), count) in &tally {
        println!("{file:<44} {answer:<22} {count:>9}");
    }
    println!("{} bytes flipped, part {part} of {parts}, in {:?}", cases.len(), started.elapsed());
    let seen = |wanted: &str| tally.keys().any(|(_, answer)| *answer == wanted);
    // The controls: some bytes count, and some don't.
    assert!(seen("not opened") && seen("reported") && seen("intact"), "{tally:?}");
    // The lock file has no byte that could be wrong; whatever is written into it, nobody reads it.
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&path, &vault_path(&copy));
    std::fs::write(vault_path(&copy).join("vault.lock"), b"something").unwrap();
    assert_eq!(answer(&vault_path(&copy), &key, "the lock file"), "intact");
    assert_eq!(answer(&path, &key, "undamaged"), "intact");
}
