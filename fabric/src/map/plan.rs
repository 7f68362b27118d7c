//! Which address is whose: pure arithmetic.
//!
//! Slot `n` owns the `n`th slice of the IPv4 range and the /64 with `n` in its fourth hextet. In
//! both, offset 1 is the capsule itself and workloads follow; an address has the same offset in
//! both. A slice's last address, where broadcasts go, is nobody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    id::Slot,
    prefix::{Prefix, PrefixError},
};

/// Length of a fabric's IPv6 prefix: a unique local one (RFC 4193).
pub const IPV6_LENGTH: u8 = 48;
/// Length of a member's IPv6 prefix.
pub const IPV6_SLICE: u8 = 64;
/// Wider ranges would swallow the members' own networks.
const MIN_RANGE: u8 = 8;
/// A slice of this length has a capsule and one workload.
const MAX_SLICE: u8 = 30;
/// Slots are numbered by the 16 bits between a /48 and a /64.
const SLOT_BITS: u8 = IPV6_SLICE - IPV6_LENGTH;
/// Of the capsule itself.
const OWN_OFFSET: u32 = 1;

/// Why there is no such plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No prefix at all.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// A range that cannot be used.
    #[error("{0} cannot be a fabric's range: {1}")]
    Range(Prefix, &'static str),
    /// Slices that do not fit.
    #[error(
        "slices of /{slice} do not fit the range {range}: a slice is a part of the range, at most 1/65536 of it, and \
         /30 or wider"
    )]
    Slice {
        /// Of the fabric.
        range: Prefix,
        /// Of one member.
        slice: u32,
    },
}

/// A pair of addresses that mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addresses {
    /// In the slice.
    pub ipv4: Ipv4Addr,
    /// In the /64.
    pub ipv6: Ipv6Addr,
}

/// How a fabric's addresses are dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPlan {
    range: Prefix,
    slice: u8,
    ipv6: Prefix,
}

impl AddressPlan {
    /// The range that is proposed where nobody says otherwise: shared address space (RFC 6598).
    pub const DEFAULT_RANGE: &str = "100.64.0.0/10";
    /// The slices of it: 4096 members with 1021 workloads each.
    pub const DEFAULT_SLICE: u8 = 22;

    /// A plan, where the parts fit.
    pub fn new(range: Prefix, slice: u32, ipv6: Prefix) -> Result<Self, PlanError> {
        let IpAddr::V4(first) = range.address() else {
            return Err(PlanError::Range(range, "it is not IPv4"));
        };
        if first.is_loopback() || first.is_multicast() || first.is_link_local() || first.octets()[0] >= 240 {
            return Err(PlanError::Range(range, "these addresses have another meaning"));
        }
        if first.octets()[0] == 0 {
            return Err(PlanError::Range(range, "these addresses mean no host"));
        }
        if range.length() < MIN_RANGE {
            return Err(PlanError::Range(range, "it is wider than a /8"));
        }
        let is_local = matches!(ipv6.address(), IpAddr::V6(first) if first.octets()[0] == 0xfd);
        if !is_local || ipv6.length() != IPV6_LENGTH {
            return Err(PlanError::Range(ipv6, "it is not a unique local /48, such as fd12:3456:789a::/48"));
        }
        let fits = (u32::from(range.length())..=u32::from(MAX_SLICE)).contains(&slice)
            && slice - u32::from(range.length()) <= u32::from(SLOT_BITS);
        if !fits {
            return Err(PlanError::Slice { range, slice });
        }
        Ok(Self { range, slice: slice as u8, ipv6 })
    }

    /// A /48 of its own, from 40 random bits (RFC 4193, section 3.2).
    pub fn random_ipv6() -> Prefix {
        let random = uuid::Uuid::new_v4().into_bytes();
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        // Of a random UUID, the first six bytes are random throughout.
        octets[1..6].copy_from_slice(&random[..5]);
        Prefix::around(Ipv6Addr::from(octets).into(), IPV6_LENGTH)
    }

    /// All IPv4 addresses of the fabric.
    pub fn range(&self) -> Prefix {
        self.range
    }

    /// Whether nobody on the internet has these IPv4 addresses (RFC 1918, RFC 6598).
    pub fn is_private(&self) -> bool {
        const PRIVATE: [(Ipv4Addr, u8); 4] = [
            (Ipv4Addr::new(10, 0, 0, 0), 8),
            (Ipv4Addr::new(172, 16, 0, 0), 12),
            (Ipv4Addr::new(192, 168, 0, 0), 16),
            (Ipv4Addr::new(100, 64, 0, 0), 10),
        ];
        PRIVATE.iter().any(|(first, length)| {
            let whole = Prefix::around((*first).into(), *length);
            *length <= self.range.length() && whole.contains(self.range.address())
        })
    }

