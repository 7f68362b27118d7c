//! The `Updates` service.

use std::time::Duration;

use capsule_bundle::{KeyNumber, ReleaseKeyError};
use capsule_proto::v1::{self, updates_server};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{UpdateError, Updates, keys::Last};
use crate::identity::Caller;

/// Answers that wait for the network to take them; progress skips what is outdated.
const BACKLOG: usize = 4;

/// Serves [`Updates`], where the capsule has slots.
pub struct UpdatesService(pub Option<Updates>);

impl UpdatesService {
    fn updates(&self) -> Result<&Updates, UpdateError> {
        self.0.as_ref().ok_or(UpdateError::NotAppliance)
    }
}

#[tonic::async_trait]
impl updates_server::Updates for UpdatesService {
    type PushStream = ReceiverStream<Result<v1::PushUpdateResponse, Status>>;

    async fn push(
        &self,
        request: Request<Streaming<v1::PushUpdateRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let updates = self.updates()?.clone();
        let (answers, stream) = mpsc::channel(BACKLOG);
        let requests = request.into_inner();
        tokio::spawn(async move { updates.push(requests, answers).await });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get_status(
        &self,
        _: Request<v1::GetUpdateStatusRequest>,
    ) -> Result<Response<v1::UpdateStatus>, Status> {
        Ok(Response::new(self.updates()?.status().await?))
    }

    async fn confirm(
        &self,
        request: Request<v1::ConfirmUpdateRequest>,
    ) -> Result<Response<v1::UpdateStatus>, Status> {
        let why = format!("{} has confirmed it", Caller::of(&request)?.name);
        Ok(Response::new(self.updates()?.confirm(&why).await?))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackUpdateRequest>,
    ) -> Result<Response<v1::UpdateStatus>, Status> {
        let by = Caller::of(&request)?.name;
        let seconds = request.into_inner().auto_confirm_seconds;
        let soak = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Ok(Response::new(self.updates()?.rollback(soak, &by).await?))
    }

    async fn list(
        &self,
        _: Request<v1::ListUpdatesRequest>,
    ) -> Result<Response<v1::ListUpdatesResponse>, Status> {
        Ok(Response::new(v1::ListUpdatesResponse { updates: self.updates()?.list().await? }))
    }

    async fn list_keys(
        &self,
        _: Request<v1::ListReleaseKeysRequest>,
    ) -> Result<Response<v1::ListReleaseKeysResponse>, Status> {
        Ok(Response::new(v1::ListReleaseKeysResponse { keys: self.updates()?.list_keys().await? }))
    }

    async fn add_key(
        &self,
        request: Request<v1::AddReleaseKeyRequest>,
    ) -> Result<Response<v1::ReleaseKey>, Status> {
        let by = Caller::of(&request)?.name;
        Ok(Response::new(self.updates()?.add_key(&request.into_inner().key, &by).await?))
    }

    async fn remove_key(
        &self,
        request: Request<v1::RemoveReleaseKeyRequest>,
    ) -> Result<Response<v1::RemoveReleaseKeyResponse>, Status> {
        let by = Caller::of(&request)?.name;
        let v1::RemoveReleaseKeyRequest { number, force } = request.into_inner();
        let updates = self.updates()?;
        let number: KeyNumber = number.parse().map_err(|error: ReleaseKeyError| UpdateError::from(error))?;
        let last = if force { Last::Remove } else { Last::Keep };
        updates.remove_key(number, last, &by).await?;
        Ok(Response::new(v1::RemoveReleaseKeyResponse {}))
    }
}
