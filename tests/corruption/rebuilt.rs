//! A damaged directory is made anew from the shards: everybody is there again, whoever was deleted is not, and nothing older passes.

use std::path::{Path, PathBuf};

use anchorhold::testing::{ModelDisk, ModelTree, StorageFaults};
use anchorhold::{
    ApiKey, Backend, Carried, Environment, Error, OpenError, RebuildError, RebuildReport, RootKey, Vault, VaultBuilder, VaultPart,
};

use crate::common::{block_on, builder, copy_folder, customer, files, from_env, header_provider, id, revealed, root_key_of};
use crate::fixture::{Fixture, Outcome, TREES_PER_SHARD, fill, options, outcome, read};

/// A customer that is deleted before anything is damaged.
const DELETED: &str = "deleted before";

/// A fixture with a deleted customer and a provider's settings.
fn fixture(customers: usize) -> Fixture {
    with_history(Fixture::new(customers))
}

fn with_history(fixture: Fixture) -> Fixture {
    block_on(async {
        let vault = options(&fixture.path()).open().await.unwrap();
        let backend = vault.backend(&fixture.key).await.unwrap();
        fill(&backend, DELETED).await;
        backend.account(&id(DELETED)).await.unwrap().delete().await.unwrap();
        backend.set_provider(header_provider("crm")).await.unwrap();
        vault.close().await.unwrap();
    });
    fixture
}

fn rebuild(builder: VaultBuilder) -> Result<RebuildReport, RebuildError> {
    block_on(builder.rebuild_directory())
}

fn would_lose(outcome: Result<RebuildReport, RebuildError>, what: &str) -> RebuildReport {
    match outcome {
        Err(RebuildError::WouldLose(report)) => {
            assert!(report.loses() && report.kept_aside.is_none(), "{what}: {report:?}");
            *report
        }
        other => panic!("{what}: {other:?}"),
    }
}

/// The backend of a rebuilt vault: with the key of before if it is still there, else with a first one. Which of them, the report said,
/// unless it is not the first one.
async fn backend_of(vault: &Vault, key: &ApiKey, settings: Option<Carried>, what: &str) -> Backend {
    match vault.backend(key).await {
        Ok(backend) => {
            assert_ne!(settings, Some(Carried::Lost), "{what}");
            assert_eq!(backend.providers().await.unwrap().len(), 1, "{what}");
            backend
        }
        Err(Error::InvalidApiKey) => {
            assert!(settings.is_none_or(|settings| settings == Carried::Lost), "{what}");
            vault.backend(&vault.bootstrap_api_key(Environment::Test).await.unwrap()).await.unwrap()
        }
        Err(other) => panic!("{what}: {other:?}"),
    }
}

/// Opens a rebuilt vault: every customer is whole and can be changed, the deleted one is not there, and nothing is damaged but so many audits
/// of API keys.
fn everybody_is_there(builder: VaultBuilder, fixture: &Fixture, settings: Option<Carried>, broken_audits: usize, what: &str) {
    block_on(async {
        let vault = builder.open().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let backend = backend_of(&vault, &fixture.key, settings, what).await;
        for name in &fixture.names {
            let outcome = outcome(&backend, name, &what).await;
            assert!(matches!(outcome, Outcome::Intact), "{what}: {name}: {outcome:?}");
        }
        let gone = backend.account(&id(DELETED)).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })), "{what}: {gone:?}");
        fill(&backend, "a new one").await;
        let report = vault.verify().await.unwrap();
        let audit_only = report.damaged.iter().all(|damaged| damaged.detail.contains("API-key audit"));
        assert!(audit_only && report.damaged.len() == broken_audits && report.unproven.is_empty(), "{what}: {report:?}");
        assert_eq!(report.intact, fixture.names.len() as u64 + 1, "{what}");
        vault.close().await.unwrap();
    });
}

/// Rebuilds and looks at what came of it. The settings that were lost are counted.
fn comes_back(path: &Path, fixture: &Fixture, first: bool, what: &str) -> Carried {
    let report = match rebuild(options(path)) {
        Ok(report) => report,
        Err(RebuildError::WouldLose(_)) => {
            rebuild(options(path).accept_losses()).unwrap_or_else(|error| panic!("{what}: {error:?}"))
        }
        Err(other) => panic!("{what}: {other:?}"),
    };
    assert_eq!(report.accounts, fixture.names.len() as u64, "{what}: {report:?}");
    assert!(report.damaged.is_empty() && report.unnamed.is_empty() && report.given_up.is_empty(), "{what}: {report:?}");
    everybody_is_there(options(path), fixture, first.then_some(report.settings), report.broken_audits.len(), what);
    report.settings
}

