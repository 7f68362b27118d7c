//! Rows of `event`.

use capsule_proto::{timestamp, v1};
use rusqlite::{Connection, Row, Transaction, params};

use super::{KEPT, NewEvent};
use crate::store::StoreError;

pub(super) fn insert(tx: &Transaction<'_>, new: Vec<NewEvent>) -> Result<Vec<v1::Event>, StoreError> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO event (at, severity, subject_kind, subject, reason, message) VALUES (?, ?, ?, ?, ?, ?)",
    )?;
    let mut made = Vec::with_capacity(new.len());
    for event in new {
        let sequence = statement.insert(params![
            crate::clock::to_millis(event.at),
            event.severity as i32,
            event.subject_kind,
            event.subject,
            event.reason,
            event.message
        ])?;
        made.push(v1::Event {
            sequence: sequence as u64,
            time: Some(timestamp(event.at)),
            severity: event.severity as i32,
            subject_kind: event.subject_kind.into(),
            subject: event.subject,
            reason: event.reason.into(),
            message: event.message,
        });
    }
    if let Some(last) = made.last() {
        let oldest = last.sequence.saturating_sub(KEPT);
        tx.prepare_cached("DELETE FROM event WHERE sequence <= ?")?.execute([oldest as i64])?;
    }
    Ok(made)
}

pub(super) fn select(db: &Connection, filter: &v1::ListEventsRequest) -> Result<Vec<v1::Event>, StoreError> {
    let since =
        filter.since.as_ref().map_or(0, |since| since.seconds * 1000 + i64::from(since.nanos) / 1_000_000);
    let tail = filter.tail.map_or(KEPT as i64, i64::from);
    let mut statement = db.prepare_cached(
        "SELECT * FROM (
           SELECT sequence, at, severity, subject_kind, subject, reason, message FROM event
           WHERE sequence > ?1 AND at >= ?2 AND (?3 = '' OR subject_kind = ?3) AND (?4 = '' OR subject = ?4)
           ORDER BY sequence DESC LIMIT ?5)
         ORDER BY sequence",
    )?;
    let rows = statement.query_map(
        params![filter.after_sequence as i64, since, filter.subject_kind, filter.subject, tail],
        from_row,
    )?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<v1::Event> {
    let at = crate::clock::from_millis(row.get(1)?);
    Ok(v1::Event {
        sequence: row.get::<_, i64>(0)? as u64,
        time: Some(timestamp(at)),
        severity: row.get(2)?,
        subject_kind: row.get(3)?,
        subject: row.get(4)?,
        reason: row.get(5)?,
        message: row.get(6)?,
    })
}
