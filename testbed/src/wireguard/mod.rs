//! WireGuard devices in network namespaces of their own, without a fleet: what tests and benches of
//! the device are made of.
//!
//! - [`underlay`]: namespaces and the wires between them;
//! - [`device`]: one device of any make, started there;
//! - [`Mesh`]: several of them, everyone a peer of everyone;
//! - [`behind`]: what a workload has before it, made by hand;
//! - [`stream`]: bytes through it that must arrive as they were sent.

pub mod behind;
pub mod device;
pub mod stream;
pub mod underlay;

use std::{fmt::Write as _, net::IpAddr, process::Command};

use anyhow::{Context as _, Result};

use self::{
    device::{Device, Make},
    underlay::Underlay,
};
use crate::sys::{link, netns, run};

/// Where every device of a mesh listens at first.
pub const PORT: u16 = 51_820;
/// Of the links inside: what 1500 bytes outside leave.
pub const MTU: u16 = 1420;

/// Names what every agent of a testbed is told to use, `--wireguard` of theirs.
pub const KIND_VARIABLE: &str = "TESTBED_WIREGUARD";

/// One device with its keys, in its namespace.
pub struct Node {
    /// Name of the namespace.
    pub namespace: String,
    /// Name of the interface, and so of the API's socket.
    pub interface: String,
    /// Where it is reached outside.
    pub outside: [IpAddr; 2],
    /// Its addresses inside.
    pub inside: [IpAddr; 2],
    /// In base64, as `wg` writes it.
    pub public_key: String,
    private_key: String,
    /// The running device.
    pub device: Device,
}

/// Devices that are all peers of each other.
pub struct Mesh {
    /// In the order given.
    pub nodes: Vec<Node>,
    // Dropped after the devices in it.
    underlay: Underlay,
}

/// Which addresses of a pair, outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Mesh {
    /// Starts one device for each of `makes`, tells each of all others and sets addresses.
    pub fn start(makes: &[Make], outside: Family) -> Result<Self> {
        let underlay = Underlay::new(makes.len())?;
        let nodes: Result<Vec<Node>> =
            makes.iter().enumerate().map(|(at, make)| Node::start(&underlay, at, make)).collect();
        let mesh = Self { nodes: nodes?, underlay };
        for node in &mesh.nodes {
            node.configure(&mesh.configuration(node, outside))?;
            node.bring_up()?;
        }
        Ok(mesh)
    }

    /// A device among others.
    pub fn node(&self, at: usize) -> &Node {
        &self.nodes[at]
    }

    /// The namespaces and wires outside.
    pub fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// What `wg setconf` takes for a node: everyone else is its peer.
    pub fn configuration(&self, node: &Node, outside: Family) -> String {
        let mut text = node.own_section();
        for peer in self.nodes.iter().filter(|peer| peer.public_key != node.public_key) {
            text.push_str(&peer.as_peer(outside));
        }
        text
    }
}

impl Node {
    fn start(underlay: &Underlay, at: usize, make: &Make) -> Result<Self> {
        let (namespace, interface) = (underlay.namespace(at), underlay.interface(at));
        let private_key = run(Command::new("wg").arg("genkey"), "")?.trim().to_owned();
        let public_key = run(Command::new("wg").arg("pubkey"), &private_key)?.trim().to_owned();
        let device = Device::start(make, &namespace, &interface)?;
        let inside = [
            format!("10.77.0.{}", at + 1).parse().context("an address")?,
            format!("fd77::{:x}", at + 1).parse().context("an address")?,
        ];
        let outside = underlay.addresses(at);
        Ok(Self { namespace, interface, outside, inside, public_key, private_key, device })
    }

    /// Gives the interface its addresses and takes it up.
    pub fn bring_up(&self) -> Result<()> {
        let Self { interface, inside: [v4, v6], .. } = self;
        let commands = format!(
            "link set {interface} mtu {MTU} up\naddress replace {v4}/24 dev {interface}\n\
             address replace {v6}/64 dev {interface} nodad\n"
        );
        link::batch_in(&self.namespace, &commands)
    }

    /// Runs `wg` with these words, and the interface after the first.
    pub fn wg(&self, words: &[&str]) -> Result<String> {
        let mut command = netns::command(&self.namespace, "wg");
        run(command.arg(words[0]).arg(&self.interface).args(&words[1..]), "")
    }

    /// Replaces its configuration by a file's content, as `wg setconf` does.
    pub fn configure(&self, content: &str) -> Result<()> {
        let mut command = netns::command(&self.namespace, "wg");
        run(command.args(["setconf", &self.interface, "/dev/stdin"]), content).map(drop)
    }

    /// The `[Interface]` of its configuration.
    pub fn own_section(&self) -> String {
        format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", self.private_key)
    }

    /// The `[Peer]` that it is to others.
    pub fn as_peer(&self, outside: Family) -> String {
        let endpoint = std::net::SocketAddr::new(self.outside[usize::from(outside == Family::V6)], PORT);
        self.as_peer_at(&endpoint.to_string())
    }

    /// The same, at an endpoint.
    pub fn as_peer_at(&self, endpoint: &str) -> String {
        let mut text = format!("[Peer]\nPublicKey = {}\nEndpoint = {endpoint}\n", self.public_key);
        let [v4, v6] = self.inside;
        let _ = writeln!(text, "AllowedIPs = {v4}/32, {v6}/128");
        text
    }

    /// One field of `wg show INTERFACE FIELD` for a peer.
    pub fn shown(&self, field: &str, peer: &Node) -> Result<String> {
        let text = self.wg(&["show", field])?;
        let line = text.lines().find_map(|line| line.strip_prefix(&peer.public_key));
        Ok(line.with_context(|| format!("no {field} of the peer in:\n{text}"))?.trim().to_owned())
    }

    /// Calls `work` in its namespace, on a thread of its own.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        netns::inside(&self.namespace, work)
    }
}
