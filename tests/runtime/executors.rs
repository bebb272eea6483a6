//! A host may call from any executor, from several, or from none.

use std::path::Path;

use anchorhold::{Account, Backend, Connection, Environment, Grant, Session, SessionOptions, Vault};

use crate::common::{block_on, customer, id, open, revealed, vault_path};

/// A day of a host in small; the same on every executor.
async fn day_of_a_host(path: &Path) {
    let vault = open(path).await;
    let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
    let backend = vault.backend(&key).await.unwrap();
    let (account, connection) = customer(&backend, "acme", "secret").await;
    let token = account.mint_session_token(SessionOptions::new().grants([Grant::ListConnections])).await.unwrap().token;
    let session = vault.session(&token).await.unwrap();
    assert_eq!(session.connections().await.unwrap().len(), 1);
    assert_eq!(revealed(&connection).await.unwrap(), "secret");
    vault.close().await.unwrap();

    let vault = open(path).await;
    let backend = vault.backend(&key).await.unwrap();
    assert_eq!(backend.account(&id("acme")).await.unwrap().connections().await.unwrap().len(), 1);
    drop((backend, vault));
}

#[test]
fn hosts_on_tokio_with_many_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = vault_path(&folder);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Spawned, so that the future must be `Send` and may move between threads.
    runtime.block_on(async move { tokio::spawn(async move { day_of_a_host(&path).await }).await.unwrap() });
}

#[test]
fn hosts_on_tokio_with_one_thread() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(day_of_a_host(&vault_path(&folder)));
}

#[test]
fn hosts_inside_an_actix_system() {
    let folder = tempfile::tempdir().unwrap();
    actix::System::new().block_on(day_of_a_host(&vault_path(&folder)));
}

#[test]
fn hosts_on_an_arbiter_of_their_own_actix_system() {
    let folder = tempfile::tempdir().unwrap();
    let path = vault_path(&folder);
    let system = actix::System::new();
    system.block_on(async move {
        let arbiter = actix::Arbiter::new();
        let (done, wait) = futures_channel::oneshot::channel();
        arbiter.spawn(async move {
            day_of_a_host(&path).await;
            done.send(()).unwrap();
        });
        wait.await.unwrap();
        // The host's system is still its own.
        assert!(actix::System::try_current().is_some());
        arbiter.stop();
        arbiter.join().unwrap();
    });
}

#[test]
fn hosts_on_smol() {
    let folder = tempfile::tempdir().unwrap();
    let path = vault_path(&folder);
    smol::block_on(smol::spawn(async move { day_of_a_host(&path).await }));
}

#[test]
fn hosts_without_an_executor() {
    let folder = tempfile::tempdir().unwrap();
    block_on(day_of_a_host(&vault_path(&folder)));
}

#[test]
fn hosts_that_change_executor_with_one_vault() {
    let folder = tempfile::tempdir().unwrap();
    let vault = block_on(open(&vault_path(&folder)));
    let key = smol::block_on(vault.bootstrap_api_key(Environment::Test)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let backend = runtime.block_on(vault.backend(&key)).unwrap();
    drop(runtime);
    let (_, connection) = actix::System::new().block_on(customer(&backend, "acme", "secret"));
    assert_eq!(block_on(revealed(&connection)).unwrap(), "secret");
}

#[test]
fn handles_are_clone_send_and_sync() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<Vault>();
    check::<Backend>();
    check::<Account>();
    check::<Connection>();
    check::<Session>();
}
