//! Capsules that announce themselves by multicast DNS.
//!
//! All of it is hearsay: anybody in the network may announce anything. So it is parsed strictly, what
//! is kept of it is bounded, and what it says is worth no more than a place to look at:
//! [`probe`](crate::adopt::probe) tells who really is there.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use capsule_proto::discovery::{Announcement, SERVICE};
use mdns_sd::{IfKind, MDNS_PORT, Metrics, Receiver, ResolvedService, ServiceDaemon, ServiceEvent};
use socket2::{Domain, Socket, Type};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::Address;

/// Capsules that are told apart; who hears of more hears a liar.
pub const MAX_SIGHTINGS: usize = 1024;
/// Addresses of one of them.
pub const MAX_ADDRESSES: usize = 16;
/// Records and timers that may be kept of what is said on the network.
const MAX_KEPT: i64 = 32 * MAX_SIGHTINGS as i64;
/// Between two looks at how many there are.
const GUARD_INTERVAL: Duration = Duration::from_millis(200);

/// What was heard of one capsule so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// What it, or somebody in its name, said last.
    pub announcement: Announcement,
    /// Where it is said to answer, IPv4 first.
    pub addresses: Vec<Address>,
}

/// Why nothing (more) is heard.
#[derive(Debug, thiserror::Error)]
pub enum BrowseError {
    /// Another program has the port for itself.
    #[error(
        "UDP port {MDNS_PORT} cannot be shared with the program that has it, and without it no capsule is heard; \
         `fleetctl adopt HOST` needs none"
    )]
    Port(#[source] io::Error),
    /// mdns-sd has no thread or no socket.
    #[error("multicast DNS does not work here: {0}")]
    Failed(#[from] mdns_sd::Error),
    /// Somebody says a lot.
    #[error(
        "so much is announced in this network that somebody must be making it up; what was heard until then is kept"
    )]
    Flooded,
}

/// Listens as long as it lives.
pub struct Browser {
    daemon: ServiceDaemon,
    events: Receiver<ServiceEvent>,
    guard: Interval,
    /// The answer to the last look.
    kept: Option<Receiver<Metrics>>,
    heard: BTreeMap<String, Sighting>,
}

impl Browser {
    /// Asks on these interfaces, or on all where none is named.
    pub fn start(interfaces: &[String]) -> Result<Self, BrowseError> {
        try_port().map_err(BrowseError::Port)?;
        let daemon = ServiceDaemon::new()?;
        daemon.set_ip_check_interval(0)?;
        if !interfaces.is_empty() {
            daemon.disable_interface(IfKind::All)?;
            daemon.enable_interface(interfaces.iter().map(IfKind::from).collect::<Vec<_>>())?;
        }
        let events = daemon.browse(SERVICE)?;
        let mut guard = interval(GUARD_INTERVAL);
        guard.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { daemon, events, guard, kept: None, heard: BTreeMap::new() })
    }

    /// The next capsule of which something new was heard. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Sighting, BrowseError> {
        loop {
            tokio::select! {
                event = self.events.recv_async() => {
                    // It closes where events come faster than anybody can take them.
                    let event = event.map_err(|_| BrowseError::Flooded)?;
                    if let ServiceEvent::ServiceResolved(service) = event
                        && let Some(news) = self.take(&service)?
                    {
                        return Ok(news);
                    }
                }
                _ = self.guard.tick() => self.check()?,
            }
        }
    }

    /// Keeps what is new, if anything is.
    fn take(&mut self, service: &ResolvedService) -> Result<Option<Sighting>, BrowseError> {
        let Some(new) = sighting(service) else { return Ok(None) };
        let id = new.announcement.capsule_id.clone();
        let is_known = self.heard.contains_key(&id);
        if !is_known && self.heard.len() == MAX_SIGHTINGS {
            return Err(BrowseError::Flooded);
        }
        let empty = Sighting { announcement: new.announcement.clone(), addresses: Vec::new() };
        let known = self.heard.entry(id).or_insert(empty);
        Ok((known.learn(new) || !is_known).then(|| known.clone()))
    }

    /// Asks the thread without waiting for it: what it keeps is told by the answer to the last time.
    fn check(&mut self) -> Result<(), BrowseError> {
        let metrics = self.kept.take().and_then(|answer| answer.try_recv().ok()).unwrap_or_default();
        self.kept = self.daemon.get_metrics().ok();
        let is_kept = |name: &str| name.starts_with("cached-") || name == "timer";
        let kept: i64 = metrics.iter().filter(|(name, _)| is_kept(name)).map(|(_, count)| count).sum();
        if kept > MAX_KEPT { Err(BrowseError::Flooded) } else { Ok(()) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A thread that is gone already has stopped.
        let _ = self.daemon.shutdown();
    }
}

