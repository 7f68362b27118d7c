//! The `Debug` service.

use capsule_proto::v1::{self, debug_server, exec_input::Input, exec_output::Output};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Debug;
use crate::{identity::Caller, workload::exec::Sender};

/// Messages that wait for the network to take them.
const BACKLOG: usize = 64;

#[tonic::async_trait]
impl debug_server::Debug for Debug {
    type OpenStream = ReceiverStream<Result<v1::ExecOutput, Status>>;

    async fn open(
        &self,
        request: Request<Streaming<v1::DebugInput>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let (debug, caller) = (self.clone(), Caller::of(&request)?);
        let (to, items) = mpsc::channel(BACKLOG);
        let input = request.into_inner();
        // To its end, whatever becomes of the call: a shell that was made must be removed.
        tokio::spawn(async move {
            if let Err(status) = serve(&debug, &caller, input, &to).await {
                let _ = to.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(items)))
    }

    async fn list(
        &self,
        _: Request<v1::ListDebugShellsRequest>,
    ) -> Result<Response<v1::ListDebugShellsResponse>, Status> {
        Ok(Response::new(v1::ListDebugShellsResponse { shells: Debug::list(self).await? }))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveDebugShellRequest>,
    ) -> Result<Response<v1::RemoveDebugShellResponse>, Status> {
        let caller = Caller::of(&request)?;
        Debug::remove(self, &request.into_inner().name, &caller).await?;
        Ok(Response::new(v1::RemoveDebugShellResponse {}))
    }
}

async fn serve(
    debug: &Debug,
    caller: &Caller,
    mut input: Streaming<v1::DebugInput>,
    to: &Sender,
) -> Result<(), Status> {
    let first = input.message().await?.unwrap_or_default();
    let (Some(shell), Some(v1::ExecInput { input: Some(Input::Start(start)) })) = (first.shell, first.exec)
    else {
        return Err(Status::invalid_argument("a debug shell begins with which one, and what to start in it"));
    };
    let mut input = input.map(|message| message.map(|message| message.exec.unwrap_or_default()));
    if let Some(exit) = debug.open(&shell, start, caller, &mut input, to).await? {
        // A caller that sees it finds nothing of the shell any more.
        let _ = to.send(Ok(v1::ExecOutput { output: Some(Output::Exit(exit)) })).await;
    }
    Ok(())
}
