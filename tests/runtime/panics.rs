//! A panic is an error of its request and of nothing else.

use std::time::Duration;

use anchorhold::testing::{ModelDisk, panic_next_request};
use anchorhold::{Credential, Error, PageRequest, SessionOptions};

use crate::common::{Host, api_key_connection, block_on, revealed, secret};
use crate::tools::action;

#[test]
fn panic_is_an_error_of_its_request_and_of_nothing_else() {
    block_on(async {
        // One thread, so that the neighbour shares it with the account that panics.
        panics_and_goes_on(Host::with(|builder| builder.threads(1)).await).await;
        // Nothing waits for this disk, so the request panics in the actor itself and not in a task that it left behind.
        panics_and_goes_on(Host::with(|builder| builder.threads(1).model_disk(ModelDisk::new())).await).await;
    });
}

async fn panics_and_goes_on(host: Host) {
    let (account, connection) = host.customer("unlucky", "secret of unlucky").await;
    let (_, neighbour) = host.customer("neighbour", "secret of neighbour").await;
    for round in 0..20 {
        panic_next_request(&account).await.unwrap();
        let (panicked, next_door) = futures_lite::future::zip(revealed(&connection), revealed(&neighbour)).await;
        assert!(matches!(panicked, Err(Error::Internal { .. })), "round {round}: {panicked:?}");
        assert!(panicked.unwrap_err().is_retryable());
        assert_eq!(next_door.unwrap(), "secret of neighbour", "round {round}");
        assert_eq!(revealed(&connection).await.unwrap(), "secret of unlucky", "the actor is back in round {round}");
    }
    assert_eq!(host.vault.status().resident_accounts, 2);
    assert!(host.vault.status().poisoned.is_none());
    host.vault.close().await.unwrap();
}

#[test]
fn panic_in_any_request_changes_nothing_and_the_same_request_succeeds_after_it() {
    block_on(async {
        let host = Host::with(|builder| builder.threads(1)).await;
        let (account, connection) = host.customer("unlucky", "first").await;
        let token = account.mint_session_token(SessionOptions::new().single_use()).await.unwrap().token;
        let before = account.audit(PageRequest::first(1_000)).await.unwrap().items.len();

        // Each takes its turn, holds the account's keys and dies; then it is asked again.
        macro_rules! dies_and_succeeds {
            ($what:expr, $call:expr) => {
                panic_next_request(&account).await.unwrap();
                let panicked = $call.await;
                assert!(matches!(panicked, Err(Error::Internal { .. })), "{}: {:?}", $what, panicked.err());
                $call.await.unwrap_or_else(|error| panic!("{} after its panic: {error:?}", $what));
            };
        }
        dies_and_succeeds!("metadata", account.set_metadata("new"));
        dies_and_succeeds!("info", account.info());
        dies_and_succeeds!("list", account.connections());
        dies_and_succeeds!("label", connection.set_label("new"));
        dies_and_succeeds!("replace", connection.replace_credential(Credential::api_key(secret("second"))));
        dies_and_succeeds!("add", account.add_connection(api_key_connection("crm", "third")));
        dies_and_succeeds!("disable", account.disable());
        dies_and_succeeds!("enable", account.enable());
        dies_and_succeeds!("single use", host.vault.session(&token));
        dies_and_succeeds!("rotate", account.rotate_key());
        dies_and_succeeds!("revoke all", account.revoke_all_session_tokens());
        dies_and_succeeds!("reveal", revealed(&connection));

        // Each took effect once, and left one entry.
        assert_eq!(revealed(&connection).await.unwrap(), "second");
        assert_eq!(account.connections().await.unwrap().len(), 2);
        let entries = account.audit(PageRequest::first(1_000)).await.unwrap().items;
        let new: Vec<String> = entries[before..].iter().map(action).collect();
        let expected = [
            "MetadataChanged",
            "ConnectionRelabelled",
            "CredentialReplaced",
            "ConnectionAdded",
            "AccountDisabled",
            "AccountEnabled",
            "SessionUsedUp",
            "AccountKeyRotated",
            "AllSessionsRevoked",
            "SecretRevealed",
            "SecretRevealed",
        ];
        assert_eq!(new, expected);
        assert!(account.verify_audit().await.unwrap().is_intact());
    });
}

#[test]
fn entry_that_waits_survives_a_panic_of_its_writing() {
    block_on(async {
        let host = Host::with(|builder| builder.threads(1)).await;
        let (account, _) = host.customer("unlucky", "secret").await;
        let (_, neighbour) = host.customer("neighbour", "secret of neighbour").await;
        account.mint_session_token(SessionOptions::new()).await.unwrap();
        panic_next_request(&account).await.unwrap();
        // The timer that writes the entry holds the keys, and dies.
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(revealed(&neighbour).await.unwrap(), "secret of neighbour");
        let entries = match account.audit(PageRequest::first(100)).await {
            // The machine was so busy that the timer came first, and the panic hit this request.
            Err(Error::Internal { .. }) => account.audit(PageRequest::first(100)).await,
            other => other,
        };
        let names: Vec<String> = entries.unwrap().items.iter().map(action).collect();
        assert_eq!(names, ["AccountCreated", "ConnectionAdded", "SessionMinted"]);
        host.vault.close().await.unwrap();
    });
}

#[test]
fn panic_in_the_closure_of_reveal_reaches_its_caller_only() {
    block_on(async {
        let host = Host::with(|builder| builder.threads(1)).await;
        let (_, connection) = host.customer("acme", "secret").await;
        let (_, neighbour) = host.customer("neighbour", "other secret").await;
        // The closure runs where it is called, so its panic is the caller's own.
        let call = std::panic::AssertUnwindSafe(connection.reveal(|_| panic!("the host's own fault")));
        let outcome: Result<Result<(), Error>, _> = futures_util::FutureExt::catch_unwind(call).await;
        let message = outcome.expect_err("the caller's own panic").downcast::<&str>().unwrap();
        assert_eq!(*message, "the host's own fault");
        assert_eq!(revealed(&connection).await.unwrap(), "secret");
        assert_eq!(revealed(&neighbour).await.unwrap(), "other secret");
    });
}
