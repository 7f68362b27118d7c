//! A workload's tar stream into local files. The stream is not trusted: nothing it holds may land
//! outside the place that the operator named, which the tar crate's guarded unpacking sees to (no
//! `..`, no writing through links that lead out).

use std::{
    fs::{self, File, FileTimes, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use tar::{Archive, Entry, EntryType};
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
        return Ok(());
    }
    extract_as(&mut stream, target)
}

/// What the archive's first entry says of all of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Its root is `.`: the content of a directory, and that directory's mode and time.
    Content(u32, u64),
    /// One entry, and what is below it.
    Named,
}

/// To the stream's end, past the padding: the sender must be able to finish, and a stream that was
/// cut off between two entries looks whole until then.
fn extract(stream: &mut impl io::Read, directory: &Path) -> io::Result<Option<Shape>> {
    let base = directory.canonicalize()?;
    let mut archive = Archive::new(&mut *stream);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_overwrite(true);
    let (mut shape, mut directories) = (None, Vec::new());
    for entry in archive.entries()? {
        let mut entry = entry?;
        let is_root = inside(&entry).as_os_str().is_empty();
        shape.get_or_insert(match (is_root, entry.header().mode(), entry.header().mtime()) {
            (true, Ok(mode), Ok(mtime)) => Shape::Content(mode, mtime),
            _ => Shape::Named,
        });
        match entry.header().entry_type() {
            EntryType::Directory if is_root => {}
            // Last, as their modes may forbid to fill them, and filling them moves their times.
            EntryType::Directory => directories.push(entry),
            EntryType::Fifo | EntryType::Char | EntryType::Block => {}
            kind => {
                refuse_special(&base.join(inside(&entry)))?;
                if kind == EntryType::Link {
                    make_room(&entry, &base)?;
                }
                entry.unpack_in(&base)?;
            }
        }
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut entry in directories {
        if entry.unpack_in(&base)? {
            set_time(&base.join(inside(&entry)), entry.header().mtime()?)?;
        }
    }
    io::copy(stream, &mut io::sink())?;
    Ok(shape)
}

/// Where an entry belongs, below the directory that is unpacked into.
fn inside(entry: &Entry<'_, impl io::Read>) -> PathBuf {
    let name = entry.path().unwrap_or_default();
    let parts = name.components().filter(|part| matches!(part, Component::Normal(_)));
    parts.collect()
}

/// A hard link replaces what has its name, as files and links do.
fn make_room(entry: &Entry<'_, impl io::Read>, base: &Path) -> io::Result<()> {
    let old = base.join(inside(entry));
    let parent = old.parent().and_then(|parent| parent.canonicalize().ok());
    if parent.is_some_and(|parent| parent.starts_with(base)) && old.symlink_metadata().is_ok() {
        fs::remove_file(&old)?;
    }
    Ok(())
}

fn set_time(path: &Path, mtime: u64) -> io::Result<()> {
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(mtime);
    File::open(path)?.set_times(FileTimes::new().set_modified(modified))
}

/// Unpacks beside `target` and then renames, so that `target` appears whole or not at all.
fn extract_as(stream: &mut impl io::Read, target: &Path) -> io::Result<()> {
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        let text = format!("there is no directory {}; make it first", parent.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    refuse_special(target)?;
    let staging = Staging::make(parent)?;
    let shape = extract(stream, &staging.0)?;
    let whole = match shape {
        None => return Err(io::Error::other("the capsule sent nothing")),
        Some(Shape::Content(mode, mtime)) => {
            fs::set_permissions(&staging.0, Permissions::from_mode(mode & 0o7777))?;
            set_time(&staging.0, mtime)?;
            staging.0.clone()
        }
        Some(Shape::Named) => {
            let root = fs::read_dir(&staging.0)?.next().transpose()?;
            // Devices and FIFOs are not copied.
            root.ok_or_else(|| io::Error::other("what it holds cannot be copied"))?.path()
        }
    };
    fs::rename(&whole, target).map_err(|error| refused(error, &whole, target))
}

/// A device, FIFO or socket is not what a copy may take the place of: whoever writes `/dev/null`
/// means to write into it.
fn refuse_special(target: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(target) else { return Ok(()) };
    let kind = meta.file_type();
    if kind.is_file() || kind.is_dir() || kind.is_symlink() {
        return Ok(());
    }
    let text =
        format!("{} is no regular file; write into it with `fleetctl cp … - > FILE`", target.display());
    Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
}

/// Why one cannot take the place of the other.
fn refused(error: io::Error, whole: &Path, target: &Path) -> io::Error {
    if error.kind() != io::ErrorKind::NotADirectory {
        return error;
    }
    let text = if whole.is_dir() {
        "it is a file, and the copy is a directory; remove it first, or choose another target".to_owned()
    } else {
        format!("there is no directory {}; make it first, or leave out the slash", target.display())
    };
    io::Error::new(io::ErrorKind::NotADirectory, text)
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
    use std::os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, symlink},
    };

    use super::*;
    use crate::copy::pack;

    async fn copy(from: &Path, to: &Path) -> io::Result<()> {
        let (pieces, packing) = pack::start(from.to_path_buf());
        let unpacked = start(pieces, to.to_path_buf()).await.unwrap();
        // Who unpacks may refuse before all is packed, which the packer then cannot send.
        unpacked.and(packing.await.unwrap())
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        let (file, socket) = (root.path().join("file"), root.path().join("socket"));
        fs::write(&file, "content").unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = copy(&file, &socket).await.unwrap_err().to_string();
        assert!(error.contains("is no regular file"), "{error}");
        // Nor one in a directory that is copied into.
        let (from, into) = (root.path().join("from"), root.path().to_path_buf());
        fs::create_dir(&from).unwrap();
        fs::write(from.join("socket"), "content").unwrap();
        for source in [from.join("socket"), from.join(".")] {
            let error = copy(&source, &into).await.unwrap_err().to_string();
            assert!(error.contains("is no regular file"), "{error}");
        }
        assert!(!fs::symlink_metadata(&socket).unwrap().file_type().is_file());
    }

    #[tokio::test]
    async fn a_file_that_states_no_size_is_copied_as_long_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("version");
        copy(Path::new("/proc/version"), &target).await.unwrap();
        assert_eq!(fs::read(target).unwrap(), fs::read("/proc/version").unwrap());
    }

    #[tokio::test]
    async fn a_tree_with_links_and_odd_names_comes_back_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        let odd = std::ffi::OsStr::from_bytes(b"odd \xff\n name");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub").join(odd), "content").unwrap();
        fs::set_permissions(tree.join("sub").join(odd), fs::Permissions::from_mode(0o751)).unwrap();
        symlink("./..//elsewhere", tree.join("link")).unwrap();
        fs::hard_link(tree.join("sub").join(odd), tree.join("same")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap());
        set_time(&tree.join("sub"), 1_000_000_000).unwrap();
        fs::write(tree.join("x".repeat(200)), "long").unwrap();

        copy(&tree, &root.path().join("copy")).await.unwrap();
        let copied = root.path().join("copy");
        assert_eq!(fs::read(copied.join("sub").join(odd)).unwrap(), b"content");
        assert_eq!(fs::metadata(copied.join("sub").join(odd)).unwrap().permissions().mode() & 0o777, 0o751);
        assert_eq!(fs::read_link(copied.join("link")).unwrap().as_os_str(), "./..//elsewhere");
        assert_eq!(fs::metadata(copied.join("same")).unwrap().nlink(), 2);
        assert_eq!(fs::metadata(copied.join("sub")).unwrap().mtime(), 1_000_000_000);
        assert!(!copied.join("socket").exists());
        assert_eq!(fs::read(copied.join("x".repeat(200))).unwrap(), b"long");

        fs::create_dir(root.path().join("into")).unwrap();
        copy(&tree, &root.path().join("into")).await.unwrap();
        copy(&tree, &root.path().join("into")).await.expect("a second copy replaces the first");
        assert!(root.path().join("into/tree/sub").is_dir());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3, "no staging directory is left");
    }

    #[tokio::test]
    async fn a_directorys_content_becomes_a_new_directory_however_little_it_is() {
        let root = tempfile::tempdir().unwrap();
        let (one, none) = (root.path().join("one"), root.path().join("none"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&none).unwrap();
        fs::write(one.join("only"), "x").unwrap();
        copy(&one.join("."), &root.path().join("new")).await.unwrap();
        assert_eq!(fs::read(root.path().join("new/only")).unwrap(), b"x");
        copy(&none.join("."), &root.path().join("empty")).await.unwrap();
        assert!(root.path().join("empty").is_dir());
    }

    #[tokio::test]
    async fn a_copy_that_is_cut_off_between_two_files_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut file = tar::Header::new_gnu();
        file.set_size(4);
        tar.append_data(&mut file, "tree/first", &b"data"[..]).unwrap();
        let (sender, receiver) = mpsc::channel(1);
        sender.send(tar.get_ref().clone()).await.unwrap();
        drop(sender);
        let error = start(receiver, root.path().join("copy")).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("cut off"), "{error}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
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
