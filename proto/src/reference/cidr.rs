//! Prefixes of addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An address prefix without bits set after it: `100.64.16.0/24`, `fd00::/48`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Leading bits that all its addresses share.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() | (free(32, self.prefix) as u32)).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() | free(128, self.prefix)).into(),
        }
    }
}

/// The bits after a prefix of an address with `width` bits, all set.
fn free(width: u8, prefix: u8) -> u128 {
    match width.saturating_sub(prefix) {
        0 => 0,
        bits => u128::MAX >> (128 - bits),
    }
}

/// Why a text is no [`Cidr`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// It has no `/`.
    #[error("it has no length: write /32 after an IPv4 address and /128 after an IPv6 address")]
    Length,
    /// What stands before `/` is something else.
    #[error("it is not an IPv4 or IPv6 address with a length, such as 100.64.16.0/24 or fd00::/48")]
    Form,
    /// It is more specific than its length.
    #[error("it has bits set after its prefix; write {meant}")]
    Bits {
        /// The same without them.
        meant: Cidr,
    },
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').ok_or(CidrError::Length)?;
        let address: IpAddr = address.parse().map_err(|_| CidrError::Form)?;
        let is_number = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 =
            Some(prefix).filter(|_| is_number).and_then(|text| text.parse().ok()).ok_or(CidrError::Form)?;
        let first = match address {
            IpAddr::V4(address) if prefix <= 32 => {
                Ipv4Addr::from_bits(address.to_bits() & !(free(32, prefix) as u32)).into()
            }
            IpAddr::V6(address) if prefix <= 128 => {
                Ipv6Addr::from_bits(address.to_bits() & !free(128, prefix)).into()
            }
            _ => return Err(CidrError::Form),
        };
        let cidr = Self { address: first, prefix };
        if first == address { Ok(cidr) } else { Err(CidrError::Bits { meant: cidr }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.address, self.prefix))
    }
}
