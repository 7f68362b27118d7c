//! Bringing a bundle to capsules: [`UpdateFile`] is read, checked and cut into chunks once, and
//! [`push`] sends one capsule those that it has not.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use capsule_bundle::{Bundle, BundleError, Digest, Manifest, Part, Signed, chunk};
use capsule_proto::v1::{
    BeginUpdate, ChunkData, ChunkList, ChunkRef, PushProgress, PushUpdateRequest, Update,
    push_update_request::Step as Sent, push_update_response::Step as Told,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{CallError, Capsule};

/// Chunks listed in one message.
const LIST_BATCH: usize = 4096;
/// Messages that wait for the network.
const BACKLOG: usize = 8;
/// Images are compressed already; what is left to gain is gained cheaply.
const COMPRESSION: i32 = 1;

/// A bundle whose form and content are right. Whether its signature counts, capsules decide.
#[derive(Clone, Debug)]
pub struct UpdateFile {
    path: PathBuf,
    bytes: u64,
    signed: Signed,
    manifest: Manifest,
    chunks: Arc<[Piece]>,
}

/// One chunk's place.
#[derive(Clone, Copy, Debug)]
struct Piece {
    id: Digest,
    part: Part,
    offset: u64,
    bytes: u32,
}

impl UpdateFile {
    /// Reads all of the file; `seen` hears of each piece's length, of [`Self::work_bytes`] in all.
    pub fn open(path: &Path, mut seen: impl FnMut(u64)) -> Result<Self, BundleError> {
        let mut bundle = Bundle::open(File::open(path)?)?;
        bundle.check_content(&mut seen)?;
        let mut chunks = Vec::new();
        for part in Part::ALL {
            for chunk in chunk::cut(bundle.part(part)?) {
                let chunk = chunk?;
                seen(chunk.data.len() as u64);
                let bytes = chunk.data.len() as u32;
                chunks.push(Piece { id: chunk.id, part, offset: chunk.offset, bytes });
            }
        }
        Ok(Self {
            path: path.to_owned(),
            bytes: bundle.bytes(),
            signed: bundle.signed().clone(),
            manifest: bundle.claims().clone(),
            chunks: chunks.into(),
        })
    }

    /// What [`Self::open`] has to read of a file of this size: all of it, twice.
    pub fn work_bytes(file_bytes: u64) -> u64 {
        file_bytes * 2
    }

    /// What the bundle says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The file's size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What the operator allows, and how the trial is to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// Also a version before the one that runs.
    pub allow_downgrade: bool,
    /// Also one that was rolled back, or that runs already.
    pub force: bool,
    /// Health ends the trial after so long; else an operator.
    pub auto_confirm: Option<Duration>,
    /// A trial that nobody ended is over after so long; the capsule's default where absent.
    pub confirm_within: Option<Duration>,
}

/// How far a push is.
#[derive(Clone, Debug)]
pub enum Seen {
    /// What the capsule does.
    Capsule(PushProgress),
    /// Bytes of chunks that are sent, of those that it wants, uncompressed.
    Sent {
        /// So far.
        done_bytes: u64,
        /// In all.
        total_bytes: u64,
        /// On the wire so far, compressed, with all that goes before.
        sent_bytes: u64,
    },
}

/// Why a push did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The capsule, or the way to it.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The bundle, which was right when it was opened.
    #[error("cannot read {}", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<tonic::Status> for PushError {
    fn from(status: tonic::Status) -> Self {
        Self::Call(status.into())
    }
}

/// What came of a push.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The update, armed; absent where the version runs already.
    pub update: Option<Update>,
    /// Bytes that were sent, compressed, lists of chunks included.
    pub sent_bytes: u64,
}

/// Sends the bundle to one capsule. When it resolves the capsule is about to reboot. Repeated after a
/// broken connection it goes on.
pub async fn push(
    capsule: &Capsule,
    file: &UpdateFile,
    options: &PushOptions,
    mut seen: impl FnMut(Seen),
) -> Result<Pushed, PushError> {
    let (requests, stream) = mpsc::channel(BACKLOG);
    let sender = Sender { requests, sent_bytes: Arc::default() };
    sender.send(Sent::Begin(begin(file, options))).await;
    let mut answers = capsule.updates().push(ReceiverStream::new(stream)).await?.into_inner();
    let mut wanted = Vec::new();
    let (progress, mut sent) = mpsc::unbounded_channel();
    let mut sending = tokio::task::JoinSet::new();
    let odd = |what: &str| PushError::Call(CallError::Answer(what.to_owned()));
    loop {
        let answer = tokio::select! {
            answer = answers.message() => answer?.ok_or_else(|| odd("the push ended without a word"))?,
            Some(bytes) = sent.recv() => {
                seen(bytes);
                continue;
            }
            Some(Ok(Err(source))) = sending.join_next() => {
                return Err(PushError::File { path: file.path.clone(), source });
            }
        };
        match answer.step.ok_or_else(|| odd("a message of the push is empty"))? {
            Told::Verdict(verdict) if verdict.runs_already => {
                return Ok(Pushed { update: None, sent_bytes: sender.bytes() });
            }
            Told::Verdict(_) => {
                sending.spawn(list(sender.clone(), file.chunks.clone()));
            }
            Told::Wanted(more) => {
                wanted.extend(more.indexes);
                if more.is_last {
                    let wanted = std::mem::take(&mut wanted);
                    sending.spawn(data(sender.clone(), file.clone(), wanted, progress.clone()));
                }
            }
            Told::Progress(progress) => seen(Seen::Capsule(progress)),
            Told::Update(update) => {
                return Ok(Pushed { update: Some(update), sent_bytes: sender.bytes() });
            }
        }
    }
}

