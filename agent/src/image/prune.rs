//! What images there are, and their end.

use std::collections::{BTreeMap, HashSet};

use capsule_proto::{Name, timestamp, v1};
use containerd_client::services::v1::Image as Record;

use super::{Collect, Image, ImageError, ImageUsers, Images, NewEvent, reference};

/// Workloads by the normalised reference that their spec names.
type Users = BTreeMap<String, Vec<Name>>;

impl Images {
    /// Every image with its size and who uses it, by name.
    pub async fn list(&self, users: &dyn ImageUsers) -> Result<Vec<v1::Image>, ImageError> {
        let users = in_use(users).await?;
        let mut images = Vec::new();
        for record in self.engine.list_records(None).await? {
            images.push(self.describe(record, &users).await?);
        }
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// One image as the API shows it.
    pub(super) async fn describe(&self, record: Record, users: &Users) -> Result<v1::Image, ImageError> {
        let target = record.target.unwrap_or_default();
        let (mut digest, mut size_bytes) = (target.digest.clone(), target.size as u64);
        match Image::resolve(&self.engine, &record.name, target).await {
            Ok(image) => (digest, size_bytes) = (image.digest.clone(), image.size_bytes()),
            // Shown as it is, so that it can be seen and removed.
            Err(error) => tracing::debug!(%error, image = record.name, "an image is incomplete"),
        }
        let made = record.created_at.and_then(|at| std::time::SystemTime::try_from(at).ok());
        let used_by = users.get(&record.name).into_iter().flatten().map(ToString::to_string).collect();
        Ok(v1::Image { reference: record.name, digest, size_bytes, created_at: made.map(timestamp), used_by })
    }

    /// Removes an image and what only it needed; refused while a workload's spec names it.
    pub async fn remove(&self, text: &str, users: &dyn ImageUsers) -> Result<(), ImageError> {
        let reference = reference::parse(text)?.whole();
        if let Some(users) = in_use(users).await?.remove(&reference) {
            return Err(ImageError::InUse { reference, users });
        }
        self.engine.delete_record(&reference, Collect::Now).await?;
        self.events.emit(NewEvent::new("image", &reference, "Removed", "removed on request"));
        Ok(())
    }

    /// Removes images that no workload names, interrupted pulls, and content that nothing needs.
    /// Answers with the names and the bytes that were freed on the disk.
    pub async fn prune(&self, users: &dyn ImageUsers) -> Result<v1::PruneImagesResponse, ImageError> {
        let before = self.stored_bytes().await?;
        let mut removed = Vec::new();
        for record in self.engine.list_records(None).await? {
            // Looked up each time: a workload may have come meanwhile.
            if in_use(users).await?.contains_key(&record.name) {
                continue;
            }
            match self.engine.delete_record(&record.name, Collect::Later).await {
                Err(error) if error.is_missing() => {}
                other => other.map(|()| removed.push(record.name))?,
            }
        }
        self.engine.release_stale_pulls(&self.pulls.running()).await?;
        self.engine.collect().await?;
        let freed_bytes = before.saturating_sub(self.stored_bytes().await?);
        let message = format!("{} images removed, {freed_bytes} bytes freed", removed.len());
        self.events.emit(NewEvent::new("image", "", "Pruned", message));
        Ok(v1::PruneImagesResponse { removed, freed_bytes })
    }

    async fn stored_bytes(&self) -> Result<u64, ImageError> {
        let mut seen = HashSet::new();
        let blobs = self.engine.blobs().await?.into_iter();
        let blobs: u64 = blobs.filter(|blob| seen.insert(blob.digest.clone())).map(|b| b.size as u64).sum();
        Ok(blobs + self.engine.unpacked_bytes().await?)
    }
}

async fn in_use(users: &dyn ImageUsers) -> Result<Users, ImageError> {
    let mut by_reference = Users::new();
    for (text, name) in users.images_in_use().await? {
        let reference = reference::parse(&text).map_or(text, |reference| reference.whole());
        by_reference.entry(reference).or_default().push(name);
    }
    Ok(by_reference)
}
