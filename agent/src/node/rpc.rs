//! The `Node` service.

use capsule_proto::{
    Name,
    v1::{self, node_server},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Node, log};
use crate::{identity::Caller, logging::beginning_at, status::chain};

/// Lines that wait for the network to take them.
const STREAM_BACKLOG: usize = 64;

#[tonic::async_trait]
impl node_server::Node for Node {
    type LogsStream = ReceiverStream<Result<v1::NodeLogLine, Status>>;

    async fn get_info(&self, _: Request<v1::GetInfoRequest>) -> Result<Response<v1::NodeInfo>, Status> {
        Ok(Response::new(self.info().await?))
    }

    async fn logs(
        &self,
        request: Request<v1::NodeLogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let v1::NodeLogsRequest { follow, tail, after } = request.into_inner();
        let ring = self.0.log.clone();
        let ring = ring.ok_or_else(|| Status::failed_precondition("this agent keeps no log of its own"))?;
        let after = if after.is_empty() { None } else { Some(after.parse()?) };
        let log = log::Log::open(ring, tail, after.as_ref()).map_err(|error| unreadable(&error))?;
        let begins = Some(log.begins.clone()).filter(|begins| !begins.is_empty());
        let (sender, receiver) = mpsc::channel(STREAM_BACKLOG);
        tokio::spawn(async move {
            if let Err(error) = log.send(follow, &sender).await {
                let _ = sender.send(Err(unreadable(&error))).await;
            }
        });
        Ok(beginning_at(ReceiverStream::new(receiver), begins))
    }

    async fn list_boots(
        &self,
        _: Request<v1::ListBootsRequest>,
    ) -> Result<Response<v1::ListBootsResponse>, Status> {
        Ok(Response::new(v1::ListBootsResponse { boots: self.boots()? }))
    }

    async fn reboot(
        &self,
        request: Request<v1::RebootRequest>,
    ) -> Result<Response<v1::RebootResponse>, Status> {
        let by = Caller::of(&request)?;
        self.stop_machine(request.into_inner().power_off, &by).await?;
        Ok(Response::new(v1::RebootResponse {}))
    }

    async fn set_hostname(
        &self,
        request: Request<v1::SetHostnameRequest>,
    ) -> Result<Response<v1::SetHostnameResponse>, Status> {
        let by = Caller::of(&request)?;
        let hostname = request.into_inner().hostname;
        let name: Name = hostname.parse().map_err(|error| Status::invalid_argument(chain(&error)))?;
        let node = self.clone();
        // To its end, also where the caller hangs up: what is in memory must not stay behind the disk.
        let set = tokio::spawn(async move { node.rename(&name, &by).await });
        let previous = set.await.map_err(std::io::Error::other).flatten();
        let previous =
            previous.map_err(|error| Status::internal(format!("the host's name cannot be kept: {error}")))?;
        Ok(Response::new(v1::SetHostnameResponse { hostname, previous }))
    }
}

fn unreadable(error: &std::io::Error) -> Status {
    Status::internal(format!("the agent's log cannot be read: {error}"))
}