/// A time as the API has it, where 0 is none: whole seconds, rounded up.
pub fn seconds(time: Option<Duration>) -> u32 {
    time.map_or(0, |time| (time.as_secs_f64().ceil() as u32).max(1))
}

fn begin(file: &UpdateFile, options: &PushOptions) -> BeginUpdate {
    BeginUpdate {
        manifest: file.signed.manifest.clone(),
        signature: file.signed.signature.clone(),
        allow_downgrade: options.allow_downgrade,
        force: options.force,
        auto_confirm_seconds: seconds(options.auto_confirm),
        confirm_within_seconds: seconds(options.confirm_within),
    }
}

/// The caller's end, with a count.
#[derive(Clone)]
struct Sender {
    requests: mpsc::Sender<PushUpdateRequest>,
    sent_bytes: Arc<AtomicU64>,
}

impl Sender {
    /// Whether anybody took it; the answers say why not.
    async fn send(&self, step: Sent) -> bool {
        let bytes = match &step {
            Sent::Begin(begin) => begin.manifest.len() + begin.signature.len(),
            Sent::Chunks(list) => list.chunks.iter().map(|chunk| chunk.id.len() + 8).sum(),
            Sent::Data(data) => data.data.len(),
        };
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.requests.send(PushUpdateRequest { step: Some(step) }).await.is_ok()
    }

    fn bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }
}

async fn list(sender: Sender, pieces: Arc<[Piece]>) -> io::Result<()> {
    for batch in pieces.chunks(LIST_BATCH) {
        let chunk = |piece: &Piece| ChunkRef { id: piece.id.0.to_vec(), bytes: piece.bytes };
        if !sender.send(Sent::Chunks(ChunkList { chunks: batch.iter().map(chunk).collect() })).await {
            break;
        }
    }
    Ok(())
}

async fn data(
    sender: Sender,
    file: UpdateFile,
    wanted: Vec<u32>,
    progress: mpsc::UnboundedSender<Seen>,
) -> io::Result<()> {
    let pieces: Vec<(u32, Piece)> =
        wanted.into_iter().filter_map(|at| Some((at, *file.chunks.get(at as usize)?))).collect();
    let total_bytes = pieces.iter().map(|(_, piece)| u64::from(piece.bytes)).sum();
    let (compressed, mut ready) = mpsc::channel(BACKLOG);
    let reading = tokio::task::spawn_blocking(move || compress(&file, &pieces, &compressed));
    let mut done_bytes = 0;
    while let Some((data, bytes)) = ready.recv().await {
        if !sender.send(Sent::Data(data)).await {
            break;
        }
        done_bytes += bytes;
        let sent_bytes = sender.bytes();
        let _ = progress.send(Seen::Sent { done_bytes, total_bytes, sent_bytes });
    }
    drop(ready);
    reading.await.map_err(io::Error::other)?
}

fn compress(
    file: &UpdateFile,
    pieces: &[(u32, Piece)],
    to: &mpsc::Sender<(ChunkData, u64)>,
) -> io::Result<()> {
    let mut bundle = Bundle::open(File::open(&file.path)?).map_err(io::Error::other)?;
    let mut buffer = Vec::new();
    for (index, piece) in pieces {
        buffer.resize(piece.bytes as usize, 0);
        bundle.read_at(piece.part, piece.offset, &mut buffer)?;
        if Digest::of(&buffer) != piece.id {
            return Err(io::Error::other(format!("{} was changed meanwhile", file.path.display())));
        }
        let data = ChunkData { index: *index, data: zstd::bulk::compress(&buffer, COMPRESSION)? };
        if to.blocking_send((data, piece.bytes.into())).is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_was_given_is_never_told_as_none() {
        let of = |millis| seconds(Some(Duration::from_millis(millis)));
        assert_eq!([of(0), of(500), of(1000), of(1001)], [1, 1, 1, 2]);
        assert_eq!(seconds(None), 0);
        assert_eq!(seconds(Some(Duration::MAX)), u32::MAX);
    }
}
