//! The system in its slot: the file system, each block of which dm-verity has checked, and the hash tree
//! behind it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use capsule_bundle::Digest;
use capsule_initramfs::words::Root;
use nix::sys::stat::{major, minor};
use sha2::{Digest as _, Sha256};

use super::{InstallError, progress::Progress};
use crate::sys::file;

/// Bytes written at once.
const PIECE_BYTES: usize = 1 << 20;
/// Of verity's data and of its hashes.
const BLOCK: u64 = 4096;
const HASHES_IN_BLOCK: u64 = BLOCK / 32;

/// What a slot holds of this root: file system, superblock of verity, tree.
pub fn bytes(root: &Root) -> u64 {
    root.bytes + BLOCK + tree_blocks(root.bytes / BLOCK) * BLOCK
}

/// Each level has a hash for each block of the one below it, up to the one block whose hash is the root's.
fn tree_blocks(data_blocks: u64) -> u64 {
    let above = |below: &u64| (*below > 1).then(|| below.div_ceil(HASHES_IN_BLOCK));
    let (mut levels, mut below) = (0, data_blocks);
    while let Some(level) = above(&below) {
        levels += level;
        below = level;
    }
    levels
}

/// The device that this system's root is mounted from; a read of what was changed fails there.
pub fn checked_device() -> io::Result<PathBuf> {
    let number = fs::metadata("/")?.dev();
    let link = format!("/sys/dev/block/{}:{}", major(number), minor(number));
    let name = fs::canonicalize(link)?;
    Ok(Path::new("/dev").join(name.file_name().unwrap_or_default()))
}

/// All that is copied into the slot: the checked file system, then what is behind it in `slot`.
pub fn source(checked: &Path, slot: &Path, root: &Root) -> io::Result<impl Read + use<>> {
    let mut tree = File::open(slot)?;
    tree.seek(SeekFrom::Start(root.bytes))?;
    Ok(File::open(checked)?.take(root.bytes).chain(tree.take(bytes(root) - root.bytes)))
}

/// Writes all that `source` gives to `target`, and what that was.
pub fn copy(mut source: impl Read, target: &Path, progress: &Progress) -> Result<Digest, InstallError> {
    let failed = |error| InstallError::io("write", target)(error);
    let to = if is_device(target) { exclusively(target) } else { File::create(target) };
    let mut to = to.map_err(failed)?;
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        let read = source.read(&mut piece).map_err(|error| InstallError::Medium(error.to_string()))?;
        if read == 0 {
            break;
        }
        hasher.update(&piece[..read]);
        to.write_all(&piece[..read]).map_err(failed)?;
        progress.advance(read as u64)?;
    }
    file::forget_cached(&to).map_err(failed)?;
    Ok(Digest(hasher.finalize().into()))
}

/// Whether the disk gives back what was written.
pub fn verify(path: &Path, bytes: u64, expected: Digest, progress: &Progress) -> Result<(), InstallError> {
    let failed = |error| InstallError::io("read back", path)(error);
    let written = File::open(path).map_err(failed)?;
    file::forget_cached(&written).map_err(failed)?;
    let mut left = Ok(());
    let seen = |read| left = progress.advance(read);
    let (found, _) = Digest::of_reader(written.take(bytes), seen).map_err(failed)?;
    left?;
    if found == expected { Ok(()) } else { Err(InstallError::ReadBack { path: path.to_owned() }) }
}

/// Makes the beginning of a device read as zeros.
pub fn clear(device: &Path, offset: u64, bytes: u64) -> Result<(), InstallError> {
    let write = || {
        let mut to = exclusively(device)?;
        to.seek(SeekFrom::Start(offset))?;
        io::copy(&mut io::repeat(0).take(bytes), &mut to)?;
        to.sync_all()
    };
    write().map_err(InstallError::io("clear", device))
}

fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

/// A block device that anything uses is not opened like this.
fn exclusively(path: &Path) -> io::Result<File> {
    let flags = if is_device(path) { libc::O_EXCL } else { 0 };
    OpenOptions::new().write(true).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_tree_has_as_many_blocks_as_veritysetup_writes() {
        let dir = tempfile::tempdir().unwrap();
        for blocks in [2, 128, 129, 128 * 128, 128 * 128 + 1] {
            let path = dir.path().join("slot");
            let data_bytes = blocks * BLOCK;
            File::create(&path).unwrap().set_len(data_bytes).unwrap();
            let offset = data_bytes.to_string();
            let done = std::process::Command::new("/usr/sbin/veritysetup")
                .args(["format", "--salt", "00", "--hash-offset", &offset])
                .args([&path, &path])
                .output()
                .unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let root = Root { hash: [0; 32], bytes: data_bytes };
            assert_eq!(fs::metadata(&path).unwrap().len(), bytes(&root), "{blocks}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_was_copied_is_told_from_what_the_disk_lost() {
        let dir = tempfile::tempdir().unwrap();
        let [checked, slot, target] = ["checked", "slot", "target"].map(|name| dir.path().join(name));
        let root = Root { hash: [0; 32], bytes: 2 * BLOCK };
        fs::write(&checked, vec![1; 3 * BLOCK as usize]).unwrap();
        fs::write(&slot, vec![2; 9 * BLOCK as usize]).unwrap();
        let (caller, _heard) = mpsc::channel(1);
        let progress = Progress::new(caller);
        let digest = copy(source(&checked, &slot, &root).unwrap(), &target, &progress).unwrap();
        // Superblock and one block of hashes behind the data.
        let expected = [vec![1; 2 * BLOCK as usize], vec![2; 2 * BLOCK as usize]].concat();
        assert_eq!((fs::read(&target).unwrap(), digest), (expected.clone(), Digest::of(&expected)));
        verify(&target, bytes(&root), digest, &progress).unwrap();
        clear(&target, 4096, 1).unwrap();
        let error = verify(&target, bytes(&root), digest, &progress).unwrap_err();
        assert!(matches!(error, InstallError::ReadBack { .. }));
    }
}
