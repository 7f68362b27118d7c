//! Log records as they come.

use std::{io, os::unix::fs::MetadataExt as _, path::Path, pin::pin, time::Duration};

use capsule_proto::v1;
use futures_util::StreamExt as _;
use inotify::{Inotify, WatchMask};
use tokio::sync::mpsc;
use tonic::Status;

use super::read::{Query, Reader};
use crate::workload::WorkloadError;

/// Records read before they are handed on: a slow client makes the reader wait, not grow.
const BATCH: usize = 128;
/// Between looks whether the directory is still there: while a file in it is open, inotify does not
/// say that it is gone.
const LOOK: Duration = Duration::from_secs(1);
/// Of one inotify read.
const NOTICES: usize = 4096;

pub(in crate::workload) type Sender = mpsc::Sender<Result<v1::LogRecord, Status>>;

/// Sends what `query` asks for and, with `follow`, what comes, until the client is gone.
pub(in crate::workload) async fn send(
    dir: &Path,
    query: Query,
    follow: bool,
    to: &Sender,
) -> Result<(), WorkloadError> {
    let failed = || WorkloadError::io(format!("reading the logs in {}", dir.display()));
    // Watched before the first read: what is written in between is not missed.
    let notices = if follow { Some(watch(dir).map_err(failed())?) } else { None };
    let (path, previous) = (dir.to_owned(), query.previous);
    let open = move || Reader::open(&path, &query);
    let mut reader = blocking(open).await.map_err(failed())?;
    if previous && reader.is_empty() {
        return Err(WorkloadError::Conflict(
            "there is no run before this one: it was started once only, or its older logs are gone; \
             leave out --previous"
                .into(),
        ));
    }
    let mut notices = pin!(notices);
    let began_in = identity(dir).await;
    loop {
        // Looked at before what was written last is read: an open file outlives its name.
        let gone = follow && identity(dir).await != began_in;
        let (back, records) = blocking(move || batch(reader)).await.map_err(failed())?;
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
        let Some(notices) = notices.as_mut().as_pin_mut() else { return Ok(()) };
        if gone {
            return Err(WorkloadError::Deleted);
        }
        let mut notices = notices;
        tokio::select! {
            notice = notices.next() => if !matches!(notice, Some(Ok(_))) { return Ok(()) },
            () = tokio::time::sleep(LOOK) => {}
            () = to.closed() => return Ok(()),
        }
    }
}

/// Another one where the directory was removed, or removed and made anew.
async fn identity(dir: &Path) -> Option<(u64, u64)> {
    tokio::fs::metadata(dir).await.ok().map(|meta| (meta.dev(), meta.ino()))
}

fn watch(dir: &Path) -> io::Result<inotify::EventStream<Vec<u8>>> {
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
