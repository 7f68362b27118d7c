//! Which way packets to one peer take: pure, told what was heard and asked what to do.
//!
//! ```text
//!            answered                     silent for DEAD_AFTER
//!   Trying ───────────▶ Working(direct) ───────────────────────▶ Trying
//!     │ ▲                    ▲
//!     │ │ nothing left:      │ a direct candidate answers
//!     ▼ │ rest, start over   │
//!   Working(relayed) ────────┘ every RETRY_DIRECT
//! ```
//!
//! WireGuard itself moves a peer to wherever an authenticated packet came from; that is taken as it
//! is. This machine acts only where nothing is heard, and where a better way may be had.

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Nothing heard for so long: the present way is left.
pub const DEAD_AFTER: Duration = Duration::from_secs(4);
/// For an answer from a candidate before the next one is tried.
pub const TRIAL: Duration = Duration::from_secs(1);
/// The same by a relay, which first has to call the other side.
pub const RELAY_TRIAL: Duration = Duration::from_secs(3);
/// How often a relayed peer is tried directly, by one side of the pair and by the other. Who tries
/// sends elsewhere than to where the peer speaks from: if both did so each time at once, neither would
/// ever be answered.
pub const RETRY_DIRECT: [Duration; 2] = [Duration::from_secs(11), Duration::from_secs(15)];
/// Between rounds through all candidates, while nobody answers: grows up to this.
pub const MAX_REST: Duration = Duration::from_secs(15);

/// A way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way<R> {
    /// Straight there.
    Direct(SocketAddr),
    /// By this member, whose relay is at the address.
    Relayed(R, SocketAddr),
}

impl<R> Way<R> {
    /// Where packets are sent.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Direct(address) | Self::Relayed(_, address) => *address,
        }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<R> {
    /// Send packets this way, and ask for an answer at once. A relay must be asked first.
    Take(Way<R>),
    /// Nothing, until something is heard or this time has come.
    Wait(Instant),
}

#[derive(Clone, Debug)]
enum State<R> {
    Working {
        heard: Instant,
        retry_direct: Instant,
    },
    /// One after the other; `back` is a relayed way that works.
    Trying {
        left: Vec<Way<R>>,
        until: Instant,
        back: Option<Way<R>>,
    },
    Resting {
        until: Instant,
    },
}

/// The way to one peer. `R` names a relay.
#[derive(Clone, Debug)]
pub struct Path<R> {
    direct: Vec<SocketAddr>,
    relays: Vec<(R, SocketAddr)>,
    /// Where packets go now, as far as known.
    way: Option<Way<R>>,
    state: State<R>,
    rest: Duration,
    /// One of [`RETRY_DIRECT`].
    retry: Duration,
}

impl<R: Copy + PartialEq> Path<R> {
    /// A peer of which nothing has been heard; `retry` is this side's of [`RETRY_DIRECT`].
    pub fn new(retry: Duration, now: Instant) -> Self {
        Self {
            direct: Vec::new(),
            relays: Vec::new(),
            way: None,
            state: State::Resting { until: now },
            rest: Duration::ZERO,
            retry,
        }
    }

    /// A peer that was just heard by this way: another map changes nothing about that.
    pub fn working(way: Way<R>, retry: Duration, now: Instant) -> Self {
        let state = State::Working { heard: now, retry_direct: now + retry };
        Self { way: Some(way), state, ..Self::new(retry, now) }
    }

    /// Where it may be met, the likeliest first, and who may forward. New ones are tried at once
    /// where nothing else works.
    pub fn set_candidates(&mut self, direct: Vec<SocketAddr>, relays: Vec<(R, SocketAddr)>, now: Instant) {
        if self.direct == direct && self.relays == relays {
            return;
        }
        let news = direct.iter().any(|address| !self.direct.contains(address))
            || relays.iter().any(|relay| !self.relays.contains(relay));
        (self.direct, self.relays) = (direct, relays);
        if let (true, State::Resting { until }) = (news, &mut self.state) {
            *until = now;
        }
    }

