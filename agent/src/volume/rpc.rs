//! The `Volumes` service.

use capsule_proto::{
    Name,
    v1::{self, volumes_server},
};
use tonic::{Request, Response, Status};

use super::{
    Volumes,
    group::{Growth, Sizes},
    lifecycle::Force,
};

fn parse(name: &str) -> Result<Name, Status> {
    name.parse().map_err(|error: capsule_proto::NameError| Status::invalid_argument(error.to_string()))
}

fn sizes(sizes: Sizes) -> v1::DiskSizes {
    let Sizes { disk, group, perm, pool } = sizes;
    v1::DiskSizes { disk_bytes: disk, group_bytes: group, perm_bytes: perm, pool_bytes: pool }
}

#[tonic::async_trait]
impl volumes_server::Volumes for Volumes {
    async fn create(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        let request = request.into_inner();
        let labels = request.labels.into_iter().collect();
        Ok(Response::new(Self::create(self, &parse(&request.name)?, request.size_bytes, labels).await?))
    }

    async fn list(
        &self,
        _: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<v1::ListVolumesResponse>, Status> {
        Ok(Response::new(v1::ListVolumesResponse { volumes: Self::list(self).await? }))
    }

    async fn get(&self, request: Request<v1::GetVolumeRequest>) -> Result<Response<v1::Volume>, Status> {
        Ok(Response::new(Self::get(self, &parse(&request.into_inner().name)?).await?))
    }

    async fn resize(
        &self,
        request: Request<v1::ResizeVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        let request = request.into_inner();
        Ok(Response::new(Self::resize(self, &parse(&request.name)?, request.size_bytes).await?))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteVolumeRequest>,
    ) -> Result<Response<v1::DeleteVolumeResponse>, Status> {
        let request = request.into_inner();
        let force = if request.force { Force::Yes } else { Force::No };
        Self::delete(self, &parse(&request.name)?, force).await?;
        Ok(Response::new(v1::DeleteVolumeResponse {}))
    }

    async fn grow_disk(
        &self,
        _: Request<v1::GrowDiskRequest>,
    ) -> Result<Response<v1::GrowDiskResponse>, Status> {
        let Growth { before, after } = Self::grow_disk(self).await?;
        Ok(Response::new(v1::GrowDiskResponse { before: Some(sizes(before)), after: Some(sizes(after)) }))
    }
}
