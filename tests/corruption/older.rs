//! Older copies: of one shard, of a part of it, of the directory, and of the whole vault.

use std::path::Path;

use anchorhold::{Environment, Error, OpenError, VaultPart};

use crate::common::{block_on, copy_folder, id, vault_path};
use crate::fixture::{Fixture, Outcome, TREES_PER_SHARD, Verdict, fill, options, outcome, read};

/// The name of the first customer's shard on disk.
const FIRST_SHARD: &str = "shards/0000.0";

/// Changes the first customer; what was there before is yesterday's.
fn change_first_customer(fixture: &Fixture, metadata: &str) {
    block_on(async {
        let vault = options(&fixture.path()).open().await.unwrap();
        let backend = vault.backend(&fixture.key).await.unwrap();
        backend.account(&id(&fixture.names[0])).await.unwrap().set_metadata(metadata).await.unwrap();
        vault.close().await.unwrap();
    });
}

/// Replaces a part of a vault by the same part of another copy.
fn put_back(from: &Path, to: &Path, part: &str) {
    let (from, to) = (from.join(part), to.join(part));
    if from.is_dir() {
        std::fs::remove_dir_all(&to).unwrap();
        copy_folder(&from, &to);
    } else {
        std::fs::copy(&from, &to).unwrap();
    }
}

#[test]
fn older_copy_of_one_shard_is_rolled_back_and_the_others_are_served() {
    let fixture = Fixture::new(3 * TREES_PER_SHARD);
    let yesterday = fixture.copy();
    change_first_customer(&fixture, "of today");
    let parts = [FIRST_SHARD, "shards/0000.0/db"];
    for part in parts {
        let copy = fixture.copy();
        let path = vault_path(&copy);
        put_back(&vault_path(&yesterday), &path, part);
        block_on(async {
            let vault = options(&path).open().await.unwrap();
            let backend = vault.backend(&fixture.key).await.unwrap();
            let changed = read(&backend, &fixture.names[0]).await;
            // Which of the shard's databases and anchors is old decides who notices; that it is noticed is what counts.
            match changed {
                Err(Error::RolledBack(damaged) | Error::Corrupted(damaged)) => {
                    assert_eq!(damaged.part.to_string(), "shard 0000", "{part}: {damaged}");
                    assert!(!damaged.accounts.is_empty(), "{part}: {damaged}");
                }
                other => panic!("{part} of yesterday: {other:?}"),
            }
            for name in &fixture.names[TREES_PER_SHARD..] {
                let other = outcome(&backend, name, &part).await;
                assert!(matches!(other, Outcome::Intact), "{part}: {name} of another shard: {other:?}");
            }
            // What was put back is neither used nor overwritten.
            let account = backend.account(&id(&fixture.names[0])).await.unwrap();
            assert!(matches!(account.set_metadata("onto yesterday").await, Err(Error::RolledBack(_) | Error::Corrupted(_))));
            vault.close().await.unwrap();
        });
        // The newest copy put back, all is well.
        put_back(&fixture.path(), &path, FIRST_SHARD);
        block_on(async {
            let vault = options(&path).open().await.unwrap();
            let backend = vault.backend(&fixture.key).await.unwrap();
            assert_eq!(read(&backend, &fixture.names[0]).await.unwrap().0, "of today");
        });
    }
}

#[test]
fn older_anchor_alone_is_noticed_or_harmless() {
    let fixture = Fixture::new(3 * TREES_PER_SHARD);
    let yesterday = fixture.copy();
    change_first_customer(&fixture, "of today");
    for part in ["shards/0000.0/anchor", "directory.anchor"] {
        let copy = fixture.copy();
        let path = vault_path(&copy);
        put_back(&vault_path(&yesterday), &path, part);
        block_on(async {
            let vault = options(&path).open().await.unwrap();
            let backend = vault.backend(&fixture.key).await.unwrap();
            match read(&backend, &fixture.names[0]).await {
                Ok((metadata, _)) => assert_eq!(metadata, "of today", "{part}"),
                Err(Error::RolledBack(damaged)) => assert_eq!(damaged.part.to_string(), "shard 0000", "{part}"),
                Err(other) => panic!("{part} of yesterday: {other:?}"),
            }
        });
    }
}

#[test]
fn older_copy_of_the_whole_vault_is_noticed_by_the_kept_head() {
    let fixture = Fixture::new(TREES_PER_SHARD);
    let yesterday = fixture.copy();
    let head = block_on(async {
        let vault = options(&fixture.path()).open().await.unwrap();
        let backend = vault.backend(&fixture.key).await.unwrap();
        fill(&backend, "of today").await;
        let head = vault.head().await.unwrap();
        vault.close().await.unwrap();
        head
    });
    block_on(async {
        let older = options(&vault_path(&yesterday)).expect_head(head).open().await;
        assert!(matches!(older, Err(OpenError::RolledBack(_))), "{:?}", older.err());
        // Nor is it enough to keep today's shards.
        let directory_only = fixture.copy();
        let path = vault_path(&directory_only);
        for part in ["directory", "directory.anchor"] {
            put_back(&vault_path(&yesterday), &path, part);
        }
        let older = options(&path).expect_head(head).open().await;
        assert!(matches!(older, Err(OpenError::RolledBack(_))), "{:?}", older.err());
        // The control: the vault of today fits the same head, also after it went on.
        for round in 0..2 {
            let vault = options(&fixture.path()).expect_head(head).open().await.unwrap();
            let backend = vault.backend(&fixture.key).await.unwrap();
            fill(&backend, &format!("later {round}")).await;
            vault.close().await.unwrap();
        }
    });
}

