//! Leases: while one lives, containerd's garbage collector leaves alone what was made under it.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use containerd_client::services::v1::{
    self as wire, AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, ListResourcesRequest,
    Resource,
};
use tonic::Code;

use super::{Engine, SNAPSHOTTER};
use crate::image::{ImageError, manifest::digest_of};

/// What was begun and never ended is collected after this long.
const EXPIRY: Duration = Duration::from_hours(24);
/// A pull that is taken up again gets a new lease once the old one has less than the rest of
/// [`EXPIRY`] to live.
const REUSE: Duration = Duration::from_hours(12);
/// Leases of pulls begin so; the hash of the reference follows.
const PULL_PREFIX: &str = "capsule-pull-";
/// Label that ends a lease at an RFC 3339 time.
const EXPIRE_LABEL: &str = "containerd.io/gc.expire";

/// A lease that exists.
#[derive(Clone, Debug)]
pub struct Lease {
    id: String,
}

impl Lease {
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Engine {
    /// The lease of the pull of `reference`: an interrupted pull finds what it had.
    pub async fn pull_lease(&self, reference: &str) -> Result<Lease, ImageError> {
        let prefix = pull_prefix(reference);
        let kept: Vec<_> =
            self.list_leases().await?.into_iter().filter(|lease| lease.id.starts_with(&prefix)).collect();
        if let Some(young) = kept.iter().find(|lease| age(lease) < REUSE) {
            return Ok(Lease { id: young.id.clone() });
        }
        let lease = self.new_lease(&prefix).await?;
        for old in kept {
            self.hold_all_of(&lease, &old.id).await?;
            self.release(Lease { id: old.id }, Collect::Later).await?;
        }
        Ok(lease)
    }

    /// A lease that nobody finds again.
    pub async fn lease(&self, purpose: &str) -> Result<Lease, ImageError> {
        self.new_lease(&format!("capsule-{purpose}-")).await
    }

    async fn new_lease(&self, prefix: &str) -> Result<Lease, ImageError> {
        let id = format!("{prefix}{}", uuid::Uuid::new_v4().simple());
        let expires = jiff::Timestamp::try_from(SystemTime::now() + EXPIRY).unwrap_or(jiff::Timestamp::MAX);
        let labels = HashMap::from([(EXPIRE_LABEL.to_owned(), format!("{expires:.0}"))]);
        let request = CreateRequest { id: id.clone(), labels };
        let made = self.leases().create(request).await;
        made.map_err(|status| ImageError::engine("leasing content", &status))?;
        Ok(Lease { id })
    }

    /// Ends a lease; with [`Collect::Now`] what only it held is gone when this returns.
    pub async fn release(&self, lease: Lease, collect: Collect) -> Result<(), ImageError> {
        let request = DeleteRequest { id: lease.id, sync: collect == Collect::Now };
        match self.leases().delete(request).await {
            Err(status) if status.code() != Code::NotFound => {
                Err(ImageError::engine("ending a lease", &status))
            }
            _ => Ok(()),
        }
    }

    /// Runs the garbage collector and waits for it.
    pub async fn collect(&self) -> Result<(), ImageError> {
        let lease = self.lease("collect").await?;
        self.release(lease, Collect::Now).await
    }

    /// Ends the leases of interrupted pulls but those of `running` references.
    pub async fn release_stale_pulls(&self, running: &[String]) -> Result<(), ImageError> {
        let live: Vec<_> = running.iter().map(|reference| pull_prefix(reference)).collect();
        for lease in self.list_leases().await? {
            let is_pull = lease.id.starts_with(PULL_PREFIX);
            if is_pull && !live.iter().any(|prefix| lease.id.starts_with(prefix)) {
                self.release(Lease { id: lease.id }, Collect::Later).await?;
            }
        }
        Ok(())
    }

    /// Makes `lease` hold a blob.
    pub async fn hold_content(&self, lease: &Lease, digest: &str) -> Result<(), ImageError> {
        self.hold(lease, Resource { id: digest.into(), r#type: "content".into() }).await
    }

    /// Makes `lease` hold a snapshot, and with it those below.
    pub async fn hold_snapshot(&self, lease: &Lease, key: &str) -> Result<(), ImageError> {
        self.hold(lease, Resource { id: key.into(), r#type: format!("snapshots/{SNAPSHOTTER}") }).await
    }

    async fn hold(&self, lease: &Lease, resource: Resource) -> Result<(), ImageError> {
        let attempted = format!("leasing {}", resource.id);
        let request = AddResourceRequest { id: lease.id.clone(), resource: Some(resource) };
        let held = self.leases().add_resource(request).await;
        held.map(drop).map_err(|status| ImageError::engine(attempted, &status))
    }

    async fn hold_all_of(&self, lease: &Lease, old: &str) -> Result<(), ImageError> {
        let listed = self.leases().list_resources(ListResourcesRequest { id: old.into() }).await;
        let listed = listed.map_err(|status| ImageError::engine("reading a lease", &status))?;
        for resource in listed.into_inner().resources {
            self.hold(lease, resource).await?;
        }
        Ok(())
    }

    async fn list_leases(&self) -> Result<Vec<wire::Lease>, ImageError> {
        let listed = self.leases().list(ListRequest::default()).await;
        let listed = listed.map_err(|status| ImageError::engine("listing leases", &status))?;
        Ok(listed.into_inner().leases)
    }
}

/// When garbage is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collect {
    /// Before the call returns.
    Now,
    /// Some time.
    Later,
}

/// Hex digits of the hash keep it short and free of the characters that ids refuse.
fn pull_prefix(reference: &str) -> String {
    let digest = digest_of(reference.as_bytes());
    format!("{PULL_PREFIX}{}-", &digest["sha256:".len()..][..16])
}

fn age(lease: &wire::Lease) -> Duration {
    let made = lease.created_at.as_ref().and_then(|at| SystemTime::try_from(*at).ok());
    made.and_then(|made| made.elapsed().ok()).unwrap_or_default()
}
