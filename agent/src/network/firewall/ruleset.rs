//! The capsule's two nftables tables as text, computed from state: sets and maps grow with
//! workloads, rules do not.
//!
//! `inet` holds addresses and ports; `bridge` makes every veth speak only for its own workload.
//! What is dropped is counted, from the agent's start on: `spoofed` (a workload that speaks for
//! somebody else), `loopback` (one that aims at the host's 127.0.0.0/8), `unasked` (from outside, to
//! no published port).
//! Limits: a port published on every address is not reachable at `[::1]`, since the kernel sends
//! nothing from there to another link; `127.0.0.1` is.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr},
};

use capsule_fabric::map::Prefix;
use capsule_proto::{Name, v1};

use crate::network::{
    layout::{Layout, Member},
    port::protocol_name,
};

/// What becomes of tables that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    /// They go with all that is in them, whoever made them.
    Remove,
    /// They were made by [`render`] of this very program: their counters count on.
    Refill,
}

/// The script of one transaction that replaces what both tables hold.
pub(crate) fn render(
    layout: &Layout,
    members: &BTreeMap<Name, Member>,
    fabric: Option<[Prefix; 2]>,
    old: Old,
) -> String {
    let table = layout.table();
    let mut script = match old {
        Old::Remove => removal(layout),
        Old::Refill => emptying(&table),
    };
    let _ = write!(
        script,
        "table inet {table} {{\n{}{}{}}}\n",
        sets(members),
        ranges(fabric),
        INET.trim_start_matches('\n')
    );
    let _ =
        write!(script, "table bridge {table} {{\n{}{}}}\n", ports(members), BRIDGE.trim_start_matches('\n'));
    let [gateway4, gateway6] = layout.gateways();
    script
        .replace("@BRIDGE", &format!("\"{}\"", layout.bridge))
        .replace("@VETHS", &format!("\"{}*\"", layout.veth_prefix()))
        .replace("@GATEWAY4", &gateway4.to_string())
        .replace("@GATEWAY6", &gateway6.to_string())
}

/// Removes both tables, whether they are there or not.
pub(crate) fn removal(layout: &Layout) -> String {
    let table = layout.table();
    ["inet", "bridge"]
        .map(|family| format!("table {family} {table}\ndelete table {family} {table}\n"))
        .concat()
}

/// Takes rules and elements out and leaves counters.
fn emptying(table: &str) -> String {
    let mut script = format!("flush table inet {table}\nflush table bridge {table}\n");
    for set in ["workload4", "workload6", "fabric4", "fabric6"] {
        let _ = writeln!(script, "flush set inet {table} {set}");
    }
    for map in ["published4", "published4_at", "published6", "published6_at"] {
        let _ = writeln!(script, "flush map inet {table} {map}");
    }
    for set in ["member4", "member6"] {
        let _ = writeln!(script, "flush set bridge {table} {set}");
    }
    script
}

const INET: &str = "
  counter loopback { }
  counter unasked { }
  chain publish {
    iifname @BRIDGE ip daddr @GATEWAY4 th dport 53 return
    iifname @BRIDGE ip6 daddr @GATEWAY6 th dport 53 return
    ip6 daddr ::1 return
    ip daddr @fabric4 return
    ip6 daddr @fabric6 return
    dnat ip to ip daddr . meta l4proto . th dport map @published4_at
    dnat ip to meta l4proto . th dport map @published4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6_at
    dnat ip6 to meta l4proto . th dport map @published6
  }
  chain martian {
    type filter hook prerouting priority raw; policy accept;
    iifname @BRIDGE ip saddr 127.0.0.0/8 counter name loopback drop
    iifname @BRIDGE ip daddr 127.0.0.0/8 counter name loopback drop
  }
  chain no_redirects {
    type filter hook output priority filter; policy accept;
    oifname @BRIDGE icmp type redirect drop
    oifname @BRIDGE icmpv6 type nd-redirect drop
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    meta l4proto { tcp, udp } fib daddr type local jump publish
  }
  chain output {
    type nat hook output priority -100; policy accept;
    meta l4proto { tcp, udp } fib daddr type local jump publish
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname @BRIDGE ip saddr 127.0.0.0/8 masquerade
    oifname @BRIDGE ip saddr @workload4 ct status dnat masquerade
    oifname @BRIDGE ip6 saddr @workload6 ct status dnat masquerade
    oifname != @BRIDGE ip saddr @workload4 masquerade
    oifname != @BRIDGE ip6 saddr @workload6 masquerade
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname != @BRIDGE oifname != @BRIDGE accept
    ct state established,related accept
    ct state invalid drop
    iifname @BRIDGE accept
    ip daddr @fabric4 accept
    ip6 daddr @fabric6 accept
    ct status dnat accept
    counter name unasked drop
  }
