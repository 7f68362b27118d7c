//! One flow, as this capsule's part of the network really has it: what the name service answers, and
//! what the policies say, those that are written and those that the kernel's packet filter holds.

use std::{net::IpAddr, sync::Arc};

use capsule_fabric::{
    map::{Addresses, MemberMap},
    policy::{Direction, Directory, Flow, Set, allowing},
};
use capsule_proto::{
    Name,
    reference::{Reference, Request},
};

use super::{
    Part,
    drops::{self, Knock, Refused},
    rows,
    table::Row,
    task,
    view::View,
};
use crate::{
    network::{Network, NetworkError},
    sys::{nft, run::RunError},
};

/// What one end's policy says of some flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consent {
    /// All that the manifest has.
    pub references: Vec<String>,
    /// Of each flow.
    pub flows: Vec<Allowance>,
}

/// What a policy says of one flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Which.
    pub flow: Flow,
    /// The reference of the manifest that allows it.
    pub reference: Option<Reference>,
    /// Whether the packet filter that is loaded has it.
    pub allowed: bool,
    /// Packets of this very pair and port that were let through since it was loaded.
    pub passed: u64,
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

    /// What a workload's policy says of these flows.
    pub async fn consent(
        &self,
        workload: &Name,
        direction: Direction,
        flows: &[Flow],
    ) -> Result<Consent, NetworkError> {
        let rows = self.inner.store.read(rows).await?;
        let mut consent = self.inner.fabric.written(workload, &rows, direction, flows);
        let table = task::table(&self.inner.layout);
        let names = nft::sets("inet", &table).await.map_err(unfiltered)?.unwrap_or_default();
        let sets = names.iter().filter_map(|name| name.parse::<Set>().ok());
        let sets: Vec<Set> = sets.filter(|set| set.direction == direction).collect();
        for allowance in &mut consent.flows {
            look_up(&table, &sets, direction, allowance).await?;
        }
        Ok(consent)
    }

    /// What was refused here of late, the latest first.
    pub async fn refused(&self) -> Result<Vec<Refused>, NetworkError> {
        self.inner.fabric.refused(&self.inner.layout).await
    }

    /// What would make the policy of one end allow a flow.
    pub fn remedy(&self, direction: Direction, flow: &Flow, request: Request) -> String {
        let Some(map) = self.map() else { return String::new() };
        let (source, destination) = (flow.source, flow.destination);
        let protocol = request.protocol().to_owned();
        let knock = Knock { side: direction, source, destination, protocol, port: request.port() };
        knock.remedy(&map, &self.known())
    }

    /// Who has an address, as a policy names it.
    pub fn name_of(&self, address: IpAddr) -> Option<String> {
        drops::name_of(&*self.map()?, &self.known(), address)
    }

    fn map(&self) -> Option<Arc<MemberMap>> {
        self.inner.fabric.membership.map.borrow().clone()
    }
}

impl Part {
    /// What the manifest says, apart from what the kernel has.
    fn written(&self, workload: &Name, rows: &[Row], direction: Direction, flows: &[Flow]) -> Consent {
        let map = self.membership.map.borrow().clone();
        let directory = self.membership.directory.borrow().clone();
        let view = View::new(map.as_deref(), self.membership.capsule, rows, &directory);
        let known = view.subject(workload).zip(view.world());
        let references = known.as_ref().map(|(subject, _)| subject.references(direction));
        let allowance = |flow: &Flow| {
            let reference =
                known.as_ref().and_then(|(subject, world)| allowing(world, subject, direction, flow));
            Allowance { flow: *flow, reference: reference.cloned(), allowed: false, passed: 0 }
        };
        Consent {
            references: references.into_iter().flatten().map(Reference::to_string).collect(),
            flows: flows.iter().map(allowance).collect(),
        }
    }
}

/// Asks the loaded filter about one flow.
async fn look_up(
    table: &str,
    sets: &[Set],
    direction: Direction,
    allowance: &mut Allowance,
) -> Result<(), NetworkError> {
    let flow = allowance.flow;
    let (singular, peer) = (format!("singular{}", flow.family()), flow.peer(direction).to_string());
    let is_singular = nft::element("inet", table, &singular, &peer).await.map_err(unfiltered)?.is_some();
    for set in sets.iter().filter(|set| !is_singular || set.is_for_singular()) {
        let Some(element) = flow.element(set) else { continue };
        let found = nft::element("inet", table, &set.to_string(), &element.text(set)).await;
        let Some(packets) = found.map_err(unfiltered)? else { continue };
        allowance.allowed = true;
        if set.is_exact() {
            allowance.passed += packets;
        }
    }
    Ok(())
}

fn unfiltered(error: RunError) -> NetworkError {
    NetworkError::Firewall(Arc::new(error))
}
