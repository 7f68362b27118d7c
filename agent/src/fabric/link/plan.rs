//! From how the device is to how it is to be, touching nothing that is right; pure.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use capsule_fabric::map::{Endpoint, Prefix, PublicKey};

use super::{
    Wanted, WantedPeer,
    device::{PeerState, State},
};

/// A session without a handshake for so long has ended (WireGuard's REJECT_AFTER_TIME).
const SESSION_LIFETIME: Duration = Duration::from_mins(3);

/// One change of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its own key and port are others: all sessions begin anew.
    Begin(Vec<Peer>),
    /// A peer that is none any more.
    Remove(PublicKey),
    /// A peer that is new, or different.
    Set(Peer),
}

/// A peer as it is to be told; without an endpoint, it stays where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) public_key: PublicKey,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) keepalive: u16,
    pub(super) allowed: Vec<Prefix>,
}

/// The first candidate of each peer that is an address. Names are looked up by who finds the paths,
/// in its own time: a slow resolver must not hold up a map.
pub(super) fn nearest(peers: &[WantedPeer]) -> HashMap<PublicKey, SocketAddr> {
    let address = |endpoint: &Endpoint| Some(SocketAddr::new(endpoint.host().parse().ok()?, endpoint.port()));
    let nearest = |peer: &WantedPeer| Some((peer.public_key, peer.endpoints.iter().find_map(address)?));
    peers.iter().filter_map(nearest).collect()
}

/// The steps from `state` to `wanted`. `near` is where peers may be met, `told` what was last said of
/// that.
pub(super) fn plan(
    wanted: &Wanted,
    state: &State,
    near: &HashMap<PublicKey, SocketAddr>,
    told: &HashMap<PublicKey, Vec<Endpoint>>,
) -> Vec<Step> {
    let peer = |peer: &WantedPeer, endpoint| Peer {
        public_key: peer.public_key,
        endpoint,
        keepalive: peer.keepalive,
        allowed: peer.allowed.clone(),
    };
    let of_state = |key: &PublicKey| state.peers.get(key);
    if *state.private != *wanted.key.private() || state.port != wanted.port {
        let at = |wanted: &WantedPeer| {
            let known = of_state(&wanted.public_key).and_then(|state| state.endpoint);
            known.or_else(|| near.get(&wanted.public_key).copied())
        };
        return vec![Step::Begin(wanted.peers.iter().map(|wanted| peer(wanted, at(wanted))).collect())];
    }
    let keep: BTreeSet<PublicKey> = wanted.peers.iter().map(|peer| peer.public_key).collect();
    let gone = state.peers.keys().filter(|key| !keep.contains(key));
    // First, so that what they were allowed is free.
    let mut steps: Vec<Step> = gone.copied().map(Step::Remove).collect();
    steps.extend(wanted.peers.iter().filter_map(|wanted| {
        let near = near.get(&wanted.public_key).copied();
        let told = told.get(&wanted.public_key);
        let state = of_state(&wanted.public_key);
        let endpoint = near.filter(|near| is_sent(wanted, state, told, *near));
        let is_right = state.is_some_and(|state| is_right(wanted, state));
        (endpoint.is_some() || !is_right).then(|| Step::Set(peer(wanted, endpoint)))
    }));
    steps
}

fn is_right(wanted: &WantedPeer, state: &PeerState) -> bool {
    state.keepalive == wanted.keepalive && state.allowed == wanted.allowed.iter().copied().collect()
}