";

const BRIDGE: &str = "
  counter spoofed { }
  chain prerouting {
    type filter hook prerouting priority -300; policy accept;
    iifname != @VETHS accept
    iifname . ether saddr . ip saddr @member4 accept
    iifname . ether saddr . ip6 saddr @member6 accept
    iifname . ether saddr . arp saddr ip @member4 accept
    counter name spoofed drop
  }
";

fn sets(members: &BTreeMap<Name, Member>) -> String {
    let each = |text: fn(&Member) -> String| members.values().map(text).collect::<Vec<_>>();
    [
        block("set", "workload4", "ipv4_addr", &each(|member| member.ipv4.to_string())),
        block("set", "workload6", "ipv6_addr", &each(|member| member.ipv6.to_string())),
        published(members, "4", "ipv4_addr"),
        published(members, "6", "ipv6_addr"),
    ]
    .concat()
}

/// All addresses of the fabric: nothing is published on them or translated, and who may talk there
/// is decided in the policies' own table.
fn ranges(fabric: Option<[Prefix; 2]>) -> String {
    let [four, six] = fabric.map_or([None, None], |ranges| ranges.map(Some));
    [("fabric4", "ipv4_addr", four), ("fabric6", "ipv6_addr", six)]
        .map(|(name, kind, range)| {
            let range: Vec<String> = range.iter().map(Prefix::to_string).collect();
            block("set", name, &format!("{kind}; flags interval"), &range)
        })
        .concat()
}

fn ports(members: &BTreeMap<Name, Member>) -> String {
    let source = |member: &Member, address: IpAddr| {
        let mac = member.mac().map(|octet| format!("{octet:02x}")).join(":");
        format!("\"{}\" . {mac} . {address}", member.veth)
    };
    let (mut four, mut six) = (Vec::new(), Vec::new());
    for member in members.values() {
        let fabric = member.fabric.iter();
        let fabric = fabric.flat_map(|addresses| [addresses.ipv4.into(), addresses.ipv6.into()]);
        for address in [member.ipv4.into(), member.ipv6.into()].into_iter().chain(fabric) {
            let of_family: &mut Vec<_> = if IpAddr::is_ipv4(&address) { &mut four } else { &mut six };
            of_family.push(source(member, address));
        }
    }
    [
        block("set", "member4", "ifname . ether_addr . ipv4_addr", &four),
        block("set", "member6", "ifname . ether_addr . ipv6_addr", &six),
    ]
    .concat()
}

/// Two maps of one family: ports on every address, and ports on a certain one.
fn published(members: &BTreeMap<Name, Member>, family: &str, kind: &str) -> String {
    let (mut any, mut at) = (Vec::new(), Vec::new());
    for member in members.values() {
        let to: IpAddr = if family == "4" { member.ipv4.into() } else { member.ipv6.into() };
        for port in &member.ports {
            let address: Option<IpAddr> = port.host_ip.parse().ok();
            if address.is_some_and(|address| address.is_ipv4() != to.is_ipv4())
                || address == Some(IpAddr::V6(Ipv6Addr::LOCALHOST))
            {
                continue;
            }
            let service = service(port, to);
            match address.filter(|address| !address.is_unspecified()) {
                Some(address) => at.push(format!("{address} . {service}")),
                None => any.push(service),
            }
        }
    }
    let plain = format!("inet_proto . inet_service : {kind} . inet_service");
    block("map", &format!("published{family}"), &plain, &any)
        + &block("map", &format!("published{family}_at"), &format!("{kind} . {plain}"), &at)
}

fn service(port: &v1::Port, to: IpAddr) -> String {
    let protocol = protocol_name(port.protocol());
    format!("{protocol} . {} : {to} . {}", port.host_port(), port.container_port)
}

fn block(what: &str, name: &str, kind: &str, elements: &[String]) -> String {
    let mut text = format!("  {what} {name} {{\n    type {kind}\n");
    if !elements.is_empty() {
        let _ = writeln!(text, "    elements = {{ {} }}", elements.join(", "));
    }
    text + "  }\n"
}
