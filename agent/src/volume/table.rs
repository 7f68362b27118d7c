//! Rows of `volume` and `volume_claim`.

use std::{collections::BTreeMap, time::SystemTime};

use capsule_proto::Name;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

/// How far a volume is. Kept, so that a killed agent goes on where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Making = 0,
    Ready = 1,
    Growing = 2,
    Deleting = 3,
}

impl State {
    fn from_i64(value: i64) -> Self {
        match value {
            1 => Self::Ready,
            2 => Self::Growing,
            3 => Self::Deleting,
            // Making anew is the state that assumes least.
            _ => Self::Making,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) size: u64,
    pub(super) state: State,
    pub(super) created_at: SystemTime,
}

const COLUMNS: &str = "name, labels, size_bytes, state, created_at";

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let labels: String = row.get(1)?;
    Ok(Entry {
        name: row.get(0)?,
        labels: serde_json::from_str(&labels).unwrap_or_default(),
        size: row.get::<_, i64>(2)? as u64,
        state: State::from_i64(row.get(3)?),
        created_at: crate::clock::from_millis(row.get(4)?),
    })
}

pub(super) fn get(db: &Connection, name: &Name) -> rusqlite::Result<Option<Entry>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM volume WHERE name = ?"))?
        .query_row([name.as_str()], entry)
        .optional()
}

pub(super) fn list(db: &Connection) -> rusqlite::Result<Vec<Entry>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM volume ORDER BY name"))?.query_map([], entry)?.collect()
}

pub(super) fn insert(
    tx: &Transaction<'_>,
    name: &Name,
    size: u64,
    labels: &BTreeMap<String, String>,
) -> rusqlite::Result<()> {
    let now = crate::clock::to_millis(SystemTime::now());
    tx.prepare_cached(&format!("INSERT INTO volume ({COLUMNS}) VALUES (?, ?, ?, ?, ?)"))?
        .execute(params![name.as_str(), json(labels), size as i64, State::Making as i64, now])?;
    Ok(())
}

fn json(labels: &BTreeMap<String, String>) -> String {
    serde_json::to_value(labels).unwrap_or_default().to_string()
}

pub(super) fn set_labels(
    tx: &Transaction<'_>,
    name: &Name,
    labels: &BTreeMap<String, String>,
) -> rusqlite::Result<()> {
    let mut statement = tx.prepare_cached("UPDATE volume SET labels = ? WHERE name = ?")?;
    statement.execute(params![json(labels), name.as_str()]).map(drop)
}

pub(super) fn set_state(tx: &Transaction<'_>, name: &Name, size: u64, state: State) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE volume SET size_bytes = ?, state = ? WHERE name = ?")?
        .execute(params![size as i64, state as i64, name.as_str()])
        .map(drop)
}

/// Marks what was made or grown to `size` as ready, unless more was asked for meanwhile.
pub(super) fn set_ready(tx: &Transaction<'_>, name: &Name, size: u64) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE volume SET state = CASE size_bytes WHEN ?2 THEN 1 ELSE 2 END WHERE name = ?1 AND state != 3",
    )?
    .execute(params![name.as_str(), size as i64])
    .map(drop)
}

pub(super) fn remove(tx: &Transaction<'_>, name: &Name) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM volume_claim WHERE volume = ?", [name.as_str()])?;
    tx.execute("DELETE FROM volume WHERE name = ?", [name.as_str()]).map(drop)
}

#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) workload: String,
    pub(super) read_only: bool,
}

pub(super) fn claims(db: &Connection, volume: &Name) -> rusqlite::Result<Vec<Claim>> {
    db.prepare_cached("SELECT workload, read_only FROM volume_claim WHERE volume = ? ORDER BY workload")?
        .query_map([volume.as_str()], |row| Ok(Claim { workload: row.get(0)?, read_only: row.get(1)? }))?
        .collect()
}

pub(super) fn add_claim(
    tx: &Transaction<'_>,
    volume: &Name,
    workload: &Name,
    read_only: bool,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO volume_claim (volume, workload, read_only) VALUES (?, ?, ?)
         ON CONFLICT DO UPDATE SET read_only = min(read_only, excluded.read_only)",
    )?
    .execute(params![volume.as_str(), workload.as_str(), read_only])
    .map(drop)
}

pub(super) fn remove_claims_of(tx: &Transaction<'_>, workload: &Name) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM volume_claim WHERE workload = ?", [workload.as_str()]).map(drop)
}

pub(super) fn remove_claims_on(tx: &Transaction<'_>, volume: &Name) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM volume_claim WHERE volume = ?", [volume.as_str()]).map(drop)
}
