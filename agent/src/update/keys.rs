//! Release keys: whose bundles are installed. The image brings the first; admins add and remove.

use std::{fs, path::Path};

use capsule_bundle::{KeyNumber, ReleaseKey};
use capsule_proto::v1;

use super::{SUBJECT, UpdateError, Updates, table};
use crate::event::NewEvent;

/// Files that the image brings.
const EXTENSION: &str = "pub";
/// More are nobody's.
const MAX_KEYS: usize = 32;

/// Whether the last key may go, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It may.
    Remove,
    /// It stays.
    Keep,
}

impl Updates {
    /// Trusts what the image brings, on the first start.
    pub(super) async fn seed_keys(&self, dir: &Path) -> Result<(), UpdateError> {
        let keys = brought(dir);
        let seeded = self.inner.store.write(move |tx| {
            if table::has_had_keys(tx)? {
                return Ok(Vec::new());
            }
            keys.iter().try_for_each(|key| table::put_key(tx, key, ""))?;
            Ok::<_, UpdateError>(keys)
        });
        for key in seeded.await? {
            tracing::info!(number = %key.number(), comment = key.comment(), "release key of the image");
        }
        Ok(())
    }

    /// Those that are trusted.
    pub async fn list_keys(&self) -> Result<Vec<v1::ReleaseKey>, UpdateError> {
        let keys = self.inner.store.read(|db| Ok::<_, UpdateError>(table::keys(db)?)).await?;
        Ok(keys.iter().map(table::KeyEntry::describe).collect())
    }

    pub(super) async fn trusted(&self) -> Result<Vec<ReleaseKey>, UpdateError> {
        let keys = self.inner.store.read(|db| Ok::<_, UpdateError>(table::keys(db)?)).await?;
        Ok(keys.into_iter().map(|entry| entry.key).collect())
    }

    /// Trusts another key.
    pub async fn add_key(&self, text: &str, by: &str) -> Result<v1::ReleaseKey, UpdateError> {
        let (key, by): (ReleaseKey, String) = (text.parse()?, by.to_owned());
        let (number, adder) = (key.number(), by.clone());
        let added = self.inner.store.write(move |tx| {
            let known = table::keys(tx)?;
            if known.len() >= MAX_KEYS && !known.iter().any(|entry| entry.key == key) {
                return Err(UpdateError::TooManyKeys(known.len()));
            }
            table::put_key(tx, &key, &adder)?;
            let found = table::keys(tx)?.into_iter().find(|entry| entry.key.number() == number);
            found.ok_or(UpdateError::UnknownKey(number))
        });
        let added = added.await?;
        self.emit(NewEvent::new(
            SUBJECT,
            number,
            "ReleaseKeyAdded",
            format!("{by} trusts release key {number}"),
        ));
        Ok(added.describe())
    }

    /// Trusts a key no more.
    pub async fn remove_key(&self, number: KeyNumber, last: Last, by: &str) -> Result<(), UpdateError> {
        let removed = self.inner.store.write(move |tx| {
            let known = table::keys(tx)?;
            if !known.iter().any(|entry| entry.key.number() == number) {
                return Err(UpdateError::UnknownKey(number));
            }
            if known.len() == 1 && last == Last::Keep {
                return Err(UpdateError::LastKey(number));
            }
            table::distrust(tx, &number)?;
            Ok(())
        });
        removed.await?;
        let message = format!("{by} trusts release key {number} no more");
        self.emit(NewEvent::new(SUBJECT, number, "ReleaseKeyRemoved", message).warning());
        Ok(())
    }
}

/// The keys in a directory; what is none is told of and left out.
fn brought(dir: &Path) -> Vec<ReleaseKey> {
    let mut keys = Vec::new();
    for file in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if file.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        match fs::read_to_string(&file)
            .map_err(|error| error.to_string())
            .map(|text| text.parse::<ReleaseKey>())
        {
            Ok(Ok(key)) => keys.push(key),
            Ok(Err(error)) => {
                tracing::error!(file = %file.display(), %error, "a release key of the image is none");
            }
            Err(error) => {
                tracing::error!(file = %file.display(), %error, "a release key of the image is lost");
            }
        }
    }
    keys
}
