//! `capsuled wg`: the WireGuard device of kernels that have none, as a process of its own, so that no
//! session ends with the agent.

use capsule_fabric::device::{self, Config, DEFAULT_MTU, InterfaceName, Offloads};
use capsuled::{logging, sys::memory};
use clap::{Args, ValueEnum};

/// boringtun tells of every handshake, and of every silent peer as an error.
const LOG_FILTER: &str = "info,boringtun=off";

#[derive(Args)]
pub struct WgArgs {
    /// Name of the interface, and so of the API socket
    #[arg(long)]
    interface: InterfaceName,
    /// Bytes of a packet inside the tunnel
    #[arg(long, default_value_t = DEFAULT_MTU, value_parser = clap::value_parser!(u16).range(576..))]
    mtu: u16,
    /// UDP port until the API sets another; 0 for any that is free
    #[arg(long, default_value_t = 0)]
    listen_port: u16,
    /// Mark of the packets that it sends, for routing rules; 0 for none
    #[arg(long, default_value_t = 0)]
    fwmark: u32,
    /// Work that the kernel is not to be asked to do for many packets at once
    #[arg(long, value_enum, value_delimiter = ',')]
    without: Vec<Offload>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Offload {
    /// Headers on the TUN, and with them tso and uso
    VnetHeader,
    /// TCP segments as one packet of the TUN
    Tso,
    /// UDP datagrams as one packet of the TUN
    Uso,
    /// Datagrams sent as one
    UdpGso,
    /// Datagrams received as one
    UdpGro,
}

impl WgArgs {
    pub fn run(self) -> anyhow::Result<()> {
        memory::bound_malloc();
        logging::init_stderr(LOG_FILTER);
        Ok(device::run(&self.config())?)
    }

    fn config(self) -> Config {
        let uses = |offload| !self.without.contains(&offload);
        let offloads = Offloads {
            vnet_header: uses(Offload::VnetHeader),
            tso: uses(Offload::Tso),
            uso: uses(Offload::Uso),
            udp_gso: uses(Offload::UdpGso),
            udp_gro: uses(Offload::UdpGro),
        };
        let Self { interface, mtu, listen_port, fwmark, .. } = self;
        Config { interface, mtu, listen_port, fwmark, offloads }
    }
}