#[test]
fn damage_anywhere_in_the_directory_is_mended_by_rebuilding_it() {
    mended(&fixture(2 * TREES_PER_SHARD), &[]);
}

#[test]
fn damage_anywhere_in_a_section_of_the_directory_is_mended_by_rebuilding_it() {
    let fixture = with_history(Fixture::in_sections(2 * TREES_PER_SHARD));
    let log = fixture.sections()[0].join("db");
    mended(&fixture, &[log.strip_prefix(fixture.path()).unwrap().to_str().unwrap()]);
}

/// With the directory's own files and others damaged, one at a time.
fn mended(fixture: &Fixture, others: &[&str]) {
    let (mut cases, mut lost) = (0, 0);
    let mut mend = |what: String, damage: &dyn Fn(&Path)| {
        let copy = fixture.copy();
        let path = vault_path(&copy);
        damage(&path);
        cases += 1;
        if comes_back(&path, fixture, true, &what) == Carried::Lost {
            lost += 1;
        }
    };
    let places = usize::try_from(from_env("ANCHORHOLD_REBUILD_PLACES", 24)).unwrap();
    for file in ["directory/db", "directory.anchor", "directory/conf"].iter().chain(others) {
        let bytes = std::fs::read(fixture.path().join(file)).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let count = if file.ends_with("db") { places } else { places / 4 };
        for n in 0..count {
            let at = (n * used / count + n * 37 % (used / count).max(1)).min(used - 1);
            mend(format!("byte {at} of {file}"), &|path| {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << (at % 8);
                std::fs::write(path.join(file), bytes).unwrap();
            });
        }
        mend(format!("{file} cut in half"), &|path| std::fs::write(path.join(file), &bytes[..used / 2]).unwrap());
        mend(format!("{file} removed"), &|path| std::fs::remove_file(path.join(file)).unwrap());
    }
    mend("directory/ removed".into(), &|path| std::fs::remove_dir_all(path.join("directory")).unwrap());
    mend("both removed".into(), &|path| {
        std::fs::remove_dir_all(path.join("directory")).unwrap();
        std::fs::remove_file(path.join("directory.anchor")).unwrap();
    });
    mend("nothing".into(), &|_| {});
    println!("{cases} damaged directories rebuilt, {lost} of them without API keys and providers");
    assert!(lost > 0 && lost < cases);
}

fn vault_path(copy: &tempfile::TempDir) -> PathBuf {
    crate::common::vault_path(copy)
}

#[test]
fn every_row_of_the_directory_can_be_missing_or_changed() {
    let disk = ModelDisk::new();
    let open = |disk: &ModelDisk| builder(Path::new("unused")).model_disk(disk.clone()).trees_per_shard(TREES_PER_SHARD);
    let names: Vec<String> = (0..5).map(|n| format!("customer {n}")).collect();
    let key = block_on(async {
        let vault = open(&disk).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        backend.set_provider(header_provider("crm")).await.unwrap();
        for name in &names {
            customer(&backend, name, &format!("secret of {name}")).await;
        }
        customer(&backend, DELETED, "a secret").await.0.delete().await.unwrap();
        vault.close().await.unwrap();
        key
    });
    let image = disk.image();
    let (mut cases, mut lost) = (0, 0);
    for (row, value) in disk.rows(ModelTree::Directory) {
        for flip in [false, true] {
            let damaged = ModelDisk::new();
            damaged.restore(&image);
            if flip {
                let mut value = value.clone();
                let at = value.len() - 1;
                value[at] ^= 1;
                damaged.put_row(ModelTree::Directory, &row, &value);
            } else {
                damaged.remove_row(ModelTree::Directory, &row);
            }
            let what = format!("row {:?} of bucket {}, changed {flip}", char::from(row[2]), u16::from_be_bytes([row[0], row[1]]));
            let report = match rebuild(open(&damaged)) {
                Err(RebuildError::WouldLose(_)) => rebuild(open(&damaged).accept_losses()).unwrap(),
                done => done.unwrap_or_else(|error| panic!("{what}: {error:?}")),
            };
            assert_eq!((report.accounts, report.damaged.len()), (5, 0), "{what}: {report:?}");
            cases += 1;
            lost += usize::from(report.loses());
            block_on(async {
                let vault = open(&damaged).open().await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                let backend = backend_of(&vault, &key, Some(report.settings), &what).await;
                for name in &names {
                    let account = backend.account(&id(name)).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                    let infos = account.connections().await.unwrap();
                    let connection = account.connection(&infos[0].id).await.unwrap();
                    assert_eq!(revealed(&connection).await.unwrap(), format!("secret of {name}"), "{what}");
                }
                assert!(matches!(backend.account(&id(DELETED)).await, Err(Error::NotFound { .. })), "{what}");
                let verified = vault.verify().await.unwrap();
                let audit_only = verified.damaged.iter().all(|damaged| damaged.detail.contains("API-key audit"));
                assert!(audit_only && verified.damaged.len() == report.broken_audits.len(), "{what}: {verified:?}, {report:?}");
                vault.close().await.unwrap();
            });
        }
    }
    println!("{cases} rows removed or changed, {lost} with a loss");
    assert!(lost > 0 && lost < cases);
}

