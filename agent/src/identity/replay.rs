//! Tokens seen before.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    time::{Duration, Instant},
};

use super::Refusal;

/// Tokens remembered at once: more than a thousand calls a second, in about 4 MiB.
const CAPACITY: usize = 65_536;

/// Remembers each `jti` until its token has expired. When full it refuses rather than forgets.
#[derive(Debug, Default)]
pub(super) struct ReplayCache {
    seen: HashSet<u128>,
    by_end: BinaryHeap<Reverse<(Instant, u128)>>,
}

impl ReplayCache {
    /// Takes `jti`, once. It is remembered for `lifetime`, by a clock that nobody sets back.
    pub(super) fn take(&mut self, jti: u128, lifetime: Duration, now: Instant) -> Result<(), Refusal> {
        while let Some(Reverse((end, old))) = self.by_end.peek().copied()
            && end <= now
        {
            self.by_end.pop();
            self.seen.remove(&old);
        }
        if self.seen.contains(&jti) {
            return Err(Refusal::Replayed);
        }
        if self.seen.len() >= CAPACITY {
            return Err(Refusal::Busy);
        }
        self.seen.insert(jti);
        self.by_end.push(Reverse((now + lifetime, jti)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(30);

    #[test]
    fn a_token_is_taken_once_and_forgotten_when_it_has_expired() {
        let (mut cache, now) = (ReplayCache::default(), Instant::now());
        cache.take(1, LIFETIME, now).unwrap();
        assert_eq!(cache.take(1, LIFETIME, now + LIFETIME / 2), Err(Refusal::Replayed));
        cache.take(2, LIFETIME, now + LIFETIME).unwrap();
        assert_eq!(cache.seen.len(), 1);
    }

    #[test]
    fn a_full_cache_refuses_new_tokens_and_still_knows_the_old() {
        let (mut cache, now) = (ReplayCache::default(), Instant::now());
        for jti in 0..CAPACITY as u128 {
            cache.take(jti, LIFETIME, now).unwrap();
        }
        assert_eq!(cache.take(u128::MAX, LIFETIME, now), Err(Refusal::Busy));
        assert_eq!(cache.take(0, LIFETIME, now), Err(Refusal::Replayed));
        cache.take(u128::MAX, LIFETIME, now + LIFETIME).unwrap();
    }
}
