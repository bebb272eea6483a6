//! Welch's t-test of two classes of times.

use std::time::Duration;

/// At how many percentiles the times are cropped: long ones are of interrupts and hide what is short.
const CROPS: i32 = 100;
/// Fewer samples of a class than this say nothing.
const LEAST: usize = 10_000;

/// Times in nanoseconds, each with its class.
pub struct Samples(Vec<(u32, bool)>);

impl Samples {
    pub fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    pub fn add(&mut self, class: usize, time: Duration) {
        self.0.push((u32::try_from(time.as_nanos()).unwrap_or(u32::MAX), class == 1));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn medians(&self) -> [u32; 2] {
        [false, true].map(|class| {
            let mut times: Vec<u32> = self.0.iter().filter(|sample| sample.1 == class).map(|sample| sample.0).collect();
            let middle = times.len() / 2;
            *times.select_nth_unstable(middle).1
        })
    }

    /// The greatest |t| over all croppings and of the squares (which tells of other variances), and which that was.
    pub fn greatest_t(&self) -> (f64, String) {
        let mut sorted: Vec<u32> = self.0.iter().map(|sample| sample.0).collect();
        sorted.sort_unstable();
        let mut greatest = (0.0, "nothing to compare".to_owned());
        let mut see = |t: Option<f64>, what: String| {
            if t.is_some_and(|t| t > greatest.0) {
                greatest = (t.unwrap_or(0.0), what);
            }
        };
        see(self.t(u32::MAX, |time, _| time), "all of them".to_owned());
        // As dudect places them: dense at the top.
        for crop in 1..=CROPS {
            let part = 1.0 - 0.5_f64.powf(10.0 * f64::from(crop) / f64::from(CROPS));
            let limit = sorted[((sorted.len() - 1) as f64 * part) as usize];
            see(self.t(limit, |time, _| time), format!("those up to {limit} ns"));
        }
        see(self.t(u32::MAX, |time, mean| (time - mean).powi(2)), "their squares".to_owned());
        greatest
    }

    /// |t| of what `of` makes of a time and its class's mean, over times up to `limit`.
    fn t(&self, limit: u32, of: impl Fn(f64, f64) -> f64) -> Option<f64> {
        let means = [false, true].map(|class| Moments::of(self.times(class, limit)).mean);
        let [a, b] = [false, true].map(|class| {
            let mean = means[usize::from(class)];
            Moments::of(self.times(class, limit).map(|time| of(time, mean)))
        });
        let error = (a.variance() / a.count as f64 + b.variance() / b.count as f64).sqrt();
        (a.count >= LEAST && b.count >= LEAST && error > 0.0).then(|| ((a.mean - b.mean) / error).abs())
    }

    fn times(&self, class: bool, limit: u32) -> impl Iterator<Item = f64> {
        self.0.iter().filter(move |sample| sample.1 == class && sample.0 <= limit).map(|sample| f64::from(sample.0))
    }
}

/// Count, mean and sum of squared differences, by Welford's method.
#[derive(Default)]
struct Moments {
    count: usize,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut moments = Self::default();
        for value in values {
            moments.count += 1;
            let from_mean = value - moments.mean;
            moments.mean += from_mean / moments.count as f64;
            moments.squares += from_mean * (value - moments.mean);
        }
        moments
    }

    fn variance(&self) -> f64 {
        self.squares / (self.count as f64 - 1.0)
    }
}
