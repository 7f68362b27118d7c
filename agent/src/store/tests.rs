use super::*;

fn count(store: &Connection) -> Result<i64, StoreError> {
    Ok(store.query_row("SELECT count(*) FROM event", [], |row| row.get(0))?)
}

fn insert(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.execute_batch(
        "INSERT INTO event (at, severity, subject_kind, subject, reason, message) VALUES (0,1,'','','','')",
    )?;
    Ok(())
}

#[tokio::test]
async fn what_a_failed_write_did_is_rolled_back_and_its_neighbours_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let writes = (0..20).map(|n| {
        store.write(move |tx| {
            insert(tx)?;
            if n % 2 == 0 { Ok(()) } else { Err(StoreError::Closed) }
        })
    });
    futures_util::future::join_all(writes).await;
    assert_eq!(store.read(count).await.unwrap(), 10);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::TooNew { found: 99, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_damaged_or_empty_file_is_refused_and_not_touched() {
    for content in [&b"not a database, but long enough to hold a header of one hundred bytes, which SQLite reads first of all things"[..], b""] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, content).unwrap();
        let error = Store::open(dir.path()).err().unwrap();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}
