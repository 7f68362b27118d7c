//! A capsule behind a router of its own that translates its addresses, as at most homes.
//!
//! ```text
//!   NAME-hub             NAME-r-a (router)            NAME-n-a
//!   br0 ─ p-a ──veth── wan 10.99.X.11
//!                      lan 192.168.77.1 ──veth── eth0 192.168.77.2
//! ```
//!
//! The router picks another port for each destination (endpoint-dependent mapping, RFC 4787) and lets
//! in only answers, so that two such capsules cannot meet by themselves. The API is forwarded, and
//! what a test asks for. There is IPv4 alone.

use std::net::Ipv4Addr;

use anyhow::Result;
use capsule_proto::DEFAULT_PORT;

use super::{
    Plan, Testbed,
    plan::PREFIX_V4,
    wire::{BRIDGE, NODE_LINK},
};
use crate::sys::{link, netns, run};

/// Of the router, on the capsule's side.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// Of the capsule.
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

/// Makes router and capsule, where they are not there yet.
pub fn ensure(plan: &Plan, position: usize, node: &str) -> Result<()> {
    let (hub, router, namespace, port) =
        (plan.hub(), plan.router(node), plan.namespace(node), Plan::port(node));
    if netns::exists(&router) && link::has_address(&namespace, NODE_LINK, &INSIDE.to_string()) {
        return Ok(());
    }
    netns::remove(&router)?;
    netns::remove(&namespace)?;
    netns::ensure(&router)?;
    netns::ensure(&namespace)?;
    link::batch_in(
        &hub,
        &format!(
            "link add {port} type veth peer name wan netns {router}\n\
             link set {port} master {BRIDGE}\n\
             link set {port} up\n"
        ),
    )?;
    let (outside, gateway) = (plan.node(position).0, plan.operator().0);
    link::batch_in(
        &router,
        &format!(
            "link set lo up\n\
             address add {outside}/{PREFIX_V4} dev wan\n\
             link set wan up\n\
             link add lan type veth peer name {NODE_LINK} netns {namespace}\n\
             address add {ROUTER}/24 dev lan\n\
             link set lan up\n\
             route add default via {gateway}\n"
        ),
    )?;
    link::batch_in(
        &namespace,
        &format!(
            "link set lo up\n\
             address add {INSIDE}/24 dev {NODE_LINK}\n\
             link set {NODE_LINK} up\n\
             route add default via {ROUTER}\n"
        ),
    )?;
    run(netns::command(&router, "sysctl").args(["-qw", "net.ipv4.ip_forward=1"]), "")?;
    link::nft_in(&router, &rules())
}

/// What nobody inside asked for is dropped without a trace, as routers do: an entry of the connection
/// tracking would keep a port from being forwarded later.
fn rules() -> String {
    format!(
        "table ip nat {{\n\
         chain prerouting {{ type nat hook prerouting priority dstnat;\n\
         iifname wan tcp dport {DEFAULT_PORT} dnat to {INSIDE}\n}}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat;\n\
         oifname wan masquerade fully-random\n}}\n\
         chain input {{ type filter hook input priority filter;\n\
         iifname wan ct state new drop\n}}\n\
         chain forward {{ type filter hook forward priority filter; policy drop;\n\
         ct state established,related accept\n\
         iifname lan accept\n\
         ct status dnat accept\n}}\n\
         }}\n"
    )
}

impl Testbed {
    /// Lets a UDP port of a capsule behind a router be reached at the router's address, and keeps
    /// that port for what the capsule sends from it.
    pub fn forward_udp(&self, node: &str, port: u16) -> Result<()> {
        let rules = format!(
            "insert rule ip nat prerouting iifname wan udp dport {port} dnat to {INSIDE}\n\
             insert rule ip nat postrouting oifname wan udp sport {port} masquerade to :{port}\n"
        );
        link::nft_in(&self.plan().router(node), &rules)
    }
}
