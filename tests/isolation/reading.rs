//! What is read of many things at once: listings, audits, and everything at the end of a case.

use std::collections::BTreeSet;

use anchorhold::{AuditAction, AuditActor, Environment, Error, PageRequest};

use crate::machine::{VaultMachine, facts, reveal};
use crate::places::{Engine, Passivation};
use crate::steps::{IDS, Owner};
use crate::world::{Outcome, World};

impl<E: Engine, P: Passivation> VaultMachine<E, P> {
    pub async fn list_accounts(&self, environment: Environment) -> Result<Outcome, Error> {
        let mut found = BTreeSet::new();
        // Pages of two, so that an environment with three accounts has a second page.
        let mut request = PageRequest::first(2);
        loop {
            let page = self.place.backend(environment).accounts(request).await?;
            for info in page.items {
                let number = IDS.iter().position(|text| *text == info.id.as_str()).expect("an id that nobody created");
                let account = self.account(Owner { environment, id: number }).await?;
                let facts = facts(&account, Owner { environment, id: number }).await?;
                assert_eq!((&facts.metadata, facts.connections), (&info.metadata, info.connections));
                assert!(found.insert((number, facts)), "the list names an account twice");
            }
            match page.next {
                Some(next) => request = next,
                None => return Ok(Outcome::Accounts(found)),
            }
        }
    }

    pub async fn list_keys(&self, environment: Environment) -> Result<Outcome, Error> {
        let now = anchorhold::Clock::now(&*self.place.clock);
        let mut found = BTreeSet::new();
        for info in self.place.backend(environment).api_keys().await? {
            assert_eq!(info.environment, environment, "a key of the other environment is listed");
            // The host's own key is not one of the model's.
            if let Some(number) = self.keys.iter().position(|key| key.info.id == info.id) {
                found.insert((number, info.is_valid(now)));
            }
        }
        Ok(Outcome::Keys(found))
    }

    /// The audit of an account is whole, begins with the account, and names nothing of another account.
    pub async fn read_audit(&self, world: &World, owner: Owner) -> Result<Outcome, Error> {
        let account = self.account(owner).await?;
        let report = account.verify_audit().await?;
        assert!(report.is_intact(), "{report:?}");
        let birth = world.accounts[&owner].birth;
        let (mut added, mut last) = (0, 0);
        let mut request = PageRequest::first(7);
        loop {
            let page = account.audit(request).await?;
            for entry in page.items {
                assert_eq!(entry.sequence, last + 1, "an entry is missing");
                last = entry.sequence;
                assert_eq!(entry.sequence == 1, entry.action == AuditAction::AccountCreated, "{entry:?}");
                added += usize::from(entry.action == AuditAction::ConnectionAdded);
                if let Some(connection) = entry.connection {
                    let number = self.made.iter().position(|made| *made == connection).expect("a connection nobody made");
                    let made = &world.connections[number];
                    assert_eq!((made.owner, made.birth), (owner, birth), "the audit tells of another's connection: {entry:?}");
                }
                if let AuditActor::Session { id, .. } = &entry.actor {
                    let number = self.minted.iter().position(|minted| minted.id == *id).expect("a token that nobody minted");
                    let minted = &world.tokens[number];
                    assert_eq!((minted.owner, minted.birth), (owner, birth), "another's session acted here: {entry:?}");
                }
            }
            match page.next {
                Some(next) => request = next,
                None => break,
            }
        }
        assert!(last >= report.entries, "entries were verified that are not listed");
        Ok(Outcome::Audit { added })
    }

    /// Every account as the model has it: facts, connections, secrets, and an unbroken audit chain.
    pub async fn compare_all(&self, world: &World) {
        for environment in Environment::ALL {
            for number in 0..IDS.len() {
                let owner = Owner { environment, id: number };
                let account = match (self.account(owner).await, world.facts(owner)) {
                    (Ok(account), Some(expected)) => {
                        assert_eq!(facts(&account, owner).await.unwrap(), expected, "{owner:?}");
                        account
                    }
                    (Err(Error::NotFound { .. }), None) => continue,
                    (seen, expected) => panic!("{owner:?}: {seen:?}, the model has {expected:?}"),
                };
                let listed = self.all_listed(&account.connections().await.unwrap());
                assert_eq!(listed, world.listed(owner, None), "{owner:?}");
                self.read_audit(world, owner).await.unwrap();
                if world.accounts[&owner].disabled {
                    continue;
                }
                for listed in listed {
                    let connection = account.connection(&self.made[listed.number]).await.unwrap();
                    let expected = Outcome::Secret(world.connections[listed.number].secret.clone());
                    assert_eq!(reveal(&connection).await.unwrap(), expected, "{owner:?}");
                }
            }
        }
    }
}
