//! What an operator sees of it.

use capsule_fabric::{
    map::{Member, MemberMap},
    paths::Way,
};
use capsule_proto::{timestamp, v1};

use super::{
    Fabric, FabricError,
    link::{Observed, PeerState, link_name},
    peering::Reach,
    taken,
};

impl Fabric {
    /// Key, map, addresses and peers, as they are.
    pub async fn status(&self) -> Result<v1::FabricStatus, FabricError> {
        let map = self.0.map.borrow().clone();
        let own = map.as_deref().and_then(|map| Some((map, map.of_capsule(self.0.capsule)?)));
        let observed = match &self.0.link {
            Some(link) => link.observe().await?,
            None => None,
        };
        let addresses = taken::addresses().await?;
        let taken = taken::prefixes(link_name(self.0.capsule)).await?;
        Ok(v1::FabricStatus {
            public_key: self.0.keys.public().map(|key| key.bytes().to_vec()).unwrap_or_default(),
            listen_port: self.0.config.port.into(),
            local_addresses: addresses.iter().map(ToString::to_string).collect(),
            taken_prefixes: taken.iter().map(ToString::to_string).collect(),
            membership: own.map(|(map, own)| self.membership(map, own, observed)),
        })
    }

    fn membership(&self, map: &MemberMap, own: &Member, observed: Option<Observed>) -> v1::FabricMembership {
        let addresses = map.plan().own(own.slot);
        let reach = self.reach().borrow().clone();
        let others = map.members().iter().filter(|member| member.capsule != own.capsule);
        let state = |member: &Member| observed.as_ref()?.peers.get(&member.public_key);
        v1::FabricMembership {
            fabric_id: map.fabric().to_string(),
            generation: map.generation().0,
            name: own.name.to_string(),
            slot: own.slot.0.into(),
            ipv4: addresses.ipv4.to_string(),
            ipv6: addresses.ipv6.to_string(),
            wireguard: observed.as_ref().map_or(v1::WireguardKind::Unspecified, |link| link.kind).into(),
            interface: observed.as_ref().map(|_| link_name(self.0.capsule)).unwrap_or_default(),
            mtu: observed.as_ref().map_or(0, |link| link.mtu),
            peers: others.map(|member| peer(member, state(member), reach.get(&member.name))).collect(),
        }
    }
}

fn peer(member: &Member, state: Option<&PeerState>, reach: Option<&Reach>) -> v1::FabricPeer {
    let state = state.cloned().unwrap_or_default();
    v1::FabricPeer {
        name: member.name.to_string(),
        public_key: member.public_key.bytes().to_vec(),
        endpoint: state.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default(),
        last_handshake: state.last_handshake.map(timestamp),
        rx_bytes: state.rx_bytes,
        tx_bytes: state.tx_bytes,
        path: reach.map(path),
    }
}

fn path(reach: &Reach) -> v1::FabricPath {
    let relay = match &reach.way {
        Some(Way::Relayed(relay, _)) => relay.to_string(),
        Some(Way::Direct(_)) | None => String::new(),
    };
    v1::FabricPath {
        answers: reach.answers,
        relay,
        rtt: reach.quality.rtt.map(Into::into),
        asked: reach.quality.asked,
        lost: reach.quality.lost,
    }
}
