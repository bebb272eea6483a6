//! What lies on disk: one tree per account, small shards, a flat cost of creation, no name and no secret in clear, and nothing left
//! of an account that was deleted.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anchorhold::{Credential, Environment, Grant, NewApiKey, NewConnection, PageRequest, SessionOptions, Vault};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{
    Host, api_key_connection, block_on, contains, customer, files, from_env, header_provider, id, open, provider, root_key_of,
    secret, vault_path,
};

const TREES_PER_SHARD: usize = 96;

/// One test at a time: one of them measures.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The figures of 2,000 accounts. Time is what other programs of the machine have an effect on, so it gets three attempts; a cost
/// that grows with the number of accounts fails all three.
#[test]
fn every_account_has_its_own_tree_and_the_last_costs_what_the_first_did() {
    let _alone = alone();
    let accounts = usize::try_from(from_env("ANCHORHOLD_LAYOUT_ACCOUNTS", 2_000)).unwrap();
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let (folder, times) = create_accounts(accounts);
        layout_is_as_promised(&vault_path(&folder), accounts);
        let (first, last) = (median(&times[..200]), median(&times[accounts - 200..]));
        let ratio = last.as_secs_f64() / first.as_secs_f64();
        println!("median time per account: first 200 {first:?}, last 200 {last:?}, ratio {ratio:.2}");
        ratios.push(ratio);
        if ratio <= 1.3 {
            return;
        }
    }
    panic!("the last 200 accounts took so many times as long as the first 200: {ratios:.2?}");
}

fn create_accounts(accounts: usize) -> (tempfile::TempDir, Vec<Duration>) {
    let Host { folder, vault, key, backend } = block_on(Host::new());
    let mut times = Vec::with_capacity(accounts);
    block_on(async {
        for n in 0..accounts {
            let name = id(&format!("customer {n}"));
            let started = Instant::now();
            backend.create_account(&name).await.unwrap();
            times.push(started.elapsed());
        }
        assert_eq!(vault.status().accounts, accounts as u64);
        vault.close().await.unwrap();
    });
    drop((vault, backend, key));
    (folder, times)
}

fn layout_is_as_promised(path: &Path, accounts: usize) {
    let shards = shard_folders(path);
    let mut counts = Vec::new();
    let mut distinct = HashSet::new();
    for shard in &shards {
        let trees = account_trees(shard);
        assert!(trees.values().all(|rows| rows.len() > 5), "a tree is an account, with its keys and records");
        counts.push(trees.len());
        distinct.extend(trees.into_keys());
    }
    assert_eq!(counts.iter().sum::<usize>(), accounts, "each account is one tree: {counts:?}");
    assert_eq!(distinct.len(), accounts, "no two trees of one name");
    assert!(counts.iter().all(|count| *count <= TREES_PER_SHARD), "{counts:?}");
    assert!(counts.len() <= accounts.div_ceil(TREES_PER_SHARD) + 1, "shards are filled one after the other: {counts:?}");
    let all = files(path);
    let in_blobs = |path: &Path| path.components().any(|part| part.as_os_str() == "blobs");
    let blobs: Vec<&PathBuf> =
        all.iter().filter(|(path, bytes)| in_blobs(path) && !bytes.is_empty()).map(|(path, _)| path).collect();
    assert!(blobs.is_empty(), "sled never syncs what is in blobs/: {blobs:?}");
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2]
}

