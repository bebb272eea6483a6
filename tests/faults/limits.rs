//! Limits of the process, and what happens to the directory and the clock under a vault.
#![allow(unsafe_code, reason = "limits and the user of the process")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use anchorhold::{Error, OpenError, SessionOptions};

use crate::common::{block_on, files, id, new_clock};
use crate::host::in_child;

const ONE_DAY: Duration = Duration::from_secs(24 * 3_600);

#[test]
fn file_size_limit_poisons_and_loses_nothing() {
    in_child("limits::file_size_limit_poisons_and_loses_nothing", |host| {
        block_on(async {
            let (vault, backend) = host.open().await;
            for name in ["a", "b", "c"] {
                host.create(&backend, name, 100).await.unwrap();
            }
            // SAFETY: a plain system call. Without it the process would be ended by the signal.
            unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
            let largest = files(&host.path()).iter().map(|(_, bytes)| bytes.len() as u64).max().unwrap();
            set_limit(libc::RLIMIT_FSIZE, largest + 64 * 1024);
            let mut outcome = Ok(());
            for turn in 0..400 {
                outcome = host.replace(&backend, ["a", "b", "c"][turn % 3], 30_000).await;
                if outcome.is_err() {
                    break;
                }
            }
            let error = outcome.expect_err("the limit is met");
            assert!(matches!(error, Error::Poisoned { .. } | Error::Io { .. }), "{error:?}");
            println!("fault: file size limit: {error}");
            let later = host.replace(&backend, "a", 16).await;
            assert!(matches!(later, Err(Error::Poisoned { .. })), "{later:?}");
            assert!(vault.close().await.is_err());
            set_limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
            drop((vault, backend));
            host.consistent_after_reopening("a file size limit").await;
        });
    });
}

#[test]
fn too_few_descriptors_are_an_error_of_those_who_need_one() {
    in_child("limits::too_few_descriptors_are_an_error_of_those_who_need_one", |host| {
        block_on(async {
            let (vault, backend) = host.open().await;
            for number in 0..8 {
                host.create(&backend, &format!("account {number}"), 100).await.unwrap();
            }
            // What is written behind has been.
            std::thread::sleep(Duration::from_millis(200));
            // No descriptor of a number that is in use, so none for anybody.
            set_limit(libc::RLIMIT_NOFILE, 3);
            let mut errors = Vec::new();
            for number in 0..8 {
                // Two shards are open; the others need descriptors.
                if let Err(error) = host.replace(&backend, &format!("account {number}"), 100).await {
                    errors.push(error);
                }
            }
            set_limit(libc::RLIMIT_NOFILE, 1_024);
            assert!(!errors.is_empty(), "the limit is met");
            println!("fault: too few descriptors: {} of 8 calls failed, the first with: {}", errors.len(), errors[0]);
            for error in errors {
                assert!(matches!(error, Error::Io { .. } | Error::Poisoned { .. }), "{error:?}");
            }
            if vault.status().poisoned.is_none() {
                // It goes on by itself.
                for number in 0..8 {
                    host.replace(&backend, &format!("account {number}"), 100).await.unwrap();
                }
            }
            let closed = vault.close().await;
            assert!(closed.is_ok() || vault.status().poisoned.is_some(), "{closed:?}");
            drop((vault, backend));
            host.consistent_after_reopening("too few descriptors").await;
        });
    });
}

#[test]
fn directory_that_cannot_be_written_is_an_error_and_stays_as_it_was() {
    in_child("limits::directory_that_cannot_be_written_is_an_error_and_stays_as_it_was", |host| {
        block_on(async {
            let (vault, backend) = host.open().await;
            host.create(&backend, "a", 100).await.unwrap();
            vault.close().await.unwrap();
            drop((vault, backend));
        });
        // Permissions mean nothing to root, so root becomes nobody.
        // SAFETY: a plain system call.
        let is_root = unsafe { libc::geteuid() } == 0;
        let every = |change: &dyn Fn(&Path)| {
            change(&host.folder);
            let mut folders = vec![host.path()];
            while let Some(folder) = folders.pop() {
                change(&folder);
                for entry in fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() { folders.push(path) } else { change(&path) }
                }
            }
        };
        if is_root {
            every(&|path| chown(path, Some(65_534), Some(65_534)).unwrap());
            // SAFETY: plain system calls; all threads of the process follow.
            unsafe { assert!(libc::setgid(65_534) == 0 && libc::setuid(65_534) == 0) };
        }
        let mode = |mode_of_folders, mode_of_files| {
            move |path: &Path| {
                let mode = if path.is_dir() { mode_of_folders } else { mode_of_files };
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
        };
        every(&mode(0o500, 0o400));
        let before = files(&host.path());
        let error = block_on(host.builder().open()).expect_err("it can't be written");
        println!("fault: read-only directory: {error}");
        assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
        assert_eq!(files(&host.path()), before);
        every(&mode(0o700, 0o600));
        block_on(host.consistent_after_reopening("a read-only directory"));
    });
}