    /// All IPv6 addresses of the fabric.
    pub fn ipv6(&self) -> Prefix {
        self.ipv6
    }

    /// Length of the prefix that is one member's own.
    pub fn slice_length(&self) -> u8 {
        self.slice
    }

    /// How many members there can be.
    pub fn slots(&self) -> u32 {
        1 << (self.slice - self.range.length())
    }

    /// Whether there is such a slot.
    pub fn has(&self, slot: Slot) -> bool {
        u32::from(slot.0) < self.slots()
    }

    /// The IPv4 addresses of a slot.
    pub fn slice(&self, slot: Slot) -> Prefix {
        Prefix::around(self.ipv4_at(slot, 0).into(), self.slice)
    }

    /// Its IPv6 addresses.
    pub fn ipv6_slice(&self, slot: Slot) -> Prefix {
        Prefix::around(self.ipv6_at(slot, 0).into(), IPV6_SLICE)
    }

    /// The capsule's own addresses.
    pub fn own(&self, slot: Slot) -> Addresses {
        self.at(slot, OWN_OFFSET)
    }

    /// Offsets that a member's workloads may have.
    pub fn workload_offsets(&self) -> std::ops::Range<u32> {
        OWN_OFFSET + 1..self.slice_size() - 1
    }

    /// A workload's addresses; `None` where the offset is not one of [`Self::workload_offsets`].
    pub fn workload(&self, slot: Slot, offset: u32) -> Option<Addresses> {
        (self.has(slot) && self.workload_offsets().contains(&offset)).then(|| self.at(slot, offset))
    }

    /// The slot that an address was dealt out of, and its offset there.
    pub fn place(&self, address: IpAddr) -> Option<(Slot, u32)> {
        match address {
            IpAddr::V4(four) if self.range.contains(address) => {
                let IpAddr::V4(first) = self.range.address() else { return None };
                let distance = four.to_bits() - first.to_bits();
                Some((Slot((distance / self.slice_size()) as u16), distance % self.slice_size()))
            }
            IpAddr::V6(six) if self.ipv6.contains(address) => {
                let slot = Slot((six.to_bits() >> 64) as u16);
                let offset = u32::try_from(six.to_bits() & u128::from(u64::MAX)).ok()?;
                self.has(slot).then_some((slot, offset))
            }
            _ => None,
        }
    }

    /// A range of this length that overlaps none of `taken`, or, where there is none, the widest
    /// narrower one that still has room for a few members. Default routes overlap everything and do
    /// not count.
    pub fn free_range(length: u8, taken: &[Prefix]) -> Option<Prefix> {
        const CANDIDATES: [(Ipv4Addr, u8); 3] = [
            (Ipv4Addr::new(100, 64, 0, 0), 10),
            (Ipv4Addr::new(10, 0, 0, 0), 8),
            (Ipv4Addr::new(172, 16, 0, 0), 12),
        ];
        const NARROWEST: u8 = 18;
        let is_free = |range: &Prefix| taken.iter().all(|used| used.length() == 0 || !used.overlaps(range));
        (length..=NARROWEST.max(length)).find_map(|length| {
            CANDIDATES.iter().filter(|(_, wide)| *wide <= length && length <= 32).find_map(|(first, wide)| {
                let blocks = 0..1u32 << (length - wide);
                let block = |at: u32| {
                    let bits = first.to_bits() + at.checked_shl(32 - u32::from(length)).unwrap_or(0);
                    Prefix::around(Ipv4Addr::from(bits).into(), length)
                };
                blocks.map(block).find(is_free)
            })
        })
    }

    fn slice_size(&self) -> u32 {
        1 << (32 - self.slice)
    }

    fn at(&self, slot: Slot, offset: u32) -> Addresses {
        Addresses { ipv4: self.ipv4_at(slot, offset), ipv6: self.ipv6_at(slot, offset) }
    }

    fn ipv4_at(&self, slot: Slot, offset: u32) -> Ipv4Addr {
        let IpAddr::V4(first) = self.range.address() else { return Ipv4Addr::UNSPECIFIED };
        // A slot that the range does not have wraps around; `has` is asked before.
        Ipv4Addr::from(
            first.to_bits().wrapping_add(u32::from(slot.0).wrapping_mul(self.slice_size()) + offset),
        )
    }