/// Every wrapped key that an account ever had is gone with it: also those from before its own rotations, and from before the root
/// key's, which lie in logs and snapshots.
#[test]
fn deleted_account_leaves_no_byte_of_its_wrapped_keys() {
    let _alone = alone();
    block_on(async {
        let Host { folder, vault, key, backend } = Host::new().await;
        let path = vault_path(&folder);
        for name in ["before", "deleted", "after"] {
            customer(&backend, name, &format!("secret of {name}")).await;
        }
        let handle = handle_of(&vault, &backend.account(&id("deleted")).await.unwrap()).await;
        vault.close().await.unwrap();
        drop((vault, backend));

        // What the account's tree holds, state after state.
        let mut pieces = pieces(&all_trees(&path)[&handle]);
        let vault = open(&path).await;
        let account = vault.backend(&key).await.unwrap().account(&id("deleted")).await.unwrap();
        account.rotate_key().await.unwrap();
        drop(account);
        vault.close().await.unwrap();
        drop(vault);
        pieces.extend(self::pieces(&all_trees(&path)[&handle]));
        let vault = open(&path).await;
        vault.rotate_root_key(root_key_of(8)).await.unwrap();
        vault.close().await.unwrap();
        drop(vault);
        let trees = all_trees(&path);
        pieces.extend(self::pieces(&trees[&handle]));
        assert_eq!(trees.len(), 3);
        let (_, neighbour) = trees.iter().find(|(name, _)| **name != handle).unwrap();
        let (pieces, kept) = (pieces, self::pieces(neighbour));
        assert!(pieces.len() > 60, "three sets of three wrapped keys and the records: {}", pieces.len());
        let found: usize = files(&path).iter().map(|(_, bytes)| count(bytes, &pieces)).sum();
        assert!(found >= pieces.len() / 2, "before the deletion the search finds {found} of {}", pieces.len());

        let vault = Vault::builder(&path).root_key(root_key_of(8)).open().await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        backend.account(&id("deleted")).await.unwrap().delete().await.unwrap();
        // At once, before anything is closed or tidied up.
        let while_open = files(&path);
        vault.close().await.unwrap();
        drop((vault, backend));
        for (when, files) in [("while open", while_open), ("after closing", files(&path))] {
            for (file, bytes) in &files {
                assert_eq!(count(bytes, &pieces), 0, "{when}, {} holds bytes of the deleted account", file.display());
                assert!(!contains(bytes, &handle) || is_directory(file), "{when}, {} names the deleted account", file.display());
            }
            // The control: the same search finds a neighbour's.
            let found: usize = files.iter().map(|(_, bytes)| count(bytes, &kept)).sum();
            assert!(found >= kept.len() / 2, "{when}, the search finds what is there: {found} of {}", kept.len());
        }
        assert_eq!(all_trees(&path).len(), 2, "its tree is gone, and no other");
    });
}

/// The directory's log, and its part of the commit log, may name the random handle of an account that is gone; no key of it ever lay there.
fn is_directory(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "directory" || part.as_os_str() == "commits")
}

/// The random handle that names an account's tree, as it stands in the account's tokens.
async fn handle_of(vault: &Vault, account: &anchorhold::Account) -> Vec<u8> {
    let minted = account.mint_session_token(SessionOptions::new()).await.unwrap();
    vault.session(&minted.token).await.unwrap();
    token_bytes(&minted.token)[1..17].to_vec()
}

fn token_bytes(token: &anchorhold::SessionToken) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(&token.expose_secret()["st_test_".len()..]).unwrap()
}

const PIECE: usize = 16;

/// Sixteen-byte pieces of the sealed values, without the first sixteen bytes of each, which are mostly version numbers.
fn pieces(rows: &[(Vec<u8>, Vec<u8>)]) -> HashSet<[u8; PIECE]> {
    rows.iter()
        .filter_map(|(_, value)| value.get(PIECE..))
        .flat_map(|value| value.chunks_exact(PIECE).map(|piece| piece.try_into().unwrap()).collect::<Vec<_>>())
        // A mark's digest is empty for an account; zeros are everywhere.
        .filter(|piece: &[u8; PIECE]| *piece != [0; PIECE])
        .collect()
}

fn count(haystack: &[u8], pieces: &HashSet<[u8; PIECE]>) -> usize {
    haystack.windows(PIECE).filter(|window| pieces.contains(*window)).count()
}

