//! The row of `fabric`, and those of `fabric_location`.

use capsule_fabric::map::{Addresses, FabricId, Generation, MapError, SignedMap};
use capsule_proto::{Name, v1};
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{Membership, peering::RemoteLocations};
use crate::store::StoreError;

/// What is stored; a map that this agent cannot read counts as none, and is told of.
pub(super) fn get(db: &Connection) -> Result<Option<(Membership, Option<MapError>)>, StoreError> {
    let sql = "SELECT fabric_id, generation, map FROM fabric";
    let row = db
        .query_row(sql, [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<Vec<u8>>>(2)?))
        })
        .optional()?;
    let Some((fabric, generation, map)) = row else { return Ok(None) };
    let fabric: FabricId = fabric.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })?;
    let out = Membership::Out { fabric, generation: Generation(generation as u64) };
    Ok(Some(match map.map(|bytes| read(&bytes)) {
        None => (out, None),
        Some(Ok(map)) => (Membership::In(Box::new(map)), None),
        Some(Err(error)) => (out, Some(error)),
    }))
}

fn read(bytes: &[u8]) -> Result<SignedMap, MapError> {
    let wire = v1::SignedMap::decode(bytes).map_err(|error| MapError::Encoding(error.to_string()))?;
    SignedMap::try_from(wire)
}

pub(super) fn put(tx: &Transaction<'_>, membership: &Membership) -> Result<(), StoreError> {
    let map = membership.signed().map(|signed| signed.wire().encode_to_vec());
    tx.execute(
        "INSERT OR REPLACE INTO fabric (id, fabric_id, generation, map) VALUES (1, ?, ?, ?)",
        params![membership.fabric().to_string(), membership.generation().0 as i64, map],
    )?;
    Ok(())
}

pub(super) fn forget(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.execute("DELETE FROM fabric", []).map(drop).map_err(Into::into)
}

/// Where workloads of other members are, as it was kept.
pub(super) fn locations(db: &Connection) -> Result<RemoteLocations, StoreError> {
    let mut statement = db.prepare_cached("SELECT member, workload, ipv4, ipv6 FROM fabric_location")?;
    let read = |row: &rusqlite::Row<'_>| {
        let text = |at| row.get::<_, String>(at);
        let (member, workload, ipv4, ipv6) = (text(0)?, text(1)?, text(2)?, text(3)?);
        let place = || Some(Addresses { ipv4: ipv4.parse().ok()?, ipv6: ipv6.parse().ok()? });
        Ok(member.parse::<Name>().ok().zip(workload.parse::<Name>().ok()).zip(place()))
    };
    let mut all = RemoteLocations::new();
    for row in statement.query_map([], read)? {
        if let Some(((member, workload), addresses)) = row? {
            all.entry(member).or_default().insert(workload, addresses);
        }
    }
    Ok(all)
}

/// Keeps them; `kept` are those that are there.
pub(super) fn keep_locations(
    tx: &Transaction<'_>,
    kept: &RemoteLocations,
    now: &RemoteLocations,
) -> Result<(), StoreError> {
    let has = |all: &RemoteLocations, member: &Name, workload: &Name| {
        all.get(member).and_then(|workloads| workloads.get(workload)).copied()
    };
    let rows = |all: &RemoteLocations| -> Vec<(Name, Name, Addresses)> {
        let of = |(member, workloads): (&Name, &super::peering::Locations)| {
            let member = member.clone();
            workloads.clone().into_iter().map(move |(workload, at)| (member.clone(), workload, at))
        };
        all.iter().flat_map(of).collect()
    };
    for (member, workload, _) in rows(kept).iter().filter(|(m, w, _)| has(now, m, w).is_none()) {
        tx.prepare_cached("DELETE FROM fabric_location WHERE member = ? AND workload = ?")?
            .execute([member.as_str(), workload.as_str()])?;
    }
    for (member, workload, at) in rows(now).iter().filter(|(m, w, at)| has(kept, m, w) != Some(*at)) {
        tx.prepare_cached("INSERT OR REPLACE INTO fabric_location VALUES (?, ?, ?, ?)")?.execute([
            member.as_str(),
            workload.as_str(),
            &at.ipv4.to_string(),
            &at.ipv6.to_string(),
        ])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    /// Written as `MEMBER/WORKLOAD/HOST`.
    fn all(words: &[&str]) -> RemoteLocations {
        let mut all = RemoteLocations::new();
        for word in words {
            let [member, workload, host] = word.split('/').collect::<Vec<_>>()[..] else { panic!("{word}") };
            let (ipv4, ipv6) = (format!("100.64.4.{host}"), format!("fd00::{host}"));
            let at = Addresses { ipv4: ipv4.parse().unwrap(), ipv6: ipv6.parse().unwrap() };
            all.entry(member.parse().unwrap()).or_default().insert(workload.parse().unwrap(), at);
        }
        all
    }

    #[tokio::test]
    async fn what_was_heard_last_is_what_the_next_agent_knows() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = RemoteLocations::new();
        for words in [&["b/db/2", "b/web/3", "c/db/2"][..], &["b/db/2", "b/web/4"], &["c/api/9"], &[]] {
            let (before, now) = (kept, all(words));
            kept = now.clone();
            let store = Store::open(dir.path()).unwrap();
            store.write(move |tx| keep_locations(tx, &before, &now)).await.unwrap();
            assert_eq!(store.read(locations).await.unwrap(), kept);
        }
    }
}
