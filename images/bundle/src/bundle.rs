//! Reading a bundle from a file.

use std::{
    fmt,
    io::{self, Read, Seek, SeekFrom, Take},
};

use crate::{
    BundleError, Digest, MAX_KERNEL_BYTES, MAX_MANIFEST_BYTES, MAX_ROOT_BYTES, MAX_SIGNATURE_BYTES, Manifest,
    SignatureError, Signed,
};

/// Each entry with the most bytes that it may have; also their order.
pub(crate) const ENTRIES: [(&str, u64); 4] = [
    ("manifest.json", MAX_MANIFEST_BYTES),
    ("manifest.json.minisig", MAX_SIGNATURE_BYTES),
    ("kernel.efi", MAX_KERNEL_BYTES),
    ("root.img", MAX_ROOT_BYTES),
];
/// Blocks of a tar archive.
const BLOCK_BYTES: u64 = 512;
/// Zeros behind the last entry.
const END_BYTES: u64 = 2 * BLOCK_BYTES;

/// What a slot is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `kernel.efi`.
    Kernel,
    /// `root.img`.
    Root,
}

impl Part {
    /// Both, in the order in which they stand in a bundle.
    pub const ALL: [Self; 2] = [Self::Kernel, Self::Root];

    /// Size and digest that the manifest promises.
    pub fn promised(self, manifest: &Manifest) -> (u64, Digest) {
        match self {
            Self::Kernel => (manifest.kernel.bytes, manifest.kernel.sha256),
            Self::Root => (manifest.root.bytes, manifest.root.sha256),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel.efi",
            Self::Root => "root.img",
        })
    }
}

/// Where an entry's content is.
#[derive(Clone, Copy, Debug)]
struct Span {
    at: u64,
    bytes: u64,
}

/// A bundle whose form is right. Who signed it, and whether its content is what was signed, is
/// asked for with [`Signed::verify`] and [`Bundle::check_content`].
#[derive(Debug)]
pub struct Bundle<R> {
    reader: R,
    bytes: u64,
    signed: Signed,
    claims: Manifest,
    kernel: Span,
    root: Span,
}

impl<R: Read + Seek> Bundle<R> {
    /// Reads the headers, the manifest and the signature; at most a few kilobytes.
    pub fn open(mut reader: R) -> Result<Self, BundleError> {
        let bytes = reader.seek(SeekFrom::End(0))?;
        let spans = spans(&mut reader, bytes)?;
        let [manifest, signature, kernel, root] = spans;
        let manifest = read(&mut reader, manifest)?;
        let signature = String::from_utf8(read(&mut reader, signature)?)
            .map_err(|_| SignatureError::Malformed("it is not text".into()))?;
        let signed = Signed { manifest, signature };
        signed.signer()?;
        let claims = signed.claims()?;
        for (part, span) in Part::ALL.into_iter().zip([kernel, root]) {
            let (expected, _) = part.promised(&claims);
            if expected != span.bytes {
                return Err(BundleError::Size { part, expected, actual: span.bytes });
            }
        }
        Ok(Self { reader, bytes, signed, claims, kernel, root })
    }

    /// Manifest and signature.
    pub fn signed(&self) -> &Signed {
        &self.signed
    }

    /// What the bundle says of itself.
    pub fn claims(&self) -> &Manifest {
        &self.claims
    }

    /// Of the whole file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The content of one part, from its beginning.
    pub fn part(&mut self, part: Part) -> io::Result<Take<&mut R>> {
        let span = self.span(part);
        self.reader.seek(SeekFrom::Start(span.at))?;
        Ok(self.reader.by_ref().take(span.bytes))
    }

    /// `buffer.len()` bytes of one part, from `offset` on.
    pub fn read_at(&mut self, part: Part, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let span = self.span(part);
        if offset.saturating_add(buffer.len() as u64) > span.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.reader.seek(SeekFrom::Start(span.at + offset))?;
        self.reader.read_exact(buffer)
    }

