//! Workloads in the fabric: their addresses there, the packet filter of their policies, their names.
//!
//! - `table.rs`: who has which place, in SQLite; `view.rs`: what follows from it and the map, pure;
//! - `task.rs`: the task that makes it so, and again whenever something changed;
//! - `plumb.rs`: addresses and routes by netlink; `drops.rs`: what was refused; `explain.rs`: one flow,
//!   as names and policies have it.
//!
//! The policies have an nftables table of their own, so that a published port costs no reload of
//! ten thousand rules, nor a policy one of the ports.

mod drops;
mod explain;
mod plumb;
mod table;
mod task;
mod view;

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use capsule_fabric::{
    map::{Addresses, CapsuleId, MemberMap},
    policy::Directory,
};
use capsule_proto::{Name, v1};
use rusqlite::Transaction;
use tokio::sync::{mpsc, oneshot, watch};

pub(super) use self::task::Tools;
pub use self::{
    drops::{Knock, Refused},
    explain::{Allowance, Consent},
};
use self::{
    task::{Request, Task},
    view::{Hosts, View},
};
use super::{
    error::NetworkError,
    layout::{Layout, Member},
};
use crate::sys::nft;

/// What the fabric says of this capsule.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Who it is, as maps name it.
    pub capsule: CapsuleId,
    /// The map that it goes by.
    pub map: watch::Receiver<Option<Arc<MemberMap>>>,
    /// Where other members say that their workloads are.
    pub directory: watch::Receiver<Directory>,
}

/// A workload's part in the fabric as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FabricState {
    /// Where it is.
    pub addresses: Option<Addresses>,
    /// References that allow nothing now, and why.
    pub waiting: Vec<(String, String)>,
    /// Why it has no address.
    pub problem: String,
}

impl FabricState {
    /// In the API's words.
    pub fn to_wire(&self) -> v1::WorkloadFabric {
        let waiting = self.waiting.iter().map(|(reference, reason)| v1::WaitingReference {
            reference: reference.clone(),
            reason: reason.clone(),
        });
        v1::WorkloadFabric {
            ipv4: self.addresses.map(|addresses| addresses.ipv4.to_string()).unwrap_or_default(),
            ipv6: self.addresses.map(|addresses| addresses.ipv6.to_string()).unwrap_or_default(),
            waiting: waiting.collect(),
            problem: self.problem.clone(),
        }
    }
}

/// Of every workload that has one.
pub type FabricStates = BTreeMap<Name, FabricState>;

/// What the task tells.
#[derive(Clone)]
struct Told {
    /// Each workload's part as it is.
    states: Arc<watch::Sender<Arc<FabricStates>>>,
    /// Who has which name, of all members.
    names: Arc<watch::Sender<Arc<Directory>>>,
    /// Where the capsule's own workloads are.
    locations: Arc<watch::Sender<BTreeMap<Name, Addresses>>>,
}

impl Told {
    fn new(states: FabricStates) -> Self {
        let locations = Arc::new(watch::Sender::new(located(&states)));
        Self { states: Arc::new(watch::Sender::new(Arc::new(states))), names: Arc::default(), locations }
    }

    /// Says what is different.
    fn tell(&self, states: Arc<FabricStates>) {
        update(&self.locations, located(&states));
        update(&self.states, states);
    }
}

fn located(states: &FabricStates) -> BTreeMap<Name, Addresses> {
    states.iter().filter_map(|(name, state)| Some((name.clone(), state.addresses?))).collect()
}

fn update<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|held| {
        let is_new = *held != value;
        *held = value;
        is_new
    });
}

/// The workloads of this capsule in the fabric; cheap to clone.
#[derive(Clone)]
pub(super) struct Part {
    membership: Membership,
    told: Told,
    requests: mpsc::Sender<Request>,
}

/// Requests that may wait; more make their callers wait.
const QUEUE: usize = 256;

impl Part {
    /// Knows who is where; [`Part::run`] is to follow.
    pub(super) fn new(membership: Membership, rows: &[table::Row]) -> (Self, mpsc::Receiver<Request>) {
        let (requests, queue) = mpsc::channel(QUEUE);
        let map = membership.map.borrow().clone();
        let states = View::new(map.as_deref(), membership.capsule, rows, &Directory::new()).states();
        (Self { membership, told: Told::new(states), requests }, queue)
    }

