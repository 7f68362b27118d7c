//! The task that makes places, packet filter and names what they shall be.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use capsule_fabric::{
    map::{CapsuleId, MemberMap},
    policy::{Directory, Filter, Frame, removal},
};
use capsule_proto::Name;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    FabricStates, Membership, Told,
    plumb::{self, Place, Reach},
    rows,
    view::View,
};
use crate::{
    event::{Events, NewEvent},
    fabric::link_name,
    network::{
        NetworkError, blocking,
        dns::Names,
        firewall::{Change, Firewall},
        layout::{Layout, Member},
        plumbing::Bridge,
    },
    store::Store,
    sys::{netlink::netns_of, nft},
};

/// Between tries after a failure.
const RETRY: Duration = Duration::from_secs(2);

pub(in crate::network) type Answer = oneshot::Sender<Result<(), NetworkError>>;

pub(in crate::network) enum Request {
    Attach(Name, u32, Member, Answer),
    Restore(BTreeMap<Name, (u32, Member)>, Answer),
    Detach(Name),
    Refresh(Answer),
}

/// What the task works with.
pub(in crate::network) struct Tools {
    pub(in crate::network) layout: Arc<Layout>,
    pub(in crate::network) bridge: Bridge,
    pub(in crate::network) store: Store,
    pub(in crate::network) firewall: Firewall,
    pub(in crate::network) names: Names,
    pub(in crate::network) events: Events,
}

/// A workload that runs, as far as the fabric is concerned.
struct Attached {
    pid: u32,
    /// As the firewall knows it.
    member: Member,
    inside: Inside,
}

/// What was made inside.
#[derive(PartialEq)]
enum Inside {
    Unknown,
    Nothing,
    Is(Place),
}

impl From<Option<Place>> for Inside {
    fn from(place: Option<Place>) -> Self {
        place.map_or(Self::Nothing, Self::Is)
    }
}

/// What the kernel has of the packet filter.
enum Applied {
    Unknown,
    Nothing,
    Is(Box<Filter>),
}

pub(super) struct Task {
    tools: Tools,
    capsule: CapsuleId,
    map: watch::Receiver<Option<Arc<MemberMap>>>,
    directory: watch::Receiver<Directory>,
    told: Told,
    attached: BTreeMap<Name, Attached>,
    applied: Applied,
    /// The failure that was told last.
    failure: String,
}

