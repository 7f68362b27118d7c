//! Reads the tar and writes its blobs into the content store as they come.
//!
//! The tar is parsed on a thread of its own, which waits for the content store where that is
//! slower: nothing is kept of the archive but the chunks on their way and its small documents.

use std::{
    collections::HashMap,
    io::{self, Read},
};

use capsule_proto::v1::LayerState;
use tar::{Archive, Entry, EntryType};
use tokio::{io::AsyncRead, runtime::Handle};
use tokio_util::io::SyncIoBridge;

use super::compression::layer_media_type;
use crate::image::{
    ImageError,
    engine::{CHUNK_BYTES, Engine, Expected, Ingest, Lease, Written, blob_ref},
    progress::{Layer, Progress},
};

/// Entries of an archive at most: an image has at most 127 layers and few files for each.
const MAX_ENTRIES: usize = 100_000;
/// Size of `index.json`, `manifest.json` and `oci-layout` at most.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// How names of layers end where they are not blobs of OCI's layout.
const LAYER_SUFFIXES: [&str; 2] = [".tar", ".tar.gz"];
/// What may follow the tar's end: its padding.
const MAX_TRAILER_BYTES: u64 = 16 << 20;

/// A blob that the archive brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub digest: String,
    pub size: u64,
    /// What it would be as a layer.
    pub layer_media_type: &'static str,
}

/// All that an archive brought.
#[derive(Debug, Default)]
pub struct Received {
    /// `index.json` and `manifest.json`, whichever there are.
    pub documents: HashMap<String, Vec<u8>>,
    /// Blobs by their path in the archive.
    pub blobs: HashMap<String, Stored>,
    /// Links by their path; the target is a path in the archive.
    pub links: HashMap<String, String>,
}

/// Reads `tar` to its end under `lease`.
pub async fn receive(
    engine: &Engine,
    lease: &Lease,
    tar: Box<dyn AsyncRead + Send + Unpin>,
    progress: &Progress,
) -> Result<Received, ImageError> {
    let reader = Reader {
        engine: engine.clone(),
        lease: lease.clone(),
        progress: progress.clone(),
        handle: Handle::current(),
        received: Received::default(),
    };
    let read = tokio::task::spawn_blocking(move || reader.read(SyncIoBridge::new(tar)));
    read.await.unwrap_or_else(|error| Err(ImageError::Archive(format!("reading it failed: {error}"))))
}

struct Reader {
    engine: Engine,
    lease: Lease,
    progress: Progress,
    handle: Handle,
    received: Received,
}

impl Reader {
    fn read(mut self, mut tar: impl Read) -> Result<Received, ImageError> {
        let mut archive = Archive::new(&mut tar);
        for (at, entry) in archive.entries().map_err(|error| refuse(&error))?.enumerate() {
            if at >= MAX_ENTRIES {
                return Err(ImageError::Archive(format!("it has more than {MAX_ENTRIES} entries")));
            }
            self.take(entry.map_err(|error| refuse(&error))?)?;
        }
        // A checksum at the end of a compressed archive is only checked when it is read.
        io::copy(&mut tar.by_ref().take(MAX_TRAILER_BYTES), &mut io::sink())
            .map_err(|error| refuse(&error))?;
        Ok(self.received)
    }

    fn take(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), ImageError> {
        let path = normalise("", &entry.path_bytes());
        match entry.header().entry_type() {
            EntryType::Symlink | EntryType::Link => {
                let from = match entry.header().entry_type() {
                    EntryType::Symlink => path.rsplit_once('/').map_or("", |(dir, _)| dir),
                    _ => "",
                };
                let target = normalise(from, &entry.link_name_bytes().unwrap_or_default());
                self.received.links.insert(path, target);
            }
            EntryType::Regular | EntryType::Continuous => match kind(&path) {
                Kind::Document => {
                    let text = read_document(&path, &mut entry)?;
                    self.received.documents.insert(path, text);
                }
                Kind::Blob(digest) => self.store(path, digest, &mut entry)?,
                Kind::Other => {}
            },
            _ => {}
        }
        Ok(())
    }