/// Whether packets to the peer are sent to `near` from now on.
fn is_sent(
    wanted: &WantedPeer,
    state: Option<&PeerState>,
    told: Option<&Vec<Endpoint>>,
    near: SocketAddr,
) -> bool {
    let Some(state) = state else { return true };
    if state.endpoint == Some(near) {
        return false;
    }
    let lives =
        state.last_handshake.is_some_and(|at| at.elapsed().is_ok_and(|since| since < SESSION_LIFETIME));
    match told {
        _ if state.endpoint.is_none() => true,
        // The operator says that it is elsewhere now.
        Some(told) => *told != wanted.endpoints,
        // This agent has just begun. Where a session lives, the peer was heard from there.
        None => !lives,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use capsule_fabric::map::Addresses;
    use zeroize::Zeroizing;

    use super::*;
    use crate::fabric::key::KeyPair;

    fn key(n: u8) -> PublicKey {
        PublicKey::try_from([n; 32].as_slice()).unwrap()
    }

    fn peer(n: u8) -> WantedPeer {
        WantedPeer {
            public_key: key(n),
            endpoints: vec![format!("10.0.0.{n}:51820").parse().unwrap()],
            keepalive: 25,
            allowed: vec![format!("100.64.{n}.0/24").parse().unwrap()],
        }
    }

    fn wanted(peers: &[u8]) -> Wanted {
        Wanted {
            key: KeyPair::new(Zeroizing::new([1; 32])).unwrap(),
            port: 51820,
            addresses: Addresses { ipv4: "100.64.0.1".parse().unwrap(), ipv6: "fd00::1".parse().unwrap() },
            ranges: ["100.64.0.0/10".parse().unwrap(), "fd00::/48".parse().unwrap()],
            peers: peers.iter().copied().map(peer).collect(),
        }
    }

    fn near(wanted: &Wanted) -> HashMap<PublicKey, SocketAddr> {
        nearest(&wanted.peers)
    }

    fn told(wanted: &Wanted) -> HashMap<PublicKey, Vec<Endpoint>> {
        wanted.peers.iter().map(|peer| (peer.public_key, peer.endpoints.clone())).collect()
    }

    /// A device that is as wanted, whose peers were just heard from.
    fn done(wanted: &Wanted) -> State {
        let near = near(wanted);
        let peer = |peer: &WantedPeer| PeerState {
            endpoint: near.get(&peer.public_key).copied(),
            last_handshake: Some(SystemTime::now()),
            keepalive: peer.keepalive,
            allowed: peer.allowed.iter().copied().collect(),
            ..PeerState::default()
        };
        let peers = wanted.peers.iter().map(|wanted| (wanted.public_key, peer(wanted))).collect();
        State { private: Zeroizing::new(*wanted.key.private()), port: wanted.port, peers }
    }

    fn touched(steps: &[Step]) -> Vec<PublicKey> {
        let of = |step: &Step| match step {
            Step::Begin(peers) => peers.iter().map(|peer| peer.public_key).collect(),
            Step::Remove(key) => vec![*key],
            Step::Set(peer) => vec![peer.public_key],
        };
        steps.iter().flat_map(of).collect()
    }

    #[test]
    fn a_device_that_is_right_is_left_alone_also_by_an_agent_that_has_just_begun() {
        let wanted = wanted(&[2, 3]);
        assert_eq!(plan(&wanted, &done(&wanted), &near(&wanted), &told(&wanted)), []);
        assert_eq!(plan(&wanted, &done(&wanted), &near(&wanted), &HashMap::new()), []);
    }

    #[test]
    fn the_nearest_candidate_is_the_first_that_needs_no_look_up() {
        let mut peers = [peer(2), peer(3)];
        peers[0].endpoints.insert(0, "nuc.example:51820".parse().unwrap());
        peers[1].endpoints = vec!["nuc.example:51820".parse().unwrap()];
        assert_eq!(nearest(&peers), HashMap::from([(key(2), "10.0.0.2:51820".parse().unwrap())]));
    }

    #[test]
    fn a_changed_map_touches_the_peers_that_it_changes() {
        let before = wanted(&[2, 3, 4]);
        let mut after = wanted(&[2, 3, 5]);
        after.peers[1].allowed.push("100.64.2.9/32".parse().unwrap());
        let steps = plan(&after, &done(&before), &near(&after), &told(&before));
        assert_eq!(steps[0], Step::Remove(key(4)));
        assert_eq!(touched(&steps), [key(4), key(3), key(5)]);
        // The one that only may send more stays where it is.
        assert!(matches!(&steps[1], Step::Set(peer) if peer.endpoint.is_none()));
        assert!(matches!(&steps[2], Step::Set(peer) if peer.endpoint.is_some()));
    }

    #[test]
    fn a_peer_that_moved_by_itself_stays_there_until_the_operator_says_otherwise() {
        let before = wanted(&[2]);
        let mut state = done(&before);
        let roamed = "192.0.2.7:4711".parse().unwrap();
        state.peers.values_mut().for_each(|peer| peer.endpoint = Some(roamed));
        assert_eq!(plan(&before, &state, &near(&before), &told(&before)), []);
        assert_eq!(plan(&before, &state, &near(&before), &HashMap::new()), []);
        let mut after = before.clone();
        after.peers[0].endpoints = vec!["10.0.0.99:51820".parse().unwrap()];
        let steps = plan(&after, &state, &near(&after), &told(&before));
        assert!(matches!(&steps[..], [Step::Set(peer)] if peer.endpoint == "10.0.0.99:51820".parse().ok()));
        // Nothing was heard from there for long.
        let long_ago = SystemTime::now() - SESSION_LIFETIME * 2;
        state.peers.values_mut().for_each(|peer| peer.last_handshake = Some(long_ago));
        assert_eq!(touched(&plan(&before, &state, &near(&before), &HashMap::new())), [key(2)]);
    }

    #[test]
    fn another_key_of_its_own_begins_all_sessions_anew_where_the_peers_are_now() {
        let mut wanted = wanted(&[2, 3]);
        let mut state = done(&wanted);
        let roamed = "192.0.2.7:4711".parse().ok();
        state.peers.get_mut(&key(2)).unwrap().endpoint = roamed;
        wanted.key = KeyPair::new(Zeroizing::new([9; 32])).unwrap();
        let steps = plan(&wanted, &state, &near(&wanted), &told(&wanted));
        let [Step::Begin(peers)] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(
            peers.iter().map(|peer| peer.endpoint).collect::<Vec<_>>(),
            [roamed, near(&wanted).get(&key(3)).copied()]
        );
    }
}
