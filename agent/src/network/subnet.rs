//! The bridge's subnets: pure arithmetic.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use super::error::NetworkError;

/// First of the candidates; 10.0.0.0/8 is searched from here upwards.
const FIRST: u32 = u32::from_be_bytes([10, 88, 0, 0]);
/// One past the last candidate.
const END: u32 = u32::from_be_bytes([11, 0, 0, 0]);
/// Addresses in a candidate, a /24.
const STEP: usize = 256;
/// Room for a gateway and two workloads at least.
const MAX_PREFIX: u8 = 29;
/// Wider ones would swallow the host's own.
const MIN_PREFIX: u8 = 8;

/// An IPv4 prefix. Host part 0 is the network, 1 the gateway, the last one broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet4 {
    network: u32,
    prefix: u8,
}

impl Subnet4 {
    /// The bridge's own address.
    pub fn gateway(self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address with this host part.
    pub fn address(self, host: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + host)
    }

    /// Host parts that workloads may have.
    pub fn hosts(self) -> std::ops::Range<u32> {
        2..(1 << (32 - self.prefix)) - 1
    }

    /// Leading bits that all its addresses share.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether an address is one of its own.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.overlaps(IpAddr::V4(address), 32)
    }

    /// Whether any address is in both.
    pub fn overlaps(self, other: IpAddr, prefix: u8) -> bool {
        let IpAddr::V4(other) = other else { return false };
        let mask = mask(self.prefix.min(prefix));
        self.network & mask == other.to_bits() & mask
    }

    /// The lowest /24 from 10.88.0.0 on that overlaps none of `taken`. Default routes overlap
    /// everything and do not count.
    pub fn choose(taken: &[(IpAddr, u8)]) -> Option<Self> {
        (FIRST..END).step_by(STEP).map(|network| Self { network, prefix: 24 }).find(|candidate| {
            !taken.iter().any(|(address, prefix)| *prefix > 0 && candidate.overlaps(*address, *prefix))
        })
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Subnet4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.prefix)
    }
}

impl FromStr for Subnet4 {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let refuse = |reason| NetworkError::Subnet { subnet: text.to_owned(), reason };
        let form = || refuse("it is not of the form 10.88.0.0/24");
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address: Ipv4Addr = address.parse().map_err(|_| form())?;
        let prefix: u8 = prefix.parse().map_err(|_| form())?;
        if !(MIN_PREFIX..=MAX_PREFIX).contains(&prefix) {
            return Err(refuse("its prefix must be 8 to 29 bits"));
        }
        if address.to_bits() & !mask(prefix) != 0 {
            return Err(refuse("it has bits set after its prefix"));
        }
        Ok(Self { network: address.to_bits(), prefix })
    }
}

/// A unique local IPv6 /64 (RFC 4193). Host parts are those of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet6 {
    network: u128,
}

impl Subnet6 {
    /// One with these 40 random bits as its global id and 0 as its subnet.
    pub fn from_global_id(id: [u8; 5]) -> Self {
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&id);
        Self { network: u128::from_be_bytes(octets) }
    }

    /// The bridge's own address.
    pub fn gateway(&self) -> Ipv6Addr {
        self.address(1)
    }

    /// The address with this host part.
    pub fn address(&self, host: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network + u128::from(host))
    }

    /// Whether an address is one of its own.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        address.to_bits() >> 64 == self.network >> 64
    }
}

impl fmt::Display for Subnet6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/64", Ipv6Addr::from_bits(self.network))
    }
}

impl FromStr for Subnet6 {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let refuse =
            || NetworkError::Subnet { subnet: text.to_owned(), reason: "it is not of the form fd00::/64" };
        let address = text.strip_suffix("/64").ok_or_else(refuse)?;
        let address: Ipv6Addr = address.parse().map_err(|_| refuse())?;
        Ok(Self { network: address.to_bits() >> 64 << 64 })
    }
}