    fn ipv6_at(&self, slot: Slot, offset: u32) -> Ipv6Addr {
        let IpAddr::V6(first) = self.ipv6.address() else { return Ipv6Addr::UNSPECIFIED };
        Ipv6Addr::from(first.to_bits() | u128::from(slot.0) << 64 | u128::from(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn plan(range: &str, slice: u32) -> Result<AddressPlan, PlanError> {
        AddressPlan::new(prefix(range), slice, prefix("fd12:3456:789a::/48"))
    }

    #[test]
    fn private_is_what_nobody_on_the_internet_has() {
        let is_private = |range: &str| plan(range, 24).unwrap().is_private();
        assert!(
            ["10.200.0.0/16", "172.31.0.0/16", "192.168.0.0/16", "100.64.0.0/10"].into_iter().all(is_private)
        );
        assert!(!["8.0.0.0/8", "172.0.0.0/8", "100.0.0.0/9", "192.168.0.0/15"].into_iter().any(is_private));
    }

    #[test]
    fn a_slot_has_a_slice_a_64_and_addresses_of_equal_offset() {
        let plan = plan("100.64.0.0/10", 22).unwrap();
        assert_eq!(plan.slots(), 4096);
        assert_eq!(plan.slice(Slot(2)).to_string(), "100.64.8.0/22");
        assert_eq!(plan.ipv6_slice(Slot(2)).to_string(), "fd12:3456:789a:2::/64");
        let own = plan.own(Slot(2));
        assert_eq!(
            (own.ipv4.to_string(), own.ipv6.to_string()),
            ("100.64.8.1".into(), "fd12:3456:789a:2::1".into())
        );
        let workload = plan.workload(Slot(2), 300).unwrap();
        assert_eq!(workload.ipv4.to_string(), "100.64.9.44");
        assert_eq!(plan.workload_offsets(), 2..1023);
        assert!(plan.workload(Slot(2), 1).is_none() && plan.workload(Slot(2), 1023).is_none());
        assert!(plan.has(Slot(4095)) && !plan.has(Slot(4096)));
        assert_eq!(plan.place(workload.ipv4.into()), Some((Slot(2), 300)));
        assert_eq!(plan.place(workload.ipv6.into()), Some((Slot(2), 300)));
        assert_eq!(plan.place("8.8.8.8".parse().unwrap()), None);
    }

    #[test]
    fn ranges_and_slices_that_do_not_fit_are_refused() {
        for (range, slice) in [("10.0.0.0/8", 24), ("10.1.0.0/16", 16), ("172.16.0.0/14", 30)] {
            plan(range, slice).unwrap();
        }
        for (range, slice) in [
            ("10.0.0.0/8", 25),
            ("10.1.0.0/16", 15),
            ("10.1.0.0/16", 31),
            ("127.0.0.0/8", 22),
            ("224.0.0.0/8", 22),
            ("240.0.0.0/8", 22),
            ("0.0.0.0/8", 22),
            ("10.0.0.0/7", 22),
            ("fd00::/48", 22),
        ] {
            assert!(range.parse::<Prefix>().is_err() || plan(range, slice).is_err(), "{range} {slice}");
        }
        let ula = |six: &str| AddressPlan::new(prefix("10.1.0.0/16"), 22, prefix(six));
        assert!(ula("2001:db8::/48").is_err() && ula("fd00::/64").is_err());
    }

    #[test]
    fn a_free_range_avoids_what_is_taken_and_ignores_default_routes() {
        let taken = [prefix("0.0.0.0/0"), prefix("100.100.0.0/16"), prefix("10.0.0.0/9")];
        let found = AddressPlan::free_range(10, &taken).unwrap();
        assert_eq!(found.to_string(), "10.128.0.0/10");
        let crowded = [prefix("100.64.0.0/10"), prefix("10.0.0.0/8"), prefix("172.16.0.0/13")];
        assert_eq!(AddressPlan::free_range(10, &crowded).unwrap().to_string(), "172.24.0.0/13");
        let full = [prefix("100.64.0.0/10"), prefix("10.0.0.0/8"), prefix("172.16.0.0/12")];
        assert_eq!(AddressPlan::free_range(10, &full), None);
    }

    #[test]
    fn a_random_prefix_is_a_unique_local_one() {
        let ipv6 = AddressPlan::random_ipv6();
        AddressPlan::new(prefix(AddressPlan::DEFAULT_RANGE), AddressPlan::DEFAULT_SLICE.into(), ipv6)
            .unwrap();
        assert_ne!(ipv6, AddressPlan::random_ipv6());
    }
}
