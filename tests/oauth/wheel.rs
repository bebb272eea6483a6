//! The wheel: tokens are refreshed before anybody asks, also after a restart, and no account that is not due is touched.

use std::collections::BTreeMap;
use std::time::Duration;

use anchorhold::testing::refresh_what_is_due;
use anchorhold::{ConnectionStatus, HttpError, RefreshProfile, RefreshRate};

use crate::common::{block_on, builder, id, provider as name, secret, vault_path};
use crate::provider::{Scripted, client, oauth, settings};
use crate::world::{World, info, used};

#[test]
fn tokens_are_refreshed_before_they_expire_and_before_anybody_asks() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        let first = used(&connection).await;
        world.pass(3_000);
        refresh_what_is_due(&world.host.vault).await.unwrap();
        assert_eq!(world.provider.state().refreshes, 0);
        for round in 1..=5 {
            let next = info(&connection).await.next_refresh.unwrap();
            world.clock.set(next.plus(Duration::from_secs(40)));
            refresh_what_is_due(&world.host.vault).await.unwrap();
            assert_eq!(world.provider.state().refreshes, round);
        }
        assert_ne!(used(&connection).await, first);
        assert_eq!(world.provider.state().refreshes, 5, "the token that the wheel got is used");
    });
}

#[test]
fn a_rebuilt_directory_knows_when_tokens_are_due() {
    for directory_is_left in [true, false] {
        block_on(async {
            let world = World::new().await;
            let connection = world.connect().await;
            let due = info(&connection).await.next_refresh.unwrap();
            let (clock, provider, folder) = (world.clock.clone(), world.provider.clone(), world.host.folder);
            world.host.vault.close().await.unwrap();
            drop((world.host.backend, world.account, connection));
            let path = vault_path(&folder);
            if !directory_is_left {
                std::fs::remove_dir_all(path.join("directory")).unwrap();
            }
            let builder = || builder(&path).clock(clock.clone()).http_client(provider.clone());
            let report = builder().accept_losses().rebuild_directory().await.unwrap();
            assert_eq!((report.accounts, report.loses()), (1, !directory_is_left), "{report:?}");
            let vault = builder().open().await.unwrap();
            if !directory_is_left {
                let key = vault.bootstrap_api_key(anchorhold::Environment::Test).await.unwrap();
                let backend = vault.backend(&key).await.unwrap();
                backend.set_provider(settings(oauth(RefreshProfile::new()))).await.unwrap();
                backend.set_oauth_client(&name("idp"), client()).await.unwrap();
            }
            refresh_what_is_due(&vault).await.unwrap();
            assert_eq!(provider.state().refreshes, 0, "nothing is due yet");
            clock.set(due.plus(Duration::from_secs(40)));
            refresh_what_is_due(&vault).await.unwrap();
            assert_eq!(provider.state().refreshes, 1, "the directory is left: {directory_is_left}");
            vault.close().await.unwrap();
        });
    }
}

#[test]
fn many_accounts_are_each_asked_for_once_and_in_time_and_those_of_a_shard_together() {
    block_on(async {
        // Ten shards of six accounts.
        let world = World::with(|builder| builder.trees_per_shard(6), oauth(RefreshProfile::new())).await;
        let mut connections = vec![world.connect().await];
        for number in 1..60 {
            let account = world.host.backend.create_account(&id(&format!("customer-{number}"))).await.unwrap();
            connections.push(world.provider.connect(&account).await);
        }
        // Step by step, as time passes.
        for _ in 0..3_600 / 4 {
            world.pass(4);
            refresh_what_is_due(&world.host.vault).await.unwrap();
        }
        assert_eq!(world.provider.state().refreshes, 60);
        let mut at: BTreeMap<_, u32> = BTreeMap::new();
        for connection in &connections {
            let info = info(connection).await;
            assert_eq!(info.status, ConnectionStatus::Active);
            *at.entry(info.last_refresh.unwrap()).or_default() += 1;
        }
        assert!(at.len() > 5, "shards have times of their own: {at:?}");
        assert!(at.values().all(|count| count.is_multiple_of(6)), "the accounts of a shard have one: {at:?}");
    });
}

#[test]
fn what_came_due_while_the_vault_was_closed_is_looked_after_at_once() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        used(&connection).await;
        let (clock, provider, folder) = (world.clock.clone(), world.provider.clone(), world.host.folder);
        let connection = connection.id();
        world.host.vault.close().await.unwrap();
        drop((world.host.backend, world.account));
        // Longer than the wheel has buckets.
        clock.advance(Duration::from_secs(30 * 86_400));
        let vault = builder(&vault_path(&folder)).clock(clock.clone()).http_client(provider.clone()).open().await.unwrap();
        refresh_what_is_due(&vault).await.unwrap();
        assert_eq!(provider.state().refreshes, 1);
        refresh_what_is_due(&vault).await.unwrap();
        assert_eq!(provider.state().refreshes, 1);
        let backend = vault.backend(&world.host.key).await.unwrap();
        let account = backend.account(&id("acme")).await.unwrap();
        let connection = account.connection(&connection).await.unwrap();
        used(&connection).await;
        assert_eq!(provider.state().refreshes, 1);
    });
}

