//! Who is called what and has which address; pure.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use capsule_proto::DEFAULT_PORT;

/// Capsules that fit into one testbed's subnet beside its own addresses.
pub const MAX_NODES: usize = 200;
/// Longest name of a testbed or a capsule: their interfaces carry it.
pub const MAX_NAME: usize = 11;
/// Bits of the testbed's IPv4 network.
pub const PREFIX_V4: u8 = 24;
/// Bits of its IPv6 network.
pub const PREFIX_V6: u8 = 64;
/// Of the first node in the subnet; those below are the testbed's own.
const FIRST_NODE: usize = 11;

/// Addresses and names of one testbed.
#[derive(Clone, Debug)]
pub struct Plan {
    name: String,
    subnet: u8,
}

impl Plan {
    /// Of the testbed called `name` on `10.99.subnet.0/24` and `fd99:subnet::/64`.
    pub fn new(name: &str, subnet: u8) -> Self {
        Self { name: name.to_owned(), subnet }
    }

    /// Namespace of the bridge.
    pub fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    /// Namespace of a node.
    pub fn namespace(&self, node: &str) -> String {
        format!("{}-n-{node}", self.name)
    }

    /// Namespace of the router that a node is behind, where it is.
    pub fn router(&self, node: &str) -> String {
        format!("{}-r-{node}", self.name)
    }

    /// Interface in the root namespace through which the operator reaches the capsules.
    pub fn operator_link(&self) -> String {
        format!("tb-{}", self.name)
    }

    /// The bridge's port of a node, inside the hub.
    pub fn port(node: &str) -> String {
        format!("p-{node}")
    }

    /// The network, as routes spell it.
    pub fn network_v4(&self) -> String {
        format!("10.99.{}.0/{PREFIX_V4}", self.subnet)
    }

    /// Where the operator's host is.
    pub fn operator(&self) -> (Ipv4Addr, Ipv6Addr) {
        self.host(1)
    }

    /// Where the hub is, and the registry on it.
    pub fn hub_address(&self) -> (Ipv4Addr, Ipv6Addr) {
        self.host(2)
    }

    /// Where the node at this position is.
    pub fn node(&self, position: usize) -> (Ipv4Addr, Ipv6Addr) {
        self.host(FIRST_NODE + position)
    }

    /// Of the network card of the machine at this position, where it is one.
    pub fn mac(&self, position: usize) -> [u8; 6] {
        // QEMU's prefix.
        [0x52, 0x54, 0, 0x99, self.subnet, (FIRST_NODE + position) as u8]
    }

    /// Where its agent answers.
    pub fn api(&self, position: usize) -> SocketAddr {
        SocketAddr::from((self.node(position).0, DEFAULT_PORT))
    }

    /// Where the registry of the testbed answers.
    pub fn registry(&self) -> SocketAddr {
        SocketAddr::from((self.hub_address().0, 5000))
    }

    /// The network of the workloads of the node at this position: never another node's, so that
    /// an address says whose it is.
    pub fn workloads(&self, position: usize) -> String {
        format!("10.{}.{}.0/24", 100 + u32::from(self.subnet) % 100, position + 1)
    }

    fn host(&self, host: usize) -> (Ipv4Addr, Ipv6Addr) {
        let v4 = Ipv4Addr::new(10, 99, self.subnet, host as u8);
        (v4, Ipv6Addr::new(0xfd99, u16::from(self.subnet), 0, 0, 0, 0, 0, host as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::link;

    #[test]
    fn every_interface_name_fits_the_kernel() {
        let longest = "x".repeat(MAX_NAME);
        assert!(Plan::new(&longest, 0).operator_link().len() <= link::MAX_NAME);
        assert!(Plan::port(&longest).len() <= link::MAX_NAME);
    }

    #[test]
    fn the_last_node_still_has_an_address_of_its_own() {
        let plan = Plan::new("t", 255);
        assert_eq!(plan.node(MAX_NODES - 1).0, Ipv4Addr::new(10, 99, 255, 210));
        assert_eq!(plan.workloads(MAX_NODES - 1), "10.155.200.0/24");
    }
}
