//! One run of fleetctl: the operator's fleet, the capsules that are meant, and the screen.

use std::{env, time::Duration};

use anyhow::Result;
use capsule_client::{Connector, ENVIRONMENT, FanOut, Fleet, OperatorKey, Selection, Target};

use crate::{cli::Global, failure::usage, output::Out, reference::WorkloadRef};

/// For an answer that needs no work of the capsule.
pub const QUICK: Duration = Duration::from_secs(30);
/// For what makes a capsule work: stopping, deleting, applying.
pub const PATIENT: Duration = Duration::from_mins(2);

/// A run's surroundings.
#[derive(Debug)]
pub struct Session {
    /// The screen.
    pub out: Out,
    /// Contexts and key.
    pub fleet: Fleet,
    global: Global,
}

impl Session {
    /// Reads the operator's configuration.
    pub fn open(global: Global) -> Result<Self> {
        let out = Out::new(global.output, global.no_colour, global.quiet);
        Ok(Self { out, fleet: Fleet::open()?, global })
    }

    /// The capsules that the flags mean.
    pub fn targets(&self) -> Result<Vec<Target>> {
        self.select(&Selection {
            names: self.global.capsules.clone(),
            groups: self.global.groups.clone(),
            selector: self.global.selector.clone().unwrap_or_default(),
            all: self.global.all,
            environment: env::var(ENVIRONMENT).ok(),
        })
    }

    /// The capsules of these names, and those of the flags where there are none; where nothing at all
    /// is said, `None`: what changes several capsules does not go by the current one.
    pub fn named(&self, names: &[String]) -> Result<Option<Vec<Target>>> {
        let Global { capsules, groups, selector, all, .. } = &self.global;
        let is_silent = capsules.is_empty() && groups.is_empty() && selector.is_none() && !all;
        match (names.is_empty(), is_silent) {
            (true, true) => Ok(None),
            (true, false) => self.targets().map(Some),
            (false, true) => {
                self.select(&Selection { names: names.to_vec(), ..Selection::default() }).map(Some)
            }
            (false, false) => {
                Err(usage("name the capsules either as arguments or with -c, --group, -l or --all"))
            }
        }
    }

    /// Every capsule that this operator knows.
    pub fn everyone(&self) -> Result<Vec<Target>> {
        self.select(&Selection { all: true, ..Selection::default() })
    }

    /// What is meant by workload references: each capsule with the names asked of it. A reference
    /// with a capsule means that one; the others mean the capsules of the flags.
    pub fn workloads(&self, references: &[WorkloadRef]) -> Result<Vec<(Target, Vec<String>)>> {
        let mut work: Vec<(Target, Vec<String>)> = Vec::new();
        for reference in references {
            let targets = match &reference.capsule {
                Some(capsule) => {
                    self.select(&Selection { names: vec![capsule.clone()], ..Selection::default() })?
                }
                None => self.targets()?,
            };
            for target in targets {
                let name = reference.name.to_string();
                match work.iter_mut().find(|(known, _)| *known == target) {
                    Some((_, names)) if names.contains(&name) => {}
                    Some((_, names)) => names.push(name),
                    None => work.push((target, vec![name])),
                }
            }
        }
        Ok(work)
    }

    /// The one capsule that a workload reference means.
    pub fn only_workload(&self, reference: &WorkloadRef, purpose: &str) -> Result<Target> {
        let targets = self.workloads(std::slice::from_ref(reference))?;
        only(targets.into_iter().map(|(target, _)| target).collect(), purpose)
    }

    /// What connects, with the operator's key and the time-out of the flags.
    pub fn connector(&self) -> Result<Connector> {
        Ok(self.fleet.connector()?.with_timeout(self.global.connect_timeout))
    }

    /// What meets strangers: with a key that nobody else knows, and which is forgotten afterwards.
    pub fn connector_of_the_moment(&self) -> Result<Connector> {
        Ok(Connector::new(OperatorKey::generate()?)?.with_timeout(self.global.connect_timeout))
    }

    /// How long to wait for an answer, `usual` where no flag says.
    pub fn timeout(&self, usual: Duration) -> Duration {
        self.global.timeout.unwrap_or(usual)
    }

    /// `--timeout`, where it is given.
    pub fn asked_timeout(&self) -> Option<Duration> {
        self.global.timeout
    }

    /// `--connect-timeout`.
    pub fn connect_timeout(&self) -> Duration {
        self.global.connect_timeout
    }

    /// How many capsules at once, and how long for each.
    pub fn fan_out(&self, timeout: Option<Duration>) -> FanOut {
        FanOut { limit: self.global.parallel.into(), timeout }
    }

    /// The one capsule that is meant, for what works with one.
    pub fn only_target(&self, purpose: &str) -> Result<Target> {
        only(self.targets()?, purpose)
    }

    fn select(&self, selection: &Selection) -> Result<Vec<Target>> {
        self.fleet.resolve(selection).map_err(|error| usage(error.to_string()))
    }
}

fn only(targets: Vec<Target>, purpose: &str) -> Result<Target> {
    let many = targets.len();
    let mut targets = targets.into_iter();
    match (targets.next(), many) {
        (Some(target), 1) => Ok(target),
        _ => Err(usage(format!("{purpose} works with one capsule, and {many} are meant; name one with -c"))),
    }
}