#[test]
fn refresh_tokens_that_would_die_unused_are_used() {
    block_on(async {
        let week = Duration::from_secs(7 * 86_400);
        let world = World::of(oauth(RefreshProfile::new().with_keep_alive(week).unwrap())).await;
        world.provider.state().lifetime = Duration::from_secs(365 * 86_400);
        let connection = world.connect().await;
        world.pass(6 * 86_400);
        refresh_what_is_due(&world.host.vault).await.unwrap();
        assert_eq!(world.provider.state().refreshes, 0);
        world.pass(86_400 + 60);
        refresh_what_is_due(&world.host.vault).await.unwrap();
        assert_eq!(world.provider.state().refreshes, 1);
        assert!(info(&connection).await.next_refresh.unwrap().since(anchorhold::Clock::now(&*world.clock)) <= week);
    });
}

#[test]
fn a_provider_that_is_down_is_asked_again_later_and_not_all_the_time() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        world.provider.script(vec![Scripted::Fails(HttpError::Unreachable); 1_000]);
        world.pass(3_300);
        for _ in 0..7_200 / 16 {
            world.pass(16);
            refresh_what_is_due(&world.host.vault).await.unwrap();
        }
        let asked = world.provider.state().token_requests - 1;
        assert!((5..40).contains(&asked), "{asked} attempts in two hours");
        world.provider.state().scripted.clear();
        world.pass(1_000);
        refresh_what_is_due(&world.host.vault).await.unwrap();
        assert_eq!(info(&connection).await.status, ConnectionStatus::Active);
    });
}

#[test]
fn a_provider_is_not_asked_more_often_than_it_allows() {
    block_on(async {
        let rate = RefreshRate { requests: 10, per: Duration::from_secs(600) };
        let world = World::of(oauth(RefreshProfile::new().with_rate(rate).unwrap())).await;
        for number in 0..9 {
            let account = world.host.backend.create_account(&id(&format!("customer-{number}"))).await.unwrap();
            world.provider.connect(&account).await;
        }
        // Nine codes were exchanged within this minute of real time: one request is left.
        world.pass(3_700);
        refresh_what_is_due(&world.host.vault).await.unwrap();
        assert_eq!(world.provider.state().refreshes, 1);
    });
}

#[test]
fn removed_connections_and_accounts_leave_nothing_to_look_after() {
    block_on(async {
        let world = World::new().await;
        let connection = world.connect().await;
        connection.remove().await.unwrap();
        let other = world.host.backend.create_account(&id("gone")).await.unwrap();
        world.provider.connect(&other).await;
        other.delete().await.unwrap();
        world.host.backend.remove_provider(&name("idp")).await.unwrap();
        for _ in 0..3 {
            world.pass(4_000);
            refresh_what_is_due(&world.host.vault).await.unwrap();
        }
        assert_eq!(world.provider.state().refreshes, 0);
    });
}

#[test]
fn a_connection_that_can_t_be_helped_does_not_hold_up_another_of_the_account() {
    block_on(async {
        let world = World::new().await;
        world.connect().await.disable().await.unwrap();
        // Overdue and disabled: the account's turn is put off by an hour.
        world.pass(4_000);
        refresh_what_is_due(&world.host.vault).await.unwrap();
        world.provider.state().lifetime = Duration::from_secs(1_200);
        world.connect().await;
        world.pass(1_200);
        refresh_what_is_due(&world.host.vault).await.unwrap();
        assert_eq!(world.provider.state().refreshes, 1);
    });
}

#[test]
fn several_rows_of_one_account_become_one_and_damage_nothing() {
    block_on(async {
        // A slot is 2^14 milliseconds, and 4,096 slots go round: both rows lie in one bucket.
        const SLOT: u64 = 1 << 14;
        let margin = Duration::from_millis(1);
        let world = World::of(oauth(RefreshProfile::new().with_margin(margin).unwrap())).await;
        let now = anchorhold::Clock::now(&*world.clock).as_millis();
        let late = (now / SLOT + 5_000) * SLOT + SLOT / 2;
        for expires in [late, late - 4_096 * SLOT] {
            let tokens = anchorhold::OAuth2Tokens::new(secret("access"))
                .refresh_token(secret("refresh"))
                .expires_at(anchorhold::Timestamp::from_millis(expires));
            let new = anchorhold::NewConnection::new(name("idp"), anchorhold::Credential::oauth2(tokens));
            world.account.add_connection(new).await.unwrap();
        }
        world.provider.script(vec![Scripted::Fails(HttpError::Unreachable); 100]);
        world.clock.set(anchorhold::Timestamp::from_millis(late + 2 * SLOT));
        for _ in 0..5 {
            refresh_what_is_due(&world.host.vault).await.unwrap();
            world.pass(3_600);
        }
        world.host.vault.close().await.unwrap();
        let vault = builder(&vault_path(&world.host.folder)).clock(world.clock.clone()).open().await.unwrap();
        let report = vault.verify().await.unwrap();
        assert!(report.damaged.is_empty(), "{:?}", report.damaged);
        refresh_what_is_due(&vault).await.unwrap();
    });
}
