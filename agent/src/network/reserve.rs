//! Addresses and ports, given and taken inside a caller's transaction.

use std::{collections::HashSet, net::IpAddr};

use capsule_proto::{Name, v1};
use rusqlite::{Connection, Transaction};

use super::{
    Network, Reservation, blocking,
    error::NetworkError,
    layout::table_name,
    plumbing,
    port::{self, Binding, Wanted, protocol_name},
    table::{self, Held},
};
use crate::sys::nft;

impl Network {
    /// Gives a bridged workload its address and its host ports; what it has already, it keeps,
    /// picked ports included, and so with its place in the fabric. `None` in other modes, which give back what was held.
    pub fn reserve(
        &self,
        tx: &Transaction<'_>,
        name: &Name,
        spec_ports: &[v1::Port],
        mode: v1::NetworkMode,
        fabric: Option<&v1::FabricSpec>,
    ) -> Result<Option<Reservation>, NetworkError> {
        if matches!(mode, v1::NetworkMode::Host | v1::NetworkMode::None) {
            self.release(tx, name)?;
            return Ok(None);
        }
        let wanted = port::wanted(name, spec_ports)?;
        let (mine, others): (Vec<_>, Vec<_>) =
            table::held(tx)?.into_iter().partition(|held| held.workload == name.as_str());
        let ports = settle(name, &wanted, &mine, &others, |binding| binding.probe().is_ok())?;
        if ports != mine {
            table::drop_ports(tx, name)?;
            ports.iter().try_for_each(|held| table::hold(tx, held))?;
        }
        if table::host_part(tx, name)?.is_none() {
            let taken = table::host_parts(tx)?;
            let subnet = &self.inner.layout.subnet4;
            let host = lowest_free(subnet.hosts(), taken.iter().map(|(_, host)| *host))
                .ok_or_else(|| NetworkError::AddressesExhausted { subnet: subnet.to_string() })?;
            table::set_host_part(tx, name, host)?;
        }
        self.inner.fabric.reserve(tx, name, fabric)?;
        self.reservation(tx, name)
    }

    /// Takes back address and ports, and its place in the fabric.
    pub fn release(&self, tx: &Transaction<'_>, name: &Name) -> Result<(), NetworkError> {
        table::drop_ports(tx, name)?;
        self.inner.fabric.reserve(tx, name, None)?;
        Ok(table::drop_address(tx, name)?)
    }

    /// What a workload has been given.
    pub fn reservation(&self, db: &Connection, name: &Name) -> Result<Option<Reservation>, NetworkError> {
        let Some(host) = table::host_part(db, name)? else { return Ok(None) };
        let held = table::held(db)?.into_iter().filter(|held| held.workload == name.as_str());
        Ok(Some(self.inner.layout.reservation(host, held.map(|held| held.to_port()).collect())))
    }

    /// Refuses ports that a process of the host listens on. `except` are ports that are the
    /// caller's own already. Ports to be picked are probed when they are.
    pub async fn check_host_ports(
        &self,
        ports: &[v1::Port],
        except: &HashSet<(v1::Protocol, u16)>,
    ) -> Result<(), NetworkError> {
        for port in ports {
            let number = port.host_port() as u16;
            let protocol = match port.protocol() {
                v1::Protocol::Udp => v1::Protocol::Udp,
                _ => v1::Protocol::Tcp,
            };
            if number == 0 || except.contains(&(protocol, number)) {
                continue;
            }
            let address: Option<IpAddr> = port.host_ip.parse().ok();
            Binding { protocol, address, port: number }.probe()?;
            self.refuse_neighbours_port(protocol, number).await?;
        }
        Ok(())
    }

    /// A port that another agent in this network namespace publishes has no socket to be seen by.
    async fn refuse_neighbours_port(&self, protocol: v1::Protocol, port: u16) -> Result<(), NetworkError> {
        let bridge = self.inner.layout.bridge.clone();
        let list =
            move || plumbing::neighbours(&bridge).map_err(NetworkError::kernel("list the host's links"));
        let published = format!("{} . {port} :", protocol_name(protocol));
        for short in blocking(list).await? {
            // One that is being taken down has no table any more.
            let Ok(table) = nft::table("inet", &table_name(&short)).await else { continue };
            if table.contains(&published) {
                let (protocol, holder) = (protocol_name(protocol), format!("capsule-{short}"));
                return Err(NetworkError::PortPublished { port, protocol, holder });
            }
        }
        Ok(())
    }
}

/// The lowest of `range` that is not in `taken`, which ascends.
pub(super) fn lowest_free(
    mut range: impl Iterator<Item = u32>,
    taken: impl IntoIterator<Item = u32>,
) -> Option<u32> {
    let mut taken = taken.into_iter().peekable();
    range.find(|candidate| {
        while taken.next_if(|used| used < candidate).is_some() {}
        taken.next_if_eq(candidate).is_none()
    })
}

/// The ports that a workload gets, in the order of [`table::held`]. Named ones first, so that a
/// picked one never stands in the way of a named one of the same workload.
pub(super) fn settle(
    workload: &Name,
    wanted: &[Wanted],
    mine: &[Held],
    others: &[Held],
    probe: impl Fn(&Binding) -> bool,
) -> Result<Vec<Held>, NetworkError> {
    let mut result: Vec<Held> = Vec::with_capacity(wanted.len());
    let held = |wanted: Wanted, picked| Held { workload: workload.to_string(), wanted, picked };
    for want in wanted.iter().filter(|want| want.binding.port != 0) {
        let binding = &want.binding;
        let holder = others.iter().chain(&result).find(|held| held.wanted.binding.overlaps(binding));
        if let Some(holder) = holder {
            return Err(NetworkError::PortTaken {
                workload: workload.clone(),
                port: binding.port,
                protocol: binding.protocol_name(),
                holder: holder.workload.clone(),
            });
        }
        result.push(held(want.clone(), false));
    }
    for want in wanted.iter().filter(|want| want.binding.port == 0) {
        let taken: Vec<Binding> = others.iter().chain(&result).map(|held| held.wanted.binding).collect();
        let before = mine.iter().filter(|held| held.picked && same_place(&held.wanted, want));
        let kept = before
            .map(|held| held.wanted.binding)
            .find(|binding| !taken.iter().any(|other| other.overlaps(binding)));
        let binding =
            kept.or_else(|| port::pick(want.binding, &taken, &probe)).ok_or(NetworkError::PortsExhausted)?;
        result.push(held(Wanted { binding, ..want.clone() }, true));
    }
    result.sort_by_key(|held| {
        let Binding { protocol, address, port } = held.wanted.binding;
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        (held.wanted.container_port, protocol as i32, address, port)
    });
    Ok(result)
}

fn same_place(held: &Wanted, want: &Wanted) -> bool {
    let (one, two) = (&held.binding, &want.binding);
    held.container_port == want.container_port && one.protocol == two.protocol && one.address == two.address
}
