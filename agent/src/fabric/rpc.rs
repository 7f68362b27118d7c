//! The `Fabric` service.

use capsule_proto::v1::{self, fabric_server};
use tonic::{Request, Response, Status};

use super::{
    Fabric, FabricError,
    explain::{Question, explain},
};
use crate::{identity::Caller, network::Network, status::chain, workload::Workloads};

/// The service: the fabric, and what its policies do to this capsule's workloads.
pub struct FabricService {
    /// Keys and map.
    pub fabric: Fabric,
    /// Workloads' part; `None` on a capsule without a bridge.
    pub network: Option<Network>,
    /// Who is at the ends of flows.
    pub workloads: Workloads,
}

#[tonic::async_trait]
impl fabric_server::Fabric for FabricService {
    async fn get_status(
        &self,
        _: Request<v1::GetFabricStatusRequest>,
    ) -> Result<Response<v1::FabricStatus>, Status> {
        Ok(Response::new(self.fabric.status().await?))
    }

    async fn ensure_key(
        &self,
        request: Request<v1::EnsureFabricKeyRequest>,
    ) -> Result<Response<v1::EnsureFabricKeyResponse>, Status> {
        let key = self.fabric.ensure_key(request.into_inner().next).await?;
        Ok(Response::new(v1::EnsureFabricKeyResponse { public_key: key.bytes().to_vec() }))
    }

    async fn get_map(&self, _: Request<v1::GetMapRequest>) -> Result<Response<v1::SignedMap>, Status> {
        Ok(Response::new(self.fabric.signed().await.ok_or(FabricError::NoMap)?))
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
        let generation = self.fabric.put(map, &carrier).await?;
        Ok(Response::new(v1::PutMapResponse { generation: generation.0 }))
    }

    async fn list_drops(
        &self,
        _: Request<v1::ListDropsRequest>,
    ) -> Result<Response<v1::ListDropsResponse>, Status> {
        let drops = match &self.network {
            Some(network) => network.drops().await.map_err(|error| Status::unavailable(chain(&error)))?,
            None => Vec::new(),
        };
        Ok(Response::new(v1::ListDropsResponse { drops }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let without = || Status::failed_precondition("this capsule has no network of workloads");
        let network = self.network.as_ref().ok_or_else(without)?;
        let question = Question::try_from(request.into_inner()).map_err(Status::invalid_argument)?;
        Ok(Response::new(explain(&self.fabric, network, &self.workloads, &question).await))
    }

    async fn leave(
        &self,
        _: Request<v1::LeaveFabricRequest>,
    ) -> Result<Response<v1::LeaveFabricResponse>, Status> {
        self.fabric.leave().await?;
        Ok(Response::new(v1::LeaveFabricResponse {}))
    }
}

fn carrier<T>(request: &Request<T>) -> String {
    request.extensions().get::<Caller>().map_or_else(|| "nobody known".into(), |caller| caller.name.clone())
}
