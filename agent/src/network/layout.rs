//! Names and addresses that follow from who the capsule is and what it was given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use capsule_fabric::map::Addresses;
use capsule_proto::v1;
use sha2::{Digest as _, Sha256};

use super::{
    Reservation,
    subnet::{Subnet4, Subnet6},
};
use crate::sys::link::Mac;

/// What every part of the network knows and nobody changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// First four hex digits of the capsule's id.
    pub(super) short: String,
    /// Name of the bridge.
    pub(super) bridge: String,
    /// The bridge's hardware address, of the whole id.
    pub(super) mac: Mac,
    pub(super) subnet4: Subnet4,
    pub(super) subnet6: Subnet6,
}

impl Layout {
    pub(super) fn new(capsule_id: &str, subnet4: Subnet4, subnet6: Subnet6) -> Self {
        let short: String = capsule_id.chars().take(4).collect();
        let digest = Sha256::digest(capsule_id.as_bytes());
        let mut mac = [0x02; 6];
        mac[1..].copy_from_slice(&digest[..5]);
        Self { bridge: bridge_name(capsule_id), short, mac, subnet4, subnet6 }
    }

    /// Name of the table, in both families.
    pub(super) fn table(&self) -> String {
        table_name(&self.short)
    }

    /// What the names of this capsule's veths begin with.
    pub(super) fn veth_prefix(&self) -> String {
        format!("cv{}", self.short)
    }

    /// A workload's veth: unique, as its host part is.
    pub(super) fn veth(&self, host: u32) -> String {
        format!("{}{host:08x}", self.veth_prefix())
    }

    /// The other way; `None` for links that are not a workload's.
    pub(super) fn host_of_veth(&self, link: &str) -> Option<u32> {
        let digits = link.strip_prefix(&self.veth_prefix())?;
        (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?
    }

    /// The host part of a workload's address.
    pub(super) fn host(&self, address: Ipv4Addr) -> u32 {
        address.to_bits().wrapping_sub(self.subnet4.address(0).to_bits())
    }

    pub(super) fn reservation(&self, host: u32, ports: Vec<v1::Port>) -> Reservation {
        Reservation { ipv4: self.subnet4.address(host), ipv6: self.subnet6.address(host), ports }
    }

    pub(super) fn gateways(&self) -> [IpAddr; 2] {
        [IpAddr::V4(self.subnet4.gateway()), IpAddr::V6(self.subnet6.gateway())]
    }

    /// Whether an address is the bridge's or a workload's.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.subnet4.contains(address),
            IpAddr::V6(address) => self.subnet6.contains(address),
        }
    }
}

/// Name of the table of the capsule with these first four hex digits.
pub(super) fn table_name(short: &str) -> String {
    format!("capsule_{short}")
}

/// What the names of all capsules' bridges begin with.
pub const BRIDGE_PREFIX: &str = "cap-";

/// Name of a capsule's bridge.
pub(super) fn bridge_name(capsule_id: &str) -> String {
    format!("{BRIDGE_PREFIX}{}", capsule_id.chars().take(4).collect::<String>())
}

/// A workload's hardware address: locally administered, and as unique as its IPv4 address.
pub(super) fn workload_mac(ipv4: Ipv4Addr) -> Mac {
    let [a, b, c, d] = ipv4.octets();
    [0x02, 0xca, a, b, c, d]
}

/// A workload that is attached, as the packet filter and the name service see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) veth: String,
    pub(super) ipv4: Ipv4Addr,
    pub(super) ipv6: Ipv6Addr,
    /// Beside them, in the fabric.
    pub(super) fabric: Option<Addresses>,
    pub(super) ports: Vec<v1::Port>,
}

impl Member {
    pub(super) fn new(layout: &Layout, reservation: &Reservation, fabric: Option<Addresses>) -> Self {
        Self {
            veth: layout.veth(layout.host(reservation.ipv4)),
            ipv4: reservation.ipv4,
            ipv6: reservation.ipv6,
            fabric,
            ports: reservation.ports.clone(),
        }
    }

    pub(super) fn mac(&self) -> Mac {
        workload_mac(self.ipv4)
    }
}