    /// Starts the task.
    pub(super) fn run(&self, tools: Tools, queue: mpsc::Receiver<Request>) {
        let task = Task::new(tools, self.membership.clone(), self.told.clone());
        tokio::spawn(task.run(queue));
    }

    pub(super) fn addresses(&self, workload: &Name) -> Option<Addresses> {
        self.told.states.borrow().get(workload).and_then(|state| state.addresses)
    }

    pub(super) fn states(&self) -> watch::Receiver<Arc<FabricStates>> {
        self.told.states.subscribe()
    }

    pub(super) fn locations(&self) -> watch::Receiver<BTreeMap<Name, Addresses>> {
        self.told.locations.subscribe()
    }

    /// Gives a workload its place inside the caller's transaction, or takes it back.
    pub(super) fn reserve(
        &self,
        tx: &Transaction<'_>,
        workload: &Name,
        spec: Option<&v1::FabricSpec>,
    ) -> Result<(), NetworkError> {
        let Some(spec) = spec else { return Ok(table::release(tx, workload)?) };
        let map = self.membership.map.borrow().clone();
        let hosts = Hosts::new(map.as_deref(), self.membership.capsule);
        if table::hold(tx, workload, spec, &hosts)? {
            Ok(())
        } else {
            Err(NetworkError::PlacesExhausted { workload: workload.clone() })
        }
    }

    /// A workload runs in the network namespace of this process and is joined to the bridge. Resolves
    /// when its place in the fabric works.
    pub(super) async fn attach(&self, name: &Name, pid: u32, member: Member) -> Result<(), NetworkError> {
        self.ask(|answer| Request::Attach(name.clone(), pid, member, answer)).await
    }

    /// These run, and no others.
    pub(super) async fn restore(&self, running: BTreeMap<Name, (u32, Member)>) -> Result<(), NetworkError> {
        self.ask(|answer| Request::Restore(running, answer)).await
    }

    pub(super) async fn detach(&self, name: &Name) {
        // Without the task there is nothing to forget.
        let _ = self.requests.send(Request::Detach(name.clone())).await;
    }

    /// After a commit that changed places or policies. Resolves when they are in force.
    pub(super) async fn refresh(&self) -> Result<(), NetworkError> {
        self.ask(Request::Refresh).await
    }

    /// What was refused of late, the latest first.
    async fn refused(&self, layout: &Layout) -> Result<Vec<Refused>, NetworkError> {
        let mut found = Vec::new();
        for (side, set) in drops::SETS {
            let failed = |error| NetworkError::Firewall(Arc::new(error));
            let json = nft::set("inet", &task::table(layout), set).await.map_err(failed)?;
            found.extend(drops::parse(side, &json, SystemTime::now())?);
        }
        found.sort_by_key(|refused| std::cmp::Reverse(refused.last));
        Ok(found)
    }

    /// The same in the API's words; none outside a fabric.
    pub(super) async fn drops(&self, layout: &Layout) -> Result<Vec<v1::FabricDrop>, NetworkError> {
        let Some(map) = self.membership.map.borrow().clone() else { return Ok(Vec::new()) };
        let refused = self.refused(layout).await?;
        let names = self.told.names.borrow().clone();
        Ok(refused.iter().map(|refused| refused.to_wire(&map, &names)).collect())
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), NetworkError>>) -> Request,
    ) -> Result<(), NetworkError> {
        let (answer, outcome) = oneshot::channel();
        self.requests.send(request(answer)).await.map_err(|_| NetworkError::Closed)?;
        outcome.await.map_err(|_| NetworkError::Closed)?
    }
}

/// Takes the policies' table away.
pub(super) fn removal(layout: &Layout) -> String {
    capsule_fabric::policy::removal(&task::table(layout))
}

/// Every place that is held.
pub(super) fn rows(db: &rusqlite::Connection) -> Result<Vec<table::Row>, NetworkError> {
    Ok(table::rows(db)?)
}
