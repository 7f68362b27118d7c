//! What the operator of the host decides, from the command line.

use std::{net::SocketAddr, path::PathBuf};

use capsule_proto::DEFAULT_PORT;

use crate::{
    discovery::Mdns,
    fabric::{FabricConfig, LinkConfig, Wireguard},
    image::{Authority, Mirror},
};

/// The host's own list of resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// As WireGuard's own documentation has it.
const FABRIC_PORT: u16 = 51820;

/// Settings of one agent.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Directory that holds everything this capsule is: database, keys, images, volumes, logs
    #[arg(long, value_name = "DIR", env = "CAPSULED_STATE_DIR")]
    pub state_dir: PathBuf,

    /// Address of the API; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", default_value_t = default_listen())]
    pub listen: SocketAddr,

    /// Name shown to operators, unless one of them has set another; the host's own where absent
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,

    /// This is the agent of an appliance, which init has started
    #[arg(long, hide = true)]
    pub appliance: bool,

    /// Keep volumes in the thin pool of the volume group on this device; an appliance knows its own
    #[arg(long, hide = true, value_name = "DEVICE")]
    pub volume_group: Option<PathBuf>,

    /// Announce the capsule in its network by multicast DNS, for `fleetctl discover`
    #[arg(long, value_enum, value_name = "ON|OFF", default_value_t)]
    pub mdns: Mdns,

    /// The containerd program
    #[arg(long, value_name = "PATH", default_value = "containerd")]
    pub containerd: PathBuf,

    /// Subnet of the bridge; chosen where absent, and kept
    #[arg(long, value_name = "CIDR")]
    pub bridge_subnet: Option<String>,

    /// UDP port where peers of the fabric meet this capsule
    #[arg(long, value_name = "PORT", default_value_t = FABRIC_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub fabric_port: u16,

    /// Which WireGuard carries the fabric
    #[arg(long, value_enum, default_value_t)]
    pub wireguard: Wireguard,

    /// Where the resolvers are listed that answer workloads' questions about the outer world
    #[arg(long, value_name = "FILE", default_value = RESOLV_CONF)]
    pub resolv_conf: PathBuf,

    /// Ask URL before the registry itself; may be repeated
    #[arg(long = "mirror", value_name = "REGISTRY=URL")]
    pub mirrors: Vec<Mirror>,

    /// Speak plain HTTP to this registry; may be repeated. Loopback always may be plain
    #[arg(long = "insecure-registry", value_name = "HOST")]
    pub insecure_registries: Vec<String>,

    /// Trust the authority whose certificate is in this PEM file to vouch for this registry, beside
    /// those the host trusts; may be repeated
    #[arg(long = "registry-ca", value_name = "HOST=FILE")]
    pub registry_authorities: Vec<Authority>,
}

impl Config {
    /// Everything else as the command line defaults to.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            listen: default_listen(),
            hostname: None,
            appliance: false,
            volume_group: None,
            mdns: Mdns::On,
            containerd: "containerd".into(),
            bridge_subnet: None,
            fabric_port: FABRIC_PORT,
            wireguard: Wireguard::Auto,
            resolv_conf: RESOLV_CONF.into(),
            mirrors: Vec::new(),
            insecure_registries: Vec::new(),
            registry_authorities: Vec::new(),
        }
    }
}

impl Config {
    /// The part that the fabric must know; a simulated capsule has no link.
    pub(crate) fn fabric(&self, is_simulated: bool) -> std::io::Result<FabricConfig> {
        let real = || {
            Ok::<_, std::io::Error>(LinkConfig {
                wireguard: self.wireguard,
                program: std::env::current_exe()?,
            })
        };
        let link = if is_simulated { None } else { Some(real()?) };
        Ok(FabricConfig { state_dir: self.state_dir.clone(), port: self.fabric_port, link })
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, DEFAULT_PORT))
}