    /// Packets go there now: WireGuard follows a peer that moves.
    pub fn moved(&mut self, to: SocketAddr) {
        if self.way.map(|way| way.address()) != Some(to) {
            self.way = Some(self.way_at(to));
        }
    }

    /// The peer answered; the present way works.
    pub fn answered(&mut self, now: Instant) {
        let retry_direct = match self.state {
            State::Working { retry_direct, .. } => retry_direct,
            // A relay that answers during a trial is the way back, not the success.
            State::Trying { until, back: Some(back), .. } if self.way == Some(back) && now < until => return,
            _ => now + self.retry,
        };
        self.rest = Duration::ZERO;
        self.state = State::Working { heard: now, retry_direct };
    }

    /// The peer calls by a relay: the way to answer there, unless a direct one works.
    pub fn called(&mut self, way: Way<R>, now: Instant) -> Option<Way<R>> {
        if self.works() || self.way == Some(way) {
            return None;
        }
        self.way = Some(way);
        self.state = State::Trying { left: Vec::new(), until: now + RELAY_TRIAL, back: None };
        Some(way)
    }

    /// The way that is known to work, also while a better one is tried; where none does, the one that
    /// packets take now.
    pub fn proved(&self) -> Option<Way<R>> {
        match self.state {
            State::Trying { back: Some(back), .. } => Some(back),
            _ => self.way,
        }
    }

    /// Whether the peer answers.
    pub fn works(&self) -> bool {
        matches!(self.state, State::Working { .. } | State::Trying { back: Some(_), .. })
    }

    /// What to do next. Ask again after each step, and when anything was heard.
    pub fn next(&mut self, now: Instant) -> Step<R> {
        match &mut self.state {
            State::Working { heard, .. } if now >= *heard + DEAD_AFTER => self.try_all(now),
            State::Working { heard, retry_direct } => {
                let (dead, retry) = (*heard + DEAD_AFTER, *retry_direct);
                match self.way {
                    Some(back @ Way::Relayed(..)) if now >= retry => self.try_direct(back, now),
                    Some(Way::Relayed(..)) => Step::Wait(dead.min(retry)),
                    _ => Step::Wait(dead),
                }
            }
            State::Trying { until, .. } | State::Resting { until } if now < *until => Step::Wait(*until),
            State::Trying { .. } => self.try_next(now),
            State::Resting { .. } => self.try_all(now),
        }
    }

    /// The present way first: a lost packet is likelier than a peer that moved.
    fn try_all(&mut self, now: Instant) -> Step<R> {
        let direct = self.direct.iter().map(|address| Way::Direct(*address));
        let relayed = self.relays.iter().map(|(relay, address)| Way::Relayed(*relay, *address));
        let others = direct.chain(relayed).filter(|way| Some(*way) != self.way);
        let mut left: Vec<Way<R>> = self.way.into_iter().chain(others).collect();
        left.reverse();
        self.state = State::Trying { left, until: now, back: None };
        self.try_next(now)
    }

    fn try_direct(&mut self, back: Way<R>, now: Instant) -> Step<R> {
        let left = self.direct.iter().rev().map(|address| Way::Direct(*address)).collect();
        self.state = State::Trying { left, until: now, back: Some(back) };
        self.try_next(now)
    }

    fn try_next(&mut self, now: Instant) -> Step<R> {
        let State::Trying { left, until, back } = &mut self.state else { return Step::Wait(now) };
        if let Some(way) = left.pop() {
            *until = now + if matches!(way, Way::Direct(_)) { TRIAL } else { RELAY_TRIAL };
            self.way = Some(way);
            return Step::Take(way);
        }
        if let Some(back) = *back {
            self.way = Some(back);
            self.state = State::Working { heard: now, retry_direct: now + self.retry };
            return Step::Take(back);
        }
        self.rest = (self.rest * 2).clamp(TRIAL, MAX_REST);
        let until = now + self.rest;
        self.state = State::Resting { until };
        Step::Wait(until)
    }

    fn way_at(&self, address: SocketAddr) -> Way<R> {
        let relay = self.relays.iter().find(|(_, at)| *at == address);
        relay.map_or(Way::Direct(address), |(relay, at)| Way::Relayed(*relay, *at))
    }
}
