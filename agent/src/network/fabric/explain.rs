//! One flow, as this capsule's part of the network really has it: what the name service answers, what
//! the kernel's packet filter holds, and by which links packets go on.

use std::{io, net::IpAddr, sync::Arc, time::SystemTime};

use capsule_fabric::{
    map::Addresses,
    policy::{Direction, Directory, Flow, Set, allowing},
};
use capsule_proto::{
    Name,
    reference::{Reference, Request},
};

use super::{
    Part,
    drops::{self, Refused},
    rows,
    table::Row,
    task,
    view::View,
};
use crate::{
    network::{Network, NetworkError, blocking},
    sys::{
        link,
        netlink::{self, Netlink, netns_of},
        nft,
        route::{self, Next},
    },
};

/// What one end's policy says of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consent {
    /// The reference of the manifest that allows it.
    pub reference: Option<Reference>,
    /// All that the manifest has.
    pub references: Vec<String>,
    /// Whether the packet filter that is loaded has it.
    pub allowed: bool,
    /// Packets of this very pair and port that were let through since it was loaded.
    pub passed: u64,
}

/// How a packet goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Name of the link.
    pub link: String,
    /// What the kernel says.
    pub next: Next,
}

/// Where a packet is when its way is asked for.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a workload, whose process this is.
    Inside(u32),
    /// It came to the capsule by this link.
    CameBy(String),
    /// The capsule itself sends it.
    Own,
}

impl Network {
    /// Addresses that the name service answers a name with.
    pub fn answer(&self, name: &str) -> Option<Addresses> {
        let (ipv4, ipv6) = self.inner.names.find(name)?;
        Some(Addresses { ipv4, ipv6 })
    }

    /// Who has which name in the fabric, as policies and the name service have it here.
    pub fn known(&self) -> Arc<Directory> {
        self.inner.fabric.told.names.borrow().clone()
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        &self.inner.layout.bridge
    }

    /// What a workload's policy says of a flow.
    pub async fn consent(
        &self,
        workload: &Name,
        direction: Direction,
        flow: Flow,
    ) -> Result<Consent, NetworkError> {
        let rows = self.inner.store.read(rows).await?;
        let mut consent = self.inner.fabric.written(workload, &rows, direction, &flow);
        let table = task::table(&self.inner.layout);
        let failed = |error| NetworkError::Firewall(Arc::new(error));
        let names = nft::sets("inet", &table).await.map_err(failed)?.unwrap_or_default();
        let sets = names.iter().filter_map(|name| name.parse::<Set>().ok());
        let sets: Vec<Set> = sets.filter(|set| set.direction == direction).collect();
        let singular = format!("singular{}", flow.family());
        let peer = flow.peer(direction).to_string();
        let is_singular = nft::element("inet", &table, &singular, &peer).await.map_err(failed)?.is_some();
        for set in sets.iter().filter(|set| !is_singular || set.is_for_singular()) {
            let Some(element) = flow.element(set) else { continue };
            let found = nft::element("inet", &table, &set.to_string(), &element.text(set)).await;
            let Some(packets) = found.map_err(failed)? else { continue };
            consent.allowed = true;
            if set.is_exact() {
                consent.passed += packets;
            }
        }
        Ok(consent)
    }

    /// What would make the policy of one end allow a flow.
    pub fn remedy(&self, direction: Direction, flow: &Flow, request: Request) -> String {
        let Some(map) = self.inner.fabric.membership.map.borrow().clone() else { return String::new() };
        let refused = Refused {
            side: direction,
            source: flow.source,
            destination: flow.destination,
            protocol: request.protocol().to_owned(),
            port: request.port(),
            packets: 0,
            bytes: 0,
            last: SystemTime::UNIX_EPOCH,
        };
        refused.to_wire(&map, &self.known()).remedy
    }

    /// Who has an address, as a policy names it.
    pub fn name_of(&self, address: IpAddr) -> Option<String> {
        let map = self.inner.fabric.membership.map.borrow().clone()?;
        drops::name_of(&map, &self.known(), address)
    }

    /// How a packet goes on from a place; `None` where it does not.
    pub async fn next(
        &self,
        place: Place,
        to: IpAddr,
        from: Option<IpAddr>,
    ) -> Result<Option<Leg>, NetworkError> {
        let attempt = NetworkError::kernel(format!("ask for the route to {to}"));
        blocking(move || leg(&place, to, from).map_err(attempt)).await
    }
}

impl Part {
    /// What the manifest says, apart from what the kernel has.
    fn written(&self, workload: &Name, rows: &[Row], direction: Direction, flow: &Flow) -> Consent {
        let map = self.membership.map.borrow().clone();
        let directory = self.membership.directory.borrow().clone();
        let view = View::new(map.as_deref(), self.membership.capsule, rows, &directory);
        let Some((subject, world)) = view.subject(workload).zip(view.world()) else {
            return Consent::default();
        };
        let references = match direction {
            Direction::Out => &subject.allow_to,
            Direction::In => &subject.allow_from,
        };
        Consent {
            reference: allowing(&world, subject, direction, flow).cloned(),
            references: references.iter().map(Reference::to_string).collect(),
            ..Consent::default()
        }
    }
}

fn leg(place: &Place, to: IpAddr, from: Option<IpAddr>) -> io::Result<Option<Leg>> {
    let by_name = |netlink: &mut Netlink, name: &str| {
        Ok::<_, io::Error>(link::find(netlink, name)?.map(|link| link.index))
    };
    match place {
        Place::Inside(pid) => netlink::in_netns(&netns_of(*pid), || {
            let mut netlink = Netlink::open()?;
            onward(&mut netlink, to, from, None)
        }),
        Place::CameBy(link) => {
            let mut netlink = Netlink::open()?;
            match by_name(&mut netlink, link)? {
                Some(index) => onward(&mut netlink, to, from, Some(index)),
                None => Ok(None),
            }
        }
        Place::Own => onward(&mut Netlink::open()?, to, from, None),
    }
}

fn onward(
    netlink: &mut Netlink,
    to: IpAddr,
    from: Option<IpAddr>,
    by: Option<u32>,
) -> io::Result<Option<Leg>> {
    let Some(next) = route::next(netlink, to, from, by)? else { return Ok(None) };
    let links = link::links(netlink)?;
    let link = links.into_iter().find(|link| link.index == next.link).map(|link| link.name);
    Ok(Some(Leg { link: link.unwrap_or_default(), next }))
}
