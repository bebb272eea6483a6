//! When audit entries become durable, and how many are kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anchorhold::testing::{ModelDisk, ModelImage};
use anchorhold::{
    ApiKey, AuditAction, AuditActor, AuditPolicy, DenialReason, Environment, Error, PageRequest, SessionOptions, SessionToken,
};

use crate::common::{block_on, customer, header_provider, id, revealed};
use crate::tools::{action, on_disk, restored};

/// What the audit of "acme" says after power was lost at the moment of the image.
async fn audit_after_crash(image: &ModelImage, key: &ApiKey) -> Vec<String> {
    let vault = on_disk(&restored(image)).open().await.unwrap();
    let account = vault.backend(key).await.unwrap().account(&id("acme")).await.unwrap();
    assert!(account.verify_audit().await.unwrap().is_intact());
    account.audit(PageRequest::first(1_000)).await.unwrap().items.iter().map(action).collect()
}

#[test]
fn strict_entry_is_durable_before_its_answer() {
    block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).audit_policy(AuditPolicy::Strict).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        backend.set_provider(header_provider("crm")).await.unwrap();
        let (account, connection) = customer(&backend, "acme", "secret").await;
        let mut expected = vec!["AccountCreated", "ConnectionAdded"];

        revealed(&connection).await.unwrap();
        expected.push("SecretRevealed");
        assert_eq!(audit_after_crash(&disk.image(), &key).await, expected);

        let minted = account.mint_session_token(SessionOptions::new()).await.unwrap();
        expected.push("SessionMinted");
        assert_eq!(audit_after_crash(&disk.image(), &key).await, expected);

        connection.authorize(&mut http::Request::get("https://api.example.com/").body(()).unwrap()).await.unwrap();
        expected.push("CredentialUsed");
        assert_eq!(audit_after_crash(&disk.image(), &key).await, expected);

        // Refusals too: of a request, and of a token.
        let elsewhere = connection.authorize(&mut http::Request::get("https://example.org/").body(()).unwrap()).await;
        assert!(matches!(elsewhere, Err(Error::NotAuthorized(_))), "{elsewhere:?}");
        expected.push("Denied");
        assert_eq!(audit_after_crash(&disk.image(), &key).await, expected);
        assert!(matches!(vault.session_from(&altered(&minted.token), "https://a.example").await, Err(Error::InvalidToken)));
        expected.push("Denied");
        assert_eq!(audit_after_crash(&disk.image(), &key).await, expected);
    });
}

fn altered(token: &SessionToken) -> SessionToken {
    let mut text = token.expose_secret().to_owned();
    // In the middle, so that it stays a well-formed token of this account.
    let middle = text.len() / 2;
    text.replace_range(middle..=middle, if &text[middle..=middle] == "A" { "B" } else { "A" });
    SessionToken::from(text.as_str())
}

#[test]
fn strict_answer_is_refused_when_its_entry_can_not_be_written() {
    let mut reached_the_write = false;
    for nth in 1..20 {
        block_on(async {
            let disk = ModelDisk::new();
            let vault = on_disk(&disk).audit_policy(AuditPolicy::Strict).open().await.unwrap();
            let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
            let (account, connection) = customer(&vault.backend(&key).await.unwrap(), "acme", "secret").await;
            disk.fail_nth(nth);
            let shown = AtomicBool::new(false);
            let outcome = connection.reveal(|_| shown.store(true, Ordering::SeqCst)).await;
            assert_eq!(outcome.is_ok(), shown.load(Ordering::SeqCst), "operation {nth}");
            if !disk.disarm() {
                assert!(outcome.is_err(), "operation {nth} failed, and the secret was shown");
            }
            if vault.status().poisoned.is_some() {
                reached_the_write = true;
                assert!(account.mint_session_token(SessionOptions::new()).await.is_err(), "nor is a token handed out");
            }
        });
    }
    assert!(reached_the_write);
}

#[test]
fn batched_entry_becomes_durable_by_itself_and_soon() {
    block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let (account, connection) = customer(&vault.backend(&key).await.unwrap(), "acme", "secret").await;
        let mut expected = vec!["AccountCreated".to_owned(), "ConnectionAdded".to_owned()];
        let mut slowest = Duration::ZERO;
        for _ in 0..5 {
            // A burst is one commit, not one each.
            let before = disk.operations();
            for _ in 0..20 {
                revealed(&connection).await.unwrap();
            }
            account.mint_session_token(SessionOptions::new()).await.unwrap();
            let (answered, reads) = (Instant::now(), disk.operations() - before);
            assert!(reads < 60, "twenty reveals are {reads} operations");
            expected.extend((0..20).map(|_| "SecretRevealed".to_owned()));
            expected.push("SessionMinted".to_owned());
            while audit_after_crash(&disk.image(), &key).await != expected {
                assert!(answered.elapsed() < Duration::from_secs(5), "the entries are not written");
            }
            slowest = slowest.max(answered.elapsed());
        }
        // 100 ms are promised; the rest is for a machine that does other things.
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        println!("the slowest burst was durable after {slowest:?}");
    });
}

