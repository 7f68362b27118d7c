//! The filter's rules: their number follows from the shapes in use, not from the policies.
//!
//! ```text
//!   forward ─┐                          ┌─ leaveN ── outN ── inN (where both are here) ── accept
//!   input  ──┼─ flowN ── original ──────┼─ enterN ── inN ── accept
//!   output ──┘     └── answers ── backN ┴─ the same sets, with source and destination exchanged
//! ```
//!
//! Packets of a flow's own direction and answers are looked up every time, under the flow's
//! source and destination: what is no longer allowed ends at once, whoever speaks. Nothing is
//! translated in the fabric, so an answer's addresses are those of the flow, exchanged.

use std::fmt::Write as _;

use super::{
    compile::{Direction, Family, Set, Shape},
    filter::Frame,
};

/// Base chains, whatever the policies. `@L` is the link, `@B` the bridge, `@R4` and `@R6` the ranges.
const BASE: &str = r#"
  chain guard {
    type filter hook prerouting priority raw; policy accept;
    iifname != { @L, @B, "lo" } ip daddr @own4 counter name stray drop
    iifname != { @L, @B, "lo" } ip6 daddr @own6 counter name stray drop
    iifname != @L accept
    ip saddr @own4 counter name stray drop
    ip6 saddr @own6 counter name stray drop
    ip daddr != @own4 counter name stray drop
    ip6 daddr != @own6 counter name stray drop
  }
  chain clamp {
    type filter hook forward priority mangle; policy accept;
    oifname @L tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname != { @L, @B } oifname != { @L, @B } accept
    ip saddr != @R4 ip daddr != @R4 iifname != @L oifname != @L accept
    ip6 saddr != @R6 ip6 daddr != @R6 iifname != @L oifname != @L accept
    meta nfproto ipv4 goto flow4
    meta nfproto ipv6 goto flow6
  }
  chain input {
    type filter hook input priority filter; policy accept;
    iifname != { @L, @B } accept
    iifname @B ip saddr != @R4 ip daddr != @R4 accept
    iifname @B ip6 saddr != @R6 ip6 daddr != @R6 accept
    iifname @L ct state established ct direction reply accept
    iifname @L ip saddr @capsule4 icmp type echo-request accept
    iifname @L ip6 saddr @capsule6 icmpv6 type echo-request accept
    @OPEN
    ct state related meta l4proto { icmp, icmpv6 } accept
    ct state invalid,untracked counter name malformed drop
    ct direction reply meta nfproto ipv4 goto back4
    ct direction reply meta nfproto ipv6 goto back6
    meta nfproto ipv4 goto refused_in4
    meta nfproto ipv6 goto refused_in6
  }
  chain output {
    type filter hook output priority filter; policy accept;
    oifname != @B accept
    ip saddr != @R4 ip daddr != @R4 accept
    ip6 saddr != @R6 ip6 daddr != @R6 accept
    meta nfproto ipv4 goto flow4
    meta nfproto ipv6 goto flow6
  }
"#;

/// Chains of one family: `@N` is its number, `@IP` and `@PING` its words.
const FAMILY: &str = "
  chain flow@N {
    ct state related meta l4proto @PING accept
    ct state invalid,untracked counter name malformed drop
    ct direction reply goto back@N
    @IP saddr @workload@N goto leave@N
    @IP daddr @workload@N goto enter@N
    goto refused_out@N
  }
  chain leave@N {
    jump out@N
    @IP daddr @workload@N jump in@N
    accept
  }
  chain enter@N {
    jump in@N
    accept
  }
  chain back@N {
    @IP saddr != @workload@N @IP daddr != @workload@N counter name stray drop
    @IP daddr @workload@N jump back_out@N
    @IP saddr @workload@N jump back_in@N
    accept
  }
  chain refused_out@N {
    meta l4proto { tcp, udp } update @refused_out@N { @IP saddr . @IP daddr . meta l4proto . th dport }
    meta l4proto != { tcp, udp } update @refused_out@N { @IP saddr . @IP daddr . meta l4proto . th dport & 0 }
    counter name refused
    iifname @B reject with icmpx admin-prohibited
    drop
  }
  chain refused_in@N {
    meta l4proto { tcp, udp } update @refused_in@N { @IP saddr . @IP daddr . meta l4proto . th dport }
    meta l4proto != { tcp, udp } update @refused_in@N { @IP saddr . @IP daddr . meta l4proto . th dport & 0 }
    counter name refused drop
  }
";

