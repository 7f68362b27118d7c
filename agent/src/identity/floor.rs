//! Time as a key knows it, on a machine whose own clock may be behind.
//!
//! A machine without a battery starts in the past, and stays there until it hears of the time. Its operators
//! must reach it all the same, so that until then a token may come from later than the clock says. What a
//! key's tokens said is a floor: from there on its time only goes forward, by a clock that nobody sets, and a
//! token from before is as old as anywhere else. It is the key's own, so that nobody can make another's tokens
//! too old. The last use of a key is that floor on `/perm`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Who answers for the system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timekeeper {
    /// The host on which the agent runs.
    Host,
    /// The agent's own appliance: nobody does until the kernel says that it is synchronised.
    Appliance,
}

/// The latest moment that a key has proven.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    /// Seconds since the epoch …
    seconds: u64,
    /// … at this moment of this boot.
    since: Instant,
}

impl Floor {
    /// As it was kept.
    pub(super) fn new(kept: Option<SystemTime>, since: Instant) -> Self {
        let since_epoch = kept.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or(Duration::ZERO);
        Self { seconds: since_epoch.as_secs(), since }
    }

    /// What time it is at least, in seconds since the epoch.
    pub(super) fn at(&self, now: Instant) -> u64 {
        self.seconds.saturating_add(now.saturating_duration_since(self.since).as_secs())
    }

    /// Whether `seconds` was news.
    pub(super) fn raise(&mut self, seconds: u64, now: Instant) -> bool {
        let is_later = seconds > self.at(now);
        if is_later {
            *self = Self { seconds, since: now };
        }
        is_later
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_goes_forward_by_itself_and_is_only_raised() {
        let start = Instant::now();
        let later = start + Duration::from_secs(10);
        let mut floor = Floor::new(Some(UNIX_EPOCH + Duration::from_secs(1000)), start);
        assert_eq!((floor.at(start), floor.at(later)), (1000, 1010));
        assert!(!floor.raise(1010, later) && floor.raise(5000, later));
        assert_eq!(floor.at(later + Duration::from_secs(1)), 5001);
        assert!(!floor.raise(2000, later));
        assert_eq!(Floor::new(None, start).at(start), 0);
    }
}
