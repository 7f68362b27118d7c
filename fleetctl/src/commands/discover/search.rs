//! Hears of capsules and looks at each place where one is said to be.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::pending,
    time::Duration,
};

use capsule_client::{
    Address, Connector, Contexts,
    adopt::{Probe, probe},
    browse::{BrowseError, Browser, Sighting},
};
use capsule_proto::Fingerprint;
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::row::{Row, judge, once_each};
use crate::failure::Failure;

/// For looks that are under way when there is enough: a better address of the same capsule.
const GRACE: Duration = Duration::from_millis(200);
/// Between two looks at a place where nobody answered: who boots is announced before it answers.
const RETRY: Duration = Duration::from_secs(1);

type Look = BoxFuture<'static, (Address, Result<Probe, Failure>)>;

/// A search under way. What was found stays when it is gone on with.
pub struct Search {
    browser: Browser,
    ended_by: Option<BrowseError>,
    connector: Connector,
    /// Places looked at at once.
    limit: usize,
    sightings: BTreeMap<String, Sighting>,
    waiting: VecDeque<Address>,
    looking: BTreeSet<Address>,
    looks: FuturesUnordered<Look>,
    seen: BTreeMap<Address, Result<Probe, Failure>>,
}

impl Search {
    /// One that has found nothing yet.
    pub fn new(browser: Browser, connector: Connector, limit: usize) -> Self {
        Self {
            browser,
            ended_by: None,
            connector,
            limit,
            sightings: BTreeMap::new(),
            waiting: VecDeque::new(),
            looking: BTreeSet::new(),
            looks: FuturesUnordered::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Why it heard less than there is to hear.
    pub fn ended_by(&self) -> Option<&BrowseError> {
        self.ended_by.as_ref()
    }

    /// Listens until then, or until there is `enough`; ends when it is also known who answers at the
    /// places that were heard of.
    pub async fn listen(&mut self, contexts: &Contexts, until: Instant, enough: impl Fn(&Self) -> bool) {
        let mut retry = Instant::now() + RETRY;
        while !enough(self) {
            let is_over = Instant::now() >= until || self.ended_by.is_some();
            if is_over {
                // Only somebody who makes places up names more than can be looked at by now.
                self.waiting.clear();
                if self.is_settled(contexts) {
                    return;
                }
            }
            self.look_further();
            tokio::select! {
                heard = hear(&mut self.browser, !is_over) => match heard {
                    Ok(sighting) => self.take(sighting),
                    Err(error) => self.ended_by = Some(error),
                },
                Some(look) = self.looks.next() => self.keep(look),
                () = sleep_until(until), if !is_over => {}
                () = sleep_until(retry), if !is_over => {
                    retry += RETRY;
                    self.look_again();
                }
            }
        }
        let end = Instant::now() + GRACE;
        while let Ok(Some(look)) = timeout_at(end, self.looks.next()).await {
            self.keep(look);
        }
    }

    fn keep(&mut self, (address, found): (Address, Result<Probe, Failure>)) {
        self.looking.remove(&address);
        self.seen.insert(address, found);
    }

    fn take(&mut self, sighting: Sighting) {
        for address in &sighting.addresses {
            let is_known = self.seen.contains_key(address)
                || self.looking.contains(address)
                || self.waiting.contains(address);
            if !is_known {
                self.waiting.push_back(address.clone());
            }
        }
        self.sightings.insert(sighting.announcement.capsule_id.clone(), sighting);
    }

    /// Looks at more places, as far as not too many are looked at already.
    fn look_further(&mut self) {
        while self.looking.len() < self.limit
            && let Some(address) = self.waiting.pop_front()
        {
            self.looking.insert(address.clone());
            let connector = self.connector.clone();
            self.looks.push(Box::pin(async move {
                let found = probe(&connector, &address).await.map_err(Failure::from);
                (address, found)
            }));
        }
    }

    /// Where nobody answered, somebody may by now.
    fn look_again(&mut self) {
        let silent = self.seen.iter().filter(|(_, found)| found.is_err());
        let silent = silent.map(|(address, _)| address).filter(|address| !self.looking.contains(*address));
        let silent: Vec<Address> =
            silent.filter(|address| !self.waiting.contains(address)).cloned().collect();
        self.waiting.extend(silent);
    }

    /// Whether no look that is not over could tell more than another number of the same machine.
    fn is_settled(&self, contexts: &Contexts) -> bool {
        self.sightings.values().all(|sighting| {
            let pin = contexts.of_capsule(&sighting.announcement.capsule_id);
            let pin = pin.map(|(_, context)| context.fingerprint);
            let answered = sighting.addresses.iter().filter_map(|at| self.seen.get(at)?.as_ref().ok());
            let is_found = |found: &Probe| pin.is_none_or(|pin| pin == found.fingerprint);
            let mut answered = answered.filter(|found| is_found(found));
            answered.next().is_some()
                || !sighting.addresses.iter().any(|address| self.looking.contains(address))
        })
    }

    /// What was found so far, each capsule once.
    pub fn rows(&self, contexts: &Contexts) -> Vec<Row> {
        once_each(self.sightings.values().flat_map(|sighting| self.rows_of(contexts, sighting)).collect())
    }

    /// One for each who answers where this was said to be; one for its silence where nobody does.
    fn rows_of(&self, contexts: &Contexts, sighting: &Sighting) -> Vec<Row> {
        let announced = &sighting.announcement;
        let mut by_fingerprint: Vec<(Fingerprint, Vec<&Probe>)> = Vec::new();
        for found in sighting.addresses.iter().filter_map(|at| self.seen.get(at)?.as_ref().ok()) {
            match by_fingerprint.iter_mut().find(|(fingerprint, _)| *fingerprint == found.fingerprint) {
                Some((_, same)) => same.push(found),
                None => by_fingerprint.push((found.fingerprint, vec![found])),
            }
        }
        if by_fingerprint.is_empty() {
            return self.silent_row(contexts, sighting).into_iter().collect();
        }
        let row = |(_, all): (Fingerprint, Vec<&Probe>)| {
            let addresses: Vec<Address> = all.iter().map(|found| found.address.clone()).collect();
            let first = all[0];
            Row {
                announcement: announced.clone(),
                address: first.address.clone(),
                standing: judge(contexts, &announced.capsule_id, Some(first), &addresses),
                addresses,
                seen: Ok(first.clone()),
            }
        };
        by_fingerprint.into_iter().map(row).collect()
    }

    fn silent_row(&self, contexts: &Contexts, sighting: &Sighting) -> Option<Row> {
        let address = sighting.addresses.first()?.clone();
        let failure = self.seen.get(&address).and_then(|found| found.as_ref().err()).cloned();
        Some(Row {
            announcement: sighting.announcement.clone(),
            address,
            addresses: Vec::new(),
            standing: judge(contexts, &sighting.announcement.capsule_id, None, &[]),
            seen: Err(failure
                .unwrap_or_else(|| Failure::local("nobody has looked there: too many places are announced"))),
        })
    }
}

/// The next that is heard of; nothing where nobody listens any more.
async fn hear(browser: &mut Browser, is_listening: bool) -> Result<Sighting, BrowseError> {
    if is_listening { browser.next().await } else { pending().await }
}
