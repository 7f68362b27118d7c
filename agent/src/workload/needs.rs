//! What workloads need of images, network and volumes, as narrow seams.
//!
//! The capabilities implement these; tests and simulated capsules bring fakes.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use capsule_proto::{Name, v1};
use rusqlite::{Connection, Transaction};
use tokio::sync::watch;

use crate::{image::ImageInfo, network::FabricStates, runtime::BindMount, volume::Hold};

/// What a failed need means for who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeedKind {
    /// It cannot work until the spec changes.
    Invalid,
    /// Something else holds it or it is not there now.
    Conflict,
    /// It may work later.
    Failed,
}

/// An error of images, network or volumes.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct NeedError {
    /// What it means.
    pub kind: NeedKind,
    /// The error and its sources.
    pub message: String,
}

impl NeedError {
    /// From a capability's own error.
    pub fn new(kind: NeedKind, error: &(dyn std::error::Error + 'static)) -> Self {
        Self { kind, message: crate::status::chain(error) }
    }
}

/// Where a workload stands on the bridge.
pub type Address = crate::network::Reservation;

/// A port that the capsule itself holds on the host.
pub type HeldPort = (v1::Protocol, u16);

/// Images by reference.
#[async_trait]
pub trait ImageSource: Send + Sync + 'static {
    /// The normal form of a reference, or why it is none.
    fn parse(&self, reference: &str) -> Result<String, NeedError>;
    /// The image if it is in the content store and unpacked.
    async fn get(&self, reference: &str) -> Result<Option<ImageInfo>, NeedError>;
    /// The image, pulled where it is not there.
    async fn ensure(&self, reference: &str) -> Result<ImageInfo, NeedError>;
}

/// Addresses, ports and wires. The first three run inside the caller's transaction.
#[async_trait]
pub trait NetworkSource: Send + Sync + 'static {
    /// Takes address and ports, or keeps those it has. `None` unless the mode is bridge.
    fn reserve(
        &self,
        tx: &Transaction<'_>,
        name: &Name,
        ports: &[v1::Port],
        mode: v1::NetworkMode,
        fabric: Option<&v1::FabricSpec>,
    ) -> Result<Option<Address>, NeedError>;
    /// Gives both back.
    fn release(&self, tx: &Transaction<'_>, name: &Name) -> Result<(), NeedError>;
    /// What `reserve` gave.
    fn reservation(&self, db: &Connection, name: &Name) -> Result<Option<Address>, NeedError>;
    /// Refuses ports that a foreign process has on the host.
    async fn check_host_ports(&self, ports: &[v1::Port], except: &HashSet<HeldPort>)
    -> Result<(), NeedError>;
    /// Wires the network namespace of `pid`.
    async fn attach(&self, name: &Name, pid: u32, address: &Address) -> Result<(), NeedError>;
    /// Unwires it.
    async fn detach(&self, name: &Name) -> Result<(), NeedError>;
    /// After a start of the agent: who runs.
    async fn restore(&self, running: &[(Name, u32)]) -> Result<(), NeedError>;
    /// Puts in force what a commit changed of places and policies in the fabric.
    async fn refresh(&self) -> Result<(), NeedError>;
    /// Every workload's part in the fabric, now and from now on.
    fn fabric_states(&self) -> watch::Receiver<Arc<FabricStates>>;
    /// Files of name resolution to bind into the workload.
    fn resolver_files(&self, name: &Name, address: Option<&Address>) -> Result<Vec<BindMount>, NeedError>;
    /// Removes those of workloads that are not to be kept.
    fn retain_files(&self, keep: &dyn Fn(&str) -> bool);
}

/// Volumes. The first three run inside the caller's transaction.
#[async_trait]
pub trait VolumeSource: Send + Sync + 'static {
    /// Replaces the workload's claims.
    fn claim(&self, tx: &Transaction<'_>, workload: &Name, mounts: &[v1::Mount]) -> Result<(), NeedError>;
    /// Drops them.
    fn unclaim(&self, tx: &Transaction<'_>, workload: &Name) -> Result<(), NeedError>;
    /// Makes or grows the row of a volume.
    fn declare(
        &self,
        tx: &Transaction<'_>,
        name: &Name,
        size_bytes: u64,
        labels: &std::collections::BTreeMap<String, String>,
    ) -> Result<v1::ApplyAction, NeedError>;
    /// Makes what was declared real.
    async fn ensure_ready(&self, name: &Name) -> Result<(), NeedError>;
    /// Mounts on the host for a workload; the mount point.
    async fn mount(&self, volume: &Name, workload: &Name) -> Result<PathBuf, NeedError>;
    /// Unmounts every volume of a workload.
    async fn unmount_all_of(&self, workload: &Name) -> Result<(), NeedError>;
    /// After a start of the agent: who uses what.
    async fn restore(&self, running: &[(Name, Vec<Name>)]) -> Result<(), NeedError>;
    /// Whether workloads that write are to stand still, now and from now on.
    fn hold(&self) -> watch::Receiver<Hold>;
}
