//! The `Workloads` service.

use std::pin::Pin;

use capsule_proto::{Selector, system_time, v1, v1::workloads_server};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{WorkloadError, Workloads, handle::Handle, logs};
use crate::logging::beginning_at;

/// Messages that wait for the network to take them.
const BACKLOG: usize = 64;
/// The same for copies, whose messages are large.
const COPY_BACKLOG: usize = 4;

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl workloads_server::Workloads for Workloads {
    type WaitStream = Out<v1::Workload>;
    type LogsStream = Out<v1::LogRecord>;
    type ExecStream = Out<v1::ExecOutput>;
    type CopyOutStream = Out<v1::CopyChunk>;

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Answer<v1::ApplyResponse> {
        Ok(Response::new(Workloads::apply(self, request.into_inner()).await?))
    }

    async fn plan(&self, request: Request<v1::ApplyRequest>) -> Answer<v1::ApplyResponse> {
        Ok(Response::new(self.foretell(request.into_inner()).await?))
    }

    async fn list(&self, request: Request<v1::ListWorkloadsRequest>) -> Answer<v1::ListWorkloadsResponse> {
        let selector: Selector = request.into_inner().selector.parse().map_err(WorkloadError::from)?;
        let all = self.registry.all();
        let wanted = all.iter().filter(|handle| selector.matches(handle.desired().labels()));
        let workloads = wanted.filter_map(|handle| handle.workload()).map(|found| (*found).clone()).collect();
        Ok(Response::new(v1::ListWorkloadsResponse { workloads }))
    }

    async fn get(&self, request: Request<v1::GetWorkloadRequest>) -> Answer<v1::Workload> {
        answer(&*self.handle(&request.into_inner().name)?)
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteWorkloadRequest>,
    ) -> Answer<v1::DeleteWorkloadResponse> {
        self.delete_one(&request.into_inner().name).await?;
        Ok(Response::new(v1::DeleteWorkloadResponse {}))
    }

    async fn start(&self, request: Request<v1::StartWorkloadRequest>) -> Answer<v1::Workload> {
        answer(&*self.start_one(&request.into_inner().name).await?)
    }

    async fn stop(&self, request: Request<v1::StopWorkloadRequest>) -> Answer<v1::Workload> {
        let v1::StopWorkloadRequest { name, grace_seconds } = request.into_inner();
        answer(&*self.stop_one(&name, grace_seconds).await?)
    }

    async fn restart(&self, request: Request<v1::RestartWorkloadRequest>) -> Answer<v1::Workload> {
        let v1::RestartWorkloadRequest { name, grace_seconds } = request.into_inner();
        answer(&*self.restart_one(&name, grace_seconds).await?)
    }

    async fn wait(&self, request: Request<v1::WaitWorkloadRequest>) -> Answer<Self::WaitStream> {
        let (all, request) = (self.clone(), request.into_inner());
        Ok(stream(BACKLOG, |to| async move { Ok(Workloads::wait(&all, request, &to).await?) }))
    }

    async fn logs(&self, request: Request<v1::WorkloadLogsRequest>) -> Answer<Self::LogsStream> {
        let request = request.into_inner();
        let dir = self.parts.log_dir(&self.handle(&request.name)?.name);
        let query = logs::read::Query {
            tail: request.tail.map(|tail| tail as usize),
            since: request.since.as_ref().map(system_time),
            previous: request.previous,
            after: logs::cursor::Cursor::parse(&request.after)?,
        };
        let follow = request.follow && !request.previous;
        let log = logs::follow::Follower::open(&dir, query, follow).await?;
        let begins = log.begins().map(|cursor| cursor.to_string());
        let sent = stream(BACKLOG, move |to| async move { Ok(log.send(&to).await?) });
        Ok(beginning_at(sent.into_inner(), begins))
    }

    async fn exec(&self, request: Request<Streaming<v1::ExecInput>>) -> Answer<Self::ExecStream> {
        let (all, input) = (self.clone(), request.into_inner());
        Ok(stream(BACKLOG, |to| async move { Workloads::exec(&all, input, to).await }))
    }

    async fn copy_out(&self, request: Request<v1::CopyOutRequest>) -> Answer<Self::CopyOutStream> {
        let (all, request) = (self.clone(), request.into_inner());
        Ok(stream(COPY_BACKLOG, |to| async move { Ok(Workloads::copy_out(&all, request, to).await?) }))
    }

    async fn copy_in(&self, request: Request<Streaming<v1::CopyInRequest>>) -> Answer<v1::CopyInResponse> {
        Ok(Response::new(Workloads::copy_in(self, request.into_inner()).await?))
    }
}

fn answer(handle: &Handle) -> Answer<v1::Workload> {
    let gone = || WorkloadError::NotFound(handle.name.clone());
    Ok(Response::new((*handle.workload().ok_or_else(gone)?).clone()))
}

/// Runs `work` beside the call; its error is the stream's last item.
fn stream<T: Send + 'static, W>(
    backlog: usize,
    work: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> W,
) -> Response<Out<T>>
where
    W: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (to, items) = mpsc::channel(backlog);
    let running = work(to.clone());
    tokio::spawn(async move {
        if let Err(status) = running.await {
            let _ = to.send(Err(status)).await;
        }
    });
    Response::new(ReceiverStream::new(items).boxed())
}