#[test]
fn who_was_being_deleted_stays_deleted() {
    // What of the deletion can be told from the damaged directory: its tombstone, else its audit, else that it knows of no such
    // account; and nothing at all.
    for (left, audit_is_left, tombstone_is_left) in [(0, true, true), (1, true, false), (2, false, false)] {
        let disk = ModelDisk::new();
        let open = || builder(Path::new("unused")).model_disk(disk.clone());
        let known = block_on(async {
            let vault = open().open().await.unwrap();
            let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
            let backend = vault.backend(&key).await.unwrap();
            customer(&backend, "stays", "a secret").await;
            let (account, _) = customer(&backend, DELETED, "a secret").await;
            account.set_metadata("known for long").await.unwrap();
            vault.head().await.unwrap();
            let trees = disk.trees().len();
            // The tombstone is written, and the shard is not: the process ends between the two.
            disk.fail_nth_write(2);
            account.delete().await.unwrap_err();
            drop((account, backend, vault));
            disk.crash();
            disk.disarm();
            assert_eq!(disk.trees().len(), trees, "its tree is still there");
            key
        });
        let remove = |kind: u8| {
            let rows = disk.rows(ModelTree::Directory).into_iter().filter(|(key, _)| key[2] == kind);
            assert_ne!(rows.map(|(key, _)| disk.remove_row(ModelTree::Directory, &key)).count(), 0, "{}", char::from(kind));
        };
        // The settings can't be proven any more.
        remove(b'k');
        if !tombstone_is_left {
            remove(b'x');
        }
        if !audit_is_left {
            remove(b'u');
        }
        let report = would_lose(rebuild(open()), "settings are lost");
        assert_eq!((report.accounts, report.settings), (1, Carried::Lost), "{left}: {report:?}");
        assert_eq!(report.given_up.len(), usize::from(left == 2), "{left}: {report:?}");
        assert_eq!(report.deletions, u64::from(left != 2), "{left}: {report:?}");
        rebuild(open().accept_losses()).unwrap();
        block_on(async {
            let vault = open().open().await.unwrap();
            assert!(matches!(vault.backend(&known).await, Err(Error::InvalidApiKey)));
            let backend = vault.backend(&vault.bootstrap_api_key(Environment::Test).await.unwrap()).await.unwrap();
            assert!(matches!(backend.account(&id(DELETED)).await, Err(Error::NotFound { .. })), "{left}");
            assert_eq!(disk.trees().iter().filter(|tree| **tree != ModelTree::Directory).count(), 1, "{left}: its tree is gone");
            backend.account(&id("stays")).await.unwrap().connections().await.unwrap();
            vault.close().await.unwrap();
        });
    }
}

