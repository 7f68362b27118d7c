//! Ranges of ports as prefixes.

use capsule_proto::reference::{Ports, Service};

use super::compile::{Family, Protocol};

/// A port of which only the first bits count; the others are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PortPrefix {
    pub(super) port: u16,
    pub(super) length: u8,
}

/// No bit counts: any port, and what has no ports.
const ANY: PortPrefix = PortPrefix { port: 0, length: 0 };

/// Protocols and ports that a service is.
pub(super) fn of(service: Service, family: Family) -> Vec<(Protocol, PortPrefix)> {
    let ping = Protocol::ping(family);
    match service {
        Service::Any => vec![(Protocol::TCP, ANY), (Protocol::UDP, ANY), (ping, ANY)],
        Service::Icmp => vec![(ping, ANY)],
        Service::Tcp(ports) => range(ports).into_iter().map(|prefix| (Protocol::TCP, prefix)).collect(),
        Service::Udp(ports) => range(ports).into_iter().map(|prefix| (Protocol::UDP, prefix)).collect(),
    }
}

/// The fewest prefixes that are a range. Nobody listens on port 0, so all others are all.
fn range(ports: Ports) -> Vec<PortPrefix> {
    let (mut first, last) = (u32::from(ports.first()), u32::from(ports.last()));
    if (first, last) == (1, u32::from(u16::MAX)) {
        return vec![ANY];
    }
    let mut found = Vec::new();
    while first <= last {
        // As wide as it can begin here, and as wide as it can still end in the range.
        let aligned = first.trailing_zeros().min(16);
        let fits = (last - first + 1).ilog2();
        let free = aligned.min(fits);
        found.push(PortPrefix { port: first as u16, length: (16 - free) as u8 });
        first += 1 << free;
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_is_few_prefixes() {
        let of = |first, last| -> Vec<(u16, u8)> {
            range(Ports::new(first, last).unwrap()).iter().map(|p| (p.port, p.length)).collect()
        };
        assert_eq!(of(80, 80), [(80, 16)]);
        assert_eq!(of(8080, 8090), [(8080, 13), (8088, 15), (8090, 16)]);
        assert_eq!(of(1, 65535), [(0, 0)]);
        assert_eq!(of(32768, 65535), [(32768, 1)]);
    }

    proptest! {
        #[test]
        fn prefixes_have_the_ports_of_the_range_and_no_others(a in 1..=u16::MAX, b in 1..=u16::MAX, port in 1..=u16::MAX) {
            let ports = Ports::new(a.min(b), a.max(b)).unwrap();
            let mask = |length: u8| u16::MAX.checked_shl(16 - u32::from(length)).unwrap_or(0);
            let found = range(ports).iter().filter(|prefix| port & mask(prefix.length) == prefix.port).count();
            prop_assert_eq!(found, usize::from((ports.first()..=ports.last()).contains(&port)));
        }
    }
}
