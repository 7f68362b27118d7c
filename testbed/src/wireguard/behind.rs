//! What a workload has before it, made by hand: a bridge and a veth.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;

use super::{MTU, Mesh, PORT};
use crate::sys::{self, link, netns};

/// The interface of a namespace behind a node.
const INNER: &str = "eth0";

/// A namespace on a bridge of a node's, as a workload is, which its peer reaches.
#[derive(Debug)]
pub struct Behind {
    /// Its name.
    pub namespace: String,
    /// Where it is.
    pub address: IpAddr,
}

impl Behind {
    /// Behind the node at this place, with a way there for the other node.
    pub fn new(mesh: &Mesh, at: usize) -> Result<Self> {
        let (node, other) = (mesh.node(at), mesh.node(1 - at));
        let address = Ipv4Addr::new(10, 78, at as u8, 2).into();
        let behind = Self { namespace: format!("{}-in", node.namespace), address };
        netns::ensure(&behind.namespace)?;
        let Self { namespace, address } = &behind;
        sys::run(netns::command(&node.namespace, "sysctl").args(["-qw", "net.ipv4.ip_forward=1"]), "")?;
        link::batch_in(
            &node.namespace,
            &format!(
                "link add inner type bridge\naddress add 10.78.{at}.1/24 dev inner\nlink set inner mtu {MTU} up\n\
                 link add port type veth peer name {INNER} netns {namespace}\n\
                 link set port mtu {MTU} master inner up\n"
            ),
        )?;
        link::batch_in(
            namespace,
            &format!(
                "link set lo up\naddress add {address}/24 dev {INNER}\nlink set {INNER} mtu {MTU} up\n\
                 route add default via 10.78.{at}.1\n"
            ),
        )?;
        let endpoint = SocketAddr::new(node.outside[0], PORT).to_string();
        let allowed = format!("{}/32,10.78.{at}.0/24", node.inside[0]);
        // boringtun-cli changes no peer in place.
        other.wg(&["set", "peer", &node.public_key, "remove"])?;
        other.wg(&["set", "peer", &node.public_key, "endpoint", &endpoint, "allowed-ips", &allowed])?;
        link::batch_in(&other.namespace, &format!("route add 10.78.{at}.0/24 dev {}\n", other.interface))?;
        Ok(behind)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        if let Err(error) = netns::remove(&self.namespace) {
            eprintln!("network namespace {} stays: {error:#}", self.namespace);
        }
    }
}