    /// Compares all content with the manifest; `seen` hears of each piece's length.
    pub fn check_content(&mut self, mut seen: impl FnMut(u64)) -> Result<(), BundleError> {
        for part in Part::ALL {
            let (bytes, expected) = part.promised(&self.claims);
            let (actual, found) = Digest::of_reader(self.part(part)?, &mut seen)?;
            if found != bytes {
                return Err(BundleError::Size { part, expected: bytes, actual: found });
            }
            if actual != expected {
                return Err(BundleError::Corrupt { part, expected, actual });
            }
        }
        Ok(())
    }

    fn span(&self, part: Part) -> Span {
        match part {
            Part::Kernel => self.kernel,
            Part::Root => self.root,
        }
    }
}

/// Where the entries are. Raw entries: a format of exactly four plain files has no use for
/// extensions, so that none is ever followed.
fn spans<R: Read + Seek>(reader: &mut R, actual: u64) -> Result<[Span; 4], BundleError> {
    reader.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Archive::new(reader);
    let entries = archive.entries_with_seek()?.raw(true);
    let mut spans = Vec::with_capacity(ENTRIES.len());
    let mut end = 0;
    for entry in entries {
        let entry = entry.map_err(|error| broken(&error, actual, end))?;
        let span = Span { at: entry.raw_file_position(), bytes: entry.size() };
        let found = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        expect(&found, entry.header().entry_type().is_file(), spans.len())?;
        let (entry, limit) = ENTRIES[spans.len()];
        if span.bytes > limit {
            return Err(BundleError::Oversized { entry, bytes: span.bytes, limit });
        }
        end = (span.at + span.bytes).next_multiple_of(BLOCK_BYTES);
        // Past the end there is no next header to find.
        if end > actual {
            return Err(BundleError::Truncated { expected: end + END_BYTES, actual });
        }
        spans.push(span);
    }
    let expected = end + END_BYTES;
    let spans = spans.try_into().map_err(|spans: Vec<Span>| match spans.len() {
        0 => BundleError::NotOne("it has no entries".into()),
        1 if actual >= expected => SignatureError::Unsigned.into(),
        _ => BundleError::Truncated { expected: expected.max(actual + 1), actual },
    })?;
    match actual {
        _ if actual < expected => Err(BundleError::Truncated { expected, actual }),
        _ if actual > expected => Err(BundleError::Trailing(actual - expected)),
        _ => Ok(spans),
    }
}

/// Whether an entry of this name may stand at place `at`.
fn expect(found: &str, is_file: bool, at: usize) -> Result<(), BundleError> {
    let refuse =
        |problem| Err(BundleError::Entry { found: found.escape_debug().take(80).collect(), problem });
    match ENTRIES.iter().position(|(name, _)| *name == found) {
        _ if !is_file => refuse("no plain file"),
        None if at == 0 => Err(BundleError::NotOne("it does not begin with manifest.json".into())),
        None => refuse("foreign"),
        Some(place) if place < at => refuse("there twice or too late"),
        Some(place) if at == 1 && place > 1 => Err(SignatureError::Unsigned.into()),
        Some(place) if place > at => refuse("too early"),
        Some(_) => Ok(()),
    }
}

fn broken(error: &io::Error, actual: u64, end: u64) -> BundleError {
    match end {
        // Not even a whole header follows.
        end if actual < end + BLOCK_BYTES => BundleError::Truncated { expected: end + END_BYTES, actual },
        // What the archive's reader says of it has its bytes in it.
        0 => BundleError::NotOne("it is no archive".into()),
        _ => BundleError::NotOne(format!("it is damaged at byte {end}: {error}")),
    }
}

fn read<R: Read + Seek>(reader: &mut R, span: Span) -> io::Result<Vec<u8>> {
    reader.seek(SeekFrom::Start(span.at))?;
    // Bounded by `ENTRIES`.
    let mut bytes = vec![0; span.bytes as usize];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The entries as a sentence names them.
pub(crate) fn order() -> String {
    ENTRIES.map(|(name, _)| name).join(", ")
}
