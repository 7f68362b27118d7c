//! Container images: pulled from registries, pushed as archives, kept in containerd.
//!
//! `workload/` calls [`Images::ensure`] before it makes a sandbox; pulls of one reference share
//! one download. `rpc.rs` serves the rest.

use capsule_proto::v1;

/// An image that is in the content store and unpacked.
#[derive(Clone, Debug)]
pub struct ImageInfo {
    /// Normalised: `docker.io/library/nginx:1.27`.
    pub reference: String,
    /// Of the manifest that fits this machine.
    pub digest: String,
    /// Entrypoint, environment, user and the like.
    pub config: oci_spec::image::ImageConfiguration,
    /// Chain id of its layers: the parent of a sandbox's snapshot.
    pub chain_id: String,
}

/// Where progress of a pull or push goes.
pub type ProgressSender = tokio::sync::watch::Sender<v1::ImageProgress>;
