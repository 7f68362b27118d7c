//! The row of `fabric`.

use capsule_fabric::map::{FabricId, Generation, MapError, SignedMap};
use capsule_proto::v1;
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::Membership;
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
