//! `cp`: tar streams out of a workload's root and into it.
//!
//! Nothing inside the workload is run, so it works for images without a shell or tar. Paths are
//! resolved beneath the root by the kernel (openat2 with RESOLVE_IN_ROOT), directories are
//! entered by descriptor and without following links: a workload that swaps a directory for a
//! link in the middle of a copy gains nothing.
//!
//! - Running: `/proc/PID/root`, so volumes and binds are seen as the workload sees them.
//! - Not running: the sandbox's root, mounted for as long as the copy takes; without volumes, and
//!   so paths on them are refused.
//!
//! Semantics are those of `docker cp`. Out: entries carry the last component of the path; a path
//! that ends in `/.` stands for the content of a directory: its root entry is `.`. In: into an
//! existing directory, or to exactly the path where there is none; then the archive must have one
//! root entry, which takes the path's name. What is copied in belongs to root:root. Modes and times
//! are kept both ways; devices and sockets are left out.
//!
//! A copy in that is interrupted leaves what has arrived, each file whole or as it was.

mod into;
mod out;
mod root;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Read, Write},
    path::Path,
    thread,
};

use capsule_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

use super::{WorkloadError, Workloads};
use root::RootOf;

pub(super) use root::clean_up;

/// Bytes of one message.
const CHUNK: usize = 1024 * 1024;
/// Messages that wait for the slower side.
const BACKLOG: usize = 4;

pub(super) type OutSender = mpsc::Sender<Result<v1::CopyChunk, Status>>;

/// Why a copy ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    #[error("{0}")]
    Refused(String),
    #[error("{attempt}")]
    Io {
        attempt: String,
        #[source]
        source: io::Error,
    },
}

impl CopyError {
    fn io(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        |source| Self::Io { attempt, source }
    }
}

impl From<CopyError> for WorkloadError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Refused(text) => Self::Invalid(text),
            CopyError::Io { attempt, source } => Self::Io { attempt, source },
        }
    }
}

impl Workloads {
    pub(super) async fn copy_out(
        &self,
        request: v1::CopyOutRequest,
        to: OutSender,
    ) -> Result<(), WorkloadError> {
        let root = RootOf::open(self, &request.name, &request.path).await?;
        blocking(move || {
            let mut sink = ChunkSink { to, buffer: Vec::with_capacity(CHUNK), total: 0, first: true };
            let done = out::pack(&root.root, &root.path, &mut sink);
            root.close();
            done
        })
        .await
    }

    pub(super) async fn copy_in(
        &self,
        mut input: Streaming<v1::CopyInRequest>,
    ) -> Result<v1::CopyInResponse, Status> {
        let Some(first) = input.message().await? else {
            return Err(Status::invalid_argument("a copy begins with where to copy"));
        };
        let root = RootOf::open(self, &first.name, &first.path).await?;
        root.ensure_writable().map_err(WorkloadError::from)?;
        let (sender, pieces) = mpsc::channel::<Vec<u8>>(BACKLOG);
        let exactly = first.no_target_directory;
        let work = tokio::spawn(blocking(move || {
            let mut source = ChunkSource { pieces, current: Vec::new(), at: 0 };
            let done = into::unpack(&root.root, &root.path, exactly, &mut source);
            root.close();
            done
        }));
        let mut data = first.data;
        loop {
            if !data.is_empty() && sender.send(data).await.is_err() {
                break;
            }
            match input.message().await {
                Ok(Some(next)) => data = next.data,
                Ok(None) => break,
                // The piece that is missing makes the reader fail, not end.
                Err(status) => {
                    work.abort();
                    return Err(status);
                }
            }
        }
        drop(sender);
        let done = work.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(v1::CopyInResponse { files: done.files, bytes: done.bytes })
    }
}

/// On a thread of its own: a copy lasts as long as its client likes, and the runtime's threads for
/// blocking work are few.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CopyError> + Send + 'static,
) -> Result<T, WorkloadError> {
    let failed = |error| WorkloadError::io("copying")(error);
    let (done, outcome) = oneshot::channel();
    let thread = thread::Builder::new().name("copy".into());
    // Nobody waits for the outcome of a copy whose client is gone.
    thread.spawn(move || drop(done.send(work()))).map_err(failed)?;
    Ok(outcome.await.map_err(|error| failed(io::Error::other(error)))??)
}

/// Collects what is written into messages; a client that is gone is a broken pipe.
struct ChunkSink {
    to: OutSender,
    buffer: Vec<u8>,
    total: u64,
    first: bool,
}

/// Where an archive goes, which first says how much there is.
pub(super) trait Sink: Write {
    fn expect(&mut self, total_bytes: u64);
}

impl Sink for ChunkSink {
    fn expect(&mut self, total_bytes: u64) {
        self.total = total_bytes;
    }
}

impl ChunkSink {
    fn send(&mut self) -> io::Result<()> {
        let data = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        let total_bytes = if std::mem::take(&mut self.first) { self.total } else { 0 };
        let chunk = v1::CopyChunk { total_bytes, data };
        self.to.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for ChunkSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == CHUNK {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() { Ok(()) } else { self.send() }
    }
}

struct ChunkSource {
    pieces: mpsc::Receiver<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl Read for ChunkSource {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            match self.pieces.blocking_recv() {
                Some(piece) => (self.current, self.at) = (piece, 0),
                None => return Ok(0),
            }
        }
        let count = to.len().min(self.current.len() - self.at);
        to[..count].copy_from_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// For messages.
fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
