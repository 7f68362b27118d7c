//! A workload's tar stream into local files. The stream is not trusted: nothing it holds may land
//! outside the place that the operator named, which the tar crate's guarded unpacking sees to (no
//! `..`, no writing through links that lead out).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio::{sync::mpsc, task::JoinHandle};

use super::pipe::ChannelReader;

/// Starts to unpack what comes through the channel at `target`: into it where it is a directory,
/// else as it, like `cp -a`.
pub fn start(receiver: mpsc::Receiver<Vec<u8>>, target: PathBuf) -> JoinHandle<io::Result<()>> {
    tokio::task::spawn_blocking(move || unpack(ChannelReader::new(receiver), &target))
}

fn unpack(mut stream: impl io::Read, target: &Path) -> io::Result<()> {
    if target.is_dir() {
        extract(&mut stream, target)?;
    } else {
        extract_as(&mut stream, target)?;
    }
    // What follows the archive's end marks is padding; the sender must be able to finish.
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

fn extract(stream: &mut impl io::Read, directory: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(stream);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_overwrite(true);
    archive.unpack(directory)
}

/// Unpacks beside `target` and then renames, so that `target` appears whole or not at all.
fn extract_as(stream: &mut impl io::Read, target: &Path) -> io::Result<()> {
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let staging = Staging::make(parent)?;
    extract(stream, &staging.0)?;
    let mut roots = fs::read_dir(&staging.0)?;
    let root = roots.next().transpose()?.ok_or_else(|| io::Error::other("the capsule sent nothing"))?;
    if roots.next().is_some() {
        // The content of a directory: the staging directory itself is the result.
        return fs::rename(&staging.0, target);
    }
    fs::rename(root.path(), target)
}

/// A directory that goes when this does.
struct Staging(PathBuf);

impl Staging {
    fn make(parent: &Path) -> io::Result<Self> {
        let path = parent.join(format!(".fleetctl-cp-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Gone already where it became the result.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, fs::symlink};

    use super::*;
    use crate::copy::pack;

    async fn copy(from: &Path, to: &Path) -> io::Result<()> {
        let (pieces, packing) = pack::start(from.to_path_buf());
        let unpacked = start(pieces, to.to_path_buf()).await.unwrap();
        packing.await.unwrap()?;
        unpacked
    }

    #[tokio::test]
    async fn a_tree_with_links_and_odd_names_comes_back_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        let odd = std::ffi::OsStr::from_bytes(b"odd \xff\n name");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub").join(odd), "content").unwrap();
        fs::set_permissions(tree.join("sub").join(odd), fs::Permissions::from_mode(0o751)).unwrap();
        symlink("../elsewhere", tree.join("link")).unwrap();
        fs::write(tree.join("x".repeat(200)), "long").unwrap();

        copy(&tree, &root.path().join("copy")).await.unwrap();
        let copied = root.path().join("copy");
        assert_eq!(fs::read(copied.join("sub").join(odd)).unwrap(), b"content");
        assert_eq!(fs::metadata(copied.join("sub").join(odd)).unwrap().permissions().mode() & 0o777, 0o751);
        assert_eq!(fs::read_link(copied.join("link")).unwrap(), Path::new("../elsewhere"));
        assert_eq!(fs::read(copied.join("x".repeat(200))).unwrap(), b"long");

        fs::create_dir(root.path().join("into")).unwrap();
        copy(&tree, &root.path().join("into")).await.unwrap();
        assert!(root.path().join("into/tree/sub").is_dir());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3, "no staging directory is left");
    }

    #[test]
    fn an_archive_cannot_write_outside_its_target() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("target");
        fs::create_dir(&target).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "out", root.path()).unwrap();
        let mut file = tar::Header::new_gnu();
        file.set_size(4);
        tar.append_data(&mut file, "out/pwned", &b"data"[..]).unwrap();
        let archive = tar.into_inner().unwrap();
        assert!(unpack(&archive[..], &target).is_err());
        assert!(!root.path().join("pwned").exists());
    }
}
