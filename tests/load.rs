//! A crowd: many callers on many accounts, some of whose requests panic and some of which are dropped half-way. No acknowledged change
//! is lost, memory does not grow once everything is warm (in a short run, by no more than the caches of the open shards), and the
//! vault closes cleanly. A run of a minute or more fills these caches first, which takes some minutes.
//!
//! Takes minutes and is run by hand or in `.ci/run`:
//! `cargo test --release --test load -- --ignored --nocapture --test-threads=1`. `ANCHORHOLD_LOAD_SECONDS`, `_CALLERS` and `_ACCOUNTS` change its size.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anchorhold::testing::panic_next_request;
use anchorhold::{Account, Connection, Credential, Error, SessionOptions, Vault};
use common::{Host, from_env, id, revealed, secret};

/// After so long a dropped request has been carried out, or never will be.
const SETTLED: Duration = Duration::from_secs(5);

/// What the cache of one open shard takes in memory.
const CACHE_MIB: u64 = 8;

/// From so many seconds on a run begins with filling the caches.
const LONG: u64 = 60;

/// How long that takes with the usual numbers of callers and accounts.
const FILLING: Duration = Duration::from_secs(150);

#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    read: AtomicU64,
    minted: AtomicU64,
    panicked: AtomicU64,
    dropped: AtomicU64,
    overloaded: AtomicU64,
}

/// One account and what its connection must show.
struct Customer {
    account: Account,
    connection: Connection,
    acknowledged: u64,
    /// Changes whose outcome nobody heard of.
    in_doubt: Vec<(Instant, u64)>,
}

#[test]
#[ignore = "takes a minute; see the top of this file"]
fn crowd_loses_nothing_and_leaves_nothing() {
    let seconds = from_env("ANCHORHOLD_LOAD_SECONDS", 60);
    let callers = from_env("ANCHORHOLD_LOAD_CALLERS", 1_000) as usize;
    let accounts = from_env("ANCHORHOLD_LOAD_ACCOUNTS", 10_000) as usize;
    let memory = crowd(seconds, callers, accounts);
    // Of what was read and written, each open shard keeps up to so much, which a short run does not fill before it is looked at.
    let growth = if seconds < LONG { CACHE_MIB * (memory.open_shards as u64 + 1) + 16 } else { memory.warm / 5 };
    assert!(memory.last <= memory.warm + growth, "memory grew by more than {growth} MiB after it was warm");
}

/// Resident memory in MiB.
struct Memory {
    warm: u64,
    last: u64,
    highest: u64,
    open_shards: usize,
}

fn crowd(seconds: u64, callers: usize, accounts: usize) -> Memory {
    quiet_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let host = Host::new().await;
        let started = Instant::now();
        let customers = create(&host, callers, accounts).await;
        println!("{accounts} accounts created in {:?}", started.elapsed());

        let counts = Arc::new(Counts::default());
        let time = Duration::from_secs(seconds);
        let (warm_after, time) = if seconds < LONG { (time / 6, time) } else { (FILLING, FILLING + time) };
        let end = Instant::now() + time;
        let memory = tokio::spawn(watch_memory(end, warm_after));
        let tasks: Vec<_> = customers
            .into_iter()
            .enumerate()
            .map(|(number, own)| {
                let caller = Caller { vault: host.vault.clone(), own, chance: number as u64 + 1, counts: Arc::clone(&counts) };
                tokio::spawn(caller.run(end))
            })
            .collect();
        let mut customers = Vec::new();
        for task in tasks {
            customers.extend(task.await.unwrap());
        }
        let memory = Memory { open_shards: host.vault.status().open_shards, ..memory.await.unwrap() };
        let [acknowledged, read, minted, panicked, dropped, overloaded] =
            [&counts.acknowledged, &counts.read, &counts.minted, &counts.panicked, &counts.dropped, &counts.overloaded]
                .map(|count| count.load(Ordering::Relaxed));
        println!(
            "{callers} callers, {time:?}: {acknowledged} changes acknowledged, {read} reveals, {minted} tokens minted and checked, \
             {panicked} requests panicked, {dropped} were dropped, {overloaded} refused"
        );
        println!(
            "memory in MiB: {} when warm, {} at the end, {} at most in between; {} shards open",
            memory.warm, memory.last, memory.highest, memory.open_shards
        );
        assert!(host.vault.status().poisoned.is_none());
        assert_eq!(UNEXPECTED.load(Ordering::Relaxed), 0, "a thread of the vault panicked by itself");
        assert!(panicked > 0 && dropped > 0 && acknowledged > 0);

        // Whatever was dropped comes to its end, and the vault closes.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let begun = Instant::now();
        host.vault.close().await.unwrap();
        println!("closed in {:?}", begun.elapsed());
        let Host { folder, key, vault, backend } = host;
        drop((vault, backend));

        let vault = common::open(&common::vault_path(&folder)).await;
        let backend = vault.backend(&key).await.unwrap();
        for (number, customer) in customers.iter().enumerate() {
            let account = backend.account(customer.account.id()).await.unwrap();
            let connection = account.connection(&customer.connection.id()).await.unwrap();
            customer.check(&revealed(&connection).await.unwrap(), &format!("customer {number} after reopening"));
        }
        let report = vault.verify().await.unwrap();
        assert!(report.damaged.is_empty(), "{:?}", report.damaged);
        vault.close().await.unwrap();
        println!("all {} accounts are as acknowledged after reopening", customers.len());
        memory
    })
}

