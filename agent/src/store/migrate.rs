//! The schema's history. Each step and the version it leads to are one transaction.

use std::{fs, io, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::{OpenError, open_connection, wal};
use crate::sys::file;

/// In order; step n leads from `user_version` n to n + 1. Never edit one that was released.
pub(super) const MIGRATIONS: [&str; 7] = [
    include_str!("migrations/0001_identity.sql"),
    include_str!("migrations/0002_workloads.sql"),
    include_str!("migrations/0003_runs.sql"),
    include_str!("migrations/0004_fabric.sql"),
    include_str!("migrations/0005_fabric_address.sql"),
    include_str!("migrations/0006_fabric_location.sql"),
    include_str!("migrations/0007_update.sql"),
];

/// The schema that this capsuled writes.
pub const SCHEMA_VERSION: u32 = MIGRATIONS.len() as u32;

/// What is in a state directory only where a database was: the capsule's key, and a log without
/// the database it belongs to.
const TRACES: [&str; 2] = ["identity/server.key", "state.db-wal"];

/// Opens the database, refusing before the first write what is damaged, gone or too new.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    if path.exists() {
        inspect(path)?;
    } else {
        create(path)?;
    }
    let failed = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let mut connection = open_connection(path).map_err(failed)?;
    migrate(&mut connection, &MIGRATIONS).map_err(failed)?;
    // From here on the log holds this run's commits alone, which `wal` relies on.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed)?;
    Ok(connection)
}

/// Makes the first database of a state directory: under its name it is whole or not there, so
/// that no crash leaves one that looks damaged.
fn create(path: &Path) -> Result<(), OpenError> {
    let dir = path.parent().unwrap_or(path);
    if let Some(trace) = TRACES.iter().map(|trace| dir.join(trace)).find(|trace| trace.exists()) {
        return Err(OpenError::Gone { path: path.to_owned(), trace });
    }
    let next = path.with_extension("db.new");
    let failed = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let refused = |source| OpenError::Io { path: path.to_owned(), source };
    for stale in [next.clone(), path.with_extension("db.new-journal")] {
        match fs::remove_file(&stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
            _ => {}
        }
    }
    let mut connection = Connection::open(&next).map_err(failed)?;
    migrate(&mut connection, &MIGRATIONS).map_err(failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    fs::File::open(&next).and_then(|file| file.sync_all()).map_err(refused)?;
    fs::rename(&next, path).and_then(|()| file::sync_dir(dir)).map_err(refused)
}

/// Looks, and leaves the directory as it was.
fn inspect(path: &Path) -> Result<(), OpenError> {
    let corrupt = |detail: String| OpenError::Corrupt { path: path.to_owned(), detail };
    // What a full disk or a stray redirect leaves: never a fresh start.
    if fs::metadata(path).is_ok_and(|meta| meta.len() == 0) {
        return Err(corrupt("the file is empty".into()));
    }
    let log = path.with_extension("db-wal");
    wal::check(&log).map_err(|damage| corrupt(damage.to_string()))?;
    let beside = [log, path.with_extension("db-shm")];
    let was_there = beside.each_ref().map(|file| file.exists());
    let verdict = look(path);
    // A reader of a database in WAL mode needs both files, and makes those that are missing.
    for (file, was_there) in beside.iter().zip(was_there) {
        if !was_there {
            let _ = fs::remove_file(file);
        }
    }
    match verdict.map_err(|error| corrupt(error.to_string()))? {
        Verdict::Schema(found) => {
            Err(OpenError::TooNew { path: path.to_owned(), found, known: SCHEMA_VERSION })
        }
        Verdict::Damage(detail) => Err(corrupt(detail)),
        Verdict::Sound => Ok(()),
    }
}

enum Verdict {
    Sound,
    /// Of a later capsuled.
    Schema(u32),
    Damage(String),
}

fn look(path: &Path) -> rusqlite::Result<Verdict> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > SCHEMA_VERSION {
        return Ok(Verdict::Schema(found));
    }
    let check: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    // One finding is enough, without the heading that says in which database.
    let finding = check.lines().find(|line| !line.starts_with("***")).unwrap_or("no finding");
    Ok(match finding {
        "ok" if found == 0 => Verdict::Damage("it holds no capsule's state".into()),
        "ok" => Verdict::Sound,
        other => Verdict::Damage(other.to_owned()),
    })
}

/// Takes the steps that the database has not taken.
pub(super) fn migrate(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (at, step) in steps.iter().enumerate().skip(found as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", at as u32 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}