#[test]
fn no_name_and_no_secret_can_be_grepped() {
    let _alone = alone();
    block_on(async {
        let host = Host::new().await;
        let mut needles: Vec<(&str, Vec<u8>)> = Vec::new();
        let mut needle = |what: &'static str, text: &str| needles.push((what, text.as_bytes().to_vec()));
        let (customer_id, metadata, label) = ("customer-needle-81723", "metadata-needle-55121", "label-needle-90909");
        let (provider_name, field, unused) = ("provider-needle-771", "field-needle-3", "provider-needle-882");
        needle("customer id", customer_id);
        needle("metadata", metadata);
        needle("label", label);
        needle("provider name", provider_name);
        needle("name of a provider without connections", unused);
        needle("a provider's host", "api.example.com");
        needle("field name", field);
        needle("API key", host.key.expose_secret());
        needle("label of an API key", "key-label-needle-31");

        let asked = NewApiKey::new("key-label-needle-31").permissions(anchorhold::Permission::Use).accounts([id(customer_id)]);
        let other = host.backend.create_api_key(asked).await.unwrap();
        host.backend.set_provider(header_provider(provider_name)).await.unwrap();
        host.backend.set_provider(header_provider(unused)).await.unwrap();
        let account = host.backend.create_account_with(&id(customer_id), metadata).await.unwrap();
        let tokens = anchorhold::OAuth2Tokens::new(secret("access-needle-4")).refresh_token(secret("refresh-needle-5"));
        let credentials = [
            ("api key credential", Credential::api_key(secret("sk-needle-4711")), "sk-needle-4711"),
            ("password", Credential::basic("user-needle-12", secret("password-needle-8")), "password-needle-8"),
            ("field", Credential::custom([(field, secret("custom-needle-99"))]), "custom-needle-99"),
            ("access token", Credential::oauth2(tokens), "access-needle-4"),
        ];
        needle("user name", "user-needle-12");
        needle("refresh token", "refresh-needle-5");
        for (what, credential, text) in credentials {
            needle(what, text);
            let new = NewConnection::new(provider(provider_name), credential).label(label);
            let connection = account.add_connection(new).await.unwrap();
            connection.reveal(|_| ()).await.unwrap();
        }
        // Large enough to be cut into parts.
        let large = "large-needle-".repeat(2_000);
        needle("a piece of a large credential", "large-needle-large-needle-");
        account.add_connection(api_key_connection(provider_name, &large)).await.unwrap();
        let options = SessionOptions::new().grants([Grant::ListConnections]).subject("subject-needle-6").single_use();
        needle("subject", "subject-needle-6");
        let minted = account.mint_session_token(options).await.unwrap();
        host.vault.session(&minted.token).await.unwrap();
        account.revoke_session_token(&minted.id).await.unwrap();
        // The audit holds the subject and the host by now, sealed.
        assert!(account.audit(PageRequest::first(100)).await.unwrap().items.len() > 10);
        needle("session token", minted.token.expose_secret());
        let token = token_bytes(&minted.token);
        needles.push(("session token, decoded", token[17..].to_vec()));
        for key in [&host.key, &other.key] {
            let bytes = URL_SAFE_NO_PAD.decode(&key.expose_secret()["ak_test_".len()..]).unwrap();
            needles.push(("API key, decoded secret", bytes[12..44].to_vec()));
        }
        needles.push(("root key", vec![7; 32]));

        let handle = token[1..17].to_vec();
        let mut scans = vec![("while open", files(&host.path()))];
        host.vault.close().await.unwrap();
        scans.push(("after closing", files(&host.path())));
        for (when, files) in &scans {
            for (file, bytes) in files {
                for (what, needle) in &needles {
                    assert!(!contains(bytes, needle), "{when}, {} holds the {what}", file.display());
                }
            }
            // The control: the account's random handle, which names its tree, is found by the same search.
            assert!(files.iter().any(|(_, bytes)| contains(bytes, &handle)), "{when}, the search finds what is there");
        }
        let names: Vec<String> = scans[1].1.iter().map(|(path, _)| path.to_string_lossy().into_owned()).collect();
        assert!(!names.iter().any(|name| name.contains("needle")), "no file is named after anything: {names:?}");
    });
}

#[test]
fn production_and_test_share_no_tree() {
    let _alone = alone();
    block_on(async {
        let host = Host::new().await;
        host.customer("acme", "secret").await;
        let key = host.vault.bootstrap_api_key(Environment::Production).await.unwrap();
        customer(&host.vault.backend(&key).await.unwrap(), "acme", "live secret").await;
        host.vault.close().await.unwrap();
        let path = host.path();
        drop(host.vault);
        assert_eq!(all_trees(&path).len(), 2);
    });
}

/// Others on the machine have no business with a vault's files.
#[test]
fn files_of_a_vault_are_their_owners_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let _alone = alone();
    let host = block_on(Host::new());
    block_on(host.customer("acme", "secret"));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&host.path()) & 0o077, 0, "nobody else gets into the vault's directory");
    for (file, _) in files(&host.path()) {
        let reachable = file.ancestors().take_while(|at| at.starts_with(host.path())).all(|at| mode(at) & 0o077 != 0);
        assert!(!reachable, "{} can be reached and read by others", file.display());
    }
}

type Tree = Vec<(Vec<u8>, Vec<u8>)>;

/// Every account tree of a closed vault with its rows, read with sled alone.
fn all_trees(vault: &Path) -> BTreeMap<Vec<u8>, Tree> {
    shard_folders(vault).iter().flat_map(|shard| account_trees(shard)).collect()
}

fn account_trees(shard: &Path) -> BTreeMap<Vec<u8>, Tree> {
    // What a database was made with; sled opens it with nothing else.
    let config = sled::Config::new().path(shard).segment_size(512 * 1024).mode(sled::Mode::LowSpace).flush_every_ms(None);
    let database = config.open().unwrap();
    let mut trees = BTreeMap::new();
    for name in database.tree_names() {
        if name != "__sled__default" {
            let rows = database.open_tree(&name).unwrap().iter().map(|row| row.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap());
            trees.insert(name.to_vec(), rows.collect());
        }
    }
    trees
}

fn shard_folders(vault: &Path) -> Vec<PathBuf> {
    files(&vault.join("shards"))
        .into_iter()
        .filter(|(path, _)| path.file_name().is_some_and(|name| name == "db"))
        .map(|(path, _)| path.parent().unwrap().to_path_buf())
        .collect()
}
