//! Each reason not to open a vault is an error of its own, leaves the vault as it was, and lets go of it. Where root keys come from.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anchorhold::{
    Environment, KeyFile, KeyProvider, LockKind, OpenError, Passphrase, RawKey, RootKey, RootKeyError, Vault, VaultBuilder,
};

use crate::common::{Host, block_on, builder, customer, files, id, open, revealed, root_key_of, secret, vault_path};

async fn open_error(builder: VaultBuilder) -> OpenError {
    match builder.open().await {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

#[test]
fn each_reason_not_to_open_is_an_error_of_its_own() {
    block_on(async {
        let host = Host::new().await;
        host.customer("acme", "secret").await;
        let path = host.path();

        let locked = open_error(builder(&path)).await;
        assert!(matches!(locked, OpenError::AlreadyOpen), "{locked:?}");
        host.vault.close().await.unwrap();
        let whole = files(&path);

        let wrong_key = open_error(Vault::builder(&path).root_key(root_key_of(8))).await;
        assert!(matches!(wrong_key, OpenError::WrongRootKey), "{wrong_key:?}");

        let foreign = tempfile::tempdir().unwrap();
        std::fs::write(foreign.path().join("notes.txt"), "not a vault").unwrap();
        let not_a_vault = open_error(builder(foreign.path())).await;
        assert!(matches!(not_a_vault, OpenError::NotAVault), "{not_a_vault:?}");
        let left = files(foreign.path());
        assert_eq!(left.len(), 1, "a foreign directory is left as it was: {left:?}");
        let a_file = open_error(builder(&foreign.path().join("notes.txt"))).await;
        assert!(matches!(a_file, OpenError::NotAVault), "{a_file:?}");

        set_format(&path, 999);
        let newer = open_error(builder(&path)).await;
        assert!(matches!(newer, OpenError::NewerFormat { found: 999, supported: 1 }), "{newer:?}");
        set_format(&path, 1);

        let no_key = open_error(Vault::builder(&path)).await;
        assert!(matches!(no_key, OpenError::NoRootKey), "{no_key:?}");

        assert!(whole == files(&path), "none of the attempts changed a byte");
        let vault = open(&path).await;
        let backend = vault.backend(&host.key).await.unwrap();
        assert_eq!(backend.account(&id("acme")).await.unwrap().connections().await.unwrap().len(), 1);

        let texts: HashSet<String> = [&locked, &wrong_key, &not_a_vault, &newer, &no_key].map(ToString::to_string).into();
        assert_eq!(texts.len(), 5, "five reasons, five messages: {texts:?}");
    });
}

/// Makes a closed vault one of another format, as `docs/format.md` says: checksummed copies of a header that begins with a magic
/// and the format.
fn set_format(vault: &Path, format: u16) {
    const FORMAT_AT: usize = 8 + 8 + 4 + 11;
    for copy in ["header.a", "header.b"] {
        let mut bytes = std::fs::read(vault.join(copy)).unwrap();
        assert_eq!(&bytes[20..FORMAT_AT], b"ANCHORHOLD\0");
        bytes[FORMAT_AT..FORMAT_AT + 2].copy_from_slice(&format.to_be_bytes());
        let checksum_at = bytes.len() - 4;
        let checksum = crc32fast::hash(&bytes[..checksum_at]);
        bytes[checksum_at..].copy_from_slice(&checksum.to_be_bytes());
        std::fs::write(vault.join(copy), bytes).unwrap();
    }
}

#[test]
fn status_says_what_an_operator_asks() {
    block_on(async {
        let host = Host::new().await;
        host.customer("acme", "secret").await;
        let status = host.vault.status();
        assert_eq!((status.engine, status.accounts, status.shards), ("sled", 1, 1));
        assert_eq!((status.root_key_generation, status.rotating_root_key), (1, false));
        assert!(status.repaired.is_empty() && status.poisoned.is_none() && !status.closed);
        // Whether the machine has memfd_secret is its own affair; that keys are protected is not, where memory may be locked.
        assert!(matches!(status.lock_kind, LockKind::MemfdSecret | LockKind::Mlock), "{:?}", status.lock_kind);
        let id = status.vault_id;
        host.vault.close().await.unwrap();
        assert_eq!(open(&host.path()).await.status().vault_id, id);
    });
}

// --- Where root keys come from ---

/// Creates a vault with a key and opens it again with what should be the same key.
async fn creates_and_opens(create: impl KeyProvider + 'static, again: impl KeyProvider + 'static) {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::builder(vault_path(&folder)).root_key(create).open().await.unwrap();
    let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
    customer(&vault.backend(&key).await.unwrap(), "acme", "secret").await;
    vault.close().await.unwrap();
    let stranger = open_error(Vault::builder(vault_path(&folder)).root_key(RawKey::new(RootKey::generate()))).await;
    assert!(matches!(stranger, OpenError::WrongRootKey), "{stranger:?}");
    let vault = Vault::builder(vault_path(&folder)).root_key(again).open().await.unwrap();
    let account = vault.backend(&key).await.unwrap().account(&id("acme")).await.unwrap();
    let info = account.connections().await.unwrap().remove(0);
    assert_eq!(revealed(&account.connection(&info.id).await.unwrap()).await.unwrap(), "secret");
}

#[test]
fn every_provider_opens_what_it_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.key");
    block_on(async {
        creates_and_opens(RootKey::generate_file(&path).unwrap(), KeyFile::new(&path)).await;
        creates_and_opens(RawKey::new([5; 32]), root_key_of(5)).await;
        let passphrase = || Passphrase::new(secret("correct horse battery staple")).with_costs(8, 1).unwrap();
        // Salt and costs come from the vault, so other costs now don't matter.
        creates_and_opens(passphrase(), passphrase().with_costs(9, 2).unwrap()).await;
        creates_and_opens(Kms([6; 32]), Kms([6; 32])).await;
    });
}

/// A key service of the host's own: what it said at creation is given back to it.
struct Kms([u8; 32]);

impl KeyProvider for Kms {
    fn parameters(&self) -> Result<Vec<u8>, RootKeyError> {
        Ok(b"key 17 of the service".to_vec())
    }

    fn root_key(&self, parameters: &[u8]) -> Result<RootKey, RootKeyError> {
        if parameters == b"key 17 of the service" { Ok(RootKey::from(self.0)) } else { Err(RootKeyError::other("no such key")) }
    }
}

#[test]
fn another_passphrase_or_a_service_that_fails_does_not_open() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let path = vault_path(&folder);
        let with = |text: &str| Passphrase::new(secret(text)).with_costs(8, 1).unwrap();
        let short = open_error(Vault::builder(&path).root_key(with("short"))).await;
        assert!(matches!(short, OpenError::RootKey(RootKeyError::TooShort { .. })), "{short:?}");
        drop(Vault::builder(&path).root_key(with("correct horse battery staple")).open().await.unwrap());
        let wrong = open_error(Vault::builder(&path).root_key(with("correct horse battery stable"))).await;
        assert!(matches!(wrong, OpenError::WrongRootKey), "{wrong:?}");
        let service = open_error(Vault::builder(&path).root_key(Kms([6; 32]))).await;
        assert!(matches!(service, OpenError::RootKey(RootKeyError::Other(_))), "{service:?}");
        drop(Vault::builder(&path).root_key(with("correct horse battery staple")).open().await.unwrap());
    });
}

