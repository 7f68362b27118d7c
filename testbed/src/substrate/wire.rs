//! Makes the namespaces and joins them.

use anyhow::Result;

use super::{
    Plan, Record, Substrate, nat,
    plan::{PREFIX_V4, PREFIX_V6},
};
use crate::sys::{link, netns};

/// Bridge inside the hub.
pub(super) const BRIDGE: &str = "br0";
/// Interface of a node.
pub const NODE_LINK: &str = "eth0";

/// Makes what is not there yet.
pub fn ensure(record: &Record) -> Result<()> {
    let plan = Plan::new(&record.name, record.subnet);
    ensure_hub(&plan)?;
    for (position, node) in record.nodes.iter().enumerate() {
        match (&record.substrate, node.behind_nat) {
            (Substrate::Netns, true) => nat::ensure(&plan, position, &node.name)?,
            (Substrate::Netns, false) => ensure_node(&plan, position, &node.name)?,
            (Substrate::Qemu(_), _) => ensure_tap(&plan, &node.name)?,
        }
    }
    Ok(())
}

/// The end of a machine's network card.
fn ensure_tap(plan: &Plan, node: &str) -> Result<()> {
    let (hub, port) = (plan.hub(), Plan::port(node));
    if link::names_in(&hub)?.contains(&port) {
        return Ok(());
    }
    link::batch_in(
        &hub,
        &format!(
            "tuntap add dev {port} mode tap\n\
             link set {port} master {BRIDGE}\n\
             link set {port} up\n"
        ),
    )
}

fn ensure_hub(plan: &Plan) -> Result<()> {
    let (hub, link) = (plan.hub(), plan.operator_link());
    let (own_v4, own_v6) = plan.hub_address();
    if netns::exists(&hub) && link::exists(&link) && link::has_address(&hub, BRIDGE, &own_v4.to_string()) {
        return Ok(());
    }
    netns::remove(&hub)?;
    link::remove(&link)?;
    netns::ensure(&hub)?;
    link::batch_in(
        &hub,
        &format!(
            "link set lo up\n\
             link add {BRIDGE} type bridge\n\
             address add {own_v4}/{PREFIX_V4} dev {BRIDGE}\n\
             address add {own_v6}/{PREFIX_V6} dev {BRIDGE} nodad\n\
             link set {BRIDGE} up\n"
        ),
    )?;
    let (v4, v6) = plan.operator();
    link::batch(&format!(
        "link add {link} type veth peer name uplink netns {hub}\n\
         address add {v4}/{PREFIX_V4} dev {link}\n\
         address add {v6}/{PREFIX_V6} dev {link} nodad\n\
         link set {link} up\n"
    ))?;
    link::batch_in(&hub, &format!("link set uplink master {BRIDGE}\nlink set uplink up\n"))
}

fn ensure_node(plan: &Plan, position: usize, node: &str) -> Result<()> {
    let (hub, namespace, port) = (plan.hub(), plan.namespace(node), Plan::port(node));
    let (v4, v6) = plan.node(position);
    if netns::exists(&namespace) && link::has_address(&namespace, NODE_LINK, &v4.to_string()) {
        return Ok(());
    }
    netns::remove(&namespace)?;
    netns::ensure(&namespace)?;
    link::batch_in(
        &hub,
        &format!(
            "link add {port} type veth peer name {NODE_LINK} netns {namespace}\n\
             link set {port} master {BRIDGE}\n\
             link set {port} up\n"
        ),
    )?;
    let (gateway_v4, gateway_v6) = plan.operator();
    link::batch_in(
        &namespace,
        &format!(
            "link set lo up\n\
             address add {v4}/{PREFIX_V4} dev {NODE_LINK}\n\
             address add {v6}/{PREFIX_V6} dev {NODE_LINK} nodad\n\
             link set {NODE_LINK} up\n\
             route add default via {gateway_v4}\n\
             route add default via {gateway_v6}\n"
        ),
    )
}
