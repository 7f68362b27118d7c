//! The content store: blobs by digest.

use std::{collections::HashMap, time::Duration};

use containerd_client::services::v1::{
    AbortRequest, Info, InfoRequest, ListContentRequest, ReadContentRequest, UpdateRequest, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::{Engine, Lease};
use crate::image::ImageError;

/// Bytes of one write; containerd takes messages of up to 16 MiB.
pub const CHUNK_BYTES: usize = 512 << 10;
/// Writes that are on their way before the first of them is acknowledged: 4 MiB.
const WRITES_IN_FLIGHT: usize = 8;
/// Largest manifest, index or configuration that is read into memory.
const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// How often and how long to wait for the writer that a killed agent left behind.
const LOCKED_ATTEMPTS: u32 = 50;
const LOCKED_PAUSE: Duration = Duration::from_millis(200);

impl Engine {
    /// A whole small blob; `None` where the store does not have it.
    pub async fn read(&self, digest: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let failed = |status: &tonic::Status| ImageError::engine(format!("reading {digest}"), status);
        let Some(info) = self.info(digest).await? else { return Ok(None) };
        if info.size as u64 > MAX_DOCUMENT_BYTES {
            return Err(ImageError::malformed(digest, format!("it has {} bytes", info.size)));
        }
        let request = ReadContentRequest { digest: digest.into(), ..Default::default() };
        let mut pieces =
            self.contents(None).read(request).await.map_err(|status| failed(&status))?.into_inner();
        let mut whole = Vec::with_capacity(info.size as usize);
        while let Some(piece) = pieces.message().await.map_err(|status| failed(&status))? {
            whole.extend_from_slice(&piece.data);
        }
        Ok(Some(whole))
    }

    /// What the store knows of a blob; `None` where it does not have it.
    pub async fn info(&self, digest: &str) -> Result<Option<Info>, ImageError> {
        match self.contents(None).info(InfoRequest { digest: digest.into() }).await {
            Ok(answer) => Ok(answer.into_inner().info),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(ImageError::engine(format!("looking up {digest}"), &status)),
        }
    }

    /// Every blob.
    pub async fn blobs(&self) -> Result<Vec<Info>, ImageError> {
        let failed = |status: tonic::Status| ImageError::engine("listing content", &status);
        let mut pages =
            self.contents(None).list(ListContentRequest::default()).await.map_err(failed)?.into_inner();
        let mut all = Vec::new();
        while let Some(page) = pages.message().await.map_err(failed)? {
            all.extend(page.info);
        }
        Ok(all)
    }

    /// Sets these labels and leaves others.
    pub async fn label(&self, digest: &str, labels: HashMap<String, String>) -> Result<(), ImageError> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info { digest: digest.into(), labels, ..Default::default() };
        let request = UpdateRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
        let answer = self.contents(None).update(request).await;
        answer.map(drop).map_err(|status| ImageError::engine(format!("labelling {digest}"), &status))
    }

    /// Writes a small blob, or only its labels where the store has it.
    pub async fn put(
        &self,
        lease: &Lease,
        digest: &str,
        bytes: &[u8],
        labels: HashMap<String, String>,
    ) -> Result<(), ImageError> {
        let _turn = self.lock(digest).await;
        let expected = Expected { digest: digest.to_owned(), size: bytes.len() as u64 };
        if let Some(mut ingest) = Ingest::open(self, lease, blob_ref(digest), Some(expected)).await? {
            if ingest.offset() < bytes.len() as u64 {
                ingest.rewind();
                ingest.write(bytes.to_vec()).await?;
            }
            ingest.commit().await?;
        }
        if labels.is_empty() { Ok(()) } else { self.label(digest, labels).await }
    }

    /// Forgets a half-written blob.
    pub async fn abort(&self, reference: &str) {
        let aborted = self.contents(None).abort(AbortRequest { r#ref: reference.into() }).await;
        if let Err(error) = aborted {
            tracing::debug!(%error, reference, "a half-written blob was not removed");
        }
    }
}

/// The name under which a blob is written: the same each time, so that an interrupted write goes
/// on where it stopped.
pub fn blob_ref(digest: &str) -> String {
    format!("blob-{digest}")
}

/// What a blob is to be.
#[derive(Clone, Debug)]
pub struct Expected {
    pub digest: String,
    pub size: u64,
}

/// What a blob turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub digest: String,
    pub size: u64,
}

/// A blob being written. Dropping it keeps what was written for a later [`Ingest::open`] of the
/// same reference; containerd collects it with the lease.
pub struct Ingest {
    engine: Engine,
    reference: String,
    expected: Option<Expected>,
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    offset: u64,
    in_flight: usize,
}

impl Ingest {
    /// Begins or resumes; `None` where the store has the expected blob, which `lease` then holds.
    pub async fn open(
        engine: &Engine,
        lease: &Lease,
        reference: String,
        expected: Option<Expected>,
    ) -> Result<Option<Self>, ImageError> {
        for attempt in 1.. {
            match Self::try_open(engine, lease, &reference, expected.as_ref()).await {
                Ok(ingest) => return Ok(Some(ingest)),
                Err(status) if status.code() == Code::AlreadyExists => {
                    if let Some(expected) = &expected {
                        engine.hold_content(lease, &expected.digest).await?;
                    }
                    return Ok(None);
                }
                Err(status)
                    if attempt < LOCKED_ATTEMPTS
                        && status.code() == Code::Unavailable
                        && status.message().contains("locked") =>
                {
                    tokio::time::sleep(LOCKED_PAUSE).await;
                }
                Err(status) => return Err(ImageError::engine(format!("writing {reference}"), &status)),
            }
        }
        unreachable!("the loop only ends by returning")
    }

    async fn try_open(
        engine: &Engine,
        lease: &Lease,
        reference: &str,
        expected: Option<&Expected>,
    ) -> Result<Self, tonic::Status> {
        let (requests, stream) = mpsc::channel(WRITES_IN_FLIGHT);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            total: expected.map_or(0, |expected| expected.size as i64),
            expected: expected.map(|expected| expected.digest.clone()).unwrap_or_default(),
            ..Default::default()
        };
        let _ = requests.send(first).await;
        let mut answers = engine.contents(Some(lease)).write(ReceiverStream::new(stream)).await?.into_inner();
        let stat = answers.message().await?.ok_or_else(closed)?;
        let (engine, reference) = (engine.clone(), reference.to_owned());
        let (expected, offset) = (expected.cloned(), stat.offset as u64);
        Ok(Self { engine, reference, expected, requests, answers, offset, in_flight: 0 })
    }

    /// Bytes that were written.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next write begins anew.
    pub fn rewind(&mut self) {
        self.offset = 0;
    }

    /// Appends, without waiting for it to be on the disk.
    pub async fn write(&mut self, data: Vec<u8>) -> Result<(), ImageError> {
        let length = data.len() as u64;
        if length == 0 {
            return Ok(());
        }
        let action = WriteAction::Write.into();
        let request = WriteContentRequest { action, offset: self.offset as i64, data, ..Default::default() };
        self.send(request).await?;
        self.offset += length;
        while self.in_flight > WRITES_IN_FLIGHT {
            self.answer().await?;
        }
        Ok(())
    }

    /// Waits until all is written, so that a later [`Ingest::open`] goes on here.
    pub async fn flush(&mut self) -> Result<(), ImageError> {
        while self.in_flight > 0 {
            self.answer().await?;
        }
        Ok(())
    }

    /// Verifies and keeps the blob. One that does not match is forgotten.
    pub async fn commit(mut self) -> Result<Written, ImageError> {
        self.flush().await?;
        let stat = WriteContentRequest { action: WriteAction::Stat.into(), ..Default::default() };
        self.send(stat).await?;
        let found = self.answer().await?;
        let written = Written { digest: found.digest, size: found.offset as u64 };
        let differs =
            |expected: &Expected| written.size != expected.size || written.digest != expected.digest;
        if let Some(expected) = self.expected.take_if(|expected| differs(expected)) {
            return Err(self.mismatch(expected, &written).await);
        }
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            total: written.size as i64,
            expected: written.digest.clone(),
            offset: written.size as i64,
            ..Default::default()
        };
        match self.exchange(request).await {
            // Somebody else was faster, or an equal blob was there under its digest.
            Err(status) if status.code() != Code::AlreadyExists => Err(self.failed(&status)),
            _ => Ok(written),
        }
    }

    async fn mismatch(self, expected: Expected, written: &Written) -> ImageError {
        let detail = if written.size == expected.size {
            format!("it hashes to {}", written.digest)
        } else {
            format!("it has {} bytes instead of {}", written.size, expected.size)
        };
        let (engine, reference) = (self.engine.clone(), self.reference.clone());
        // Ends the stream and with it the lock that would refuse the abort.
        drop(self);
        engine.abort(&reference).await;
        ImageError::Digest { what: "a blob".into(), digest: expected.digest, detail }
    }

    async fn send(&mut self, request: WriteContentRequest) -> Result<(), ImageError> {
        if self.requests.send(request).await.is_err() {
            // The call has ended; why stands where the answer would.
            while self.in_flight > 0 {
                self.answer().await?;
            }
            return Err(self.failed(&closed()));
        }
        self.in_flight += 1;
        Ok(())
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, ImageError> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let answer = self.answers.message().await.and_then(|answer| answer.ok_or_else(closed));
        answer.map_err(|status| self.failed(&status))
    }

    async fn exchange(&mut self, request: WriteContentRequest) -> Result<(), tonic::Status> {
        let _ = self.requests.send(request).await;
        self.answers.message().await?.map(drop).ok_or_else(closed)
    }

    fn failed(&self, status: &tonic::Status) -> ImageError {
        ImageError::engine(format!("writing {}", self.reference), status)
    }
}

fn closed() -> tonic::Status {
    tonic::Status::unavailable("it closed the stream")
}
