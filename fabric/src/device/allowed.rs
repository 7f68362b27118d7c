//! Allowed IPs: which peer a prefix belongs to. One prefix has one peer; the longest that covers an
//! address decides (cryptokey routing).

use std::{collections::HashMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::peers::PeerId;

/// Every prefix, of all peers.
#[derive(Debug, Default)]
pub struct AllowedIps {
    v4: PrefixMap<Ipv4Net, PeerId>,
    v6: PrefixMap<Ipv6Net, PeerId>,
}

impl AllowedIps {
    /// Gives a prefix to a peer, taking it from whoever had it.
    pub fn insert(&mut self, net: IpNet, peer: PeerId) {
        match net.trunc() {
            IpNet::V4(net) => self.v4.insert(net, peer),
            IpNet::V6(net) => self.v6.insert(net, peer),
        };
    }

    /// Takes a prefix from a peer, if it is its.
    pub fn remove(&mut self, net: IpNet, peer: PeerId) {
        match net.trunc() {
            IpNet::V4(net) => {
                if self.v4.get(&net) == Some(&peer) {
                    self.v4.remove(&net);
                }
            }
            IpNet::V6(net) => {
                if self.v6.get(&net) == Some(&peer) {
                    self.v6.remove(&net);
                }
            }
        }
    }

    /// Takes everything from a peer.
    pub fn remove_all(&mut self, peer: PeerId) {
        self.v4.retain(|_, owner| *owner != peer);
        self.v6.retain(|_, owner| *owner != peer);
    }

    /// Whose address this is.
    pub fn owner(&self, address: IpAddr) -> Option<PeerId> {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&Ipv4Net::from(address)).map(|(_, peer)| *peer),
            IpAddr::V6(address) => self.v6.get_lpm(&Ipv6Net::from(address)).map(|(_, peer)| *peer),
        }
    }

    /// Prefixes of each peer that has any, in order.
    pub fn by_peer(&self) -> HashMap<PeerId, Vec<IpNet>> {
        let mut nets: HashMap<PeerId, Vec<IpNet>> = HashMap::new();
        for (net, peer) in &self.v4 {
            nets.entry(*peer).or_default().push(net.into());
        }
        for (net, peer) in &self.v6 {
            nets.entry(*peer).or_default().push(net.into());
        }
        nets
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_moves_and_only_its_owner_loses_it() {
        let mut allowed = AllowedIps::default();
        allowed.insert(net("10.0.0.7/24"), 1);
        allowed.insert(net("10.0.0.0/24"), 2);
        allowed.insert(net("fd00::/48"), 1);
        assert_eq!(allowed.owner("10.0.0.9".parse().unwrap()), Some(2));
        allowed.remove(net("10.0.0.0/24"), 1);
        assert_eq!(allowed.owner("10.0.0.9".parse().unwrap()), Some(2));
        allowed.remove_all(2);
        assert_eq!(allowed.owner("10.0.0.9".parse().unwrap()), None);
        assert_eq!(allowed.by_peer(), HashMap::from([(1, vec![net("fd00::/48")])]));
    }

    proptest! {
        #[test]
        fn the_longest_prefix_that_covers_an_address_decides(
            nets in proptest::collection::vec((any::<u32>(), 0_u8..=32), 1..40),
            address in any::<u32>(),
        ) {
            let mut allowed = AllowedIps::default();
            let mut flat: HashMap<Ipv4Net, PeerId> = HashMap::new();
            for (peer, (bits, length)) in nets.into_iter().enumerate() {
                let net = Ipv4Net::new(bits.into(), length).unwrap().trunc();
                allowed.insert(net.into(), peer);
                flat.insert(net, peer);
            }
            let address = std::net::Ipv4Addr::from(address);
            let covering = flat.iter().filter(|(net, _)| net.contains(&address));
            let straight = covering.max_by_key(|(net, _)| net.prefix_len()).map(|(_, peer)| *peer);
            prop_assert_eq!(allowed.owner(address.into()), straight);
        }
    }
}
