//! How often each step had each outcome over all cases, so that a law which was never put to the test is noticed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use crate::steps::Step;
use crate::world::Outcome;

static COUNTS: Mutex<BTreeMap<(String, String), u64>> = Mutex::new(BTreeMap::new());

pub fn count(step: &Step, outcome: &Outcome) {
    let shown = format!("{outcome:?}");
    let outcome = shown.split(['(', ' ']).next().unwrap_or_default().to_owned();
    *COUNTS.lock().unwrap_or_else(PoisonError::into_inner).entry((step.name(), outcome)).or_default() += 1;
}

/// What must have come up, and how often at least, in 1,000 cases.
pub fn assert_reached(cases: u32, wanted: &[(&str, &str, u64)]) {
    let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut table = String::new();
    for ((step, outcome), count) in counts.iter() {
        let _ = writeln!(table, "{count:>8}  {step}: {outcome}");
    }
    // In few cases chance has too large a part.
    let wanted = if cases < 500 { &[] } else { wanted };
    for (step, outcome, per_thousand) in wanted {
        let seen = counts.get(&((*step).to_owned(), (*outcome).to_owned())).copied().unwrap_or(0);
        let least = per_thousand * u64::from(cases) / 1_000;
        assert!(seen >= least, "{step}: {outcome} came up {seen} times, {least} are wanted; all of it:\n{table}");
    }
    if std::env::var_os("ANCHORHOLD_COVERAGE").is_some() {
        println!("{table}");
    }
}
