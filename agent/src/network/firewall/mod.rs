//! The packet filter. One task owns what is in it; changes that wait together are one transaction.

pub(super) mod ruleset;

use std::{collections::BTreeMap, sync::Arc};

use capsule_fabric::map::Prefix;
use capsule_proto::Name;
use tokio::sync::{mpsc, oneshot};

use self::ruleset::Old;
use super::{
    error::NetworkError,
    layout::{Layout, Member},
    port,
};
use crate::sys::{nft, run::RunError};

/// Changes that may wait for the task; more make their callers wait.
const QUEUE: usize = 256;

pub(super) enum Change {
    Add(Name, Member),
    Remove(Name),
    /// Everything anew.
    Replace(BTreeMap<Name, Member>),
    /// All addresses of the fabric, whose traffic is decided elsewhere.
    Fabric(Option<[Prefix; 2]>),
}

/// What the tables are to hold.
#[derive(Clone, Default, PartialEq)]
struct Wanted {
    members: BTreeMap<Name, Member>,
    fabric: Option<[Prefix; 2]>,
}

type Outcome = Result<(), Arc<RunError>>;
type Request = (Change, oneshot::Sender<Outcome>);

/// Where changes go; cheap to clone.
#[derive(Clone)]
pub(super) struct Firewall {
    queue: mpsc::Sender<Request>,
}

impl Firewall {
    pub(super) fn start(layout: Arc<Layout>) -> Self {
        let (queue, requests) = mpsc::channel(QUEUE);
        tokio::spawn(serve(layout, requests));
        Self { queue }
    }

    /// Resolves when the kernel has the change. The change stays wanted if it fails, so that the
    /// next transaction brings it along.
    pub(super) async fn change(&self, change: Change) -> Result<(), NetworkError> {
        let (answer, outcome) = oneshot::channel();
        self.queue.send((change, answer)).await.map_err(|_| NetworkError::Closed)?;
        outcome.await.map_err(|_| NetworkError::Closed)?.map_err(NetworkError::Firewall)
    }
}

/// A port goes with the workload that was given it last: one that had it before is on its way to
/// other ports, and two places for one port would be no map.
fn add(members: &mut BTreeMap<Name, Member>, name: Name, member: Member) {
    for (_, other) in members.iter_mut().filter(|(other, _)| **other != name) {
        other.ports.retain(|held| !member.ports.iter().any(|port| port::collide(held, port)));
    }
    members.insert(name, member);
}

async fn serve(layout: Arc<Layout>, mut requests: mpsc::Receiver<Request>) {
    let mut wanted = Wanted::default();
    // What the kernel has; `None` while that is unknown.
    let mut applied: Option<Wanted> = None;
    // Tables from before this task may be of another make.
    let mut old = Old::Remove;
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, QUEUE).await > 0 {
        let mut answers = Vec::with_capacity(batch.len());
        for (change, answer) in batch.drain(..) {
            match change {
                Change::Add(name, member) => add(&mut wanted.members, name, member),
                Change::Remove(name) => drop(wanted.members.remove(&name)),
                Change::Replace(all) => {
                    wanted.members = all;
                    applied = None;
                }
                Change::Fabric(ranges) => wanted.fabric = ranges,
            }
            answers.push(answer);
        }
        let outcome = if applied.as_ref() == Some(&wanted) {
            Ok(())
        } else {
            replace(&layout, &wanted, old).await.map_err(Arc::new)
        };
        applied = outcome.is_ok().then(|| wanted.clone());
        old = if outcome.is_ok() { Old::Refill } else { Old::Remove };
        for answer in answers {
            drop(answer.send(outcome.clone()));
        }
    }
}

/// Tables that somebody removed meanwhile are made anew.
async fn replace(layout: &Layout, wanted: &Wanted, old: Old) -> Result<(), RunError> {
    if old == Old::Refill
        && nft::apply(&ruleset::render(layout, &wanted.members, wanted.fabric, Old::Refill)).await.is_ok()
    {
        return Ok(());
    }
    nft::apply(&ruleset::render(layout, &wanted.members, wanted.fabric, Old::Remove)).await
}
