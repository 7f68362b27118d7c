//! Contexts whose capsules answer elsewhere than they remember.

use anyhow::Result;
use capsule_client::{Address, CallError, ConfigError, Connector, adopt::probe};
use futures_util::future::join_all;

use super::row::{Row, Standing};
use crate::session::Session;

/// Finds out who of the known ones really moved: who still answers where its context remembers it,
/// by another address or by a name, did not. Then moves the contexts, or says how to. The capsule has
/// shown the pinned certificate at its new address, so nothing but the address changes.
pub async fn settle(session: &mut Session, rows: Vec<Row>, moves: bool) -> Result<Vec<Row>> {
    let connector = session.connector_of_the_moment()?;
    let mut rows = join_all(rows.into_iter().map(|row| looked_up(&connector, row))).await;
    for row in &mut rows {
        let Standing::Known { name, moved_from } = &mut row.standing else { continue };
        let Some(old) = moved_from.clone() else { continue };
        let new = row.address.clone();
        if moves {
            session.fleet.update(|contexts| {
                contexts.edit(name, |context| context.address = new.clone()).map_err(ConfigError::from)
            })?;
            *moved_from = None;
            session.out.note(&format!("{name} moved from {old} to {new}"));
        } else {
            let hint = format!(
                "{name} answers at {new} and not at {old} any more; `fleetctl discover --refresh` moves its context"
            );
            session.out.note(&hint);
        }
    }
    Ok(rows)
}

async fn looked_up(connector: &Connector, mut row: Row) -> Row {
    if let (Standing::Known { moved_from, .. }, Ok(seen)) = (&mut row.standing, &row.seen)
        && let Some(old) = moved_from
        && still_answers(connector, old, seen.fingerprint).await
    {
        *moved_from = None;
    }
    row
}

async fn still_answers(connector: &Connector, old: &Address, pinned: capsule_proto::Fingerprint) -> bool {
    let found: Result<_, CallError> = probe(connector, old).await;
    found.is_ok_and(|found| found.fingerprint == pinned)
}
