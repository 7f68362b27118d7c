//! The way out: every wired network card, by DHCP and router advertisements or with one address that
//! is told.

use std::{
    fmt, fs, io,
    net::{IpAddr, Ipv6Addr},
    path::Path,
    process::Stdio,
    str::FromStr,
    time::Duration,
};

use tokio::process::Command;

use super::mounts;
use crate::{
    sys::{
        file::write_atomic,
        link::{self, Link},
        netlink::Netlink,
    },
    workload::backoff::Backoff,
};

const CARDS: &str = "/sys/class/net";
/// ARPHRD_ETHER.
const ETHERNET: &str = "1";
const CONFIG: &str = "/run/capsule/dhcpcd.conf";
/// Where dhcpcd keeps leases, and where they outlive the slot.
const LEASES: &str = "/var/lib/dhcpcd";
const KEPT_LEASES: &str = "/perm/boot/dhcpcd";
/// Called by dhcpcd, and waited for; calls this program when a lease comes or goes.
const HOOK: &str = "/usr/lib/capsule/dhcp-hook";
/// Between two starts of a client that ends.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// Between two looks for a carrier.
const CARRIER_PAUSE: Duration = Duration::from_millis(250);
/// Between two looks for an address.
const ADDRESS_PAUSE: Duration = Duration::from_millis(100);

/// `capsule.net=` of the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Uplink {
    /// Whatever the network says.
    #[default]
    Dhcp,
    /// `static,address=10.0.0.5/24,gateway=10.0.0.1,dns=10.0.0.1,interface=eth0`.
    Static(Static),
}

/// An address that is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Static {
    address: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
    resolvers: Vec<IpAddr>,
    /// The first card with a carrier where absent.
    interface: Option<String>,
}

/// Why a value of `capsule.net=` is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "capsule.net={text} is not understood ({why}); write capsule.net=dhcp, or \
     capsule.net=static,address=10.0.0.5/24,gateway=10.0.0.1,dns=10.0.0.1,interface=eth0, of which address must be there"
)]
pub struct NotAnUplink {
    text: String,
    why: String,
}

impl FromStr for Uplink {
    type Err = NotAnUplink;

    fn from_str(text: &str) -> Result<Self, NotAnUplink> {
        let wrong = |why: &dyn fmt::Display| NotAnUplink { text: text.to_owned(), why: why.to_string() };
        let mut words = text.split(',');
        match words.next() {
            Some("dhcp") if words.next().is_none() => return Ok(Self::Dhcp),
            Some("static") => {}
            _ => return Err(wrong(&"it begins with neither")),
        }
        let (mut address, mut gateway, mut resolvers, mut interface) = (None, None, Vec::new(), None);
        for word in words {
            let (key, value) =
                word.split_once('=').ok_or_else(|| wrong(&format!("{word:?} has no value")))?;
            let ip = || value.parse::<IpAddr>().map_err(|_| wrong(&format!("{value:?} is no address")));
            match key {
                "address" => {
                    let (ip, prefix) =
                        value.split_once('/').ok_or_else(|| wrong(&"the address has no prefix"))?;
                    let ip: IpAddr = ip.parse().map_err(|_| wrong(&format!("{ip:?} is no address")))?;
                    let longest = if ip.is_ipv4() { 32 } else { 128 };
                    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= longest);
                    address = Some((ip, prefix.ok_or_else(|| wrong(&"the prefix is too long"))?));
                }
                "gateway" => gateway = Some(ip()?),
                "dns" => resolvers.push(ip()?),
                "interface" => interface = Some(value.to_owned()),
                other => return Err(wrong(&format!("there is no {other:?}"))),
            }
        }
        let (address, prefix) = address.ok_or_else(|| wrong(&"there is no address"))?;
        if gateway.is_some_and(|gateway| gateway.is_ipv4() != address.is_ipv4()) {
            return Err(wrong(&"address and gateway are of two kinds"));
        }
        Ok(Self::Static(Static { address, prefix, gateway, resolvers, interface }))
    }
}

impl Uplink {
    /// Keeps the way out open. Returns only when it cannot.
    pub async fn keep(&self, say: impl Fn(String)) -> io::Result<()> {
        match self {
            Self::Dhcp => keep_dhcp(say).await,
            Self::Static(settings) => settings.set().await,
        }
    }
}

impl Static {
    async fn set(&self) -> io::Result<()> {
        let name = loop {
            let candidates = self.interface.clone().map_or_else(wired, |name| vec![name]);
            for name in &candidates {
                up(name)?;
            }
            if let Some(name) = candidates.into_iter().find(|name| has_carrier(name)) {
                break name;
            }
            tokio::time::sleep(CARRIER_PAUSE).await;
        };
        let mut netlink = Netlink::open()?;
        let Some(card) = link::find(&mut netlink, &name)? else {
            return Err(io::Error::other(format!("there is no network card {name}")));
        };
        let Self { address, prefix, gateway, resolvers, .. } = self;
        link::add_address(&mut netlink, card.index, *address, *prefix)?;
        if let Some(gateway) = gateway {
            link::add_default_route(&mut netlink, card.index, *gateway)?;
        }
        let lines: String = resolvers.iter().map(|resolver| format!("nameserver {resolver}\n")).collect();
        write_atomic(Path::new(super::dhcp_event::RESOLV_CONF), lines.as_bytes(), 0o644)
    }
}

