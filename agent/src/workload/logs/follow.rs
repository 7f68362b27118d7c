//! Log records as they come.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use capsule_proto::v1;
use futures_util::StreamExt as _;
use inotify::{Inotify, WatchMask};
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    cursor::Cursor,
    read::{Query, Reader},
};
use crate::workload::WorkloadError;

/// Records read before they are handed on: a slow client makes the reader wait, not grow.
const BATCH: usize = 128;
/// Between looks whether the directory is still there: while a file in it is open, inotify does not
/// say that it is gone.
const LOOK: Duration = Duration::from_secs(1);
/// Of one inotify read.
const NOTICES: usize = 4096;

pub(in crate::workload) type Sender = mpsc::Sender<Result<v1::LogRecord, Status>>;

/// Logs from the place on that a query asks for.
pub(in crate::workload) struct Follower {
    dir: PathBuf,
    reader: Reader,
    /// Only where what comes is wanted too.
    notices: Option<Notices>,
}

type Notices = inotify::EventStream<Vec<u8>>;

impl Follower {
    /// At the first record that `query` asks for; with `follow`, what comes is wanted too.
    pub async fn open(dir: &Path, query: Query, follow: bool) -> Result<Self, WorkloadError> {
        let failed = || reading_failed(dir);
        // Watched before the first read: what is written in between is not missed.
        let notices = if follow { Some(watch(dir).map_err(failed())?) } else { None };
        let (path, previous) = (dir.to_owned(), query.previous);
        let reader = blocking(move || Reader::open(&path, &query)).await.map_err(failed())?;
        if previous && reader.is_empty() {
            return Err(WorkloadError::Conflict(
                "there is no run before this one: it was started once only, or its older logs are gone; \
                 leave out --previous"
                    .into(),
            ));
        }
        Ok(Self { dir: dir.to_owned(), reader, notices })
    }

    /// Where it begins, for a query to go on from.
    pub fn begins(&self) -> Option<Cursor> {
        self.reader.place()
    }

    /// Sends it all, until the client is gone.
    pub async fn send(self, to: &Sender) -> Result<(), WorkloadError> {
        let Self { dir, mut reader, notices } = self;
        let follow = notices.is_some();
        let mut notices = pin!(notices);
        let began_in = identity(&dir).await;
        loop {
            // Looked at before what was written last is read: an open file outlives its name.
            let gone = follow && identity(&dir).await != began_in;
            let (back, records) = blocking(move || batch(reader)).await.map_err(reading_failed(&dir))?;
            reader = back;
            let more = records.len() == BATCH;
            for record in records {
                if to.send(Ok(record)).await.is_err() {
                    return Ok(());
                }
            }
            if more {
                continue;
            }
            let Some(mut notices) = notices.as_mut().as_pin_mut() else { return Ok(()) };
            if gone {
                return Err(WorkloadError::Deleted);
            }
            tokio::select! {
                notice = notices.next() => if !matches!(notice, Some(Ok(_))) { return Ok(()) },
                () = tokio::time::sleep(LOOK) => {}
                () = to.closed() => return Ok(()),
            }
        }
    }
}

fn reading_failed(dir: &Path) -> impl FnOnce(io::Error) -> WorkloadError {
    WorkloadError::io(format!("reading the logs in {}", dir.display()))
}

/// Another one where the directory was removed, or removed and made anew.
async fn identity(dir: &Path) -> Option<(u64, u64)> {
    tokio::fs::metadata(dir).await.ok().map(|meta| (meta.dev(), meta.ino()))
}

fn watch(dir: &Path) -> io::Result<Notices> {
    std::fs::create_dir_all(dir)?;
    let inotify = Inotify::init()?;
    inotify.watches().add(dir, WatchMask::MODIFY | WatchMask::CREATE)?;
    inotify.into_event_stream(vec![0; NOTICES])
}

fn batch(mut reader: Reader) -> io::Result<(Reader, Vec<v1::LogRecord>)> {
    let mut records = Vec::new();
    while records.len() < BATCH {
        match reader.next_record()? {
            Some(record) => records.push(record),
            None => break,
        }
    }
    Ok((reader, records))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