#[test]
fn older_shard_does_not_pass_and_the_rest_comes_back() {
    let fixture = fixture(2 * TREES_PER_SHARD);
    let yesterday = fixture.copy();
    block_on(async {
        let vault = options(&fixture.path()).open().await.unwrap();
        let backend = vault.backend(&fixture.key).await.unwrap();
        backend.account(&id(&fixture.names[0])).await.unwrap().set_metadata("of today").await.unwrap();
        vault.close().await.unwrap();
    });
    let put_back = |path: &Path| {
        std::fs::remove_dir_all(path.join("shards/0000.0")).unwrap();
        copy_folder(&vault_path(&yesterday).join("shards/0000.0"), &path.join("shards/0000.0"));
    };
    for directory_is_left in [true, false] {
        let copy = fixture.copy();
        let path = vault_path(&copy);
        put_back(&path);
        if !directory_is_left {
            std::fs::remove_dir_all(path.join("directory")).unwrap();
        }
        let report = match rebuild(options(&path)) {
            Err(RebuildError::WouldLose(report)) if !directory_is_left => {
                assert_eq!(report.unnamed.len(), TREES_PER_SHARD, "{report:?}");
                rebuild(options(&path).accept_losses()).unwrap()
            }
            done => done.unwrap(),
        };
        assert_eq!(report.anchor, Carried::Proven);
        assert_eq!(report.accounts, TREES_PER_SHARD as u64, "{report:?}");
        assert!(report.damaged.iter().all(|damaged| damaged.part.to_string() == "shard 0000"), "{report:?}");
        block_on(async {
            let vault = options(&path).open().await.unwrap();
            let backend = backend_of(&vault, &fixture.key, Some(report.settings), "older shard").await;
            for (n, name) in fixture.names.iter().enumerate() {
                match read(&backend, name).await {
                    Ok(_) => assert!(n >= TREES_PER_SHARD, "{name} of yesterday is served"),
                    Err(Error::RolledBack(damaged)) => assert!(n < TREES_PER_SHARD && directory_is_left, "{name}: {damaged}"),
                    Err(Error::NotFound { .. }) => assert!(n < TREES_PER_SHARD && !directory_is_left, "{name}"),
                    Err(other) => panic!("{name}: {other:?}"),
                }
            }
            let verified = vault.verify().await.unwrap();
            assert!(!verified.damaged.is_empty(), "nobody finds the older shard any more");
            vault.close().await.unwrap();
        });
        // The newest copy of the shard put back, and rebuilt once more if need be, everybody is there.
        std::fs::remove_dir_all(path.join("shards/0000.0")).unwrap();
        copy_folder(&fixture.path().join("shards/0000.0"), &path.join("shards/0000.0"));
        if !directory_is_left {
            rebuild(options(&path)).unwrap();
        }
        block_on(async {
            let vault = options(&path).open().await.unwrap();
            let key = if directory_is_left {
                fixture.key.clone()
            } else {
                vault.bootstrap_api_key(Environment::Production).await.unwrap()
            };
            drop(vault.backend(&key).await.unwrap());
            assert!(vault.verify().await.unwrap().damaged.is_empty());
            vault.close().await.unwrap();
        });
    }
    // Without the anchor nothing tells that the shard is old: that has to be accepted.
    let copy = fixture.copy();
    let path = vault_path(&copy);
    put_back(&path);
    std::fs::remove_file(path.join("directory.anchor")).unwrap();
    let report = would_lose(rebuild(options(&path)), "without the anchor");
    assert_eq!((report.anchor, report.settings), (Carried::Lost, Carried::AsFound));
}

