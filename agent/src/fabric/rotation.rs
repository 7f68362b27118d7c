//! A rotation that was cut short: the others know the next key, and its member was never told.
//!
//! Nobody answers the present key any more then, and so no peer can bring the map that names the next
//! one. Where there is a next key and nobody answers, each of the two gets its turn: whichever the
//! others know brings the map.

use std::time::Duration;

use tokio::time::{Instant, interval};

use super::{Fabric, SUBJECT, key::KeyPair, link::Wanted, peering::ReachOfAll};
use crate::event::NewEvent;

/// Between looks at who answers.
const LOOK: Duration = Duration::from_secs(1);
/// For as long nobody answers before the other key has its turn. A peer that is there answers by way of
/// every candidate, and a relay, in less.
const TURN: Duration = Duration::from_secs(20);

impl Fabric {
    /// Runs as long as the agent does.
    pub(super) async fn try_next_key(self) {
        let reach = self.reach();
        let (mut silent_since, mut turns) = (Instant::now(), 0_u32);
        let mut looks = interval(LOOK);
        loop {
            looks.tick().await;
            if !self.0.keys.has_next() {
                turns = 0;
            }
            if !self.0.keys.has_next() || !is_silent(&reach.borrow()) {
                silent_since = Instant::now();
            }
            if silent_since.elapsed() < TURN {
                continue;
            }
            (silent_since, turns) = (Instant::now(), turns.wrapping_add(1));
            if turns == 1 {
                let text = "no member answers: the next key is tried by turns with the present one";
                self.0.events.emit(NewEvent::new(SUBJECT, "", "NextKeyTried", text).warning());
            }
            self.use_key(turns % 2 == 1).await;
        }
    }

    /// Has the link speak with the present or the next key, until the next map.
    async fn use_key(&self, is_next: bool) {
        // No other map comes between.
        let _held = self.0.membership.lock().await;
        let map = self.0.map.borrow().clone();
        let own = map.as_ref().and_then(|map| map.of_capsule(self.0.capsule));
        let (Some(link), Some(map), Some(own)) = (&self.0.link, &map, own) else { return };
        let Some(key) = self.key(is_next) else { return };
        if let Err(error) = link.apply(Some(Wanted::new(map, own, key, self.0.config.port))).await {
            tracing::warn!(%error, "the link does not take another key");
        }
    }

    fn key(&self, is_next: bool) -> Option<KeyPair> {
        let publics = self.0.keys.publics();
        self.0.keys.pair(publics.get(usize::from(is_next))?)
    }
}

fn is_silent(reach: &ReachOfAll) -> bool {
    !reach.is_empty() && reach.values().all(|reach| !reach.answers)
}
