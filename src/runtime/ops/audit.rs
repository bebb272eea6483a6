//! Reading an account's audit, checking its chain, and noting refusals that were decided outside the actor.

use std::rc::Rc;

use crate::domain::account::records::{ChainEnds, RecordKey};
use crate::domain::account::state::Damage;
use crate::domain::audit::{self, AuditActor, AuditEntry, BrokenLink, ChainCheck};
use crate::domain::denial::DenialReason;
use crate::domain::error::Error;
use crate::domain::grants::Permission;
use crate::domain::{Label, Plaintext};
use crate::runtime::account::Account;
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Needs, refuse};

/// Segments read in one step.
const STEP: usize = 64;

/// So many entries more than asked for are kept before some are removed, so that not every entry removes one.
const SURPLUS: u64 = 64;

/// Reads the entries after a sequence, at most `limit` of them.
pub(crate) struct ReadAudit {
    pub(crate) after: u64,
    pub(crate) limit: usize,
}

impl Operation for ReadAudit {
    type Answer = Vec<AuditEntry>;
    const DOING: &'static str = "reading the audit";
    const NEEDS: Needs = Needs::backend(&[Permission::Accounts]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<Vec<AuditEntry>, Error> {
        // What was noted before this call belongs to the answer.
        account.flush().await?;
        let _turn = account.turn(caller).await?;
        let wanted = self.after.saturating_add(1);
        // The segment with the wanted entry begins at most a segment's length before it.
        let mut start = wanted.saturating_sub(audit::SEGMENT_ENTRIES as u64 - 1);
        let mut page = Vec::new();
        while page.len() < self.limit {
            let step = segments(account, start, u64::MAX).await?;
            let Some((last, _)) = step.last() else { break };
            start = last + 1;
            for (first, plain) in &step {
                let entries = audit::decode_segment(*first, plain).map_err(|_| unreadable(account))?;
                page.extend(entries.into_iter().filter(|entry| entry.sequence >= wanted));
            }
        }
        page.truncate(self.limit);
        Ok(page)
    }
}

/// Walks the whole chain. The inner result names the first broken link, or how many entries hold.
pub(crate) struct VerifyAudit;

impl Operation for VerifyAudit {
    type Answer = Result<u64, BrokenLink>;
    const DOING: &'static str = "verifying the audit";
    const NEEDS: Needs = Needs::backend(&[Permission::Accounts]);

    async fn run(self, account: &Rc<Account>, caller: &Admitted<'_>) -> Result<Result<u64, BrokenLink>, Error> {
        account.flush().await?;
        let _turn = account.turn(caller).await?;
        let ends: ChainEnds = account.with_state(|state| state.facts.audit.clone())?;
        let mut walked = Walked { next: ends.first_sequence, link: ends.first_link };
        loop {
            let step = match segments(account, walked.next, ends.next_sequence).await {
                Ok(step) => step,
                // A segment that does not open is where the chain breaks.
                Err(Error::Corrupted(_)) => return Ok(Err(BrokenLink { sequence: walked.next })),
                Err(error) => return Err(error),
            };
            if step.is_empty() {
                break;
            }
            // The chain's key is unwrapped per step, not held over the reads.
            let outcome = account.with_keys(|_, keys| {
                let mut check =
                    ChainCheck::new(|parts: &[&[u8]]| keys.audit.chain.mac(Label::AuditChain, parts), walked.next, walked.link);
                let broken = step.iter().find_map(|(first, plain)| check.segment(*first, plain).err());
                Ok((broken, check.position()))
            })?;
            match outcome {
                (Some(broken), _) => return Ok(Err(broken)),
                (None, (next, link)) => walked = Walked { next, link },
            }
        }
        if (walked.next, walked.link) == (ends.next_sequence, ends.last_link) {
            Ok(Ok(ends.next_sequence - ends.first_sequence))
        } else {
            Ok(Err(BrokenLink { sequence: walked.next }))
        }
    }
}

struct Walked {
    next: u64,
    link: [u8; 32],
}

/// Notes that somebody was refused before the actor was asked.
pub(crate) struct NoteDenial {
    pub(crate) actor: AuditActor,
    pub(crate) what: &'static str,
    pub(crate) reason: DenialReason,
}

impl Operation for NoteDenial {
    type Answer = ();
    const DOING: &'static str = "noting a refusal";
    const NEEDS: Needs = Needs::vault_only();

    async fn run(self, account: &Rc<Account>, _: &Admitted<'_>) -> Result<(), Error> {
        refuse(account, self.actor, self.what, self.reason).await
    }
}

/// Removes the oldest segments that the retention does not ask for; the link before the first kept entry stays in the head.
pub(crate) async fn prune(account: &Account, keep: u64) -> Result<(), Error> {
    let turn = account.own_turn().await?;
    let ends = account.with_state(|state| state.facts.audit.clone())?;
    let surplus_end = ends.next_sequence.saturating_sub(keep);
    if surplus_end < ends.first_sequence + SURPLUS {
        return Ok(());
    }
    let mut kept = ends.clone();
    let mut gone = Vec::new();
    for (first, plain) in segments(account, ends.first_sequence, surplus_end).await? {
        let (count, last_link) = audit::segment_end(&plain).map_err(|_| unreadable(account))?;
        if first + count > surplus_end {
            break;
        }
        gone.push(first);
        kept.first_sequence = first + count;
        kept.first_link = last_link;
    }
    if gone.is_empty() {
        return Ok(());
    }
    let entries = kept.first_sequence - ends.first_sequence;
    let entry = account.entry(AuditActor::Vault, audit::AuditAction::Pruned { entries }, None);
    account
        .change(&turn, |draft| {
            let chain = &mut draft.facts_mut().audit;
            chain.first_sequence = kept.first_sequence;
            chain.first_link = kept.first_link;
            gone.iter().for_each(|first| draft.remove_segment(*first));
            draft.audit([entry]);
            Ok(())
        })
        .await
}

/// The segments that begin at `from` or later and before `to`, at most [`STEP`] of them, opened.
async fn segments(account: &Account, from: u64, to: u64) -> Result<Vec<(u64, Plaintext)>, Error> {
    let (start, end) = (RecordKey::Audit(from).to_bytes(), RecordKey::Audit(to).to_bytes());
    let rows = account.tree()?.scan(&start, &end, STEP).await?;
    account.with_keys(|state, keys| {
        rows.iter()
            .map(|(key, sealed)| match RecordKey::parse(key) {
                Some(RecordKey::Audit(first)) => {
                    Ok((first, state.open_segment(keys, first, sealed).map_err(|damage| account.damaged(damage))?))
                }
                _ => Err(unreadable(account)),
            })
            .collect()
    })
}

fn unreadable(account: &Account) -> Error {
    account.damaged(Damage("a segment of the audit can't be read"))
}
