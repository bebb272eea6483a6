//! A disk that fails, or is full.

use std::time::{Duration, Instant};

use anchorhold::Error;

use crate::common::{block_on, id};
use crate::host::{Host, in_child};
use crate::syscalls::{Call, arm, disarm, fail_late, happened};

#[test]
fn failed_write_poisons_and_loses_nothing() {
    in_child("writes::failed_write_poisons_and_loses_nothing", |host| every_nth(host, Call::Write, libc::EIO, false));
}

#[test]
fn failed_sync_poisons_and_loses_nothing() {
    in_child("writes::failed_sync_poisons_and_loses_nothing", |host| every_nth(host, Call::Sync, libc::EIO, false));
}

#[test]
fn full_disk_poisons_and_loses_nothing() {
    in_child("writes::full_disk_poisons_and_loses_nothing", |host| every_nth(host, Call::Write, libc::ENOSPC, true));
}

#[test]
fn failed_rename_loses_nothing() {
    in_child("writes::failed_rename_loses_nothing", |host| every_nth(host, Call::Rename, libc::EIO, true));
}

/// A disk takes its time before it gives up. When that is the write at the end of a segment, sled may leave whoever waits for it asleep;
/// then the vault wakes the sleeper, so that the caller hears what is wrong and the vault can be opened again without a new process.
/// (One in some forty sleeps since commits are no batches of sled, so none may in a run.)
#[test]
fn write_that_fails_late_is_told_and_does_not_hang_the_vault() {
    in_child("writes::write_that_fails_late_is_told_and_does_not_hang_the_vault", |host| {
        const STALL: Duration = Duration::from_secs(4);
        let mut roused = 0;
        for nth in 1..=48_i64 {
            fail_late(Duration::from_micros([100, 500, 2_000, 20_000][nth.rem_euclid(4) as usize]));
            let (call, at) = if nth % 3 == 0 { (Call::Write, nth) } else { (Call::SegmentEnd, nth % 5 + 1) };
            let what = format!("{call:?} {nth} fails late");
            block_on(async {
                let (vault, backend) = host.open_with(|builder| builder.stall_timeout(STALL)).await;
                host.create(&backend, "a", 60_000).await.unwrap();
                arm(call, at, libc::EIO, false);
                let begun = Instant::now();
                let error = loop {
                    if let Err(error) = host.replace(&backend, "a", 60_000).await {
                        break error;
                    }
                };
                assert_eq!(happened(), 1, "{what}");
                roused += u32::from(begun.elapsed() > STALL / 4);
                let Error::Poisoned { reason } = &error else { panic!("{what}: {error:?}") };
                assert!(reason.contains("error") && !reason.contains("hangs"), "{what}: {reason}");
                vault.close().await.unwrap_err();
                disarm();
                drop((vault, backend));
                host.consistent_after_reopening(&what).await;
            });
            host.next_vault();
        }
        println!("fault: of 48 vaults {roused} were asleep and woken");
    });
}

/// Lets the first, second, … call fail while a vault is at work.
fn every_nth(host: &mut Host, call: Call, error: i32, stays: bool) {
    let (mut failed, mut poisoned) = (0, 0);
    for nth in 1..=12 {
        let what = format!("{call:?} {nth} fails with {error}");
        block_on(async {
            let (vault, backend) = host.open().await;
            for name in ["a", "b", "c"] {
                host.create(&backend, name, 100).await.unwrap();
            }
            arm(call, nth, error, stays);
            let mut first = None;
            for turn in 0..40 {
                let outcome = match turn % 4 {
                    0 => host.create(&backend, &format!("new {turn}"), 3_000).await,
                    1 => host.replace(&backend, "b", 20_000).await,
                    _ => host.replace(&backend, "a", 200).await,
                };
                if call == Call::Rename {
                    // Writes the anchors now, which are replaced by renaming.
                    let _ = vault.head().await;
                }
                if let Err(error) = outcome {
                    first = Some(error);
                    break;
                }
            }
            if let Some(error) = first {
                poisoned += 1;
                assert!(matches!(error, Error::Poisoned { .. } | Error::Io { .. }) && !error.is_retryable(), "{what}: {error:?}");
                let text = error.to_string();
                assert!(text.len() > 20 && !text.contains("0000000000"), "{what}: {text}");
                if vault.status().poisoned.is_some() {
                    // Nothing more is acknowledged, and what was is served or refused, never denied.
                    let later = host.replace(&backend, "c", 16).await;
                    assert!(matches!(later, Err(Error::Poisoned { .. })), "{what}: {later:?}");
                    match backend.account(&id("a")).await {
                        Ok(_) | Err(Error::Poisoned { .. }) => {}
                        Err(other) => panic!("{what}: {other:?}"),
                    }
                }
            }
            // Long enough for the anchors, which are written behind.
            std::thread::sleep(Duration::from_millis(150));
            failed += i64::from(happened() > 0);
            let closed = vault.close().await;
            assert!(closed.is_err() || happened() == 0 || vault.status().poisoned.is_none(), "{what}: closing says nothing");
            disarm();
            drop((vault, backend));
            host.consistent_after_reopening(&what).await;
        });
        host.next_vault();
    }
    println!("fault: {call:?} with error {error}: of 12 vaults {failed} met it, {poisoned} had a call that failed");
    assert!(failed >= 10 && (poisoned > 0 || call == Call::Rename), "{failed} {poisoned}");
}
