//! The gRPC server: every service behind the one check.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use capsule_proto::v1::{
    debug_server::DebugServer, events_server::EventsServer, fabric_server::FabricServer,
    identity_server::IdentityServer, images_server::ImagesServer, install_server::InstallServer,
    node_server::NodeServer, updates_server::UpdatesServer, volumes_server::VolumesServer,
    workloads_server::WorkloadsServer,
};
use futures_util::future::BoxFuture;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};
use tonic::{
    Status,
    body::Body,
    codegen::http::{Request, Response},
    service::Routes,
    transport::Server,
};
use tower::{Service, ServiceExt as _, layer::util::Stack};

use super::engine::Engine;
use crate::{
    debug::Debug,
    event::Events,
    fabric::{Fabric, rpc::FabricService},
    identity::{AuthLayer, Identity},
    image::rpc::ImagesService,
    install::Installer,
    node::Node,
    update::{Updates, rpc::UpdatesService},
    workload::Workloads,
};

/// Largest message of a call that changes workloads.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Largest message of the calls that strangers can make.
const MAX_SMALL_MESSAGE_BYTES: usize = 64 << 10;
/// Bytes of one stream, and of one connection, that may be on their way.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Streams of one connection.
const MAX_STREAMS: u32 = 256;
/// Metadata of one call.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// A quiet connection is probed this often …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// … and dropped after this long without an answer.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Resolves when the agent is to stop.
type Stopped = BoxFuture<'static, ()>;

/// What is served from the start.
pub(super) struct Early {
    pub(super) identity: Identity,
    pub(super) node: Node,
}

/// What is served once it has started. Whoever calls it before waits.
pub(super) struct Late {
    pub(super) events: Events,
    pub(super) workloads: Workloads,
    pub(super) fabric: Fabric,
    pub(super) engine: Engine,
    pub(super) updates: Option<Updates>,
    pub(super) debug: Debug,
}

/// Serves until it is told to stop.
pub(super) async fn run(
    early: Early,
    late: watch::Receiver<Option<Routes>>,
    listener: TcpListener,
    stop: oneshot::Receiver<()>,
) {
    let Early { identity, node } = early;
    let connections = identity.listen(listener);
    let routes =
        Routes::new(IdentityServer::new(identity.clone()).max_decoding_message_size(MAX_SMALL_MESSAGE_BYTES))
            .add_service(NodeServer::new(node).max_decoding_message_size(MAX_SMALL_MESSAGE_BYTES));
    let all = Routes::from(routes.into_axum_router().fallback_service(Awaited(late)));
    let router = server(&identity).add_routes(all);
    end_with(stop, |stopped| router.serve_with_incoming_shutdown(connections, stopped)).await;
}

/// The calls of what has started.
pub(super) fn routes(late: Late) -> Routes {
    let Late { events, workloads, fabric, engine, updates, debug } = late;
    let images = ImagesService::new(engine.images, Arc::new(workloads.clone()));
    let fabric = FabricService { fabric, network: engine.network.clone(), workloads: workloads.clone() };
    let routes = Routes::new(EventsServer::new(events).max_decoding_message_size(MAX_SMALL_MESSAGE_BYTES))
        .add_service(ImagesServer::new(images).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(WorkloadsServer::new(workloads).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(DebugServer::new(debug).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(FabricServer::new(fabric).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(
            UpdatesServer::new(UpdatesService(updates)).max_decoding_message_size(MAX_MESSAGE_BYTES),
        );
    match engine.volumes {
        Some(volumes) => routes.add_service(VolumesServer::new(volumes)),
        None => routes,
    }
}

/// Routes that are still to come.
#[derive(Clone)]
struct Awaited(watch::Receiver<Option<Routes>>);

impl<B> Service<Request<B>> for Awaited
where
    B: Send + 'static,
    Routes: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    <Routes as Service<Request<B>>>::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut coming = self.0.clone();
        Box::pin(async move {
            let routes = coming.wait_for(Option::is_some).await.ok().and_then(|routes| routes.clone());
            match routes {
                Some(routes) => routes.oneshot(request).await,
                None => Ok(Status::unavailable("the capsule's agent ends before it has started").into_http()),
            }
        })
    }
}

/// An installer serves its claim, the machine, and what it is for.
pub(super) async fn run_installer(
    (identity, node, installer): (Identity, Node, Installer),
    listener: TcpListener,
    stop: oneshot::Receiver<()>,
) {
    let connections = identity.listen(listener);
    let router = server(&identity)
        .add_service(IdentityServer::new(identity).max_decoding_message_size(MAX_SMALL_MESSAGE_BYTES))
        .add_service(NodeServer::new(node).max_decoding_message_size(MAX_SMALL_MESSAGE_BYTES))
        .add_service(InstallServer::new(installer).max_decoding_message_size(MAX_SMALL_MESSAGE_BYTES));
    end_with(stop, |stopped| router.serve_with_incoming_shutdown(connections, stopped)).await;
}

/// A server that lets nobody in unchecked, and whose connections are bounded.
fn server(identity: &Identity) -> Server<Stack<AuthLayer, tower::layer::util::Identity>> {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .layer(identity.layer())
}

async fn end_with<F>(stop: oneshot::Receiver<()>, serve: impl FnOnce(Stopped) -> F)
where
    F: Future<Output = Result<(), tonic::transport::Error>>,
{
    let stopped: Stopped = Box::pin(async { drop(stop.await) });
    if let Err(error) = serve(stopped).await {
        tracing::error!(%error, "the server ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status of a call that waits until `then` has happened.
    async fn status(then: impl FnOnce(watch::Sender<Option<Routes>>)) -> String {
        let (sender, coming) = watch::channel(None);
        let request = Request::builder().uri("/capsule.v1.Volumes/List").body(Body::empty()).unwrap();
        let call = tokio::spawn(Awaited(coming).oneshot(request));
        tokio::task::yield_now().await;
        assert!(!call.is_finished());
        then(sender);
        let Ok(answer) = call.await.unwrap();
        answer.headers()["grpc-status"].to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_call_of_what_still_starts_waits_until_it_has_or_never_will() {
        let unimplemented = status(|sender| drop(sender.send_replace(Some(Routes::default())))).await;
        assert_eq!(unimplemented, "12");
        let unavailable = status(drop).await;
        assert_eq!(unavailable, "14");
    }
}