impl Task {
    pub(super) fn new(tools: Tools, membership: Membership, told: Told) -> Self {
        let Membership { capsule, map, directory } = membership;
        let (attached, applied, failure) = (BTreeMap::new(), Applied::Unknown, String::new());
        Self { tools, capsule, map, directory, told, attached, applied, failure }
    }

    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut failed = true;
        loop {
            let mut answers = Vec::new();
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.take(request, &mut answers),
                    None => return,
                },
                Ok(()) = self.map.changed() => {}
                Ok(()) = self.directory.changed() => {}
                () = tokio::time::sleep(RETRY), if failed => {}
            }
            while let Ok(request) = requests.try_recv() {
                self.take(request, &mut answers);
            }
            let outcome = self.converge().await;
            failed = !matches!(outcome, Ok(Reach::Whole));
            self.tell(outcome.as_ref().err());
            for answer in answers {
                let outcome = match &outcome {
                    Ok(_) => Ok(()),
                    Err(error) => Err(NetworkError::Fabric(crate::status::chain(error))),
                };
                drop(answer.send(outcome));
            }
        }
    }

    fn take(&mut self, request: Request, answers: &mut Vec<Answer>) {
        match request {
            Request::Attach(name, pid, member, answer) => {
                // A new namespace has nothing inside.
                self.attached.insert(name, Attached { pid, member, inside: Inside::Nothing });
                answers.push(answer);
            }
            Request::Restore(running, answer) => {
                let known = |(name, (pid, member))| (name, Attached { pid, member, inside: Inside::Unknown });
                self.attached = running.into_iter().map(known).collect();
                answers.push(answer);
            }
            Request::Detach(name) => drop(self.attached.remove(&name)),
            Request::Refresh(answer) => answers.push(answer),
        }
    }

    /// A failure once, not at every try.
    fn tell(&mut self, error: Option<&NetworkError>) {
        let text = error.map(|error| crate::status::chain(error)).unwrap_or_default();
        if text != self.failure && !text.is_empty() {
            let text = format!("workloads are not in the fabric as they should be: {text}");
            self.tools.events.emit(NewEvent::new("node", "", "FabricFailed", text).warning());
        }
        self.failure = text;
    }

    /// The filter first, so that nobody has an address that nothing guards.
    async fn converge(&mut self) -> Result<Reach, NetworkError> {
        let rows = self.tools.store.read(rows).await?;
        let map = self.map.borrow_and_update().clone();
        let directory = self.directory.borrow_and_update().clone();
        let view = View::new(map.as_deref(), self.capsule, &rows, &directory);
        let layout = self.tools.layout.clone();
        let capsule = self.capsule;
        let filter = view.filter(|ranges| frame(&layout, capsule, ranges));
        self.filter(filter).await?;
        self.tools.firewall.change(Change::Fabric(view.ranges())).await?;
        let names = view.names().map(Arc::new);
        self.told.names.send_replace(names.clone().unwrap_or_default());
        self.tools.names.set_fabric(names);
        let states = Arc::new(view.states());
        let placed = self.place(&view, &states).await;
        self.told.tell(states);
        placed
    }

    async fn filter(&mut self, wanted: Option<Filter>) -> Result<(), NetworkError> {
        let failed = |error| NetworkError::Firewall(Arc::new(error));
        let applied = std::mem::replace(&mut self.applied, Applied::Unknown);
        let Some(wanted) = wanted else {
            if !matches!(applied, Applied::Nothing) {
                nft::apply(&removal(&table(&self.tools.layout))).await.map_err(failed)?;
            }
            self.applied = Applied::Nothing;
            return Ok(());
        };
        let step = match &applied {
            Applied::Is(old) => wanted.since(old),
            _ => None,
        };
        let done = match step.as_deref() {
            Some("") => true,
            // Fails where somebody took the table away.
            Some(step) => nft::apply(step).await.is_ok(),
            None => false,
        };
        if !done {
            nft::apply(&wanted.whole()).await.map_err(failed)?;
        }
        self.applied = Applied::Is(Box::new(wanted));
        Ok(())
    }

    /// Addresses and routes, on the host and inside.
    async fn place(&mut self, view: &View<'_>, states: &FabricStates) -> Result<Reach, NetworkError> {
        for (name, attached) in &mut self.attached {
            let addresses = states.get(name).and_then(|state| state.addresses);
            if attached.member.fabric != addresses {
                let member = Member { fabric: addresses, ..attached.member.clone() };
                self.tools.firewall.change(Change::Add(name.clone(), member.clone())).await?;
                attached.member = member;
            }
        }
        let members: Vec<Member> = self.attached.values().map(|attached| attached.member.clone()).collect();
        let (bridge, own) = (self.tools.bridge, view.own());
        let attempt = NetworkError::kernel("lead packets for the fabric to workloads");
        let reach = blocking(move || plumb::lead(bridge, &members, own).map_err(attempt)).await?;
        for (name, attached) in &mut self.attached {
            let ranges = view.ranges();
            let place =
                attached.member.fabric.zip(ranges).map(|(addresses, ranges)| Place { addresses, ranges });
            if attached.inside == place.into() {
                continue;
            }
            let (layout, member, pid) = (self.tools.layout.clone(), attached.member.clone(), attached.pid);
            let attempt =
                NetworkError::kernel(format!("give workload {name} (process {pid}) its place in the fabric"));
            let inside = blocking(move || {
                plumb::place(&layout, bridge, &netns_of(pid), &member, place.as_ref()).map_err(attempt)
            });
            match inside.await {
                Ok(()) => attached.inside = place.into(),
                // One that ends right now must not keep the others from their places.
                Err(error) if !netns_of(pid).exists() => {
                    tracing::debug!(%error, workload = %name, "it ended before it had its place in the fabric");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(reach)
    }
}

fn frame(layout: &Layout, capsule: CapsuleId, ranges: [capsule_fabric::map::Prefix; 2]) -> Frame {
    Frame {
        table: table(layout),
        link: link_name(capsule),
        bridge: layout.bridge.clone(),
        ranges,
        open_ports: vec![capsule_fabric::MEMBER_PORT],
    }
}

/// Name of the policies' table.
pub(super) fn table(layout: &Layout) -> String {
    format!("{}_fabric", layout.table())
}
