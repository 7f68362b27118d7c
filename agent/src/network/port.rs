//! Host ports: which bindings exclude each other, and which are free. Pure but for the probe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

use capsule_proto::{Name, v1};

use super::error::NetworkError;
use crate::sys::holder::{Protocol, holder};

/// Ports that the capsule picks from.
pub(super) const PICKED: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// A place on the host that one workload at most can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Binding {
    pub(super) protocol: v1::Protocol,
    /// Every address of both families where absent.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

impl Binding {
    /// Whether some packet would be for both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.protocol == other.protocol
            && self.port == other.port
            && match (self.address, other.address) {
                (Some(one), Some(two)) if one.is_ipv4() == two.is_ipv4() => {
                    one == two || one.is_unspecified() || two.is_unspecified()
                }
                (Some(_), Some(_)) => false,
                _ => true,
            }
    }

    pub(super) fn protocol_name(&self) -> &'static str {
        protocol_name(self.protocol)
    }

    /// Tries to listen there, for a moment.
    pub(super) fn probe(&self) -> Result<(), NetworkError> {
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let addresses = self.address.as_ref().map_or(&any[..], std::slice::from_ref);
        for address in addresses {
            let outcome = match self.protocol {
                v1::Protocol::Udp => UdpSocket::bind((*address, self.port)).map(drop),
                _ => TcpListener::bind((*address, self.port)).map(drop),
            };
            match outcome {
                Ok(()) => {}
                // A host without IPv6 has nothing that could be in the way there.
                Err(error) if self.address.is_none() && error.kind() != std::io::ErrorKind::AddrInUse => {
                    tracing::debug!(%error, %address, "not probed");
                }
                Err(source) => return Err(self.busy(*address, source)),
            }
        }
        Ok(())
    }

    fn busy(&self, address: IpAddr, source: std::io::Error) -> NetworkError {
        let protocol = self.protocol_name();
        let is_taken = source.kind() == std::io::ErrorKind::AddrInUse;
        let kind = if self.protocol == v1::Protocol::Udp { Protocol::Udp } else { Protocol::Tcp };
        let holder = if is_taken { holder(kind, self.port) } else { None };
        NetworkError::PortBusy { port: self.port, protocol, address: address.to_string(), holder, source }
    }
}

pub(super) fn protocol_name(protocol: v1::Protocol) -> &'static str {
    if protocol == v1::Protocol::Udp { "udp" } else { "tcp" }
}

/// A published port of a spec, checked. `host_port` 0 is still to be picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) container_port: u16,
    pub(super) binding: Binding,
}

/// The published ports of a spec.
pub(super) fn wanted(workload: &Name, ports: &[v1::Port]) -> Result<Vec<Wanted>, NetworkError> {
    ports.iter().filter(|port| port.host_port.is_some()).map(|port| parse(workload, port)).collect()
}

/// Whether two published ports cannot both be.
pub(super) fn collide(one: &v1::Port, two: &v1::Port) -> bool {
    let binding = |port: &v1::Port| Binding {
        protocol: if port.protocol() == v1::Protocol::Udp { v1::Protocol::Udp } else { v1::Protocol::Tcp },
        address: port.host_ip.parse().ok(),
        port: port.host_port() as u16,
    };
    binding(one).overlaps(&binding(two))
}

fn parse(workload: &Name, port: &v1::Port) -> Result<Wanted, NetworkError> {
    let refuse = |reason: String| NetworkError::Port { workload: workload.clone(), reason };
    let number = |field: &str, value: u32| {
        u16::try_from(value).map_err(|_| refuse(format!("{field} {value} is above 65535")))
    };
    let container_port = number("containerPort", port.container_port)?;
    if container_port == 0 {
        return Err(refuse("containerPort must be 1 to 65535".into()));
    }
    let address = match port.host_ip.as_str() {
        "" => None,
        text => Some(
            text.parse().map_err(|_| refuse(format!("hostIp {text:?} is not an IPv4 or IPv6 address")))?,
        ),
    };
    let protocol = match port.protocol() {
        v1::Protocol::Udp => v1::Protocol::Udp,
        _ => v1::Protocol::Tcp,
    };
    let binding = Binding { protocol, address, port: number("hostPort", port.host_port())? };
    Ok(Wanted { container_port, binding })
}

/// The lowest port of [`PICKED`] whose binding overlaps none of `taken` and is free by `probe`.
pub(super) fn pick(like: Binding, taken: &[Binding], probe: impl Fn(&Binding) -> bool) -> Option<Binding> {
    PICKED
        .map(|port| Binding { port, ..like })
        .find(|candidate| !taken.iter().any(|other| candidate.overlaps(other)) && probe(candidate))
}
