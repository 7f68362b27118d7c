//! What is refused at the start, and that the refusal changes nothing.

use std::{collections::BTreeMap, fs};

use super::*;

type Damage = fn(&Path);

const GARBAGE: [u8; 4096] = [0xa5; 4096];

/// Every file of a directory with its content.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Must be refused with these words, leaving every byte where it was.
fn refused(dir: &Path, words: &str) {
    let before = content(dir);
    let error = Store::open(dir).err().expect("it was opened").to_string();
    assert!(error.contains(words), "{error}");
    assert!(error.contains("nothing was changed"), "{error}");
    assert!(content(dir) == before, "the refusal changed something: {:?}", content(dir).keys());
}

/// A database of some dozen pages: all of it in the file, or the last 50 commits in the log, as
/// `kill -9` leaves it.
fn database(dir: &Path, leaves_log: bool) -> PathBuf {
    let path = dir.join(FILE_NAME);
    drop(migrate::open(&path).unwrap());
    let connection = open_connection(&path).unwrap();
    let fill = |count: u32| {
        for _ in 0..count {
            let text = "x".repeat(2000);
            let insert = "INSERT INTO event (at, severity, subject_kind, subject, reason, message) \
                          VALUES (0, 1, '', '', '', ?1)";
            connection.execute(insert, [text]).unwrap();
        }
    };
    fill(50);
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    if leaves_log {
        fill(50);
        let copy = dir.with_extension("copy");
        fs::create_dir(&copy).unwrap();
        for name in ["state.db", "state.db-wal"] {
            fs::copy(dir.join(name), copy.join(name)).unwrap();
        }
        drop(connection);
        fs::remove_dir_all(dir).unwrap();
        fs::rename(&copy, dir).unwrap();
    }
    path
}

fn overwrite(path: &Path, at: usize, bytes: &[u8]) {
    let mut whole = fs::read(path).unwrap();
    whole[at..at + bytes.len()].copy_from_slice(bytes);
    fs::write(path, whole).unwrap();
}

#[test]
fn a_damaged_file_is_refused_and_not_touched() {
    let damages: [(&str, Damage); 6] = [
        ("empty", |path| fs::write(path, "").unwrap()),
        ("not a database", |path| fs::write(path, "x".repeat(5000)).unwrap()),
        ("damaged", |path| fs::File::options().write(true).open(path).unwrap().set_len(9000).unwrap()),
        ("not a database", |path| overwrite(path, 0, &GARBAGE[..16])),
        ("damaged", |path| overwrite(path, 3 * 4096, &GARBAGE)),
        ("no capsule's state", |path| {
            fs::remove_file(path).unwrap();
            Connection::open(path).unwrap().execute_batch("CREATE TABLE other (a)").unwrap();
        }),
    ];
    for (words, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        damage(&database(dir.path(), false));
        refused(dir.path(), words);
    }
}

#[test]
fn a_newer_schema_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path(), false);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    refused(dir.path(), "has schema 99");
}

#[test]
fn a_log_that_lost_commits_is_refused_and_one_cut_by_a_crash_is_not() {
    let opens = |damage: fn(&Path, usize)| {
        let dir = tempfile::tempdir().unwrap();
        database(dir.path(), true);
        let log = dir.path().join("state.db-wal");
        damage(&log, fs::metadata(&log).unwrap().len() as usize);
        let path = dir.path().to_owned();
        (dir, path)
    };
    let (_kept, dir) = opens(|log, _| overwrite(log, 0, &[0; 32]));
    refused(&dir, "header of its write-ahead log");
    let (_kept, dir) = opens(|log, length| overwrite(log, length / 2, &GARBAGE[..100]));
    refused(&dir, "committed ones follow");
    let rows = |dir: &Path| count(&migrate::open(&dir.join(FILE_NAME)).unwrap()).unwrap();
    let (_kept, dir) = opens(|_, _| {});
    assert_eq!(rows(&dir), 100);
    let (_kept, dir) = opens(|log, length| overwrite(log, length - 100, &GARBAGE[..100]));
    assert_eq!(rows(&dir), 99);
    let (_kept, dir) = opens(|log, length| {
        fs::File::options().write(true).open(log).unwrap().set_len(length as u64 - 7).unwrap();
    });
    assert_eq!(rows(&dir), 99);
}

#[test]
fn a_database_that_is_gone_is_missed() {
    for trace in ["identity/server.key", "state.db-wal"] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("identity")).unwrap();
        fs::write(dir.path().join(trace), "x").unwrap();
        refused(dir.path(), trace);
    }
}

#[tokio::test]
async fn a_first_start_cut_short_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("state.db.new"), "half").unwrap();
    fs::write(dir.path().join("state.db.new-journal"), "half").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.read(count).await.unwrap(), 0);
    assert!(!dir.path().join("state.db.new").exists());
}
