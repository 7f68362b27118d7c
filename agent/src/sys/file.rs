//! Files that are whole or absent, whatever happens in between.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Writes `content` to `path` with `mode`, replacing what was there in one step. On the disk
/// when it returns. Two writers of one path must not run at once.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (dir, name) = path.parent().zip(path.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
    let next = dir.join(format!(".{}.new", name.display()));
    remove_all_if_exists(&next)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&next)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    sync_dir(dir)
}

/// Makes names that were added to or removed from `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes out all that waits for the file system of `path`.
pub fn sync_filesystem(path: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(path)?)?)
}

/// Writes `file` out and forgets what the system remembers of it, so that the next read is of the
/// disk.
pub fn forget_cached(file: &File) -> io::Result<()> {
    file.sync_all()?;
    Ok(posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

/// Removes a file or a directory with all that is in it; nothing there is fine.
pub fn remove_all_if_exists(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes `path` and its parents with `mode` where they do not exist.
pub fn ensure_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Removes the directories in `dir` whose names `keep` does not want. What cannot be removed stays
/// until the next time; it is in nobody's way.
pub fn retain_dirs(dir: &Path, keep: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let unwanted = entry.file_name().to_str().is_some_and(|name| !keep(name));
        if unwanted
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "a directory that nobody needs stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_write_replaces_even_a_read_only_file_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(dir.path().join(".key.new"), "left by a crash").unwrap();
        write_atomic(&path, b"one", 0o400).unwrap();
        write_atomic(&path, b"two", 0o400).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