#[test]
fn what_keeps_a_vault_from_being_read_keeps_it_from_being_rebuilt() {
    let fixture = fixture(2);
    let head = block_on(async {
        let vault = options(&fixture.path()).open().await.unwrap();
        let head = vault.head().await.unwrap();
        let refused = options(&fixture.path()).rebuild_directory().await;
        assert!(matches!(refused, Err(RebuildError::Open(OpenError::AlreadyOpen))), "{refused:?}");
        vault.close().await.unwrap();
        head
    });
    let before = files(&fixture.path());
    let other = rebuild(Vault::builder(fixture.path()).root_key(root_key_of(8)).accept_losses());
    assert!(matches!(other, Err(RebuildError::Open(OpenError::WrongRootKey))), "{other:?}");
    let random = rebuild(Vault::builder(fixture.path()).root_key(anchorhold::RawKey::new(RootKey::generate())).accept_losses());
    assert!(matches!(random, Err(RebuildError::Open(OpenError::WrongRootKey))), "{random:?}");
    let none = rebuild(Vault::builder(fixture.path()));
    assert!(matches!(none, Err(RebuildError::Open(OpenError::NoRootKey))), "{none:?}");
    assert_eq!(files(&fixture.path()), before, "a file was changed");
    let empty = tempfile::tempdir().unwrap();
    let nothing = rebuild(options(&vault_path(&empty)).accept_losses());
    assert!(matches!(nothing, Err(RebuildError::Open(OpenError::NotAVault))), "{nothing:?}");

    // The kept head: an older vault is refused, and the rebuilt one fits.
    let yesterday = fixture.copy();
    let newer = block_on(async {
        let vault = options(&fixture.path()).open().await.unwrap();
        fill(&vault.backend(&fixture.key).await.unwrap(), "of today").await;
        let newer = vault.head().await.unwrap();
        vault.close().await.unwrap();
        newer
    });
    let older = rebuild(options(&vault_path(&yesterday)).expect_head(newer).accept_losses());
    assert!(matches!(older, Err(RebuildError::Open(OpenError::RolledBack(_)))), "{older:?}");
    rebuild(options(&fixture.path()).expect_head(newer)).unwrap();
    drop(block_on(options(&fixture.path()).expect_head(newer).open()).unwrap());
    let later = block_on(async {
        let vault = options(&fixture.path()).expect_head(newer).open().await.unwrap();
        let later = vault.head().await.unwrap();
        vault.close().await.unwrap();
        later
    });
    std::fs::remove_file(fixture.path().join("directory.anchor")).unwrap();
    would_lose(rebuild(options(&fixture.path()).expect_head(head)), "without the anchor");
    rebuild(options(&fixture.path()).expect_head(later).accept_losses()).unwrap();
    drop(block_on(options(&fixture.path()).expect_head(later).open()).unwrap());
}

#[test]
fn stopped_after_any_step_it_is_the_old_directory_or_the_new_one_or_rebuilt_again() {
    let fixture = fixture(TREES_PER_SHARD + 1);
    for (anchor_is_lost, damaged) in [(false, false), (false, true), (true, false)] {
        for step in 0..4 {
            let what = format!("stopped after step {step}, anchor lost: {anchor_is_lost}, damaged: {damaged}");
            let copy = fixture.copy();
            let path = vault_path(&copy);
            if anchor_is_lost {
                std::fs::remove_file(path.join("directory.anchor")).unwrap();
            }
            if damaged {
                let mut bytes = std::fs::read(path.join("directory/db")).unwrap();
                let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
                bytes[used / 3] ^= 0xff;
                std::fs::write(path.join("directory/db"), bytes).unwrap();
            }
            let faults = StorageFaults::default();
            faults.stop_rebuilding_after(Some(step));
            let stopped = rebuild(options(&path).storage_faults(faults).accept_losses());
            assert!(matches!(stopped, Err(RebuildError::Interrupted { .. })), "{what}: {stopped:?}");
            let opened = block_on(options(&path).open());
            // The old one, as it was, or the new one, or none that can be opened.
            match (&opened, step) {
                (Ok(_), 0 | 1 | 3) => assert!(!anchor_is_lost, "{what}"),
                (Err(OpenError::Corrupted(damage)), 0 | 1) => {
                    assert!((anchor_is_lost || damaged) && damage.part == VaultPart::Directory, "{what}: {damage}");
                }
                (Err(OpenError::RolledBack(_)), 0 | 1) => assert!(damaged, "{what}"),
                (Err(OpenError::Corrupted(damage)), 2) => assert_eq!(damage.part, VaultPart::Directory, "{what}"),
                (Err(OpenError::Corrupted(damage)), 3) => assert!(anchor_is_lost, "{what}: {damage}"),
                (other, _) => panic!("{what}: {:?}", other.as_ref().err()),
            }
            if let Ok(vault) = opened {
                block_on(vault.close()).unwrap();
            }
            let settings = comes_back(&path, &fixture, !damaged, &what);
            assert!(damaged || settings != Carried::Lost, "{what}: what was proven before is lost");
            let leftovers = ["directory.rebuilding", "directory.rebuilt"].iter().filter(|name| path.join(name).exists()).count();
            assert_eq!(leftovers, 0, "{what}");
        }
    }
}
