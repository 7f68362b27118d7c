//! The `Images` service.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use capsule_proto::v1::{self, images_server};
use futures_util::{Stream, StreamExt as _, stream};
use prost::bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tonic::{Request, Response, Status, Streaming};

use super::{ImageError, ImageUsers, Images, ProgressSender, progress::Progress};

/// Least time between two reports of progress.
const REPORT_PAUSE: Duration = Duration::from_millis(100);
/// Reports that wait for the network to take them; progress skips what is outdated.
const REPORT_BACKLOG: usize = 2;

/// Serves [`Images`], with those who use them.
pub struct ImagesService {
    images: Images,
    users: Arc<dyn ImageUsers>,
}

impl ImagesService {
    /// `users` keeps images from being removed.
    pub fn new(images: Images, users: Arc<dyn ImageUsers>) -> Self {
        Self { images, users }
    }
}

type ProgressStream = Pin<Box<dyn Stream<Item = Result<v1::ImageProgress, Status>> + Send>>;
type Reports = mpsc::Sender<Result<v1::ImageProgress, Status>>;

#[tonic::async_trait]
impl images_server::Images for ImagesService {
    type PullStream = ProgressStream;
    type PushStream = ProgressStream;

    async fn pull(
        &self,
        request: Request<v1::PullImageRequest>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let v1::PullImageRequest { reference, auth } = request.into_inner();
        let (images, users) = (self.images.clone(), Arc::clone(&self.users));
        Ok(Response::new(reported(|progress, reports| async move {
            // The pull ends when its last caller leaves.
            tokio::select! {
                info = images.pull(&reference, auth, Some(&progress)) => {
                    finish(&images, &*users, vec![info?.reference]).await
                }
                () = reports.closed() => Ok(Vec::new()),
            }
        })))
    }

    async fn push(
        &self,
        request: Request<Streaming<v1::PushImageRequest>>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let mut pieces = request.into_inner();
        let Some(first) = pieces.message().await? else {
            return Err(Status::invalid_argument("the push has no content; send an image archive"));
        };
        let (images, users) = (self.images.clone(), Arc::clone(&self.users));
        let name = Some(first.reference).filter(|name| !name.is_empty());
        let chunks = stream::once(async { Ok(Bytes::from(first.chunk)) }).chain(pieces.map(|piece| {
            piece.map(|piece| Bytes::from(piece.chunk)).map_err(|status| io::Error::other(status.message()))
        }));
        Ok(Response::new(reported(|progress, _| async move {
            let progress = Progress::over(progress);
            let archive = StreamReader::new(chunks.boxed());
            let names = images.push(name.as_deref(), archive, &progress).await?;
            finish(&images, &*users, names).await
        })))
    }

    async fn list(
        &self,
        _: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        Ok(Response::new(v1::ListImagesResponse { images: self.images.list(&*self.users).await? }))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        self.images.remove(&request.into_inner().reference, &*self.users).await?;
        Ok(Response::new(v1::RemoveImageResponse {}))
    }

    async fn prune(
        &self,
        _: Request<v1::PruneImagesRequest>,
    ) -> Result<Response<v1::PruneImagesResponse>, Status> {
        Ok(Response::new(self.images.prune(&*self.users).await?))
    }
}

/// The last message: what was made.
async fn finish(
    images: &Images,
    users: &dyn ImageUsers,
    names: Vec<String>,
) -> Result<Vec<v1::Image>, ImageError> {
    let all = images.list(users).await?;
    Ok(all.into_iter().filter(|image| names.contains(&image.reference)).collect())
}

/// Runs `work` in a task of its own, so that it ends properly whatever the caller does, and sends
/// its progress, then the images or the error.
fn reported<F, W>(work: W) -> ProgressStream
where
    W: FnOnce(ProgressSender, Reports) -> F,
    F: Future<Output = Result<Vec<v1::Image>, ImageError>> + Send + 'static,
{
    let (reports, stream) = mpsc::channel(REPORT_BACKLOG);
    let (sender, progress) = watch::channel(v1::ImageProgress::default());
    let work = work(sender, reports.clone());
    tokio::spawn(async move {
        let last = progress.clone();
        let ended = tokio::select! {
            ended = work => ended,
            never = report(progress, &reports) => match never {},
        };
        let message = ended.map(|images| v1::ImageProgress { images, ..last.borrow().clone() });
        let _ = reports.send(message.map_err(Status::from)).await;
    });
    ReceiverStream::new(stream).boxed()
}

/// Sends what changed, until it is dropped.
async fn report(mut progress: watch::Receiver<v1::ImageProgress>, to: &Reports) -> std::convert::Infallible {
    while progress.changed().await.is_ok() {
        let now = progress.borrow_and_update().clone();
        if to.send(Ok(now)).await.is_err() {
            break;
        }
        tokio::time::sleep(REPORT_PAUSE).await;
    }
    std::future::pending().await
}
