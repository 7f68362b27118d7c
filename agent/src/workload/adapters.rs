//! The capabilities in the words of `needs.rs`.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use capsule_proto::{Name, v1};
use rusqlite::{Connection, Transaction};
use tokio::sync::watch;

use super::needs::{Address, HeldPort, ImageSource, NeedError, NeedKind, NetworkSource, VolumeSource};
use crate::{
    image::{ImageError, ImageInfo, Images},
    network::{FabricStates, Network, NetworkError},
    runtime::BindMount,
    volume::{Hold, VolumeError, Volumes},
};

#[async_trait]
impl ImageSource for Images {
    fn parse(&self, reference: &str) -> Result<String, NeedError> {
        Ok(Self::parse_reference(reference)?)
    }

    async fn get(&self, reference: &str) -> Result<Option<ImageInfo>, NeedError> {
        Ok(self.unpacked(reference).await?)
    }

    async fn ensure(&self, reference: &str) -> Result<ImageInfo, NeedError> {
        Ok(Self::ensure(self, reference, None).await?)
    }
}

#[async_trait]
impl NetworkSource for Network {
    fn reserve(
        &self,
        tx: &Transaction<'_>,
        name: &Name,
        ports: &[v1::Port],
        mode: v1::NetworkMode,
        fabric: Option<&v1::FabricSpec>,
    ) -> Result<Option<Address>, NeedError> {
        Ok(self.reserve(tx, name, ports, mode, fabric)?)
    }

    fn release(&self, tx: &Transaction<'_>, name: &Name) -> Result<(), NeedError> {
        Ok(self.release(tx, name)?)
    }

    fn reservation(&self, db: &Connection, name: &Name) -> Result<Option<Address>, NeedError> {
        Ok(self.reservation(db, name)?)
    }

    async fn check_host_ports(
        &self,
        ports: &[v1::Port],
        except: &HashSet<HeldPort>,
    ) -> Result<(), NeedError> {
        Ok(self.check_host_ports(ports, except).await?)
    }

    async fn attach(&self, name: &Name, pid: u32, address: &Address) -> Result<(), NeedError> {
        Ok(self.attach(name, pid, address).await?)
    }

    async fn detach(&self, name: &Name) -> Result<(), NeedError> {
        Ok(self.detach(name).await?)
    }

    async fn restore(&self, running: &[(Name, u32)]) -> Result<(), NeedError> {
        Ok(self.restore(running).await?)
    }

    async fn refresh(&self) -> Result<(), NeedError> {
        Ok(self.refresh().await?)
    }

    fn fabric_states(&self) -> watch::Receiver<Arc<FabricStates>> {
        self.fabric_states()
    }

    fn resolver_files(&self, name: &Name, address: Option<&Address>) -> Result<Vec<BindMount>, NeedError> {
        Ok(self.resolver_files(name, address)?)
    }

    fn retain_files(&self, keep: &dyn Fn(&str) -> bool) {
        self.retain_files(keep);
    }
}

#[async_trait]
impl VolumeSource for Volumes {
    fn claim(&self, tx: &Transaction<'_>, workload: &Name, mounts: &[v1::Mount]) -> Result<(), NeedError> {
        Ok(self.claim(tx, workload, mounts)?)
    }

    fn unclaim(&self, tx: &Transaction<'_>, workload: &Name) -> Result<(), NeedError> {
        Ok(self.unclaim(tx, workload)?)
    }

    fn declare(
        &self,
        tx: &Transaction<'_>,
        name: &Name,
        size_bytes: u64,
        labels: &BTreeMap<String, String>,
    ) -> Result<v1::ApplyAction, NeedError> {
        Ok(self.declare(tx, name, size_bytes, labels)?)
    }

    async fn ensure_ready(&self, name: &Name) -> Result<(), NeedError> {
        Ok(self.ensure_ready(name).await?)
    }

    async fn mount(&self, volume: &Name, workload: &Name) -> Result<PathBuf, NeedError> {
        Ok(self.mount(volume, workload).await?)
    }

    async fn unmount_all_of(&self, workload: &Name) -> Result<(), NeedError> {
        Ok(self.unmount_all_of(workload).await?)
    }

    async fn restore(&self, running: &[(Name, Vec<Name>)]) -> Result<(), NeedError> {
        Ok(self.restore(running).await?)
    }

    fn hold(&self) -> watch::Receiver<Hold> {
        self.hold()
    }
}

impl From<ImageError> for NeedError {
    fn from(error: ImageError) -> Self {
        let kind = if error.is_retryable() { NeedKind::Failed } else { NeedKind::Invalid };
        Self::new(kind, &error)
    }
}

impl From<NetworkError> for NeedError {
    fn from(error: NetworkError) -> Self {
        let kind = match &error {
            NetworkError::Port { .. } => NeedKind::Invalid,
            other if other.is_retryable() => NeedKind::Failed,
            _ => NeedKind::Conflict,
        };
        Self::new(kind, &error)
    }
}

impl From<VolumeError> for NeedError {
    fn from(error: VolumeError) -> Self {
        let kind = match &error {
            VolumeError::Name(_) | VolumeError::Size(_) => NeedKind::Invalid,
            other if other.is_retryable() => NeedKind::Failed,
            _ => NeedKind::Conflict,
        };
        Self::new(kind, &error)
    }
}
