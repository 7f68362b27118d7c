//! What the packet filter refused: pairs and ports, each with a count, read back from its sets.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use capsule_fabric::{
    map::{Addresses, MemberMap},
    policy::{Direction, Directory},
};
use capsule_proto::{reference::HOST, timestamp, v1};
use serde_json::Value;

use crate::network::NetworkError;

/// How long the kernel remembers a refusal after it was last seen; see the filter's own script.
const AGE: Duration = Duration::from_hours(1);

/// Who asked whom for what, and whose policy was against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knock {
    /// Whose policy refused it.
    pub side: Direction,
    /// Who asked.
    pub source: IpAddr,
    /// Who was asked.
    pub destination: IpAddr,
    /// `tcp`, `udp`, `icmp` and so on.
    pub protocol: String,
    /// Of who was asked; 0 where the protocol has none.
    pub port: u16,
}

/// Packets of one pair and port.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Which.
    pub knock: Knock,
    /// How many.
    pub packets: u64,
    /// How many bytes.
    pub bytes: u64,
    /// When the last one came.
    pub last: SystemTime,
}

/// The sets of the filter that remember refusals, with whose policy refused.
pub(super) const SETS: [(Direction, &str); 4] = [
    (Direction::Out, "refused_out4"),
    (Direction::Out, "refused_out6"),
    (Direction::In, "refused_in4"),
    (Direction::In, "refused_in6"),
];

/// Who has an address, as a policy names it: `web@nuc-1`, `host@nuc-1`.
pub(super) fn name_of(map: &MemberMap, names: &Directory, address: IpAddr) -> Option<String> {
    let is_meant = |addresses: &Addresses| address == addresses.ipv4 || address == addresses.ipv6;
    let host = map.members().iter().find(|member| is_meant(&map.plan().own(member.slot)));
    if let Some(member) = host {
        return Some(format!("{HOST}@{}", member.name));
    }
    names.iter().find_map(|(member, workloads)| {
        let (workload, _) = workloads.iter().find(|(_, addresses)| is_meant(addresses))?;
        Some(format!("{workload}@{member}"))
    })
}

impl Refused {
    /// In the API's words, with what would allow it.
    pub(super) fn to_wire(&self, map: &MemberMap, names: &Directory) -> v1::FabricDrop {
        let Knock { side, source, destination, protocol, port } = &self.knock;
        let name = |address| name_of(map, names, address).unwrap_or_default();
        v1::FabricDrop {
            side: match side {
                Direction::Out => v1::FabricSide::Sender,
                Direction::In => v1::FabricSide::Receiver,
            } as i32,
            source: source.to_string(),
            source_name: name(*source),
            destination: destination.to_string(),
            destination_name: name(*destination),
            protocol: protocol.clone(),
            port: (*port).into(),
            packets: self.packets,
            bytes: self.bytes,
            last: Some(timestamp(self.last)),
            remedy: self.knock.remedy(map, names),
        }
    }
}

impl Knock {
    /// What would allow it: what to write, and in whose manifest.
    pub(super) fn remedy(&self, map: &MemberMap, names: &Directory) -> String {
        let (list, own, peer) = match self.side {
            Direction::Out => ("allowTo", self.source, self.destination),
            Direction::In => ("allowFrom", self.destination, self.source),
        };
        let is_inside = |address| map.plan().range().contains(address) || map.plan().ipv6().contains(address);
        let is_host = |name: &String| name.starts_with(HOST) && name[HOST.len()..].starts_with('@');
        let (own, peer_name) = (name_of(map, names, own), name_of(map, names, peer));
        let Some(own) = own else {
            return format!("the sender has no address in the fabric: give it a fabric block with {list}");
        };
        if is_host(&own) || (list == "allowTo" && peer_name.as_ref().is_some_and(is_host)) {
            return "nothing: a capsule itself takes no connections from workloads".into();
        }
        let peer = match (peer_name, peer) {
            (Some(name), _) => name,
            (None, outside) if !is_inside(outside) => {
                return format!("{outside} is outside the fabric: give it a fabric block with allowTo");
            }
            (None, IpAddr::V4(peer)) => format!("cidr:{peer}/32"),
            (None, IpAddr::V6(peer)) => format!("cidr:[{peer}/128]"),
        };
        let reference = match self.protocol.as_str() {
            "icmp" => format!("{peer}/icmp"),
            protocol @ ("tcp" | "udp") => format!("{peer}:{}/{protocol}", self.port),
            other => return format!("nothing: {other} is not among the protocols that a policy can allow"),
        };
        format!("{list} of {own}: {reference}")
    }
}

/// Of one set, as `nft --json list set` writes it.
pub(super) fn parse(side: Direction, json: &str, now: SystemTime) -> Result<Vec<Refused>, NetworkError> {
    let unreadable = |_| NetworkError::Fabric("nft wrote what cannot be read".into());
    let document: Value = serde_json::from_str(json).map_err(unreadable)?;
    let objects = document["nftables"].as_array().into_iter().flatten();
    let elements = objects.filter_map(|object| object["set"]["elem"].as_array()).flatten();
    Ok(elements.filter_map(|element| refused(side, &element["elem"], now)).collect())
}

fn refused(side: Direction, element: &Value, now: SystemTime) -> Option<Refused> {
    let key = element["val"]["concat"].as_array()?;
    let address = |at: usize| key.get(at)?.as_str()?.parse::<IpAddr>().ok();
    let expires = element["expires"].as_u64().map_or(AGE, Duration::from_secs);
    let knock = Knock {
        side,
        source: address(0)?,
        destination: address(1)?,
        protocol: protocol(key.get(2)?)?,
        port: key.get(3)?.as_u64().and_then(|port| u16::try_from(port).ok())?,
    };
    Some(Refused {
        knock,
        packets: element["counter"]["packets"].as_u64()?,
        bytes: element["counter"]["bytes"].as_u64()?,
        last: now - AGE.saturating_sub(expires),
    })
}

/// One word for both ICMPs, as policies have it.
fn protocol(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(match text.as_str() {
        "6" => "tcp".into(),
        "17" => "udp".into(),
        "ipv6-icmp" | "icmpv6" | "58" | "1" => "icmp".into(),
        _ => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nft_writes_of_a_refusal_is_read() {
        let json = r#"{"nftables": [{"metainfo": {"json_schema_version": 1}}, {"set": {"family": "inet",
            "name": "refused_in4", "type": ["ipv4_addr", "ipv4_addr", "inet_proto", "inet_service"],
            "elem": [{"elem": {"val": {"concat": ["100.64.4.2", "100.64.0.2", "tcp", 80]}, "timeout": 3600,
            "expires": 3590, "counter": {"packets": 7, "bytes": 420}}}]}}]}"#;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let found = parse(Direction::In, json, now).unwrap();
        assert_eq!(found.len(), 1);
        let Refused { knock, packets, last, .. } = &found[0];
        let knock = (knock.source.to_string(), knock.protocol.as_str(), knock.port);
        assert_eq!((knock, *packets), (("100.64.4.2".to_owned(), "tcp", 80), 7));
        assert_eq!(*last, now - Duration::from_secs(10));
        assert_eq!(parse(Direction::In, r#"{"nftables": [{"set": {}}]}"#, now).unwrap(), []);
        assert!(parse(Direction::In, "", now).is_err());
    }
}
