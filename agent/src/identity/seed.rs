//! The same capsule in another state directory: what an installer leaves on the disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use capsule_proto::Name;

use super::{Caller, HOSTNAME_FILE, Identity, own, table};
use crate::{
    store::{OpenError, Store, StoreError},
    sys::file,
};

/// Why it could not be written down.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// A file.
    #[error("cannot {attempt} {path}")]
    Io {
        /// A verb.
        attempt: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database there.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Either database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The admin is none any more.
    #[error("the key of {0} was removed meanwhile")]
    NoAdmin(String),
}

impl Identity {
    /// Makes `state_dir`, which is empty, that of this capsule: with its id and certificate, called
    /// `hostname` where that is given, and adopted by `admin` alone. Closed when it returns.
    pub async fn seed(
        &self,
        state_dir: &Path,
        hostname: Option<&Name>,
        admin: &Caller,
    ) -> Result<(), SeedError> {
        let (promise, row) = {
            let key_id = admin.key_id.clone();
            let read = self
                .0
                .store
                .read(move |db| Ok::<_, StoreError>((table::promise(db)?, table::get(db, &key_id)?)));
            let (promise, row) = read.await?;
            let row = row.ok_or_else(|| SeedError::NoAdmin(admin.name.clone()))?;
            (promise, row)
        };
        let from = self.0.store.path().with_file_name(own::DIRECTORY).join(own::KEY_FILE);
        let to = state_dir.join(own::DIRECTORY).join(own::KEY_FILE);
        let failed = |attempt, path: &Path| {
            let path = path.to_owned();
            move |source| SeedError::Io { attempt, path, source }
        };
        let key = fs::read(&from).map_err(failed("read", &from))?;
        let store = Store::open(state_dir)?;
        file::ensure_dir(&state_dir.join(own::DIRECTORY), 0o700).map_err(failed("make", &to))?;
        file::write_atomic(&to, &key, 0o400).map_err(failed("write", &to))?;
        let written = store.write(move |tx| {
            promise.iter().try_for_each(|promise| table::insert_promise(tx, promise))?;
            table::put(tx, &row, None)
        });
        let written = written.await;
        store.close().await;
        written?;
        if let Some(name) = hostname {
            let path = state_dir.join(HOSTNAME_FILE);
            file::write_atomic(&path, format!("{name}\n").as_bytes(), 0o644)
                .map_err(failed("write", &path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use capsule_proto::v1::Role;

    use super::*;
    use crate::{
        event::Events,
        identity::{Purpose, keys::KeyRow},
    };

    #[tokio::test]
    async fn what_is_seeded_is_the_same_capsule_adopted_by_whoever_asked() {
        let [here, there] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let start = async |dir: &Path, purpose| {
            let store = Store::open(dir).unwrap();
            let events = Events::start(store.clone());
            Identity::start(dir, "usual".into(), (purpose, Duration::from_mins(1)), store, events)
                .await
                .unwrap()
        };
        let installer = start(here.path(), Purpose::Install).await;
        let row = KeyRow::new([7; 32], "ada@desk".into(), Role::Admin);
        let admin = Caller { key_id: row.key_id(), role: Role::Admin, name: row.name.clone() };
        let error = installer.seed(there.path(), None, &admin).await.unwrap_err();
        assert!(matches!(error, SeedError::NoAdmin(_)));
        for row in [row, KeyRow::new([8; 32], "another".into(), Role::Admin)] {
            installer.0.store.write(move |tx| table::put(tx, &row, None)).await.unwrap();
        }
        installer.seed(there.path(), Some(&"attic".parse().unwrap()), &admin).await.unwrap();
        let capsule = start(there.path(), Purpose::Serve).await;
        assert_eq!(
            (capsule.capsule_id(), capsule.fingerprint()),
            (installer.capsule_id(), installer.fingerprint())
        );
        assert_eq!(capsule.hostname(), "attic");
        let keys = capsule.0.store.read(table::all).await.unwrap();
        assert_eq!(keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["ada@desk"]);
    }
}
