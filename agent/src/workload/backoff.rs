//! How long to wait before the next try: doubling, bounded, with jitter.

use std::time::Duration;

/// Shortest and longest wait of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    tries: u32,
}

/// Share of a wait that jitter may add or take.
const JITTER: f64 = 0.1;

impl Backoff {
    /// A series from `min` to `max`.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, tries: 0 }
    }

    /// The series after so many waits.
    pub const fn after(self, tries: u32) -> Self {
        Self { tries, ..self }
    }

    /// The next wait: `min` doubled with every call up to `max`, ±10 %, never outside the two.
    pub fn next_wait(&mut self) -> Duration {
        let doubled = self.min.saturating_mul(1 << self.tries.min(20));
        self.tries = self.tries.saturating_add(1);
        jittered(doubled.min(self.max)).clamp(self.min, self.max)
    }

    /// Begins the series anew.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// `base` ±10 %.
pub fn jittered(base: Duration) -> Duration {
    base.mul_f64(1.0 + rand::random_range(-JITTER..=JITTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_their_bounds_and_begin_anew_after_a_reset() {
        let (min, max) = (Duration::from_secs(1), Duration::from_mins(1));
        let mut backoff = Backoff::new(min, max);
        let waits: Vec<Duration> = (0..40).map(|_| backoff.next_wait()).collect();
        assert!(waits.iter().all(|wait| (min..=max).contains(wait)));
        assert!(waits[3] > Duration::from_secs(7) && waits[3] < Duration::from_secs(9));
        assert!(waits[39] >= Duration::from_secs(54));
        backoff.reset();
        assert!(backoff.next_wait() < Duration::from_secs(2));
        let fourth = Backoff::new(min, max).after(3).next_wait();
        assert!(fourth > Duration::from_secs(7) && fourth < Duration::from_secs(9));
    }
}
