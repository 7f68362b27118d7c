//! Where a copy's bytes come from: local files, stdin, or another workload. All are a channel of
//! pieces and a task that fills it, whose failure makes the copy fail.

use std::{future::pending, io, path::Path};

use capsule_client::Capsule;
use capsule_proto::v1::CopyOutRequest;
use futures_util::{Stream, stream};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{pack, pipe::AHEAD};
use crate::{failure::Failure, named, terminal};

/// A tar stream under way.
pub struct Feed {
    /// The stream, piece by piece.
    pub pieces: mpsc::Receiver<Vec<u8>>,
    /// As known at the start; 0 where it is not.
    pub total_bytes: u64,
    task: JoinHandle<Result<(), Failure>>,
}

impl Feed {
    /// A local file or directory.
    pub fn local(path: &Path) -> Self {
        let total_bytes = pack::measure(path);
        let (pieces, packing) = pack::start(path.to_path_buf());
        let shown = path.display().to_string();
        let task = tokio::spawn(async move {
            let packed = packing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            packed.map_err(|error| Failure::local(format!("cannot read {shown}: {error}")))
        });
        Self { pieces, total_bytes, task }
    }

    /// A tar stream on stdin.
    pub fn stdin() -> Self {
        let (sender, pieces) = mpsc::channel(AHEAD);
        let task = tokio::spawn(async move {
            let mut input = terminal::pieces();
            while let Some(piece) = input.recv().await {
                let piece = piece.map_err(|error| Failure::local(format!("cannot read stdin: {error}")))?;
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
            Ok(())
        });
        Self { pieces, total_bytes: 0, task }
    }

    /// A path in a workload. Its first piece is awaited, because it tells the size, or the error.
    pub async fn remote(capsule: &Capsule, name: &str, path: &str) -> Result<Self, Failure> {
        let request = CopyOutRequest { name: name.to_owned(), path: path.to_owned() };
        let answer = capsule.workloads().copy_out(request).await;
        let mut chunks = named::workload(capsule, name, answer).await?.into_inner();
        let first = named::workload(capsule, name, chunks.message().await).await?.unwrap_or_default();
        let (sender, pieces) = mpsc::channel(AHEAD);
        let total_bytes = first.total_bytes;
        let task = tokio::spawn(async move {
            let mut next = Some(first);
            while let Some(chunk) = next {
                if !chunk.data.is_empty() && sender.send(chunk.data).await.is_err() {
                    return Ok(());
                }
                next = chunks.message().await?;
            }
            // Where nobody wants to know, somebody else's failure says why.
            let _ = sender.send(Vec::new()).await;
            Ok(())
        });
        Ok(Self { pieces, total_bytes, task })
    }

    /// The outcome of the task, once the pieces have ended.
    pub async fn finish(self) -> Result<(), Failure> {
        drop(self.pieces);
        self.task.await.unwrap_or_else(|error| Err(Failure::local(error.to_string())))
    }

    /// The pieces as a stream that ends only if all went well: where the source fails it never
    /// ends, and the receiver gets the failure.
    pub fn into_stream(self) -> (impl Stream<Item = Vec<u8>> + Send + 'static, oneshot::Receiver<Failure>) {
        let (failed, failure) = oneshot::channel();
        let state = (self.pieces, Some((self.task, failed)));
        let pieces = stream::unfold(state, |(mut pieces, mut end)| async move {
            if let Some(piece) = pieces.recv().await {
                return Some((piece, (pieces, end)));
            }
            let (task, failed) = end.take()?;
            let outcome = task.await.unwrap_or_else(|error| Err(Failure::local(error.to_string())));
            if let Err(error) = outcome {
                let _ = failed.send(error);
                pending::<()>().await;
            }
            None
        });
        (pieces, failure)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_source_that_fails_never_looks_finished() {
        let (pieces, failure) = Feed::local(Path::new("/nonexistent/file")).into_stream();
        let mut pieces = Box::pin(pieces);
        tokio::select! {
            piece = pieces.next() => panic!("ended or gave {piece:?}"),
            failure = failure => assert!(failure.unwrap().message.contains("/nonexistent/file")),
        }
    }
}
