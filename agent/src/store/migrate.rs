//! The schema's history. Each step and the version it leads to are one transaction.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{OpenError, open_connection};

/// In order; step n leads from `user_version` n to n + 1. Never edit one that was released.
const MIGRATIONS: [&str; 2] =
    [include_str!("migrations/0001_identity.sql"), include_str!("migrations/0002_workloads.sql")];

/// The schema that this capsuled writes.
pub const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// Opens the database, refusing before the first write what is damaged or too new.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    if path.exists() {
        inspect(path)?;
    }
    let failed = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let mut connection = open_connection(path).map_err(failed)?;
    migrate(&mut connection).map_err(failed)?;
    Ok(connection)
}

/// Looks without changing a byte: an immutable read-only connection makes no -wal or -shm file.
fn inspect(path: &Path) -> Result<(), OpenError> {
    let corrupt = |detail: String| OpenError::Corrupt { path: path.to_owned(), detail };
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|error| corrupt(error.to_string()))?;
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| corrupt(error.to_string()))?;
    if found > SCHEMA_VERSION {
        return Err(OpenError::TooNew { path: path.to_owned(), found, known: SCHEMA_VERSION });
    }
    let verdict: String = connection
        .pragma_query_value(None, "quick_check", |row| row.get(0))
        .map_err(|error| corrupt(error.to_string()))?;
    let empty = found == 0 && std::fs::metadata(path).is_ok_and(|meta| meta.len() == 0);
    match verdict.as_str() {
        // A file of no bytes is what a full disk or a stray redirect leaves: never a fresh start.
        "ok" if empty => Err(corrupt("the file is empty".into())),
        "ok" => Ok(()),
        other => Err(corrupt(other.to_owned())),
    }
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (at, step) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", at as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
