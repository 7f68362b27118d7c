//! The `Fabric` service.

use capsule_proto::v1::{self, fabric_server};
use tonic::{Request, Response, Status};

use super::{Fabric, FabricError};
use crate::identity::Caller;

#[tonic::async_trait]
impl fabric_server::Fabric for Fabric {
    async fn get_status(
        &self,
        _: Request<v1::GetFabricStatusRequest>,
    ) -> Result<Response<v1::FabricStatus>, Status> {
        Ok(Response::new(self.status().await?))
    }

    async fn ensure_key(
        &self,
        request: Request<v1::EnsureFabricKeyRequest>,
    ) -> Result<Response<v1::EnsureFabricKeyResponse>, Status> {
        let key = Fabric::ensure_key(self, request.into_inner().next).await?;
        Ok(Response::new(v1::EnsureFabricKeyResponse { public_key: key.bytes().to_vec() }))
    }

    async fn get_map(&self, _: Request<v1::GetMapRequest>) -> Result<Response<v1::SignedMap>, Status> {
        Ok(Response::new(self.signed().await.ok_or(FabricError::NoMap)?))
    }

    async fn put_map(
        &self,
        request: Request<v1::PutMapRequest>,
    ) -> Result<Response<v1::PutMapResponse>, Status> {
        let carrier = carrier(&request);
        let map = request
            .into_inner()
            .map
            .ok_or_else(|| Status::invalid_argument("there is no map in the call"))?;
        let generation = self.put(map, &carrier).await?;
        Ok(Response::new(v1::PutMapResponse { generation: generation.0 }))
    }

    async fn leave(
        &self,
        _: Request<v1::LeaveFabricRequest>,
    ) -> Result<Response<v1::LeaveFabricResponse>, Status> {
        Fabric::leave(self).await?;
        Ok(Response::new(v1::LeaveFabricResponse {}))
    }
}

fn carrier<T>(request: &Request<T>) -> String {
    request.extensions().get::<Caller>().map_or_else(|| "nobody known".into(), |caller| caller.name.clone())
}
