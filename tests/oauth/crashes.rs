//! HOSTILE 11 on the disk in memory: the process ends at each step of a refresh. A real child process is killed in `oauth_crash.rs`.

use std::time::Duration;

use anchorhold::testing::ModelDisk;
use anchorhold::{ConnectionStatus, ReauthReason, RefreshProfile, SendError};

use crate::common::{block_on, builder, id, vault_path};
use crate::provider::oauth;
use crate::world::{World, get, info, used};

/// Connects, lets the token expire, and lets the process end when the provider has answered. Gives the outcome of the next use after
/// reopening, and how many refresh requests there were.
async fn crash_after_the_answer(
    profile: RefreshProfile,
    provider_rotates: bool,
) -> (Result<String, anchorhold::Error>, u64, ConnectionStatus) {
    let disk = ModelDisk::new();
    let grace = profile.grace();
    let world = World::with(|builder| builder.model_disk(disk.clone()), oauth(profile)).await;
    world.provider.state().rotates = provider_rotates;
    world.provider.state().grace = grace;
    let connection = world.connect().await;
    let first = used(&connection).await;
    world.pass(3_600);
    world.provider.state().after_token = Some(Box::new({
        let disk = disk.clone();
        move || disk.crash()
    }));
    assert!(connection.send(get()).await.is_err(), "nothing is handed out that is not stored");
    world.provider.state().after_token = None;
    let connection_id = connection.id();
    let (clock, provider, key, folder) = (world.clock.clone(), world.provider.clone(), world.host.key, world.host.folder);
    let _ = world.host.vault.close().await;
    drop((world.host.backend, world.host.vault, world.account, connection));
    clock.advance(Duration::from_secs(20));
    let vault =
        builder(&vault_path(&folder)).model_disk(disk).clock(clock.clone()).http_client(provider.clone()).open().await.unwrap();
    let account = vault.backend(&key).await.unwrap().account(&id("acme")).await.unwrap();
    let connection = account.connection(&connection_id).await.unwrap();
    let outcome = match connection.send(get()).await {
        Ok(response) => Ok(crate::world::text(response).await),
        Err(SendError::Vault(error)) => Err(error),
        Err(SendError::Http(error)) => panic!("{error}"),
        Err(error) => panic!("{error}"),
    };
    if let Ok(token) = &outcome {
        assert_ne!(*token, first, "an old token is never reported as fresh");
    }
    let refreshes = provider.state().refreshes;
    (outcome, refreshes, info(&connection).await.status)
}

#[test]
fn without_rotation_the_old_refresh_token_is_simply_used_again() {
    block_on(async {
        let (outcome, refreshes, status) = crash_after_the_answer(RefreshProfile::new().with_rotation(false), false).await;
        assert!(outcome.is_ok());
        assert_eq!((refreshes, status), (2, ConnectionStatus::Active));
    });
}

#[test]
fn within_a_documented_grace_the_old_refresh_token_is_used_again() {
    block_on(async {
        let profile = RefreshProfile::new().with_rotation(true).with_grace(Duration::from_secs(1_800)).unwrap();
        let (outcome, refreshes, status) = crash_after_the_answer(profile, true).await;
        assert!(outcome.is_ok());
        assert_eq!((refreshes, status), (2, ConnectionStatus::Active));
    });
}

#[test]
fn with_rotation_and_no_grace_the_customer_is_asked_and_the_token_is_not_sent_again() {
    block_on(async {
        let (outcome, refreshes, status) = crash_after_the_answer(RefreshProfile::new().with_rotation(true), true).await;
        assert!(matches!(outcome, Err(anchorhold::Error::ReauthRequired { reason: ReauthReason::InDoubt })));
        assert_eq!((refreshes, status), (1, ConnectionStatus::ReauthRequired { reason: ReauthReason::InDoubt }));
    });
}

#[test]
fn a_store_that_takes_no_writes_costs_no_refresh_token() {
    block_on(async {
        let disk = ModelDisk::new();
        let world = World::with(|builder| builder.model_disk(disk.clone()), oauth(RefreshProfile::new())).await;
        let connection = world.connect().await;
        world.pass(3_600);
        // The intent can't be made durable, so the provider is not asked.
        disk.fail_nth_write(1);
        assert!(connection.send(get()).await.is_err());
        assert_eq!(world.provider.state().refreshes, 0);
    });
}
