//! The responder: a thread of mdns-sd that answers on the uplinks alone.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd as _,
    time::Duration,
};

use capsule_proto::discovery::{Announcement, SERVICE};
use mdns_sd::{IfKind, MDNS_PORT, ServiceDaemon, ServiceInfo};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};

use super::Uplinks;

/// Records and timers that the responder may keep of what others say. It needs none of them, but
/// keeps some that nobody asked for, and those for long.
const MAX_KEPT: i64 = 4096;
/// For it to say how many it keeps.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Why the capsule is not announced.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiscoveryError {
    /// The kernel does not say what links there are.
    #[error("the network's links cannot be read")]
    Links(#[source] io::Error),
    /// There is nobody to announce it to.
    #[error("no link that leads to other machines has an address where the API answers")]
    NoUplink,
    /// Another program has the port for itself, or the kernel has no such sockets.
    #[error("UDP port {MDNS_PORT} cannot be shared with who has it")]
    Port(#[source] io::Error),
    /// The responder did not start, or is gone.
    #[error("the mDNS responder does not work: {0}")]
    Responder(#[from] mdns_sd::Error),
    /// It does not answer.
    #[error("the mDNS responder does not answer")]
    Silent,
    /// Somebody says a lot.
    #[error("it keeps {0} records and timers of what others say")]
    Flooded(i64),
}

/// A responder at work.
pub(super) struct Announcer {
    daemon: ServiceDaemon,
    uplinks: Uplinks,
}

impl Announcer {
    /// Starts it on these links; it tells nothing yet.
    pub(super) fn start(uplinks: Uplinks) -> Result<Self, DiscoveryError> {
        try_port().map_err(DiscoveryError::Port)?;
        let daemon = ServiceDaemon::new()?;
        // Addresses are this capability's affair: it looks at them with the eyes of `uplinks`.
        daemon.set_ip_check_interval(0)?;
        daemon.disable_interface(IfKind::All)?;
        let kinds = |index| [IfKind::IndexV4(index), IfKind::IndexV6(index)];
        daemon.enable_interface(uplinks.indexes().flat_map(kinds).collect::<Vec<_>>())?;
        Ok(Self { daemon, uplinks })
    }

    /// Where it answers.
    pub(super) fn uplinks(&self) -> &Uplinks {
        &self.uplinks
    }

    /// Says this from now on. What is new about a name that `is_ours` already needs no probe: nobody
    /// but this capsule could contradict.
    pub(super) fn tell(
        &self,
        announcement: &Announcement,
        port: u16,
        is_ours: bool,
    ) -> Result<(), DiscoveryError> {
        let name = announcement.short_id();
        let addresses: Vec<IpAddr> = self.uplinks.addresses().collect();
        let properties = announcement.to_txt();
        let host = format!("{name}.local.");
        let mut info =
            ServiceInfo::new(SERVICE, &name, &host, addresses.as_slice(), port, properties.as_slice())?;
        info.set_requires_probe(!is_ours);
        Ok(self.daemon.register(info)?)
    }

    /// Whether it works and keeps no more than it may.
    pub(super) async fn check(&self) -> Result<(), DiscoveryError> {
        let answer = self.daemon.get_metrics()?;
        let answer = tokio::time::timeout(ANSWER_LIMIT, answer.recv_async()).await;
        let metrics = answer.ok().and_then(Result::ok).ok_or(DiscoveryError::Silent)?;
        let is_kept = |name: &str| name.starts_with("cached-") || name == "timer";
        let kept: i64 = metrics.iter().filter(|(name, _)| is_kept(name)).map(|(_, count)| count).sum();
        if kept > MAX_KEPT { Err(DiscoveryError::Flooded(kept)) } else { Ok(()) }
    }

    /// Says goodbye and ends it.
    pub(super) async fn stop(self, limit: Duration) {
        if let Ok(ended) = self.daemon.shutdown() {
            let _ = tokio::time::timeout(limit, ended.recv_async()).await;
        }
    }
}

/// Whether the port can be had beside others who share it: the responder would not say.
fn try_port() -> io::Result<()> {
    let probe = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&probe, sockopt::ReuseAddr, &true)?;
    setsockopt(&probe, sockopt::ReusePort, &true)?;
    let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, MDNS_PORT));
    Ok(bind(probe.as_raw_fd(), &any)?)
}
