//! One customer is nothing to another. A state machine runs every operation in random order over six accounts in both
//! environments, on both engines, with restarts, crashes and passivations in between, against a plain map; the laws below it say
//! one thing each, with ids, tokens and raw rows chosen to break it.

mod common;
#[path = "isolation/coverage.rs"]
mod coverage;
#[path = "isolation/forgeries.rs"]
mod forgeries;
#[path = "isolation/laws.rs"]
mod laws;
#[path = "isolation/machine.rs"]
mod machine;
#[path = "isolation/places.rs"]
mod places;
#[path = "isolation/reading.rs"]
mod reading;
#[path = "isolation/shelves.rs"]
mod shelves;
#[path = "isolation/steps.rs"]
mod steps;
#[path = "isolation/tampering.rs"]
mod tampering;
#[path = "isolation/world.rs"]
mod world;

use machine::VaultMachine;
use places::{AtEveryChange, Engine, Model, Never, Passivation, Sled};
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use world::World;

/// How many cases the state machine runs in all, unless `ANCHORHOLD_CASES` says more or fewer.
const CASES: u64 = 2_500;

#[test]
fn any_order_of_operations_gives_what_the_model_gives() {
    let cases = run::<Model, Never>(1_200);
    coverage::assert_reached(cases, REACHED);
}

#[test]
fn passivation_between_any_two_operations_changes_nothing() {
    let cases = run::<Model, AtEveryChange>(1_200);
    coverage::assert_reached(cases, REACHED);
}

#[test]
fn any_order_of_operations_gives_what_the_model_gives_on_disk() {
    run::<Sled, AtEveryChange>(100);
}

/// What the laws are about, and how often it comes up at least in 1,000 cases.
const REACHED: &[(&str, &str, u64)] = &[
    ("Delete", "Done", 300),
    ("RotateKey", "Done", 200),
    ("RotateRootKey", "Done", 100),
    ("Restart Close", "Done", 150),
    ("Restart Drop", "Done", 150),
    ("Restart Crash", "Done", 150),
    ("ListAccounts", "Accounts", 200),
    ("ReadAudit", "Audit", 200),
    ("Verify", "Verified", 100),
    ("Reveal", "Secret", 300),
    ("Reveal", "NotFound", 300),
    ("Reveal", "AccountDisabled", 50),
    ("Authorize", "Secret", 300),
    ("Authorize", "NotFound", 300),
    ("UseHeldAccount", "Secret", 20),
    ("UseHeldAccount", "NotFound", 20),
    ("Present forged None", "Done", 15),
    ("Present forged None", "Connections", 50),
    ("Present forged None", "Id", 50),
    ("Present forged None", "InvalidToken", 100),
    ("Present forged None", "NotFound", 20),
    ("Present forged None", "NotGranted", 50),
    ("Present forged OtherEnvironment", "InvalidToken", 50),
    ("Present forged ChangedCharacter", "InvalidToken", 50),
    ("Present forged Shortened", "InvalidToken", 50),
    ("Present forged HandleOf", "InvalidToken", 30),
    ("Held session List", "Connections", 30),
    ("Held session List", "InvalidToken", 30),
    ("Held session Disconnect", "Done", 5),
    ("Held session Disconnect", "NotFound", 10),
    ("With key Reveal", "Secret", 20),
    ("With key Reveal", "NotFound", 100),
    ("With key Reveal", "PermissionDenied", 10),
    ("With key Reveal", "InvalidApiKey", 10),
    ("With key Create", "NotFound", 10),
    ("With key Create", "PermissionDenied", 10),
];

fn run<E: Engine, P: Passivation>(cases: u64) -> u32 {
    let config = config(cases);
    let mut runner = TestRunner::new(config.clone());
    let ran = runner.run(&World::sequential_strategy(1..64), |(initial, steps, seen)| {
        VaultMachine::<E, P>::test_sequential(config.clone(), initial, steps, seen);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}\n{runner}");
    }
    config.cases
}

/// That many of `CASES`, or as many in proportion.
fn config(cases: u64) -> Config {
    let all = common::from_env("ANCHORHOLD_CASES", CASES);
    Config {
        cases: u32::try_from((cases * all).div_ceil(CASES)).unwrap(),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/isolation.regressions"))),
        max_shrink_iters: 1_000,
        ..Config::default()
    }
}
