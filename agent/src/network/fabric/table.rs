//! Rows of `fabric_address`.

use std::time::{Duration, SystemTime};

use capsule_proto::{Name, v1};
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::view::Hosts;
use crate::network::reserve::lowest_free;

/// How long nobody else gets the address of a workload that was deleted: whoever knows it, or keeps
/// a name's answer too long, meets nobody instead of somebody else.
const REST: Duration = Duration::from_hours(1);

/// A workload's part in the fabric.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::network) struct Row {
    pub(super) workload: Name,
    /// Offset in the slice.
    pub(super) host: u32,
    pub(super) spec: v1::FabricSpec,
}

/// Of the workloads that have one now.
pub(super) fn rows(db: &Connection) -> rusqlite::Result<Vec<Row>> {
    let mut statement = db.prepare_cached(
        "SELECT workload, host, spec FROM fabric_address WHERE released_at IS NULL ORDER BY workload",
    )?;
    let found = statement.query_map([], |row| {
        let (name, host, spec): (String, u32, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(name.parse().ok().zip(v1::FabricSpec::decode(spec.as_slice()).ok()).map(|(workload, spec)| Row {
            workload,
            host,
            spec,
        }))
    })?;
    found.filter_map(Result::transpose).collect()
}

/// Gives a workload a place, or keeps the one that it has or had, unless that moved away with an
/// earlier one of its name; `false` where none is free.
pub(super) fn hold(
    tx: &Transaction<'_>,
    workload: &Name,
    spec: &v1::FabricSpec,
    hosts: &Hosts,
) -> rusqlite::Result<bool> {
    let long_ago = seconds(SystemTime::now()) - REST.as_secs() as i64;
    tx.prepare_cached("DELETE FROM fabric_address WHERE released_at <= ? AND workload <> ?")?
        .execute(params![long_ago, workload.as_str()])?;
    let kept: Option<u32> = tx
        .prepare_cached("SELECT host FROM fabric_address WHERE workload = ?")?
        .query_row([workload.as_str()], |row| row.get(0))
        .optional()?;
    let host = match kept.filter(|host| !hosts.moved.contains(host)) {
        Some(host) => Some(host),
        None => lowest_free(hosts.free(), taken(tx)?),
    };
    let Some(host) = host else { return Ok(false) };
    tx.prepare_cached("INSERT OR REPLACE INTO fabric_address (workload, host, spec) VALUES (?, ?, ?)")?
        .execute(params![workload.as_str(), host, spec.encode_to_vec()])?;
    Ok(true)
}

fn taken(db: &Connection) -> rusqlite::Result<Vec<u32>> {
    db.prepare_cached("SELECT host FROM fabric_address ORDER BY host")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Takes a place back; it rests for a while.
pub(super) fn release(tx: &Transaction<'_>, workload: &Name) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE fabric_address SET released_at = ? WHERE workload = ? AND released_at IS NULL")?
        .execute(params![seconds(SystemTime::now()), workload.as_str()])
        .map(drop)
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    async fn change<T: Send + 'static>(
        store: &Store,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> T {
        store.write(move |tx| Ok::<_, crate::network::NetworkError>(work(tx)?)).await.unwrap()
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    async fn give(store: &Store, workload: &str) -> Option<u32> {
        give_besides(store, workload, []).await
    }

    async fn give_besides<const N: usize>(store: &Store, workload: &str, moved: [u32; N]) -> Option<u32> {
        let (workload, moved) = (name(workload), moved.into());
        change(store, move |tx| {
            hold(tx, &workload, &v1::FabricSpec::default(), &Hosts { range: 2..4, moved })?;
            Ok(rows(tx)?.into_iter().find(|row| row.workload == workload).map(|row| row.host))
        })
        .await
    }

    #[tokio::test]
    async fn a_place_is_kept_by_name_and_rests_an_hour_before_another_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(give(&store, "web").await, Some(2));
        assert_eq!(give(&store, "db").await, Some(3));
        assert_eq!(give(&store, "web").await, Some(2));
        change(&store, |tx| release(tx, &name("web"))).await;
        assert_eq!(give(&store, "api").await, None, "web's place rests");
        assert_eq!(give(&store, "web").await, Some(2), "and is web's again");
        change(&store, |tx| release(tx, &name("web"))).await;
        change(&store, |tx| tx.execute("UPDATE fabric_address SET released_at = released_at - 3600", []))
            .await;
        assert_eq!(give(&store, "api").await, Some(2));
    }

    #[tokio::test]
    async fn a_place_that_moved_away_is_not_given_to_another_of_the_same_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(give(&store, "db").await, Some(2));
        change(&store, |tx| release(tx, &name("db"))).await;
        assert_eq!(give_besides(&store, "db", [2]).await, Some(3));
        assert_eq!(give(&store, "web").await, Some(2), "it is back, and free");
    }
}
