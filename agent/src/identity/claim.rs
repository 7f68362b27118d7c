//! The claim window: when a stranger may become the first operator.
//!
//! ```text
//!   start ──▶ no key enrolled ────────▶ open for 30 minutes ──▶ closed by the first adoption
//!         ├─▶ keys, fresh sentinel ───▶ open for 30 minutes ──▶   or by time
//!         └─▶ keys ───────────────────▶ closed
//! ```

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use uuid::Uuid;

use super::{Refusal, keys::KeyRow, table};
use crate::{
    store::{Store, StoreError},
    sys::file,
};

/// How long after the agent's start a capsule can be adopted.
pub const CLAIM_WINDOW: Duration = Duration::from_mins(30);
/// File in the state directory that opens the window although keys are enrolled.
pub const SENTINEL: &str = "reopen-claim-window";
/// Its greatest age at the agent's start.
pub const SENTINEL_MAX_AGE: Duration = Duration::from_mins(10);

/// What bars an adoption.
#[derive(Clone, Debug)]
enum Bar {
    /// Any enrolled key.
    AnyKey,
    /// Only a key that this very window enrolled.
    OwnClaim(String),
}

/// The window of one run of the agent.
#[derive(Debug)]
pub(super) struct ClaimWindow {
    id: String,
    bar: Bar,
    opened: Instant,
    length: Duration,
}

/// What became of the sentinel file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sentinel {
    /// There was none.
    Absent,
    /// It was fresh and is gone now.
    Consumed,
    /// Its age (negative ages are `None`: it is from the future). It stays.
    Stale(Option<Duration>),
}

impl ClaimWindow {
    pub(super) fn open(length: Duration, sentinel: &Sentinel) -> Self {
        let id = Uuid::new_v4().to_string();
        let bar = match sentinel {
            Sentinel::Consumed => Bar::OwnClaim(id.clone()),
            _ => Bar::AnyKey,
        };
        Self { id, bar, opened: Instant::now(), length }
    }

    /// Enrolls `key`, or says why not; whether it is new. All is decided in one transaction: of two who
    /// race, exactly one finds no other. The same key again is the answer repeated.
    pub(super) async fn claim(&self, store: &Store, key: KeyRow) -> Result<bool, ClaimError> {
        let late = self.opened.elapsed() > self.length;
        let (id, length) = (self.id.clone(), self.length);
        let only = match &self.bar {
            Bar::AnyKey => None,
            Bar::OwnClaim(id) => Some(id.clone()),
        };
        store
            .write(move |tx| {
                match table::claimant(tx, only.as_deref())? {
                    Some(winner) if winner.public_key == key.public_key => return Ok(false),
                    Some(winner) => return Err(claimed(&winner).into()),
                    None if late => return Err(Refusal::WindowClosed(length).into()),
                    None => {}
                }
                table::put(tx, &key, Some(&id))?;
                Ok(true)
            })
            .await
    }
}

fn claimed(winner: &KeyRow) -> Refusal {
    Refusal::Claimed { key: winner.key_id().to_string(), name: winner.name.clone() }
}

/// Why a claim failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Looks for the sentinel; a fresh one is removed for good before it counts.
pub(super) fn take_sentinel(state_dir: &Path) -> io::Result<Sentinel> {
    let path = state_dir.join(SENTINEL);
    let touched = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sentinel::Absent),
        other => other?.modified()?,
    };
    let age = SystemTime::now().duration_since(touched).ok();
    if age.is_none_or(|age| age >= SENTINEL_MAX_AGE) {
        return Ok(Sentinel::Stale(age));
    }
    fs::remove_file(&path)?;
    file::sync_dir(state_dir)?;
    Ok(Sentinel::Consumed)
}

#[cfg(test)]
mod tests {
    use capsule_proto::v1::Role;

    use super::*;

    fn key(n: u8) -> KeyRow {
        KeyRow::new([n; 32], format!("op{n}"), Role::Admin)
    }

    #[tokio::test]
    async fn of_many_who_race_exactly_one_wins_and_the_others_learn_who() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let window = ClaimWindow::open(CLAIM_WINDOW, &Sentinel::Absent);
        let claims = (0..32).map(|n| window.claim(&store, key(n)));
        let results = futures_util::future::join_all(claims).await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        let winner = store.read(table::all).await.unwrap().remove(0);
        let lost = results.into_iter().filter_map(Result::err).map(|error| error.to_string());
        assert!(lost.into_iter().all(|text| text.contains(&format!("({})", winner.name))));
        window.claim(&store, winner).await.unwrap();
    }

    #[tokio::test]
    async fn a_reopened_window_takes_one_more_key_and_a_late_one_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let late = ClaimWindow::open(Duration::ZERO, &Sentinel::Absent);
        std::thread::sleep(Duration::from_millis(2));
        let error = late.claim(&store, key(1)).await.unwrap_err();
        assert!(matches!(error, ClaimError::Refused(Refusal::WindowClosed(_))));
        ClaimWindow::open(CLAIM_WINDOW, &Sentinel::Absent).claim(&store, key(1)).await.unwrap();
        let reopened = ClaimWindow::open(CLAIM_WINDOW, &Sentinel::Consumed);
        reopened.claim(&store, key(2)).await.unwrap();
        assert!(reopened.claim(&store, key(3)).await.is_err());
    }

    #[test]
    fn a_fresh_sentinel_is_consumed_and_a_stale_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(take_sentinel(dir.path()).unwrap(), Sentinel::Absent);
        let path = dir.path().join(SENTINEL);
        fs::write(&path, "").unwrap();
        assert_eq!(take_sentinel(dir.path()).unwrap(), Sentinel::Consumed);
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        let old = SystemTime::now() - SENTINEL_MAX_AGE;
        fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        assert!(matches!(take_sentinel(dir.path()).unwrap(), Sentinel::Stale(Some(_))));
        assert!(path.exists());
    }
}
