//! Network mode and ports.

use std::net::IpAddr;

use super::Report;
use crate::v1;

/// Most ports of one workload; each is compared with each.
const MAX_PORTS: usize = 1024;

/// Ports that a process can listen on.
pub(super) fn port_is_valid(port: u32) -> bool {
    (1..=65535).contains(&port)
}

pub(super) fn check_ports(report: &mut Report, mode: v1::NetworkMode, ports: &[v1::Port]) {
    if ports.len() > MAX_PORTS {
        return report
            .add_at("ports", format!("{} ports are too many; {MAX_PORTS} is the most", ports.len()));
    }
    report.each("ports", ports, |report, index, port| {
        check_port(report, port);
        check_mode(report, mode, port);
        if let Some(earlier) = ports[..index].iter().position(|earlier| collide(earlier, port)) {
            let message = match port.host_port {
                Some(host) if host != 0 => {
                    format!("host port {host}/{} is taken by ports[{earlier}]", port.protocol())
                }
                _ => format!("it repeats ports[{earlier}]"),
            };
            report.add(message);
        }
    });
}

fn check_port(report: &mut Report, port: &v1::Port) {
    report.check_enum::<v1::Protocol>("protocol", port.protocol);
    if port.container_port == 0 {
        report.add_at("containerPort", "it is missing; write a port from 1 to 65535");
    } else if !port_is_valid(port.container_port) {
        report.add_at("containerPort", format!("{} is not a port from 1 to 65535", port.container_port));
    }
    if let Some(host) = port.host_port.filter(|host| *host > 65535) {
        report.add_at("hostPort", format!("{host} is not a port from 1 to 65535, nor 0 for any free one"));
    }
    if port.host_ip.is_empty() {
        return;
    }
    if port.host_ip.parse::<IpAddr>().is_err() {
        report.add_at("hostIp", format!("{:?} is not an IPv4 or IPv6 address", port.host_ip));
    } else if port.host_port.is_none() {
        report.add_at("hostIp", "only a published port listens on the host; add hostPort");
    }
}

/// What the network mode lets a port say.
fn check_mode(report: &mut Report, mode: v1::NetworkMode, port: &v1::Port) {
    match (mode, port.host_port) {
        (v1::NetworkMode::None, Some(_)) => {
            report.add_at("hostPort", "without a network nothing can be published; use networkMode: bridge");
        }
        (v1::NetworkMode::Host, Some(host)) if host != port.container_port => {
            let message = "on the host's network a port is published as it is; leave hostPort out or make it \
                           the same as containerPort";
            report.add_at("hostPort", message);
        }
        (v1::NetworkMode::Host, _) if !port.host_ip.is_empty() => {
            report.add_at(
                "hostIp",
                "on the host's network the workload itself picks its address; leave hostIp out",
            );
        }
        _ => {}
    }
}

/// Two entries of one list that cannot both be.
fn collide(a: &v1::Port, b: &v1::Port) -> bool {
    if a.protocol() != b.protocol() {
        return false;
    }
    match (a.host_port.unwrap_or(0), b.host_port.unwrap_or(0)) {
        (0, 0) => (a.container_port, a.host_port, &a.host_ip) == (b.container_port, b.host_port, &b.host_ip),
        (x, y) => x == y && addresses_overlap(&a.host_ip, &b.host_ip),
    }
}

/// Whether one socket on each address could not be bound to the same port.
fn addresses_overlap(a: &str, b: &str) -> bool {
    let parse = |text: &str| text.parse::<IpAddr>().ok().filter(|address| !address.is_unspecified());
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}