impl Sighting {
    /// Takes over what is new; whether anything was.
    fn learn(&mut self, new: Self) -> bool {
        let before = self.addresses.len();
        for address in new.addresses {
            if self.addresses.len() < MAX_ADDRESSES && !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
        self.addresses.sort_by_key(|address| address.literal().map(|literal| literal.is_ipv6()));
        let is_new = self.addresses.len() > before || self.announcement != new.announcement;
        self.announcement = new.announcement;
        is_new
    }
}

/// What a service says, where it is a capsule's and names a place where one could be.
fn sighting(service: &ResolvedService) -> Option<Sighting> {
    let value = |key: &str| service.get_property_val(key).flatten();
    let announcement = Announcement::from_txt(value).ok()?;
    let addresses = service.addresses.iter().map(mdns_sd::ScopedIp::to_ip_addr).filter(|ip| is_place(*ip));
    let mut addresses: Vec<SocketAddr> = addresses.map(|ip| SocketAddr::new(ip, service.port)).collect();
    addresses.sort();
    addresses.truncate(MAX_ADDRESSES);
    let addresses: Vec<Address> =
        addresses.iter().filter_map(|address| address.to_string().parse().ok()).collect();
    (!addresses.is_empty()).then_some(Sighting { announcement, addresses })
}

/// Whether another machine may have this address, and a context can remember it.
fn is_place(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !v4.is_loopback() && !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            let is_odd = v6.is_loopback() || v6.is_unspecified() || v6.is_multicast();
            !is_odd && !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none()
        }
    }
}

/// Whether the port can be had beside others who share it: the thread would not say.
fn try_port() -> io::Result<()> {
    let probe = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    probe.set_reuse_address(true)?;
    probe.set_reuse_port(true)?;
    probe.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, MDNS_PORT)).into())
}

#[cfg(test)]
mod tests {
    use capsule_proto::v1::Mode;

    use super::*;

    fn sighting(addresses: &[&str]) -> Sighting {
        let announcement = Announcement {
            capsule_id: "a3f2b1c0-0000-4000-8000-000000000001".into(),
            hostname: "nuc-1".into(),
            adopted: false,
            version: "0.1.0".into(),
            mode: Mode::Hosted,
        };
        Sighting { announcement, addresses: addresses.iter().map(|text| text.parse().unwrap()).collect() }
    }

    #[test]
    fn what_is_said_twice_is_no_news_and_addresses_add_up_within_bounds() {
        let mut known = sighting(&[]);
        assert!(known.learn(sighting(&["[fd00::1]:50000", "10.0.0.1"])));
        assert!(!known.learn(sighting(&["10.0.0.1"])));
        assert!(known.learn(sighting(&["10.0.0.2"])));
        assert_eq!(known.addresses, sighting(&["10.0.0.1", "10.0.0.2", "[fd00::1]:50000"]).addresses);
        let mut adopted = sighting(&[]);
        adopted.announcement.adopted = true;
        assert!(known.learn(adopted) && known.announcement.adopted);
        for host in 3..=250 {
            known.learn(sighting(&[&format!("10.0.0.{host}")]));
        }
        assert_eq!(known.addresses.len(), MAX_ADDRESSES);
    }

    #[test]
    fn nobody_is_sent_to_an_address_that_no_other_machine_has() {
        for odd in ["127.0.0.1", "0.0.0.0", "224.0.0.251", "::1", "fe80::1", "ff02::fb", "::ffff:127.0.0.1"] {
            assert!(!is_place(odd.parse().unwrap()), "{odd}");
        }
        assert!(is_place("10.0.0.1".parse().unwrap()) && is_place("fd00::1".parse().unwrap()));
    }
}