#[test]
fn directory_that_is_removed_under_a_vault_ends_acknowledgements() {
    in_child("limits::directory_that_is_removed_under_a_vault_ends_acknowledgements", |host| {
        block_on(async {
            let (vault, backend) = host.open().await;
            for name in ["a", "b", "c"] {
                host.create(&backend, name, 100).await.unwrap();
            }
            let head = vault.head().await.unwrap();
            let copy = host.folder.join("copy");
            crate::common::copy_folder(&host.path(), &copy);
            fs::remove_dir_all(host.path()).unwrap();
            // What would be lost is not acknowledged, from the first change on.
            for _ in 0..3 {
                let refused = host.replace(&backend, "a", 100).await;
                assert!(matches!(refused, Err(Error::Poisoned { .. } | Error::Io { .. })), "{refused:?}");
            }
            println!("fault: removed directory: {}", host.replace(&backend, "b", 100).await.unwrap_err());
            assert!(host.create(&backend, "d", 100).await.is_err());
            assert!(vault.close().await.is_err());
            drop((vault, backend));
            // Opened at this path, it would be a new vault: the head that the host kept tells.
            let other = host.builder().expect_head(head).open().await;
            assert!(matches!(other, Err(OpenError::ForeignHead)), "{other:?}");
            drop(other);
            fs::remove_dir_all(host.path()).unwrap();
            fs::rename(copy, host.path()).unwrap();
            host.consistent_after_reopening("a removed directory").await;
        });
    });
}

#[test]
fn clock_steps_lengthen_nothing_and_damage_nothing() {
    in_child("limits::clock_steps_lengthen_nothing_and_damage_nothing", |host| {
        let clock = new_clock();
        let start = anchorhold::Clock::now(&*clock);
        block_on(async {
            let (vault, backend) = host.open().await;
            host.create(&backend, "a", 100).await.unwrap();
            vault.close().await.unwrap();
            drop((vault, backend));
            let vault = host.builder().clock(clock.clone()).open().await.unwrap();
            let backend = host.backend(&vault).await;
            let account = backend.account(&id("a")).await.unwrap();
            let today = account.mint_session_token(SessionOptions::new()).await.unwrap();
            vault.session(&today.token).await.unwrap();
            // A day ahead: what has expired stays so after the clock is put right only if its time is over then too.
            clock.advance(ONE_DAY);
            assert!(matches!(vault.session(&today.token).await, Err(Error::InvalidToken)));
            host.replace(&backend, "a", 100).await.unwrap();
            let tomorrow = account.mint_session_token(SessionOptions::new()).await.unwrap();
            // Back again: a token of tomorrow is none of today.
            clock.set(start);
            assert!(matches!(vault.session(&tomorrow.token).await, Err(Error::InvalidToken)));
            vault.session(&today.token).await.unwrap();
            account.revoke_session_token(&today.id).await.unwrap();
            // A day back: changes are made and kept, in an order of their own; what was revoked stays so.
            clock.set(anchorhold::Timestamp::from_millis(start.as_millis() - 24 * 3_600_000));
            host.replace(&backend, "a", 100).await.unwrap();
            host.create(&backend, "b", 100).await.unwrap();
            assert!(matches!(vault.session(&today.token).await, Err(Error::InvalidToken)));
            clock.set(start);
            assert!(matches!(vault.session(&today.token).await, Err(Error::InvalidToken)));
            assert!(account.verify_audit().await.unwrap().is_intact());
            vault.close().await.unwrap();
        });
        block_on(host.consistent_after_reopening("clock steps"));
        println!("fault: clock steps of a day: {} accounts are whole", host.acknowledged());
    });
}

fn set_limit(resource: libc::__rlimit_resource_t, soft: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads and writes the structure that it is given.
    unsafe {
        assert_eq!(libc::getrlimit(resource, &raw mut limit), 0);
        limit.rlim_cur = soft.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(resource, &raw const limit), 0);
    }
}
