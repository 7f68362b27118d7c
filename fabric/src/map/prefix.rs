//! A prefix of addresses: CIDR (RFC 4632).

use std::{fmt, net::IpAddr, str::FromStr};

/// An address of which only the first bits count; the others are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Why a text or a pair is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not of the form.
    #[error("{0:?} is not a prefix: write it as 100.64.0.0/10 or fd00::/48")]
    Form(String),
    /// Bits beyond the length.
    #[error("{given} has bits set after its prefix; {meant} is meant")]
    Bits {
        /// As written.
        given: String,
        /// Without them.
        meant: Prefix,
    },
}

impl Prefix {
    /// The prefix of this length that `address` is in; a length that is too great counts as all.
    pub fn around(address: IpAddr, length: u8) -> Self {
        let length = length.min(bits_of(address));
        let address = match address {
            IpAddr::V4(four) => IpAddr::V4((four.to_bits() & mask4(length)).into()),
            IpAddr::V6(six) => IpAddr::V6((six.to_bits() & mask6(length)).into()),
        };
        Self { address, length }
    }

    /// This address alone.
    pub fn host(address: impl Into<IpAddr>) -> Self {
        let address = address.into();
        Self { address, length: bits_of(address) }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits count.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self::around(address, self.length) == *self
    }

    /// Whether any address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let shorter = self.length.min(other.length);
        let is_same_family = self.address.is_ipv4() == other.address.is_ipv4();
        is_same_family && Self::around(self.address, shorter) == Self::around(other.address, shorter)
    }
}

fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.address, self.length))
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let form = || PrefixError::Form(text.chars().take(64).collect());
        let (address, length) = text.split_once('/').ok_or_else(form)?;
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let is_number = length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 = length.parse().ok().filter(|_| is_number).ok_or_else(form)?;
        if length > bits_of(address) {
            return Err(form());
        }
        let meant = Self::around(address, length);
        if meant.address == address {
            Ok(meant)
        } else {
            Err(PrefixError::Bits { given: text.to_owned(), meant })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_keeps_its_text_and_refuses_bits_after_it() {
        for text in ["100.64.0.0/10", "fd12:3456:789a::/48", "0.0.0.0/0", "10.1.2.3/32", "::1/128"] {
            assert_eq!(prefix(text).to_string(), text);
        }
        let error = "10.0.0.1/8".parse::<Prefix>().unwrap_err().to_string();
        assert!(error.contains("10.0.0.0/8"), "{error}");
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "a/8"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_overlap_where_one_holds_the_other_and_never_across_families() {
        assert!(prefix("100.64.0.0/10").overlaps(&prefix("100.100.0.0/16")));
        assert!(prefix("100.100.0.0/16").overlaps(&prefix("100.64.0.0/10")));
        assert!(!prefix("100.64.0.0/10").overlaps(&prefix("100.128.0.0/10")));
        assert!(!prefix("0.0.0.0/0").overlaps(&prefix("::/0")));
        assert!(prefix("0.0.0.0/0").contains("1.2.3.4".parse().unwrap()));
        assert!(!prefix("10.0.0.0/8").contains("::1".parse().unwrap()));
    }
}
