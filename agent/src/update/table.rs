//! Rows of `system_update` and `release_key`.

use std::time::SystemTime;

use capsule_bundle::{Digest, KeyNumber, ReleaseKey, Version};
use capsule_proto::{
    timestamp,
    v1::{self, UpdateState},
};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::slots::Slot;
use crate::clock::{from_millis, to_millis};

/// Updates that are remembered.
const KEPT: i64 = 100;

/// An update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: i64,
    pub(super) version: String,
    pub(super) from_version: String,
    pub(super) slot: String,
    pub(super) manifest: String,
    pub(super) state: UpdateState,
    pub(super) reason: String,
    pub(super) armed_in: String,
    pub(super) started_at: SystemTime,
    pub(super) changed_at: SystemTime,
}

impl Entry {
    /// As operators see it.
    pub(super) fn describe(&self) -> v1::Update {
        v1::Update {
            id: self.id as u64,
            version: self.version.clone(),
            from_version: self.from_version.clone(),
            slot: self.slot.clone(),
            state: self.state.into(),
            reason: self.reason.clone(),
            started_at: Some(timestamp(self.started_at)),
            changed_at: Some(timestamp(self.changed_at)),
        }
    }
}

const COLUMNS: &str =
    "id, version, from_version, slot, manifest, state, reason, armed_in, started_at, changed_at";

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        id: row.get(0)?,
        version: row.get(1)?,
        from_version: row.get(2)?,
        slot: row.get(3)?,
        manifest: row.get(4)?,
        state: UpdateState::try_from(row.get::<_, i32>(5)?).unwrap_or_default(),
        reason: row.get(6)?,
        armed_in: row.get(7)?,
        started_at: from_millis(row.get(8)?),
        changed_at: from_millis(row.get(9)?),
    })
}

/// Newest first.
pub(super) fn list(db: &Connection) -> rusqlite::Result<Vec<Entry>> {
    let sql = format!("SELECT {COLUMNS} FROM system_update ORDER BY id DESC");
    db.prepare_cached(&sql)?.query_map([], entry)?.collect()
}

pub(super) fn newest(db: &Connection) -> rusqlite::Result<Option<Entry>> {
    let sql = format!("SELECT {COLUMNS} FROM system_update ORDER BY id DESC LIMIT 1");
    db.prepare_cached(&sql)?.query_row([], entry).optional()
}

/// Why this version was rolled back when it was tried last, if it was.
pub(super) fn why_rolled_back(db: &Connection, version: &Version) -> rusqlite::Result<Option<String>> {
    let tried = "SELECT state, reason FROM system_update WHERE version = ? AND state IN (5, 6) ORDER BY id DESC LIMIT 1";
    let tried = db.query_row(tried, [version.to_string()], |row| Ok((row.get::<_, i32>(0)?, row.get(1)?)));
    let rolled_back = UpdateState::RolledBack as i32;
    Ok(tried.optional()?.filter(|(state, _)| *state == rolled_back).map(|(_, reason)| reason))
}

/// The row of an update whose chunks arrive; the one of the same bundle where it was begun.
pub(super) fn begin(
    tx: &Transaction<'_>,
    manifest: &Digest,
    version: &Version,
    from: &Version,
    slot: Slot,
) -> rusqlite::Result<Entry> {
    let now = to_millis(SystemTime::now());
    let other = "UPDATE system_update SET state = ?, reason = 'another bundle was pushed', changed_at = ?
                 WHERE state = ? AND manifest != ?";
    let (failed, receiving) = (UpdateState::Failed as i32, UpdateState::Receiving as i32);
    tx.execute(other, params![failed, now, receiving, manifest.to_string()])?;
    let same = format!("SELECT {COLUMNS} FROM system_update WHERE state = ? AND manifest = ?");
    if let Some(found) = tx.query_row(&same, params![receiving, manifest.to_string()], entry).optional()? {
        return Ok(found);
    }
    insert(tx, &version.to_string(), from, slot, &manifest.to_string(), UpdateState::Receiving)
}