#[test]
fn older_directory_without_its_anchor_is_rolled_back() {
    let fixture = Fixture::new(TREES_PER_SHARD);
    let yesterday = fixture.copy();
    block_on(async {
        let vault = options(&fixture.path()).open().await.unwrap();
        fill(&vault.backend(&fixture.key).await.unwrap(), "of today").await;
        vault.close().await.unwrap();
    });
    put_back(&vault_path(&yesterday), &fixture.path(), "directory");
    let older = block_on(options(&fixture.path()).open()).err();
    assert!(
        matches!(&older, Some(OpenError::RolledBack(damaged) | OpenError::Corrupted(damaged)) if damaged.part == VaultPart::Directory),
        "{older:?}"
    );
}

/// The same where the directory has sections: what is older is noticed by whoever is in it, and nobody else.
#[test]
fn older_section_of_the_directory_is_rolled_back_for_those_who_are_in_it() {
    let fixture = Fixture::in_sections(3 * TREES_PER_SHARD);
    let yesterday = fixture.copy();
    block_on(async {
        let vault = options(&fixture.path()).section_from_bytes(0).open().await.unwrap();
        fill(&vault.backend(&fixture.key).await.unwrap(), "of today").await;
        vault.close().await.unwrap();
    });
    let whole = fixture.copy();
    let everybody: Vec<_> = fixture.names.iter().map(String::as_str).chain(["of today"]).collect();
    let (mut rolled_back, mut missing) = (0, 0);
    for section in fixture.sections() {
        let part = section.strip_prefix(fixture.path()).unwrap().to_str().unwrap().to_owned();
        let older = vault_path(&yesterday).join(&part);
        for removed in [false, true] {
            if removed || !older.exists() {
                std::fs::remove_dir_all(&section).unwrap();
            } else {
                put_back(&vault_path(&yesterday), &fixture.path(), &part);
            }
            let hurt = block_on(async {
                let vault = options(&fixture.path()).open().await.unwrap();
                let backend = vault.backend(&fixture.key).await.unwrap();
                let mut hurt = 0;
                for name in &everybody {
                    match outcome(&backend, name, &part).await {
                        Outcome::Intact => {}
                        Outcome::RolledBack(damaged) | Outcome::Corrupted(damaged) => {
                            assert_eq!(damaged.part, VaultPart::Directory, "{part}: {damaged}");
                            hurt += 1;
                        }
                    }
                }
                let report = vault.verify().await.unwrap();
                assert_eq!(report.damaged.is_empty(), hurt == 0, "{part}: {hurt} are hurt, and verify says {report:?}");
                vault.close().await.unwrap();
                hurt
            });
            assert!(hurt < everybody.len(), "{part}: not everybody is in one section");
            *(if removed { &mut missing } else { &mut rolled_back }) += hurt;
            // Put right, everybody is there.
            if section.exists() {
                std::fs::remove_dir_all(&section).unwrap();
            }
            copy_folder(&vault_path(&whole).join(&part), &section);
        }
    }
    assert!(rolled_back > 0, "the one of today is in a section that was older");
    assert_eq!(missing, everybody.len(), "everybody is in one section, and each was missing once");
}

/// Who puts back the directory alone, and keeps no head, has a directory that does not know the customers of today. They are not
/// found then, or the shard is reported; what must not happen is that using this vault destroys them.
#[test]
fn older_directory_destroys_nothing_that_it_does_not_know() {
    // The last shard has room, so that customers of today are beside one of yesterday.
    let fixture = Fixture::new(TREES_PER_SHARD + 1);
    let yesterday = fixture.copy();
    block_on(async {
        let vault = options(&fixture.path()).open().await.unwrap();
        let backend = vault.backend(&fixture.key).await.unwrap();
        for n in 0..4 {
            fill(&backend, &format!("of today {n}")).await;
        }
        vault.close().await.unwrap();
    });
    let today = fixture.copy();
    for part in ["directory", "directory.anchor"] {
        put_back(&vault_path(&yesterday), &fixture.path(), part);
    }
    block_on(async {
        let vault = options(&fixture.path()).open().await.unwrap();
        let backend = vault.backend(&fixture.key).await.unwrap();
        let mut reported = 0;
        for name in &fixture.names {
            match outcome(&backend, name, &"older directory").await {
                Outcome::Intact => {}
                Outcome::RolledBack(damaged) => {
                    assert_eq!(damaged.part, VaultPart::Directory, "{damaged}");
                    reported += 1;
                }
                Outcome::Corrupted(damaged) => panic!("{name}: {damaged}"),
            }
        }
        assert_eq!(reported, 1, "the customer whose shard has trees that the directory does not know");
        for n in 0..4 {
            let unknown = read(&backend, &format!("of today {n}")).await;
            assert!(matches!(unknown, Err(Error::NotFound { .. } | Error::RolledBack(_))), "{unknown:?}");
        }
        vault.close().await.unwrap();
    });
    // Today's directory put back, everybody is there.
    for part in ["directory", "directory.anchor"] {
        put_back(&vault_path(&today), &fixture.path(), part);
    }
    block_on(async {
        let vault = options(&fixture.path()).open().await.unwrap();
        let Verdict::Opened(outcomes) = fixture.read_all(&vault, &"today again").await else { unreachable!("it is open") };
        assert!(outcomes.values().all(|outcome| matches!(outcome, Outcome::Intact)), "{outcomes:?}");
        let backend = vault.backend(&fixture.key).await.unwrap();
        for n in 0..4 {
            let name = format!("of today {n}");
            assert!(matches!(outcome(&backend, &name, &"today again").await, Outcome::Intact), "{name}");
        }
        vault.bootstrap_api_key(Environment::Production).await.unwrap();
    });
}
