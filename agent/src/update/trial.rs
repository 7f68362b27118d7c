//! A trial: how the capsule is while it lasts, and whether that ends it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::Updates;
use crate::boot::tentative::Expectation;

/// Between two looks at how the capsule is.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How one part of the capsule is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vital {
    /// `api`, `storage`, `network`, `containerd`, `workloads`.
    pub name: &'static str,
    /// What is wrong, where something is.
    pub problem: Option<String>,
}

/// Whoever can tell how the capsule is.
#[async_trait]
pub trait Vitals: Send + Sync {
    /// One look; `workloads` are to run.
    async fn look(&self, workloads: &[String]) -> Vec<Vital>;
    /// What runs now.
    fn running(&self) -> Vec<String>;
}

/// What was seen of a trial so far.
#[derive(Debug, Default)]
pub struct Watch(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    vitals: Vec<Vital>,
    well_since: Option<Instant>,
}

impl Watch {
    /// The last look, and for how long all has been well.
    pub fn seen(&self) -> (Vec<Vital>, Duration) {
        let seen = self.lock();
        (seen.vitals.clone(), seen.well_since.map(|since| since.elapsed()).unwrap_or_default())
    }

    fn take(&self, vitals: Vec<Vital>, now: Instant) -> (Duration, BTreeMap<&'static str, String>) {
        let mut seen = self.lock();
        let problems: BTreeMap<_, _> =
            vitals.iter().filter_map(|vital| Some((vital.name, vital.problem.clone()?))).collect();
        seen.vitals = vitals;
        if problems.is_empty() {
            let since = *seen.well_since.get_or_insert(now);
            (now.saturating_duration_since(since), problems)
        } else {
            seen.well_since = None;
            (Duration::ZERO, problems)
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks until the trial has ended; ends it where it was arranged that health does.
pub(super) async fn watch(updates: Updates, trial: Expectation) {
    let soak = trial.auto_confirm_seconds.map(Duration::from_secs);
    let mut told = BTreeMap::new();
    while updates.is_tentative() {
        let vitals = updates.inner.vitals.look(&trial.workloads).await;
        let (well, problems) = updates.inner.watch.take(vitals, Instant::now());
        if problems != told {
            tracing::info!(?problems, "the trial's state has changed");
            told = problems;
        }
        if let Some(soak) = soak.filter(|soak| told.is_empty() && well >= *soak) {
            match updates.confirm(&format!("all was well for {} s", soak.as_secs())).await {
                Ok(_) => return,
                Err(error) => tracing::error!(%error, "the trial cannot be ended"),
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vital(problem: Option<&str>) -> Vec<Vital> {
        vec![Vital { name: "network", problem: problem.map(str::to_owned) }]
    }

    #[test]
    fn a_problem_starts_the_time_anew() {
        let watch = Watch::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(watch.take(vital(None), at(0)).0, Duration::ZERO);
        assert_eq!(watch.take(vital(None), at(9)).0, Duration::from_secs(9));
        assert!(watch.take(vital(Some("no route")), at(10)).1.contains_key("network"));
        assert_eq!(watch.take(vital(None), at(19)).0, Duration::ZERO);
        assert_eq!(watch.seen().0, vital(None));
    }
}