#[test]
fn key_file_is_private_from_the_start_and_refused_when_it_is_not() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (file, path) = (folder.path().join("root.key"), folder.path().join("vault"));
        RootKey::generate_file(&file).unwrap();
        let mode = |file: &Path| std::fs::metadata(file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        let content = std::fs::read(&file).unwrap();
        let exists = RootKey::generate_file(&file);
        assert!(matches!(exists, Err(RootKeyError::NotCreated { .. })), "{exists:?}");
        assert_eq!(std::fs::read(&file).unwrap(), content, "a key that exists is never overwritten");
        drop(Vault::builder(&path).root_key(KeyFile::new(&file)).open().await.unwrap());

        for bits in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o666, 0o777] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(bits)).unwrap();
            let exposed = open_error(Vault::builder(&path).root_key(KeyFile::new(&file))).await;
            assert!(
                matches!(&exposed, OpenError::RootKey(RootKeyError::Exposed { mode, .. }) if *mode == bits),
                "{bits:o}: {exposed:?}"
            );
            assert!(exposed.to_string().contains("chmod 600"), "it says what to do: {exposed}");
        }
        // What is checked is the file, not the name: a link to an exposed file is no way around.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let through_link = open_error(Vault::builder(&path).root_key(KeyFile::new(&link))).await;
        assert!(matches!(through_link, OpenError::RootKey(RootKeyError::Exposed { .. })), "{through_link:?}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
        drop(Vault::builder(&path).root_key(KeyFile::new(&file)).open().await.unwrap());

        let missing = open_error(Vault::builder(&path).root_key(KeyFile::new(folder.path().join("none")))).await;
        assert!(matches!(missing, OpenError::RootKey(RootKeyError::Unreadable { .. })), "{missing:?}");
        let directory = open_error(Vault::builder(&path).root_key(KeyFile::new(folder.path()))).await;
        assert!(matches!(directory, OpenError::RootKey(RootKeyError::NotAFile { .. })), "{directory:?}");
        for (n, text) in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &format!("{}\n\n", "0".repeat(64))]
            .into_iter()
            .enumerate()
        {
            let file = folder.path().join(format!("malformed {n}"));
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            let malformed = open_error(Vault::builder(&path).root_key(KeyFile::new(&file))).await;
            assert!(matches!(malformed, OpenError::RootKey(RootKeyError::Malformed { .. })), "{text:?}: {malformed:?}");
        }
        drop(Vault::builder(&path).root_key(KeyFile::new(&file)).open().await.unwrap());
    });
}