async fn create(host: &Host, callers: usize, accounts: usize) -> Vec<Vec<Customer>> {
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let backend = host.backend.clone();
            tokio::spawn(async move {
                let mut own = Vec::new();
                for number in (caller..accounts).step_by(callers) {
                    let account = backend.create_account(&id(&format!("customer {number}"))).await.unwrap();
                    let connection = account.add_connection(common::api_key_connection("crm", "0")).await.unwrap();
                    own.push(Customer { account, connection, acknowledged: 0, in_doubt: Vec::new() });
                }
                own
            })
        })
        .collect();
    let mut customers = Vec::new();
    for task in tasks {
        customers.push(task.await.unwrap());
    }
    customers
}

struct Caller {
    vault: Vault,
    own: Vec<Customer>,
    chance: u64,
    counts: Arc<Counts>,
}

impl Caller {
    async fn run(mut self, end: Instant) -> Vec<Customer> {
        let mut number = 0;
        while Instant::now() < end && !self.own.is_empty() {
            number += 1;
            let which = self.below(self.own.len() as u64) as usize;
            let panics = self.below(20) == 0;
            let patience = (self.below(20) == 0).then(|| Duration::from_micros(self.below(3_000)));
            let kind = self.below(4);
            let counts = Arc::clone(&self.counts);
            let customer = &mut self.own[which];
            if panics {
                // The request that panics may be this one or what the vault does by itself.
                let _ = panic_next_request(&customer.account).await;
            }
            let outcome = match kind {
                0 | 1 => {
                    let before = Instant::now();
                    let replaced = customer.connection.replace_credential(Credential::api_key(secret(&number.to_string())));
                    let outcome = within(patience, replaced).await;
                    match &outcome {
                        Some(Ok(())) => {
                            customer.acknowledged = number;
                            customer.in_doubt.retain(|(at, _)| at.elapsed() < SETTLED);
                            counts.acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => customer.in_doubt.push((before, number)),
                    }
                    outcome
                }
                2 => match within(patience, revealed(&customer.connection)).await {
                    Some(Ok(text)) => {
                        customer.check(&text, "while others are at work");
                        counts.read.fetch_add(1, Ordering::Relaxed);
                        Some(Ok(()))
                    }
                    other => other.map(|outcome| outcome.map(drop)),
                },
                _ => {
                    let used = async {
                        let minted = customer.account.mint_session_token(SessionOptions::new()).await?;
                        self.vault.session(&minted.token).await?;
                        counts.minted.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    };
                    within(patience, used).await
                }
            };
            let count = match outcome {
                Some(Ok(())) => continue,
                Some(Err(Error::Internal { .. })) => &counts.panicked,
                Some(Err(Error::Overloaded)) => &counts.overloaded,
                Some(Err(other)) => panic!("{other:?}"),
                None => &counts.dropped,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.own
    }

    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % limit
    }
}

impl Customer {
    fn check(&self, text: &str, when: &str) {
        let shown: u64 = text.parse().unwrap();
        let known = shown == self.acknowledged || self.in_doubt.iter().any(|(_, number)| *number == shown);
        assert!(known, "{when}: shows {shown}, acknowledged was {}, in doubt {:?}", self.acknowledged, self.in_doubt);
    }
}

/// Drops the call when its time is over.
async fn within<T>(patience: Option<Duration>, call: impl Future<Output = T>) -> Option<T> {
    match patience {
        Some(patience) => tokio::time::timeout(patience, call).await.ok(),
        None => Some(call.await),
    }
}

/// Looks at memory twice a second: the mean of a few looks when everything is warm and at the end, and the most in between.
async fn watch_memory(end: Instant, warm_after: Duration) -> Memory {
    tokio::time::sleep(warm_after).await;
    let mut seen = Vec::new();
    while Instant::now() < end {
        seen.push(resident_mib());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("memory every 5 seconds in MiB: {:?}", seen.iter().step_by(10).collect::<Vec<_>>());
    let few = (seen.len() / 8).max(1);
    let mean = |part: &[u64]| part.iter().sum::<u64>() / part.len() as u64;
    let highest = seen.iter().copied().max().unwrap_or(0);
    Memory { warm: mean(&seen[..few]), last: mean(&seen[seen.len() - few..]), highest, open_shards: 0 }
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() / 1024
}

/// Panics on any thread that nobody asked for.
static UNEXPECTED: AtomicU64 = AtomicU64::new(0);

/// Panics that were asked for say nothing; others are counted.
fn quiet_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let asked_for = panic.payload().downcast_ref::<&str>().is_some_and(|text| text.contains("asked to panic by a test"));
        if !asked_for {
            UNEXPECTED.fetch_add(1, Ordering::Relaxed);
            usual(panic);
        }
    }));
}
