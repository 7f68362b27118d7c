//! The schema's history, held against golden files.

use std::fs;

use super::*;
use migrate::{MIGRATIONS, SCHEMA_VERSION, migrate};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store").join(name)
}

fn version(connection: &Connection) -> u32 {
    connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

/// Tables and indices as SQLite keeps them.
fn schema(connection: &Connection) -> String {
    let mut statement = connection
        .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name")
        .unwrap();
    let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let body: String = rows.map(|sql| format!("{};\n", sql.unwrap())).collect();
    format!("-- Schema {}. `BLESS=1` renews it after a migration was added.\n{body}", version(connection))
}

/// All rows of a table as text.
fn rows(connection: &Connection, table: &str) -> Vec<String> {
    let mut statement = connection.prepare(&format!("SELECT * FROM {table} ORDER BY 1")).unwrap();
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        (0..columns)
            .map(|at| row.get_ref(at).map(|value| format!("{value:?}")))
            .collect::<Result<Vec<_>, _>>()
            .map(|cells| cells.join(" "))
    };
    let found = statement.query_map([], row).unwrap();
    found.map(Result::unwrap).collect()
}

#[test]
fn a_database_of_the_first_schema_keeps_every_row_on_its_way_to_the_present_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let old = Connection::open(&path).unwrap();
    old.execute_batch(&fs::read_to_string(fixture("v1.sql")).unwrap()).unwrap();
    let tables = ["identity", "operator_key", "event"];
    let before = tables.map(|table| rows(&old, table));
    assert_eq!(before.each_ref().map(Vec::len), [1, 2, 2]);
    old.close().unwrap();
    let migrated = migrate::open(&path).unwrap();
    assert_eq!(version(&migrated), SCHEMA_VERSION);
    assert_eq!(tables.map(|table| rows(&migrated, table)), before);
    let other = tempfile::tempdir().unwrap();
    let fresh = migrate::open(&other.path().join(FILE_NAME)).unwrap();
    assert_eq!(schema(&migrated), schema(&fresh));
    let next = "INSERT INTO event (at, severity, subject_kind, subject, reason, message) \
                VALUES (0, 1, '', '', '', '') RETURNING sequence";
    let sequence: i64 = migrated.query_row(next, [], |row| row.get(0)).unwrap();
    assert_eq!(sequence, 9, "numbers of events go on where they were");
}

#[test]
fn the_present_schema_is_the_golden_one() {
    let dir = tempfile::tempdir().unwrap();
    let found = schema(&migrate::open(&dir.path().join(FILE_NAME)).unwrap());
    let golden = fixture("schema.sql");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&golden, &found).unwrap();
    }
    let kept = fs::read_to_string(golden).unwrap_or_default();
    assert!(found == kept, "a migration was edited, or a new one is not blessed (BLESS=1):\n{found}");
}

#[test]
fn a_step_that_fails_half_way_leaves_the_schema_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut connection = open_connection(&dir.path().join(FILE_NAME)).unwrap();
    migrate(&mut connection, &MIGRATIONS[..1]).unwrap();
    let before = schema(&connection);
    let broken = [MIGRATIONS[0], "CREATE TABLE half (a) STRICT; INSERT INTO nowhere VALUES (1);"];
    migrate(&mut connection, &broken).unwrap_err();
    assert_eq!((version(&connection), schema(&connection)), (1, before));
    migrate(&mut connection, &MIGRATIONS).unwrap();
    assert_eq!(version(&connection), SCHEMA_VERSION);
}

#[test]
fn an_agent_killed_within_a_step_leaves_the_schema_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let mut connection = open_connection(&path).unwrap();
    migrate(&mut connection, &MIGRATIONS[..1]).unwrap();
    connection.execute_batch(&format!("BEGIN; {} PRAGMA user_version = 2;", MIGRATIONS[1])).unwrap();
    // What a process that dies here leaves on the disk.
    let copy = dir.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    fs::copy(path.with_extension("db-wal"), copy.with_extension("db-wal")).unwrap();
    let mut survivor = open_connection(&copy).unwrap();
    assert_eq!(version(&survivor), 1);
    migrate(&mut survivor, &MIGRATIONS).unwrap();
    assert_eq!(version(&survivor), SCHEMA_VERSION);
}
