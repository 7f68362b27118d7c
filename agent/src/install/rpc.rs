//! The `Install` service.

use capsule_proto::{
    Name,
    v1::{self, install_server},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Installer, Order, disks::Candidate, progress::Progress};
use crate::{identity::Caller, status::chain};

/// Messages that wait for the network to take them.
const BACKLOG: usize = 4;

#[tonic::async_trait]
impl install_server::Install for Installer {
    type WriteStream = ReceiverStream<Result<v1::WriteDiskResponse, Status>>;

    async fn list_disks(
        &self,
        _: Request<v1::ListDisksRequest>,
    ) -> Result<Response<v1::ListDisksResponse>, Status> {
        let disks = self.disks().await?.iter().map(describe).collect();
        Ok(Response::new(v1::ListDisksResponse { disks }))
    }

    async fn write(
        &self,
        request: Request<v1::WriteDiskRequest>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let by = Caller::of(&request)?;
        let v1::WriteDiskRequest { path, serial, hostname, reinstall } = request.into_inner();
        let hostname = Some(hostname).filter(|name| !name.is_empty());
        let hostname: Option<Name> = hostname.map(|name| name.parse()).transpose().map_err(|error| {
            Status::invalid_argument(format!("the capsule cannot be called like this: {}", chain(&error)))
        })?;
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let order = Order { disk: (path, serial), hostname, reinstall, by };
        self.begin(order, Progress::new(sender)).await?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn finish(
        &self,
        request: Request<v1::FinishInstallRequest>,
    ) -> Result<Response<v1::FinishInstallResponse>, Status> {
        let by = Caller::of(&request)?;
        let installer = self.clone();
        // To its end, also where the caller hangs up: the disk boots from its first step on.
        let finished = tokio::spawn(async move { installer.make_bootable(&by).await }).await;
        let problem = finished.map_err(|panic| Status::internal(panic.to_string()))??;
        Ok(Response::new(v1::FinishInstallResponse { boot_order_problem: problem.unwrap_or_default() }))
    }
}

fn describe(candidate: &Candidate) -> v1::InstallDisk {
    let Candidate { disk, content, standing, reason } = candidate;
    v1::InstallDisk {
        path: disk.node.display().to_string(),
        model: disk.model.clone(),
        serial: disk.serial.clone(),
        size_bytes: disk.size,
        bus: disk.bus.into(),
        content: content.clone(),
        standing: (*standing).into(),
        reason: reason.clone(),
    }
}