    fn store(
        &mut self,
        path: String,
        digest: Option<String>,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), ImageError> {
        let size = entry.size();
        let line = self.progress.find_or_add(digest.as_deref().unwrap_or(&path), size);
        let reference = match &digest {
            Some(digest) => blob_ref(digest),
            None => format!("archive-{}", uuid::Uuid::new_v4().simple()),
        };
        // A pull may be writing the same blob.
        let handle = self.handle.clone();
        let _turn = digest.as_ref().map(|digest| handle.block_on(self.engine.lock(digest)));
        let stored = self.copy(&path, &reference, digest, entry, &line).inspect_err(|_| {
            // containerd's garbage collector finds no half-written blob in a store that never had
            // a whole one.
            handle.block_on(self.engine.abort(&reference));
        })?;
        line.state(LayerState::Exists);
        self.received.blobs.insert(path, stored);
        Ok(())
    }

    fn copy(
        &self,
        path: &str,
        reference: &str,
        digest: Option<String>,
        entry: &mut Entry<'_, impl Read>,
        line: &Layer,
    ) -> Result<Stored, ImageError> {
        let (handle, size) = (&self.handle, entry.size());
        let expected = digest.clone().map(|digest| Expected { digest, size });
        let opened = Ingest::open(&self.engine, &self.lease, reference.to_owned(), expected);
        let mut ingest = handle.block_on(opened)?;
        if let Some(ingest) = &mut ingest {
            ingest.rewind();
        }
        let (mut first, mut read) = (Vec::new(), 0);
        loop {
            let chunk = read_chunk(entry).map_err(|error| refuse(&error))?;
            if chunk.is_empty() {
                break;
            }
            if first.is_empty() {
                first = chunk[..chunk.len().min(8)].to_vec();
            }
            read += chunk.len() as u64;
            if let Some(ingest) = &mut ingest {
                handle.block_on(ingest.write(chunk))?;
                line.downloaded(read);
            }
        }
        if read != size {
            return Err(ImageError::Archive(format!("it ends in the middle of {path}")));
        }
        let written = match ingest {
            Some(ingest) => handle.block_on(ingest.commit()).map_err(|error| name(error, path))?,
            None => Written { digest: digest.unwrap_or_default(), size },
        };
        let layer_media_type = layer_media_type(&first);
        Ok(Stored { digest: written.digest, size: written.size, layer_media_type })
    }
}

/// What an entry is, by its path.
enum Kind {
    /// Small JSON that says what the archive holds.
    Document,
    /// With the digest that its path promises, if it does.
    Blob(Option<String>),
    Other,
}

fn kind(path: &str) -> Kind {
    let is_hex =
        |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if let Some(hex) = path.strip_prefix("blobs/sha256/") {
        return if is_hex(hex) { Kind::Blob(Some(format!("sha256:{hex}"))) } else { Kind::Other };
    }
    match path {
        "index.json" | "manifest.json" => Kind::Document,
        // docker names a legacy configuration by its digest.
        _ if path.strip_suffix(".json").is_some_and(is_hex) => {
            Kind::Blob(Some(format!("sha256:{}", path.trim_end_matches(".json"))))
        }
        _ if LAYER_SUFFIXES.iter().any(|suffix| path.ends_with(suffix)) => Kind::Blob(None),
        _ => Kind::Other,
    }
}

fn read_document(path: &str, entry: &mut impl Read) -> Result<Vec<u8>, ImageError> {
    let mut text = Vec::new();
    entry.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut text).map_err(|error| refuse(&error))?;
    if text.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(ImageError::Archive(format!("its {path} is larger than {MAX_DOCUMENT_BYTES} bytes")));
    }
    Ok(text)
}

fn read_chunk(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    from.take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
    Ok(chunk)
}

/// `path` as seen from the directory `from`, without `.` and empty parts and with `..` taken back.
fn normalise(from: &str, path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    let mut parts: Vec<&str> = Vec::new();
    for part in from.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether the bytes are no tar header. The tar crate says so in words only, and repeats the bytes.
fn is_no_tar(error: &io::Error) -> bool {
    let told = crate::status::chain(error);
    ["numeric field", "checksum mismatch", "entire block"].iter().any(|part| told.contains(part))
}

/// A read that failed: the sender's stream or the tar's form.
fn refuse(error: &io::Error) -> ImageError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ImageError::Archive("it ends too early".into()),
        _ if is_no_tar(error) => ImageError::Archive(
            "it is no tar archive, or a damaged one; make it with `docker save`, or as an OCI archive".into(),
        ),
        _ => ImageError::Archive(format!("it cannot be read as tar: {}", crate::status::chain(error))),
    }
}

/// Says which entry it was that did not match.
fn name(error: ImageError, path: &str) -> ImageError {
    match error {
        ImageError::Digest { digest, detail, .. } => {
            ImageError::Archive(format!("its entry {path} does not match its digest {digest}: {detail}"))
        }
        other => other,
    }
}