/// A return to the slot before, which comes from no bundle.
pub(super) fn insert_return(
    tx: &Transaction<'_>,
    version: &str,
    from: &Version,
    slot: Slot,
) -> rusqlite::Result<Entry> {
    insert(tx, version, from, slot, "", UpdateState::Writing)
}

fn insert(
    tx: &Transaction<'_>,
    version: &str,
    from: &Version,
    slot: Slot,
    manifest: &str,
    state: UpdateState,
) -> rusqlite::Result<Entry> {
    let now = to_millis(SystemTime::now());
    let made = format!(
        "INSERT INTO system_update (version, from_version, slot, manifest, state, reason, armed_in, started_at, changed_at)
         VALUES (?, ?, ?, ?, ?, '', '', ?, ?) RETURNING {COLUMNS}"
    );
    let values = params![version, from.to_string(), slot.to_string(), manifest, state as i32, now, now];
    let made = tx.query_row(&made, values, entry)?;
    tx.execute("DELETE FROM system_update WHERE id <= ?", [made.id - KEPT])?;
    Ok(made)
}

pub(super) fn set_state(
    tx: &Transaction<'_>,
    id: i64,
    state: UpdateState,
    reason: &str,
) -> rusqlite::Result<()> {
    let sql = "UPDATE system_update SET state = ?, reason = ?, changed_at = ? WHERE id = ?";
    tx.execute(sql, params![state as i32, reason, to_millis(SystemTime::now()), id]).map(drop)
}

pub(super) fn set_armed(tx: &Transaction<'_>, id: i64, boot_id: &str) -> rusqlite::Result<()> {
    tx.execute("UPDATE system_update SET armed_in = ? WHERE id = ?", params![boot_id, id])?;
    set_state(tx, id, UpdateState::Armed, "")
}

/// A key that is trusted.
#[derive(Clone, Debug)]
pub(super) struct KeyEntry {
    pub(super) key: ReleaseKey,
    pub(super) comment: String,
    pub(super) added_by: String,
    pub(super) added_at: SystemTime,
}

impl KeyEntry {
    pub(super) fn describe(&self) -> v1::ReleaseKey {
        v1::ReleaseKey {
            number: self.key.number().to_string(),
            key: self.key.to_string(),
            comment: self.comment.clone(),
            added_by: self.added_by.clone(),
            added_at: Some(timestamp(self.added_at)),
        }
    }
}

/// Those that are trusted, the oldest first.
pub(super) fn keys(db: &Connection) -> rusqlite::Result<Vec<KeyEntry>> {
    let sql =
        "SELECT key, comment, added_by, added_at FROM release_key WHERE is_trusted ORDER BY added_at, number";
    let read = |row: &Row<'_>| {
        let text: String = row.get(0)?;
        let key = text.parse().map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
        })?;
        Ok(KeyEntry { key, comment: row.get(1)?, added_by: row.get(2)?, added_at: from_millis(row.get(3)?) })
    };
    db.prepare_cached(sql)?.query_map([], read)?.collect()
}

/// Whether any key was ever trusted.
pub(super) fn has_had_keys(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row("SELECT EXISTS (SELECT 1 FROM release_key)", [], |row| row.get(0))
}

/// Trusts a key; one that is trusted stays as it was added.
pub(super) fn put_key(tx: &Transaction<'_>, key: &ReleaseKey, added_by: &str) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO release_key (number, key, comment, added_by, added_at, is_trusted) VALUES (?, ?, ?, ?, ?, 1)
         ON CONFLICT DO UPDATE SET key = excluded.key, comment = excluded.comment, added_by = excluded.added_by,
             added_at = excluded.added_at, is_trusted = 1 WHERE NOT is_trusted",
        params![
            key.number().to_string(),
            key.to_string(),
            key.comment(),
            added_by,
            to_millis(SystemTime::now())
        ],
    )
    .map(drop)
}

pub(super) fn distrust(tx: &Transaction<'_>, number: &KeyNumber) -> rusqlite::Result<()> {
    tx.execute("UPDATE release_key SET is_trusted = 0 WHERE number = ?", [number.to_string()]).map(drop)
}
