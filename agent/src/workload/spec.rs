//! What an operator wants, with every default filled in.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use capsule_proto::{
    Name,
    v1::{self, manifest::Spec},
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::{needs::Address, table::Kept};

/// From the stop signal to SIGKILL where neither spec nor operator says.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// One workload as wanted, in memory; its row says the same.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    pub name: Name,
    pub manifest: v1::Manifest,
    pub spec: v1::ContainerSpec,
    pub spec_hash: String,
    pub state: v1::DesiredState,
    pub generation: u64,
    pub created_at: SystemTime,
    pub updated_at: SystemTime,
    /// Where the operator's stop or restart named one.
    pub stop_grace: Option<Duration>,
    pub address: Option<Address>,
    /// Orders commits; what is in memory never goes back to a lower one.
    pub revision: u64,
    /// Rises when counting begins anew: a changed spec, a `start`, a `restart`.
    pub epoch: u64,
    /// Epoch of the last `restart`, which asks for a new run of the same spec.
    pub restart: u64,
    /// Rises when something asks to try again at once what failed.
    pub nudge: u64,
}

impl Desired {
    /// What a row says.
    pub fn of(kept: &Kept, address: Option<Address>, revision: u64) -> Self {
        Self {
            name: kept.name.clone(),
            spec: container(&kept.manifest).cloned().unwrap_or_default(),
            manifest: kept.manifest.clone(),
            spec_hash: kept.spec_hash.clone(),
            state: kept.state,
            generation: kept.generation,
            created_at: kept.created_at,
            updated_at: kept.updated_at,
            stop_grace: kept.stop_grace,
            address,
            revision,
            epoch: kept.epoch,
            restart: kept.restart,
            nudge: 0,
        }
    }

    pub fn grace(&self) -> Duration {
        let of_spec = self.spec.stop_grace_seconds.map(|seconds| Duration::from_secs(seconds.into()));
        self.stop_grace.or(of_spec).unwrap_or(DEFAULT_GRACE)
    }

    pub fn wants_run(&self) -> bool {
        self.state == v1::DesiredState::Running
    }

    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.manifest.labels
    }
}

/// The container of a manifest; `None` for the other kinds.
pub(super) fn container(manifest: &v1::Manifest) -> Option<&v1::ContainerSpec> {
    match &manifest.spec {
        Some(Spec::Container(spec)) => Some(spec),
        _ => None,
    }
}

/// A workload's part in the fabric, if it has one.
pub(super) fn fabric(manifest: &v1::Manifest) -> Option<&v1::FabricSpec> {
    container(manifest)?.fabric.as_ref()
}

/// Fills in what an absent field means, so that writing a default out is no change.
pub(super) fn normalise(mut manifest: v1::Manifest) -> v1::Manifest {
    if let Some(Spec::Container(spec)) = &mut manifest.spec {
        if spec.network_mode() == v1::NetworkMode::Unspecified {
            spec.set_network_mode(v1::NetworkMode::Bridge);
        }
        if spec.restart_policy() == v1::RestartPolicy::Unspecified {
            spec.set_restart_policy(v1::RestartPolicy::Always);
        }
        for port in &mut spec.ports {
            if port.protocol() == v1::Protocol::Unspecified {
                port.set_protocol(v1::Protocol::Tcp);
            }
        }
        spec.stop_grace_seconds.get_or_insert(DEFAULT_GRACE.as_secs() as u32);
    }
    manifest
}

/// SHA-256 of the normalised spec's encoding, the first 32 hex digits: same hash, same sandbox.
/// Labels and the part in the fabric do not count; they change in place.
pub(super) fn hash(spec: &v1::ContainerSpec) -> String {
    let fixed = v1::ContainerSpec { fabric: None, ..spec.clone() };
    hex::encode(&Sha256::digest(fixed.encode_to_vec())[..16])
}

/// Volumes that a spec mounts, each once.
pub(super) fn volumes(spec: &v1::ContainerSpec) -> Vec<Name> {
    let mut names: Vec<Name> =
        spec.mounts.iter().filter_map(|mount| mount.volume_name.parse().ok()).collect();
    names.sort();
    names.dedup();
    names
}
