//! Rows of `identity` and `operator_key`.

use std::time::SystemTime;

use capsule_proto::{KeyId, v1::Role};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{keys::KeyRow, own::Promise};
use crate::{
    clock::{from_millis, to_millis},
    store::StoreError,
};

pub(super) fn promise(db: &Connection) -> Result<Option<Promise>, StoreError> {
    let sql = "SELECT capsule_id, certificate, created_at FROM identity";
    let row = db.query_row(sql, [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, from_millis(row.get(2)?)))
    });
    let Some((id, certificate, created_at)) = row.optional()? else { return Ok(None) };
    let capsule_id = id.parse().map_err(|error| column_error(0, error))?;
    Ok(Some(Promise { capsule_id, certificate, created_at }))
}

pub(super) fn insert_promise(tx: &Transaction<'_>, new: &Promise) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO identity (id, capsule_id, certificate, created_at) VALUES (1, ?, ?, ?)",
        params![new.capsule_id.to_string(), new.certificate, to_millis(new.created_at)],
    )?;
    Ok(())
}

const COLUMNS: &str = "public_key, name, role, enrolled_at, last_used_at";

pub(super) fn all(db: &Connection) -> Result<Vec<KeyRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM operator_key ORDER BY enrolled_at, key_id");
    let mut statement = db.prepare(&sql)?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn get(db: &Connection, key_id: &KeyId) -> Result<Option<KeyRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM operator_key WHERE key_id = ?");
    Ok(db.query_row(&sql, [key_id.as_str()], from_row).optional()?)
}

/// Any key that bars adoption: with `window` only the one that it enrolled, else the first.
pub(super) fn claimant(db: &Connection, window: Option<&str>) -> Result<Option<KeyRow>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM operator_key WHERE ?1 IS NULL OR claimed_in = ?1 ORDER BY enrolled_at LIMIT 1"
    );
    Ok(db.query_row(&sql, [window], from_row).optional()?)
}

/// Adds the key, or changes name and role of one that is there; `window` is the claim window
/// that enrolled it.
pub(super) fn put(tx: &Transaction<'_>, key: &KeyRow, window: Option<&str>) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO operator_key (key_id, public_key, name, role, enrolled_at, claimed_in)
         VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (key_id) DO UPDATE SET name = excluded.name, role = excluded.role,
           claimed_in = coalesce(excluded.claimed_in, claimed_in)",
        params![
            KeyId::of(&key.public_key).as_str(),
            key.public_key,
            key.name,
            key.role as i32,
            to_millis(key.enrolled_at),
            window
        ],
    )?;
    Ok(())
}

/// Gives the row of `old` to another key. Name, role and claim stay.
pub(super) fn rotate(tx: &Transaction<'_>, old: &KeyId, new: &KeyRow) -> Result<bool, StoreError> {
    let changed = tx.execute(
        "UPDATE operator_key SET key_id = ?, public_key = ?, enrolled_at = ?, last_used_at = NULL WHERE key_id = ?",
        params![
            KeyId::of(&new.public_key).as_str(),
            new.public_key,
            to_millis(new.enrolled_at),
            old.as_str()
        ],
    )?;
    Ok(changed == 1)
}

pub(super) fn remove(tx: &Transaction<'_>, key_id: &KeyId) -> Result<bool, StoreError> {
    Ok(tx.execute("DELETE FROM operator_key WHERE key_id = ?", [key_id.as_str()])? == 1)
}

pub(super) fn admins(db: &Connection) -> Result<u32, StoreError> {
    let sql = "SELECT count(*) FROM operator_key WHERE role = ?";
    Ok(db.query_row(sql, [Role::Admin as i32], |row| row.get(0))?)
}

pub(super) fn set_last_used(tx: &Transaction<'_>, used: &[(KeyId, SystemTime)]) -> Result<(), StoreError> {
    let mut statement = tx.prepare_cached("UPDATE operator_key SET last_used_at = ? WHERE key_id = ?")?;
    for (key_id, at) in used {
        statement.execute(params![to_millis(*at), key_id.as_str()])?;
    }
    Ok(())
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    Ok(KeyRow {
        public_key: row.get(0)?,
        name: row.get(1)?,
        role: Role::try_from(row.get::<_, i32>(2)?).map_err(|error| column_error(2, error))?,
        enrolled_at: from_millis(row.get(3)?),
        last_used_at: row.get::<_, Option<i64>>(4)?.map(from_millis),
    })
}

fn column_error(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}
