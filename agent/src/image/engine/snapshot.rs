//! Snapshots: layers unpacked, each on top of its parent, committed under their chain id.

use containerd_client::{
    services::v1::{
        ApplyRequest,
        snapshots::{
            CommitSnapshotRequest, Kind, ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
            StatSnapshotRequest, UsageRequest,
        },
    },
    types::Descriptor,
};
use tonic::{Code, Status};

use super::{Engine, Lease, SNAPSHOTTER};
use crate::image::ImageError;

impl Engine {
    /// Whether a committed snapshot of this chain id exists.
    pub async fn has_snapshot(&self, chain_id: &str) -> Result<bool, ImageError> {
        let request = StatSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: chain_id.into() };
        match self.snapshots(None).stat(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(ImageError::engine(format!("looking up snapshot {chain_id}"), &status)),
        }
    }

    /// Unpacks one layer onto `parent` (empty for the lowest) and commits it as `chain_id`.
    /// Returns the digest of the layer as unpacked: its diff id.
    pub async fn apply_layer(
        &self,
        lease: &Lease,
        layer: Descriptor,
        parent: &str,
        chain_id: &str,
        diff_id: &str,
    ) -> Result<(), ImageError> {
        let digest = layer.digest.clone();
        let failed = |status: &Status| ImageError::engine(format!("unpacking layer {digest}"), status);
        let key = format!("extract-{} {chain_id}", uuid::Uuid::new_v4().simple());
        let applied = match self.prepare_and_apply(lease, layer, parent, &key).await {
            Ok(applied) if applied == diff_id => self.commit(lease, &key, chain_id).await,
            Ok(applied) => {
                self.discard(&key).await;
                return Err(ImageError::Digest {
                    what: format!("layer {digest}, unpacked,"),
                    digest: diff_id.to_owned(),
                    detail: format!("it hashes to {applied}"),
                });
            }
            Err(status) => Err(status),
        };
        match applied {
            Ok(()) => Ok(()),
            Err(status) => {
                self.discard(&key).await;
                // Another process unpacked the same at the same time.
                if status.code() == Code::AlreadyExists { Ok(()) } else { Err(failed(&status)) }
            }
        }
    }

    async fn prepare_and_apply(
        &self,
        lease: &Lease,
        layer: Descriptor,
        parent: &str,
        key: &str,
    ) -> Result<String, Status> {
        let request = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: key.into(),
            parent: parent.into(),
            ..Default::default()
        };
        let mounts = self.snapshots(Some(lease)).prepare(request).await?.into_inner().mounts;
        let request = ApplyRequest { diff: Some(layer), mounts, ..Default::default() };
        let applied = self.diffs(Some(lease)).apply(request).await?.into_inner().applied;
        Ok(applied.unwrap_or_default().digest)
    }

    async fn commit(&self, lease: &Lease, key: &str, chain_id: &str) -> Result<(), Status> {
        let request = CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            name: chain_id.into(),
            key: key.into(),
            ..Default::default()
        };
        self.snapshots(Some(lease)).commit(request).await.map(drop)
    }

    async fn discard(&self, key: &str) {
        let request = RemoveSnapshotRequest { snapshotter: SNAPSHOTTER.into(), key: key.into() };
        if let Err(error) = self.snapshots(None).remove(request).await {
            tracing::debug!(%error, key, "a half-unpacked layer was left to the garbage collector");
        }
    }

    /// Bytes that unpacked layers occupy.
    pub async fn unpacked_bytes(&self) -> Result<u64, ImageError> {
        let failed = |status: Status| ImageError::engine("listing snapshots", &status);
        let request = ListSnapshotsRequest { snapshotter: SNAPSHOTTER.into(), ..Default::default() };
        let mut pages = self.snapshots(None).list(request).await.map_err(failed)?.into_inner();
        let mut sum = 0;
        while let Some(page) = pages.message().await.map_err(failed)? {
            for info in page.info.into_iter().filter(|info| info.kind() == Kind::Committed) {
                let request = UsageRequest { snapshotter: SNAPSHOTTER.into(), key: info.name };
                // One that vanished in between occupies nothing.
                if let Ok(usage) = self.snapshots(None).usage(request).await {
                    sum += usage.into_inner().size as u64;
                }
            }
        }
        Ok(sum)
    }
}
