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

/// All rows of a table as text, as far as these columns go.
fn rows(connection: &Connection, table: &str, columns: &[String]) -> Vec<String> {
    let columns = columns.join(", ");
    let mut statement = connection.prepare(&format!("SELECT {columns} FROM {table} ORDER BY 1, 2")).unwrap();
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

fn columns(connection: &Connection, table: &str) -> Vec<String> {
    let statement = connection.prepare(&format!("SELECT * FROM {table}")).unwrap();
    statement.column_names().map(str::to_owned).collect()
}

/// Brings a golden database to the present schema; none of its rows may change.
fn migrated(golden: &str, tables: &[(&str, usize)]) -> Connection {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let old = Connection::open(&path).unwrap();
    old.execute_batch(&fs::read_to_string(fixture(golden)).unwrap()).unwrap();
    let before: Vec<_> = tables
        .iter()
        .map(|(table, count)| {
            let columns = columns(&old, table);
            let rows = rows(&old, table, &columns);
            assert_eq!(rows.len(), *count, "{table} of {golden}");
            (columns, rows)
        })
        .collect();
    old.close().unwrap();
    let migrated = migrate::open(&path).unwrap();
    assert_eq!(version(&migrated), SCHEMA_VERSION);
    for ((table, _), (columns, before)) in tables.iter().zip(before) {
        assert_eq!(rows(&migrated, table, &columns), before, "{table} of {golden}");
    }
    let other = tempfile::tempdir().unwrap();
    let fresh = migrate::open(&other.path().join(FILE_NAME)).unwrap();
    assert_eq!(schema(&migrated), schema(&fresh));
    migrated
}

#[test]
fn a_database_of_the_first_schema_keeps_every_row_on_its_way_to_the_present_one() {
    let migrated = migrated("v1.sql", &[("identity", 1), ("operator_key", 2), ("event", 2)]);
    let next = "INSERT INTO event (at, severity, subject_kind, subject, reason, message) \
                VALUES (0, 1, '', '', '', '') RETURNING sequence";
    let sequence: i64 = migrated.query_row(next, [], |row| row.get(0)).unwrap();
    assert_eq!(sequence, 9, "numbers of events go on where they were");
}

/// What every schema since the second one has, with as many rows as its golden file.
const SINCE_THE_SECOND: [(&str, usize); 9] = [
    ("identity", 1),
    ("operator_key", 2),
    ("event", 2),
    ("workload", 2),
    ("address", 2),
    ("host_port", 2),
    ("network", 1),
    ("volume", 2),
    ("volume_claim", 1),
];

#[test]
fn a_database_of_the_second_schema_keeps_its_workloads_networks_and_volumes() {
    let migrated = migrated("v2.sql", &SINCE_THE_SECOND);
    let mut statement = migrated.prepare("SELECT epoch, restart, begun FROM workload").unwrap();
    let epochs = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let epochs: Vec<(i64, i64, i64)> = epochs.map(Result::unwrap).collect();
    assert_eq!(epochs, [(1, 0, 0); 2], "no restart was asked for");
}

#[test]
fn a_database_of_the_third_schema_keeps_its_runs_and_is_in_no_fabric() {
    let migrated = migrated("v3.sql", &SINCE_THE_SECOND);
    let fabrics: i64 = migrated.query_row("SELECT count(*) FROM fabric", [], |row| row.get(0)).unwrap();
    assert_eq!(fabrics, 0);
}

#[test]
fn databases_since_the_fourth_schema_keep_what_they_know_of_the_fabric() {
    let of_fabric = [("fabric", 1), ("fabric_address", 2), ("fabric_location", 2)];
    for (version, count) in [(4, 1), (5, 2), (6, 3)] {
        let tables = [&SINCE_THE_SECOND[..], &of_fabric[..count]].concat();
        migrated(&format!("v{version}.sql"), &tables);
    }
}

#[test]
fn a_database_of_the_seventh_schema_keeps_its_release_keys_and_updates() {
    let later = [
        ("fabric", 1),
        ("fabric_address", 2),
        ("fabric_location", 2),
        ("release_key", 2),
        ("system_update", 2),
    ];
    migrated("v7.sql", &[&SINCE_THE_SECOND[..], &later[..]].concat());
    let newest = fixture(&format!("v{SCHEMA_VERSION}.sql"));
    assert!(newest.exists(), "the present schema has no golden database yet: {}", newest.display());
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
