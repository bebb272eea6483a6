//! Whether the time of a check tells how much of a guess is right: `cargo bench --bench constant_time`.
//!
//! By the method of dudect (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?", DATE 2017): two classes of input, of which one
//! shares all but its end with what is good and the other nothing; which comes next is random; Welch's t-test over the times, whole and
//! cropped at many percentiles. |t| of 4.5 and more means that the classes can be told apart.
//!
//! Two controls in the same run: a comparison that ends at the first difference must be found, and two classes that are alike must not be
//! told apart. Exits non-zero when anything is not as it must be. `ANCHORHOLD_SAMPLES` sets the number of samples of each check (a
//! million).

mod guesses;
mod welch;

use std::hint::black_box;
use std::time::Instant;

use anchorhold::{ApiKey, SessionToken};
use futures_lite::future::block_on;

use guesses::{Dice, Guesses, World};
use welch::Samples;

const THRESHOLD: f64 = 4.5;

fn main() {
    let count = std::env::var("ANCHORHOLD_SAMPLES").map_or(1_000_000, |text| text.parse().expect("a number of samples"));
    let world = block_on(World::new());
    let (keys, tokens, sealed) = (world.api_keys(), world.session_tokens(), guesses::sealed_tokens());

    let early = figure("constant_time_control_early_exit", &measure(count, &keys, |key: &ApiKey| early_exit(key, &world)));
    let alike = figure("constant_time_control_alike", &measure(count, &guesses::alike(&sealed), |text: &String| is_sealed(text)));
    let leaks = [
        figure("constant_time_api_key", &measure(count, &keys, |key: &ApiKey| block_on(world.vault.backend(key)).is_ok())),
        figure("constant_time_session_token_seal", &measure(count, &sealed, |text: &String| is_sealed(text))),
        figure(
            "constant_time_session_token",
            &measure(count, &tokens, |token: &SessionToken| block_on(world.vault.session(token)).is_ok()),
        ),
    ];
    assert!(early >= THRESHOLD, "the comparison that ends early was not found: nothing is measured here");
    assert!(
        alike < THRESHOLD,
        "two classes of the same guesses were told apart: this machine is too busy, or the measurement is wrong"
    );
    assert!(leaks.iter().all(|t| *t < THRESHOLD), "the time of a check depends on how much of a guess is right");
}

/// The times of `count` checks; each check refuses its guess.
fn measure<T: for<'a> From<&'a str>>(count: usize, guesses: &Guesses, check: impl Fn(&T) -> bool) -> Samples {
    let mut dice = Dice::new();
    let mut samples = Samples::with_capacity(count);
    // The first ones warm caches up and don't count.
    for number in 0..count + count / 50 {
        let class = dice.below(2);
        // Made anew each time, so that both classes lie in the same places: of a guess that stays where it is, the alignment is seen.
        let guess = T::from(&guesses[dice.below(guesses.len())][class]);
        let start = Instant::now();
        let taken = black_box(check(black_box(&guess)));
        let time = start.elapsed();
        assert!(!taken, "a wrong guess was taken");
        if number >= count / 50 {
            samples.add(class, time);
        }
    }
    samples
}

/// The check of a token without what happens around it.
fn is_sealed(text: &str) -> bool {
    anchorhold::fuzzing::opened_token(text).is_some()
}

/// Prints the greatest |t|.
fn figure(name: &str, samples: &Samples) -> f64 {
    let (t, at) = samples.greatest_t();
    let [all, none] = samples.medians();
    println!("figure: {name} = {t:.2} |t| ({} samples, {at}; medians {all} and {none} ns)", samples.len());
    t
}

/// What must not be: reads the key as the vault does, and compares it byte by byte until the first difference.
fn early_exit(guess: &ApiKey, world: &World) -> bool {
    let Some(text) = anchorhold::fuzzing::api_key(guess.expose_secret()) else { panic!("a guess that is no key") };
    let good = world.key.expose_secret().as_bytes();
    text.bytes().zip(good).all(|(guess, good)| black_box(guess) == black_box(*good))
}
