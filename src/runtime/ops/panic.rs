//! A fault on demand, for tests of panic containment.

use std::rc::Rc;

use crate::domain::error::Error;
use crate::domain::grants::Permission;
use crate::runtime::account::Account;
use crate::runtime::actor::Operation;
use crate::runtime::caller::{Admitted, Needs};

/// Makes the next request that opens a key panic while it holds it.
pub(crate) struct PanicNext;

impl Operation for PanicNext {
    type Answer = ();
    const DOING: &'static str = "arming a panic";
    const NEEDS: Needs = Needs::backend(&[Permission::Accounts]);

    async fn run(self, account: &Rc<Account>, _: &Admitted<'_>) -> Result<(), Error> {
        account.panic_next.set(true);
        // A reveal is to come to the actor as well.
        account.forget_credentials();
        Ok(())
    }
}
