mod damage;
mod history;

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