fn up(name: &str) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    link::find(&mut netlink, name)?.map_or(Ok(()), |card| link::set_up(&mut netlink, card.index))
}

fn has_carrier(name: &str) -> bool {
    fs::read_to_string(Path::new(CARDS).join(name).join("carrier")).is_ok_and(|text| text.trim() == "1")
}

async fn keep_dhcp(say: impl Fn(String)) -> io::Result<()> {
    if Path::new("/perm/boot").is_dir() {
        fs::create_dir_all(KEPT_LEASES)?;
        mounts::bind(Path::new(KEPT_LEASES), Path::new(LEASES))?;
    }
    write_atomic(Path::new(CONFIG), dhcpcd_config().as_bytes(), 0o644)?;
    let mut backoff = BACKOFF;
    loop {
        let mut command = Command::new("dhcpcd");
        command.args(["--nobackground", "--quiet", "--config", CONFIG]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let how = match command.status().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        say(format!("the DHCP client has ended: {how}"));
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// dhcpcd.conf(5). Without the probe for another user of a leased address, a lease is usable five
/// seconds earlier; the server has looked.
fn dhcpcd_config() -> String {
    let words = "persistent\nlastlease\nnodelay\nnoarp\nnoipv4ll\nhostname\nduid\nslaac private\noption rapid_commit\n\
                 option domain_name_servers, domain_name, domain_search, classless_static_routes, \
                 interface_mtu\nrequire dhcp_server_identifier\n";
    format!("allowinterfaces {} eth*\nscript {HOOK}\n{words}", wired().join(" "))
}

/// Wired cards, by name.
pub fn wired() -> Vec<String> {
    let is = |name: &str, file: &str| Path::new(CARDS).join(name).join(file).exists();
    let entries = fs::read_dir(CARDS).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| {
        let kind = fs::read_to_string(Path::new(CARDS).join(name).join("type")).unwrap_or_default();
        kind.trim() == ETHERNET && is(name, "device") && !is(name, "wireless") && !is(name, "phy80211")
    });
    names.sort();
    names
}

/// Addresses of wired cards by which others may reach this machine.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut netlink = Netlink::open()?;
    let (names, links) = (wired(), link::links(&mut netlink)?);
    let is_wired =
        |index: u32| links.iter().any(|link: &Link| link.index == index && names.contains(&link.name));
    let found = link::addresses(&mut netlink)?.into_iter();
    Ok(found
        .filter(|(index, address)| is_wired(*index) && is_reachable(*address))
        .map(|(_, ip)| ip)
        .collect())
}

/// Until there is such an address, or `limit` is over.
pub async fn wait_for_address(limit: Duration) {
    let has_address = async {
        while addresses().is_ok_and(|addresses| addresses.is_empty()) {
            tokio::time::sleep(ADDRESS_PAUSE).await;
        }
    };
    let _ = tokio::time::timeout(limit, has_address).await;
}

fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
        IpAddr::V6(address) => !is_link_local(address) && !address.is_loopback(),
    }
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

/// The hardware address of the first wired card.
pub fn primary_mac() -> Option<String> {
    let name = wired().into_iter().next()?;
    fs::read_to_string(Path::new(CARDS).join(name).join("address")).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uplink_is_dhcp_or_an_address_with_what_belongs_to_it() {
        assert_eq!("dhcp".parse(), Ok(Uplink::Dhcp));
        let text = "static,address=10.0.0.5/24,gateway=10.0.0.1,dns=10.0.0.1,dns=9.9.9.9,interface=eth1";
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let expected = Static {
            address: ip("10.0.0.5"),
            prefix: 24,
            gateway: Some(ip("10.0.0.1")),
            resolvers: vec![ip("10.0.0.1"), ip("9.9.9.9")],
            interface: Some("eth1".into()),
        };
        assert_eq!(text.parse(), Ok(Uplink::Static(expected)));
        assert!("static,address=fd00::2/64".parse::<Uplink>().is_ok());
    }

    #[test]
    fn what_is_no_uplink_says_why_and_what_would_be_one() {
        for (text, why) in [
            ("", "neither"),
            ("dhcp,x", "neither"),
            ("static", "no address"),
            ("static,address=10.0.0.5", "no prefix"),
            ("static,address=10.0.0.5/33", "too long"),
            ("static,address=ten/8", "\"ten\" is no address"),
            ("static,address=10.0.0.5/8,gateway=fd00::1", "two kinds"),
            ("static,address=10.0.0.5/8,dns", "has no value"),
            ("static,address=10.0.0.5/8,vlan=3", "there is no \"vlan\""),
        ] {
            let error = text.parse::<Uplink>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("write capsule.net=dhcp"), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_of_the_link_alone_are_not_told() {
        for (text, told) in
            [("169.254.1.1", false), ("fe80::1", false), ("10.0.2.15", true), ("fd00::1", true)]
        {
            assert_eq!(is_reachable(text.parse().unwrap()), told, "{text}");
        }
    }
}
