//! Where an update is put together before a slot is touched: `update/` in the state directory, two
//! files of the size that was promised. What is in them is known by looking: every chunk is checked
//! against its digest when a push goes on, so that no record of progress can be wrong.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use capsule_bundle::{Digest, Manifest, Part, Signed, chunk};

use super::{
    UpdateError,
    chunks::{ChunkPlan, Place},
};
use crate::sys::file;

/// Says which bundle the files belong to.
const MANIFEST: &str = "manifest.json";
/// What must stay free for everything else.
const RESERVE_BYTES: u64 = 32 << 20;

/// A file or device that may hold chunks of the update.
#[derive(Clone, Debug)]
pub struct Source {
    /// Which.
    pub path: PathBuf,
    /// How much of it is worth looking at.
    pub bytes: u64,
}

/// An update that is being put together.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    kernel: File,
    root: File,
    manifest: Manifest,
    /// Whether nothing can be there yet.
    is_new: bool,
}

impl Staging {
    /// Goes on with what was begun of the same bundle, else begins anew.
    pub fn open(dir: &Path, signed: &Signed, manifest: &Manifest) -> Result<Self, UpdateError> {
        let failed = |error| UpdateError::io("use", dir)(error);
        let mark = dir.join(MANIFEST);
        let is_new = fs::read(&mark).ok().as_deref() != Some(&signed.manifest[..]);
        if is_new {
            clear(dir)?;
            file::ensure_dir(dir, 0o700).map_err(failed)?;
        }
        let open = |part: Part| {
            let path = dir.join(part.to_string());
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let sized = file.and_then(|file| file.set_len(part.promised(manifest).0).map(|()| file));
            sized.map_err(UpdateError::io("make", path))
        };
        let staging = Self {
            kernel: open(Part::Kernel)?,
            root: open(Part::Root)?,
            dir: dir.to_owned(),
            manifest: manifest.clone(),
            is_new,
        };
        staging.check_space()?;
        if is_new {
            file::write_atomic(&mark, &signed.manifest, 0o600).map_err(UpdateError::io("write", mark))?;
        }
        Ok(staging)
    }

    fn check_space(&self) -> Result<(), UpdateError> {
        let failed = |error| UpdateError::io("look at", &self.dir)(error);
        let taken = |file: &File| file.metadata().map(|metadata| metadata.blocks() * 512);
        let taken = taken(&self.kernel).and_then(|kernel| Ok(kernel + taken(&self.root)?)).map_err(failed)?;
        let missing = self.manifest.content_bytes().saturating_sub(taken);
        let stat = nix::sys::statvfs::statvfs(&self.dir).map_err(io::Error::from).map_err(failed)?;
        let free = stat.blocks_available() * stat.fragment_size();
        if missing > 0 && free < missing + RESERVE_BYTES {
            return Err(UpdateError::NoSpace { needed: missing + RESERVE_BYTES, free });
        }
        Ok(())
    }

    /// Takes what is there and what `sources` have; tells which chunks are missing, each by its first
    /// place. `seen` hears how many bytes were looked at.
    pub fn prepare(
        &self,
        plan: &ChunkPlan,
        sources: &[Source],
        mut seen: impl FnMut(u64),
    ) -> Result<Vec<u32>, UpdateError> {
        let mut missing: HashMap<Digest, Vec<usize>> = HashMap::new();
        let mut buffer = Vec::new();
        for (at, place) in plan.places().iter().enumerate() {
            if !self.holds(place, &mut buffer) {
                missing.entry(place.id).or_default().push(at);
            }
        }
        for source in sources {
            // What cannot be read has nothing to give.
            let Ok(file) = File::open(&source.path) else { continue };
            let mut pieces = chunk::cut(file.take(source.bytes)).map_while(Result::ok);
            while !missing.is_empty()
                && let Some(piece) = pieces.next()
            {
                seen(piece.data.len() as u64);
                for at in missing.remove(&piece.id).into_iter().flatten() {
                    self.write(&plan.places()[at], &piece.data)?;
                }
            }
        }
        let mut wanted: Vec<u32> =
            missing.values().filter_map(|places| places.first()).map(|at| *at as u32).collect();
        wanted.sort_unstable();
        Ok(wanted)
    }

    /// Takes a chunk that arrived, compressed.
    pub fn put(&self, plan: &ChunkPlan, index: u32, compressed: &[u8]) -> Result<(), UpdateError> {
        let unknown = || UpdateError::Protocol(format!("there is no chunk {index}"));
        let place = plan.places().get(index as usize).ok_or_else(unknown)?;
        let data = zstd::bulk::decompress(compressed, place.bytes as usize);
        let data =
            data.ok().filter(|data| data.len() == place.bytes as usize && Digest::of(data) == place.id);
        let data = data.ok_or(UpdateError::Chunk(index))?;
        plan.places_like(index as usize).try_for_each(|place| self.write(place, &data))
    }

    /// Whether both files are what was signed, on the disk.
    pub fn check(&self, mut seen: impl FnMut(u64)) -> Result<(), UpdateError> {
        for part in Part::ALL {
            let file = self.file(part);
            let failed = |error| UpdateError::io("read", self.path(part))(error);
            file.sync_all().map_err(failed)?;
            let reader = File::open(self.path(part)).map_err(failed)?;
            let (actual, _) = Digest::of_reader(reader, &mut seen).map_err(failed)?;
            let (_, expected) = part.promised(&self.manifest);
            if actual != expected {
                return Err(UpdateError::Assembled { part, expected, actual });
            }
        }
        Ok(())
    }

    /// The file of one part.
    pub fn path(&self, part: Part) -> PathBuf {
        self.dir.join(part.to_string())
    }

    fn file(&self, part: Part) -> &File {
        match part {
            Part::Kernel => &self.kernel,
            Part::Root => &self.root,
        }
    }

    fn holds(&self, place: &Place, buffer: &mut Vec<u8>) -> bool {
        if self.is_new {
            return false;
        }
        buffer.resize(place.bytes as usize, 0);
        let read = self.file(place.part).read_exact_at(buffer, place.offset);
        read.is_ok() && Digest::of(buffer) == place.id
    }

    fn write(&self, place: &Place, data: &[u8]) -> Result<(), UpdateError> {
        let file = self.file(place.part);
        file.write_all_at(data, place.offset).map_err(UpdateError::io("write", self.path(place.part)))
    }
}

/// Removes whatever was begun.
pub fn clear(dir: &Path) -> Result<(), UpdateError> {
    file::remove_all_if_exists(dir).map_err(UpdateError::io("remove", dir))
}
