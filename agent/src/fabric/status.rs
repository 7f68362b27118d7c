//! What an operator sees of it.

use capsule_fabric::map::{Member, MemberMap};
use capsule_proto::v1;

use super::{Fabric, FabricError, taken};

impl Fabric {
    /// Key, map, addresses and peers, as they are.
    pub async fn status(&self) -> Result<v1::FabricStatus, FabricError> {
        let map = self.0.map.borrow().clone();
        let own = map.as_deref().and_then(|map| Some((map, map.of_capsule(self.0.capsule)?)));
        let addresses = taken::addresses().await?;
        let taken = taken::prefixes().await?;
        Ok(v1::FabricStatus {
            public_key: self.0.keys.public().map(|key| key.bytes().to_vec()).unwrap_or_default(),
            listen_port: self.0.config.port.into(),
            local_addresses: addresses.iter().map(ToString::to_string).collect(),
            taken_prefixes: taken.iter().map(ToString::to_string).collect(),
            membership: own.map(|(map, own)| self.membership(map, own)),
        })
    }

    fn membership(&self, map: &MemberMap, own: &Member) -> v1::FabricMembership {
        let addresses = map.plan().own(own.slot);
        v1::FabricMembership {
            fabric_id: map.fabric().to_string(),
            generation: map.generation().0,
            name: own.name.to_string(),
            slot: own.slot.0.into(),
            ipv4: addresses.ipv4.to_string(),
            ipv6: addresses.ipv6.to_string(),
            ..v1::FabricMembership::default()
        }
    }
}
