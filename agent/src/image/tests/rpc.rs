//! The service as a client sees it.

use std::net::Ipv4Addr;

use capsule_proto::v1::{images_client::ImagesClient, images_server::ImagesServer};
use futures_util::{StreamExt as _, stream};
use tonic::Code;

use super::*;
use crate::image::rpc::ImagesService;

/// Bytes of one message of a push.
const PIECE: usize = 256 << 10;

async fn serve(capsule: &Capsule, users: Arc<Users>) -> String {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = ImagesServer::new(ImagesService::new(capsule.images.clone(), users));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    format!("http://{address}")
}

fn pieces(name: &str, archive: &[u8]) -> Vec<v1::PushImageRequest> {
    let mut pieces = vec![v1::PushImageRequest { reference: name.into(), chunk: Vec::new() }];
    let chunk = |chunk: &[u8]| v1::PushImageRequest { chunk: chunk.to_vec(), ..Default::default() };
    pieces.extend(archive.chunks(PIECE).map(chunk));
    pieces
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_client_pushes_lists_pulls_and_removes() {
    let (registry, capsule) = (Registry::start().await, Capsule::start().await);
    let address = serve(&capsule, Users::of(&[("mine:v1", "web")])).await;
    let mut client = ImagesClient::connect(address).await.unwrap();
    let fixture = Fixture::new(1 << 20).await;
    let push = client.push(stream::iter(pieces("mine:v1", &fixture.oci(None)))).await.unwrap();
    let last = push.into_inner().collect::<Vec<_>>().await.pop().unwrap().unwrap();
    assert_eq!(last.images[0].reference, "docker.io/library/mine:v1");
    assert_eq!(last.images[0].used_by, ["web"]);
    assert!(last.layers.iter().any(|layer| layer.state() == v1::LayerState::Done));

    let reference = registry.push("org/app:v1", &Fixture::small("pulled").await).await;
    let request = v1::PullImageRequest { reference: reference.clone(), auth: None };
    let pull = client.pull(request).await.unwrap().into_inner().collect::<Vec<_>>().await;
    assert_eq!(pull.last().unwrap().as_ref().unwrap().images[0].reference, reference);

    assert_eq!(client.list(v1::ListImagesRequest {}).await.unwrap().into_inner().images.len(), 2);
    let remove = v1::RemoveImageRequest { reference: "mine:v1".into() };
    assert_eq!(client.remove(remove).await.unwrap_err().code(), Code::FailedPrecondition);
    let pruned = client.prune(v1::PruneImagesRequest {}).await.unwrap().into_inner();
    assert_eq!(pruned.removed, [reference]);
    let remove = v1::RemoveImageRequest { reference: "gone:v1".into() };
    assert_eq!(client.remove(remove).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_push_that_its_client_abandons_leaves_nothing_behind() {
    let capsule = Capsule::start().await;
    let address = serve(&capsule, Users::of(&[])).await;
    let archive = Fixture::new(8 << 20).await.oci(Some("half:v1"));
    // A process of its own, as far as connections go.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    process.spawn(async move {
        let mut client = ImagesClient::connect(address).await.unwrap();
        let half = stream::iter(pieces("", &archive[..archive.len() / 2])).chain(stream::pending());
        let answers = client.push(half).await.unwrap().into_inner();
        answers.for_each(|_| std::future::ready(())).await;
    });
    while capsule.images.engine.blobs().await.unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    process.shutdown_background();
    for _ in 0..200 {
        if capsule.is_empty().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("content of the abandoned push is still there");
}