/// Chains that those of a family go to, so that they are there first.
const TARGETS: [&str; 10] =
    ["refused_out", "refused_in", "out", "in", "back_out", "back_in", "back", "leave", "enter", "flow"];

/// All chains, with the rules for these sets.
pub(super) fn chains<'a>(frame: &Frame, sets: impl Iterator<Item = &'a Set>) -> String {
    let sets: Vec<Set> = sets.copied().collect();
    let mut text = String::new();
    for family in [Family::V4, Family::V6] {
        for target in TARGETS {
            let _ = writeln!(text, "  chain {target}{family} {{ }}");
        }
    }
    for family in [Family::V4, Family::V6] {
        let (ip, ping) = words(family);
        text += FAMILY
            .replace("@N", &family.to_string())
            .replace("@IP", ip)
            .replace("@PING", ping)
            .trim_start_matches('\n');
        for direction in [Direction::Out, Direction::In] {
            let mut shapes: Vec<Shape> = sets
                .iter()
                .filter(|set| (set.direction, set.family) == (direction, family))
                .map(|set| set.shape)
                .collect();
            shapes.sort_by(|a, b| b.cmp(a));
            text += &lookups(direction, family, &shapes, Way::Forth);
            text += &lookups(direction, family, &shapes, Way::Back);
        }
    }
    text += BASE.trim_start_matches('\n');
    let open = frame.open_ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let open = match open.as_str() {
        "" => String::new(),
        open => format!(
            "iifname @L ip saddr @capsule4 tcp dport {{ {open} }} accept\n    \
             iifname @L ip6 saddr @capsule6 tcp dport {{ {open} }} accept"
        ),
    };
    text.replace("@OPEN", &open)
        .replace("@L", &format!("{:?}", frame.link))
        .replace("@B", &format!("{:?}", frame.bridge))
        .replace("@R4", &frame.ranges[0].to_string())
        .replace("@R6", &frame.ranges[1].to_string())
}

fn words(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("ip", "icmp"),
        Family::V6 => ("ip6", "icmpv6"),
    }
}

/// Which packets of a flow a chain is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Those of who asks.
    Forth,
    /// Answers.
    Back,
}

/// The chain that returns what one of the sets allows.
fn lookups(direction: Direction, family: Family, shapes: &[Shape], way: Way) -> String {
    let (ip, _) = words(family);
    let (name, singular) = match direction {
        Direction::Out => ("out", "daddr"),
        Direction::In => ("in", "saddr"),
    };
    let (prefix, asker, asked, port) = match way {
        Way::Forth => ("", "saddr", "daddr", "dport"),
        Way::Back => ("back_", "daddr", "saddr", "sport"),
    };
    let end = match way {
        Way::Forth => format!("goto refused_{name}{family}"),
        Way::Back => "counter name revoked drop".to_owned(),
    };
    let mut text = format!("  chain {prefix}{name}{family} {{\n");
    let mut is_past_whole = false;
    for shape in shapes {
        if shape.address < family.width() && !is_past_whole {
            is_past_whole = true;
            let side = if way == Way::Forth {
                singular
            } else if singular == "daddr" {
                "saddr"
            } else {
                "daddr"
            };
            let _ = writeln!(text, "    {ip} {side} @singular{family} {end}");
        }
        let (of_asker, of_asked) = match direction {
            Direction::Out => (String::new(), address_mask(family, shape.address)),
            Direction::In => (address_mask(family, shape.address), String::new()),
        };
        let set = Set { direction, family, shape: *shape };
        let _ = writeln!(
            text,
            "    {ip} {asker}{of_asker} . {ip} {asked}{of_asked} . meta l4proto . th {port}{} @{set} return",
            port_mask(shape.port),
        );
    }
    let _ = writeln!(text, "    {end}\n  }}");
    text
}

fn address_mask(family: Family, length: u8) -> String {
    if length >= family.width() {
        return String::new();
    }
    let free = u32::from(family.width() - length);
    match family {
        Family::V4 => format!(" & {}", std::net::Ipv4Addr::from(u32::MAX.checked_shl(free).unwrap_or(0))),
        Family::V6 => format!(" & {}", std::net::Ipv6Addr::from(u128::MAX.checked_shl(free).unwrap_or(0))),
    }
}

fn port_mask(length: u8) -> String {
    match length {
        16.. => String::new(),
        length => format!(" & {}", u16::MAX.checked_shl(16 - u32::from(length)).unwrap_or(0)),
    }
}
