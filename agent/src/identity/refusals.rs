//! Refused calls, counted and limited per address.
//!
//! Only what was refused costs an address something: a caller with good credentials is never
//! limited, even where it shares an address with one who guesses.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Refusals in a row that an address gets answered, logged and told the reason of …
const BURST: f64 = 20.0;
/// … and then one more per this time.
const REFILL: Duration = Duration::from_secs(2);
/// Addresses told apart; further ones share one bucket.
const MAX_ADDRESSES: usize = 1024;
/// When there are so many, quiet ones are looked for and forgotten at most this often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// An address's refusals make one event per this time.
const EVENT_INTERVAL: Duration = Duration::from_mins(1);
/// Events of all addresses in a row …
const EVENT_BURST: f64 = 20.0;
/// … and then one more per this time, so that a flood cannot push out other events.
const EVENT_REFILL: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, burst: f64, refill: Duration, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at);
        self.tokens = (self.tokens + elapsed.as_secs_f64() / refill.as_secs_f64()).min(burst);
        self.at = now;
        let some = self.tokens >= 1.0;
        if some {
            self.tokens -= 1.0;
        }
        some
    }
}

#[derive(Debug)]
struct Address {
    calls: Bucket,
    event_at: Option<Instant>,
    untold: u64,
}

/// What to do about one more refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Answer with the reason and log it; otherwise only count.
    pub(super) within_limit: bool,
    /// Report an event: how many refusals of the address were not yet told, this one included.
    pub(super) event: Option<u64>,
}

/// Books of refusals.
#[derive(Debug)]
pub(super) struct Refusals {
    total: u64,
    addresses: HashMap<IpAddr, Address>,
    swept_at: Instant,
    events: Bucket,
}

impl Refusals {
    pub(super) fn new(now: Instant) -> Self {
        let events = Bucket { tokens: EVENT_BURST, at: now };
        Self { total: 0, addresses: HashMap::new(), swept_at: now, events }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Whether the address has used up its refusals; takes none.
    pub(super) fn is_limited(&self, from: IpAddr, now: Instant) -> bool {
        let found = self.addresses.get(&network(from));
        found.is_some_and(|address| !address.calls.clone().take(BURST, REFILL, now))
    }

    /// Books one.
    pub(super) fn record(&mut self, from: IpAddr, now: Instant) -> Verdict {
        self.total += 1;
        let key = self.key(network(from), now);
        let fresh = || Address { calls: Bucket { tokens: BURST, at: now }, event_at: None, untold: 0 };
        let address = self.addresses.entry(key).or_insert_with(fresh);
        address.untold += 1;
        let within_limit = address.calls.take(BURST, REFILL, now);
        let due = address.event_at.is_none_or(|at| now.saturating_duration_since(at) >= EVENT_INTERVAL);
        let event = (due && self.events.take(EVENT_BURST, EVENT_REFILL, now)).then(|| {
            address.event_at = Some(now);
            std::mem::take(&mut address.untold)
        });
        Verdict { within_limit, event }
    }

    /// The address itself, or, where too many are known, one that stands for all others.
    fn key(&mut self, from: IpAddr, now: Instant) -> IpAddr {
        let full = |all: &HashMap<_, _>| all.len() >= MAX_ADDRESSES;
        let due = now.saturating_duration_since(self.swept_at) >= SWEEP_INTERVAL;
        if due && full(&self.addresses) && !self.addresses.contains_key(&from) {
            self.swept_at = now;
            let quiet = EVENT_INTERVAL.max(REFILL.mul_f64(BURST));
            self.addresses.retain(|_, address| now.saturating_duration_since(address.calls.at) < quiet);
        }
        let known = self.addresses.contains_key(&from);
        if known || !full(&self.addresses) { from } else { Ipv6Addr::UNSPECIFIED.into() }
    }
}

/// Who has one IPv6 address has its whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_limited_after_a_burst_and_forgiven_with_time() {
        let now = Instant::now();
        let (mut books, one, other) = (Refusals::new(now), [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let within = (0..30).filter(|_| books.record(one, now).within_limit).count();
        assert_eq!(within, 20);
        assert!(books.is_limited(one, now) && !books.is_limited(other, now));
        assert!(!books.is_limited(one, now + REFILL));
        assert_eq!(books.total(), 30);
    }

    #[test]
    fn a_flood_makes_few_events_that_count_the_rest() {
        let now = Instant::now();
        let (mut books, one) = (Refusals::new(now), [10, 0, 0, 1].into());
        let events: Vec<u64> = (0..1000).filter_map(|_| books.record(one, now).event).collect();
        assert_eq!(events, [1]);
        assert_eq!(books.record(one, now + EVENT_INTERVAL).event, Some(1000));
    }

    #[test]
    fn many_addresses_take_bounded_memory_and_bounded_events() {
        let now = Instant::now();
        let mut books = Refusals::new(now);
        let events =
            (0..100_000u32).filter(|n| books.record(IpAddr::from(n.to_be_bytes()), now).event.is_some());
        assert_eq!(events.count(), EVENT_BURST as usize);
        assert!(books.addresses.len() <= MAX_ADDRESSES + 1);
    }
}
