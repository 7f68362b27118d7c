//! Rows of `workload`.

use std::time::{Duration, SystemTime};

use capsule_proto::{Name, v1};
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use crate::{
    clock::{from_millis, to_millis},
    store::StoreError,
};

/// A workload as it is kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub name: Name,
    pub manifest: v1::Manifest,
    pub spec_hash: String,
    pub state: v1::DesiredState,
    pub generation: u64,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
    /// Runs that ended in this epoch; column `restarts`.
    pub ends: u32,
    pub last_exit: Option<v1::ExitStatus>,
    pub stop_grace: Option<Duration>,
    /// Rises when counting begins anew: a changed spec, a `start`, a `restart`.
    pub epoch: u64,
    /// Epoch of the last `restart` that was asked for.
    pub restart: u64,
    /// Epoch of the last run that is known to have begun; kept only where it matters (see
    /// [`begin`]).
    pub begun: u64,
}

const COLUMNS: &str = "name, manifest, spec_hash, desired, generation, created_at, updated_at, restarts, \
                       last_exit, stop_grace, epoch, restart, begun";

pub(super) fn all(db: &Connection) -> Result<Vec<Kept>, StoreError> {
    let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM workload ORDER BY name"))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn get(db: &Connection, name: &Name) -> Result<Option<Kept>, StoreError> {
    let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM workload WHERE name = ?"))?;
    Ok(statement.query_row([name.as_str()], from_row).optional()?)
}

/// Writes all of a row.
pub(super) fn put(tx: &Transaction<'_>, kept: &Kept) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT OR REPLACE INTO workload (name, manifest, spec_hash, desired, generation, created_at, \
         updated_at, restarts, last_exit, stop_grace, epoch, restart, begun) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        kept.name.as_str(),
        kept.manifest.encode_to_vec(),
        kept.spec_hash,
        kept.state as i32,
        kept.generation as i64,
        to_millis(kept.created_at),
        to_millis(kept.updated_at),
        kept.ends,
        kept.last_exit.as_ref().map(prost::Message::encode_to_vec),
        kept.stop_grace.map(|grace| grace.as_secs() as i64),
        kept.epoch as i64,
        kept.restart as i64,
        kept.begun as i64,
    ])?;
    Ok(())
}

/// Keeps how a run of `epoch` ended. Where another epoch was committed meanwhile, that end says
/// nothing about it.
pub(super) fn record(
    tx: &Transaction<'_>,
    name: &Name,
    epoch: u64,
    ends: u32,
    exit: &v1::ExitStatus,
) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE workload SET restarts = ?, last_exit = ? WHERE name = ? AND epoch = ?")?
        .execute(params![ends, exit.encode_to_vec(), name.as_str(), epoch as i64])?;
    Ok(())
}

/// Keeps that a run of `epoch` is about to begin.
pub(super) fn begin(tx: &Transaction<'_>, name: &Name, epoch: u64) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE workload SET begun = ?1 WHERE name = ?2 AND epoch = ?1")?
        .execute(params![epoch as i64, name.as_str()])?;
    Ok(())
}

pub(super) fn delete(tx: &Transaction<'_>, name: &Name) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM workload WHERE name = ?")?.execute([name.as_str()])?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Kept> {
    let bad = |at: usize, error: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Blob, error)
    };
    let name = row.get::<_, String>(0)?.parse().map_err(|error| bad(0, Box::new(error)))?;
    let manifest = v1::Manifest::decode(row.get::<_, Vec<u8>>(1)?.as_slice())
        .map_err(|error| bad(1, Box::new(error)))?;
    let last_exit = row.get::<_, Option<Vec<u8>>>(8)?;
    let last_exit = last_exit
        .map(|bytes| v1::ExitStatus::decode(bytes.as_slice()))
        .transpose()
        .map_err(|error| bad(8, Box::new(error)))?;
    Ok(Kept {
        name,
        manifest,
        spec_hash: row.get(2)?,
        state: v1::DesiredState::try_from(row.get::<_, i32>(3)?).unwrap_or_default(),
        generation: row.get::<_, i64>(4)? as u64,
        created_at: from_millis(row.get(5)?),
        updated_at: from_millis(row.get(6)?),
        ends: row.get(7)?,
        last_exit,
        stop_grace: row.get::<_, Option<i64>>(9)?.map(|seconds| Duration::from_secs(seconds.max(0) as u64)),
        epoch: row.get::<_, i64>(10)? as u64,
        restart: row.get::<_, i64>(11)? as u64,
        begun: row.get::<_, i64>(12)? as u64,
    })
}
