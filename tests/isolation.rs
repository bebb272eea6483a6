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

#[test]
fn any_order_of_operations_gives_what_the_model_gives() {
    let cases = run::<Model, Never>(970);
    coverage::assert_reached(cases, REACHED);
}

#[test]
fn passivation_between_any_two_operations_changes_nothing() {
    let cases = run::<Model, AtEveryChange>(970);
    coverage::assert_reached(cases, REACHED);
}

#[test]
fn any_order_of_operations_gives_what_the_model_gives_on_disk() {
    run::<Sled, AtEveryChange>(60);
}

/// What the laws are about, and how often it comes up at least in 1,000 cases.
const REACHED: &[(&str, &str, u64)] = &[];

fn run<E: Engine, P: Passivation>(cases: u64) -> u32 {
    let config = config(cases);
    let mut runner = TestRunner::new(config.clone());
    let ran = runner.run(&World::sequential_strategy(1..50), |(initial, steps, seen)| {
        VaultMachine::<E, P>::test_sequential(config.clone(), initial, steps, seen);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}\n{runner}");
    }
    config.cases
}

/// That many cases, or in proportion more or fewer if `ANCHORHOLD_CASES` says how many the state machine runs in all.
fn config(cases: u64) -> Config {
    let all = common::from_env("ANCHORHOLD_CASES", 2_000);
    Config {
        cases: u32::try_from((cases * all).div_ceil(2_000)).unwrap(),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/isolation.regressions"))),
        max_shrink_iters: 1_000,
        ..Config::default()
    }
}
