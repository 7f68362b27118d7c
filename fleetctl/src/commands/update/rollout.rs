//! In which order capsules get an update: a few first, then batch after batch, as long as it goes
//! well: pure.

/// How a rollout goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rollout {
    /// Capsules of the first wave; none of its own where 0.
    pub(super) canary: usize,
    /// Capsules of every other wave; all at once where 0.
    pub(super) batch: usize,
    /// No further wave begins after so many failures.
    pub(super) stop_after: usize,
}

impl Rollout {
    /// How many of the `left` capsules are next, when `done` were tried.
    pub(super) fn next_wave(&self, done: usize, left: usize) -> usize {
        match (done, self.canary, self.batch) {
            (0, canary @ 1.., _) => canary.min(left),
            (_, _, 0) => left,
            (_, _, batch) => batch.min(left),
        }
    }

    /// Whether another wave may begin.
    pub(super) fn goes_on(&self, failed: usize) -> bool {
        failed < self.stop_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(canary: usize, batch: usize, mut left: usize) -> Vec<usize> {
        let rollout = Rollout { canary, batch, stop_after: 1 };
        let mut waves = Vec::new();
        let mut done = 0;
        while left > 0 {
            let wave = rollout.next_wave(done, left);
            waves.push(wave);
            done += wave;
            left -= wave;
        }
        waves
    }

    #[test]
    fn canaries_come_first_and_batches_after_them() {
        assert_eq!(waves(0, 0, 5), [5]);
        assert_eq!(waves(1, 0, 5), [1, 4]);
        assert_eq!(waves(2, 2, 7), [2, 2, 2, 1]);
        assert_eq!(waves(0, 3, 7), [3, 3, 1]);
        assert_eq!(waves(9, 1, 2), [2]);
    }

    #[test]
    fn failures_stop_what_has_not_begun() {
        let rollout = Rollout { canary: 1, batch: 1, stop_after: 2 };
        assert!(rollout.goes_on(0) && rollout.goes_on(1) && !rollout.goes_on(2));
    }
}