#[test]
fn refused_api_keys_are_in_the_audit_soon_and_before_closing() {
    block_on(async {
        let disk = ModelDisk::new();
        let vault = on_disk(&disk).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        let other = backend.create_api_key(anchorhold::NewApiKey::new("other")).await.unwrap();
        backend.revoke_api_key(&other.info.id).await.unwrap();
        for _ in 0..3 {
            assert!(matches!(vault.backend(&other.key).await, Err(Error::InvalidApiKey)));
        }
        vault.close().await.unwrap();
        let vault = on_disk(&disk).open().await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        let entries = backend.api_key_audit(PageRequest::first(100)).await.unwrap().items;
        let refused = entries.last().unwrap();
        assert_eq!(refused.actor, AuditActor::ApiKey(other.info.id));
        assert!(
            matches!(&refused.action, AuditAction::Denied { reason: DenialReason::Revoked, count: 3, .. }),
            "what repeats is counted: {refused:?}"
        );
        assert!(backend.verify_api_key_audit().await.unwrap().is_intact());
    });
}

#[test]
fn retention_removes_the_oldest_entries_and_the_chain_still_holds() {
    block_on(async {
        const KEEP: u64 = 100;
        let disk = ModelDisk::new();
        let open = || on_disk(&disk).audit_policy(AuditPolicy::Strict).audit_retention(KEEP).open();
        let vault = open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let (account, connection) = customer(&vault.backend(&key).await.unwrap(), "acme", "secret").await;
        for _ in 0..600 {
            revealed(&connection).await.unwrap();
        }
        let page = account.audit(PageRequest::first(1_000)).await.unwrap().items;
        let kept = page.len() as u64;
        assert!((KEEP..KEEP + 200).contains(&kept), "{kept} entries are kept");
        assert!(page[0].sequence > 400, "the oldest went, the first is {}", page[0].sequence);
        assert!(page.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1));
        assert!(page.iter().any(|entry| matches!(entry.action, AuditAction::Pruned { .. })), "pruning tells of itself");
        let report = account.verify_audit().await.unwrap();
        assert!(report.is_intact() && report.entries == kept, "{report:?}");

        // Pages from the middle, one after the other, give the same.
        let mut paged = Vec::new();
        let mut next = Some(PageRequest::after_sequence(page[9].sequence, 7));
        while let Some(request) = next {
            let found = account.audit(request).await.unwrap();
            paged.extend(found.items);
            next = found.next;
        }
        assert_eq!(paged, page[10..]);

        vault.close().await.unwrap();
        let vault = open().await.unwrap();
        let account = vault.backend(&key).await.unwrap().account(&id("acme")).await.unwrap();
        assert_eq!(account.verify_audit().await.unwrap().entries, kept);
        assert!(vault.verify().await.unwrap().damaged.is_empty());
    });
}

#[test]
fn entries_say_who_did_what_and_when() {
    block_on(async {
        let disk = ModelDisk::new();
        let clock = crate::common::new_clock();
        let vault = on_disk(&disk).clock(clock.clone()).open().await.unwrap();
        let key = vault.bootstrap_api_key(Environment::Test).await.unwrap();
        let backend = vault.backend(&key).await.unwrap();
        let api_key = backend.api_keys().await.unwrap()[0].id;
        let (account, connection) = customer(&backend, "acme", "secret").await;
        let started = anchorhold::Clock::now(&*clock);
        clock.advance(Duration::from_secs(5));
        let options = SessionOptions::new().grants([anchorhold::Grant::Disconnect]).subject("user 17");
        let minted = account.mint_session_token(options).await.unwrap();
        let session = vault.session(&minted.token).await.unwrap();
        clock.advance(Duration::from_secs(5));
        session.disconnect(&connection.id()).await.unwrap();

        let entries = account.audit(PageRequest::first(10)).await.unwrap().items;
        assert_eq!(entries.iter().map(|entry| entry.at.since(started).as_secs()).collect::<Vec<_>>(), [0, 0, 5, 10]);
        assert!(entries[..3].iter().all(|entry| entry.actor == AuditActor::ApiKey(api_key)));
        let by_session = AuditActor::Session { id: minted.id, subject: Some("user 17".to_owned()) };
        assert_eq!((&entries[3].actor, &entries[3].action), (&by_session, &AuditAction::ConnectionRemoved));
        assert_eq!(entries[1].connection, Some(connection.id()));
        assert_eq!(entries[3].connection, Some(connection.id()));
        let first = &backend.api_key_audit(PageRequest::first(10)).await.unwrap().items[0];
        assert_eq!((&first.actor, &first.action), (&AuditActor::Host, &AuditAction::ApiKeyCreated { key: api_key }));
    });
}
