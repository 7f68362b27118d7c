//! Into a root: a tar stream, entry by entry.
//!
//! Entries are placed below one directory that was resolved beneath the root; from there every
//! component is opened by descriptor without following links, so neither `..` nor a link, in the
//! archive or made by the workload meanwhile, leads anywhere else.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, renameat},
    sys::{
        stat::{Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, mkdirat, utimensat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, unlinkat},
};
use pathrs::{Root, flags::OpenFlags};
use tar::{Archive, Entry, EntryType};

use super::{CopyError, root::READ_ONLY, shown};

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::workload) struct Copied {
    pub files: u64,
    pub bytes: u64,
}

/// The one root entry of an archive that is given another name.
#[derive(Debug, PartialEq, Eq)]
enum Top {
    /// `.`: what follows is the content of a directory.
    Content,
    Named(OsString),
}

/// Unpacks below `path` if it is a directory and not `exactly` meant, else to `path` itself.
pub(in crate::workload) fn unpack(
    root: &Root,
    path: &Path,
    exactly: bool,
    from: &mut dyn Read,
) -> Result<Copied, CopyError> {
    let (base, rename) = target(root, path, exactly)?;
    let slashed = path.as_os_str().as_bytes().ends_with(b"/");
    let mut unpacker =
        Unpacker { base, rename, slashed, top: None, copied: Copied::default(), directories: Vec::new() };
    let mut archive = Archive::new(from);
    let broken = || CopyError::io("reading the copied archive");
    for entry in archive.entries().map_err(broken())? {
        unpacker.entry(entry.map_err(broken())?)?;
    }
    unpacker.finish();
    Ok(unpacker.copied)
}

/// The directory to unpack into, and the new first component of every entry, if any.
fn target(root: &Root, path: &Path, exactly: bool) -> Result<(OwnedFd, Option<PathBuf>), CopyError> {
    let directory = OpenFlags::O_DIRECTORY | OpenFlags::O_RDONLY;
    let open = |path: &Path| root.open_subpath(path, directory).map(OwnedFd::from);
    if !exactly && let Ok(found) = open(path) {
        return Ok((found, None));
    }
    let missing = |path: &Path| {
        CopyError::Refused(format!("there is no directory {} in the workload; make it first", shown(path)))
    };
    let Some(name) = path.file_name() else {
        return open(path).map(|found| (found, None)).map_err(|_| missing(path));
    };
    let parent = path.parent().unwrap_or(Path::new("/"));
    let found = open(parent).map_err(|_| missing(parent))?;
    Ok((found, Some(name.into())))
}

struct Unpacker {
    base: OwnedFd,
    rename: Option<PathBuf>,
    /// The path ends in a slash, and so means a directory.
    slashed: bool,
    /// Known from the first entry.
    top: Option<Top>,
    copied: Copied,
    /// Finished last: filling a directory moves its time, and its mode may forbid it.
    directories: Vec<(PathBuf, u32, u64)>,
}

impl Unpacker {
    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), CopyError> {
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        let kind = entry.header().entry_type();
        self.check_top(&name, kind)?;
        let placed = self.place(&name)?;
        let failed = || failure(&placed);
        let (mode, mtime) = meta(&entry).map_err(failed())?;
        let Some(leaf) = placed.file_name().map(OsStr::to_owned) else {
            // `./`: the target directory itself stays as it is.
            return Ok(());
        };
        let dir = self.parent(&placed)?;
        refuse_special(&dir, &leaf, kind, &placed)?;
        match kind {
            EntryType::Directory => {
                make_directory(&dir, &leaf).map_err(failed())?;
                self.directories.push((placed, mode, mtime));
                return Ok(());
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.copied.bytes += write_file(&dir, &leaf, &mut entry, mode, mtime).map_err(failed())?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = OsStr::from_bytes(&target);
                replace(&dir, &leaf, |name| symlinkat(target, &dir, name)).map_err(failed())?;
                fchownat(&dir, leaf.as_os_str(), OWNER.0, OWNER.1, AtFlags::AT_SYMLINK_NOFOLLOW)
                    .map_err(|error| failed()(error.into()))?;
                let time = TimeSpec::new(mtime as i64, 0);
                let _ = utimensat(&dir, leaf.as_os_str(), &time, &time, UtimensatFlags::NoFollowSymlink);
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target = self.place(Path::new(OsStr::from_bytes(&target)))?;
                let from = self.parent(&target)?;
                let target = target.file_name().unwrap_or_default();
                replace(&dir, &leaf, |name| linkat(&from, target, &dir, name, AtFlags::empty()))
                    .map_err(failed())?;
            }
            EntryType::Fifo => {
                replace(&dir, &leaf, |name| mkfifoat(&dir, name, mode_of(mode))).map_err(failed())?;
            }
            _ => {
                tracing::debug!(name = %shown(&name), ?kind, "devices are not copied");
                return Ok(());
            }
        }
        self.copied.files += 1;
        Ok(())
    }

    /// Holds that an archive which takes another name has one root entry, and that a path with a
    /// slash at its end gets a directory.
    fn check_top(&mut self, name: &Path, kind: EntryType) -> Result<(), CopyError> {
        let Some(new) = &self.rename else { return Ok(()) };
        let top = match name.components().next() {
            Some(Component::Normal(first)) => Top::Named(first.to_owned()),
            _ => Top::Content,
        };
        let Some(known) = &self.top else {
            if self.slashed && name.components().count() == 1 && kind != EntryType::Directory {
                return Err(CopyError::Refused(format!(
                    "there is no directory {}/ in the workload; make it first, or leave out the slash",
                    shown(new)
                )));
            }
            self.top = Some(top);
            return Ok(());
        };
        if *known == Top::Content || *known == top {
            return Ok(());
        }
        Err(CopyError::Refused(format!(
            "the archive holds more than one thing, so {} must be a directory in the workload; make it first",
            shown(new)
        )))
    }

    /// Where an entry of the archive belongs, below `base`.
    fn place(&self, name: &Path) -> Result<PathBuf, CopyError> {
        let mut placed = PathBuf::new();
        for component in name.components() {
            match component {
                Component::Normal(part) => placed.push(part),
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(CopyError::Refused(format!(
                        "the archive has an entry {} that leads out of the target; nothing more was written",
                        shown(name)
                    )));
                }
            }
        }
        Ok(match &self.rename {
            None => placed,
            Some(new) => {
                let mut rest = placed.components();
                if self.top != Some(Top::Content) {
                    rest.next();
                }
                // Without a trailing slash, which `join` of nothing would add.
                std::iter::once(new.as_path()).chain(rest.map(|part| Path::new(part.as_os_str()))).collect()
            }
        })
    }

    /// Opens the directory of `placed`, making what is missing.
    fn parent(&self, placed: &Path) -> Result<OwnedFd, CopyError> {
        let failed = || failure(placed);
        let mut at = self.base.try_clone().map_err(failed())?;
        for part in placed.parent().into_iter().flat_map(Path::components) {
            let name = part.as_os_str();
            at = match enter(&at, name) {
                Err(Errno::ENOENT) => {
                    make_directory(&at, name).map_err(failed())?;
                    enter(&at, name).map_err(|error| failed()(error.into()))?
                }
                Err(Errno::ELOOP | Errno::ENOTDIR) => {
                    return Err(CopyError::Refused(format!(
                        "{} in the workload is in the way of {}: it is not a directory",
                        shown(Path::new(name)),
                        shown(placed)
                    )));
                }
                other => other.map_err(|error| failed()(error.into()))?,
            };
        }
        Ok(at)
    }

    /// Deepest first, so that the time of each one stays.
    fn finish(&mut self) {
        self.directories.sort_by_key(|(path, ..)| std::cmp::Reverse(path.components().count()));
        for (path, mode, mtime) in std::mem::take(&mut self.directories) {
            let Ok(parent) = self.parent(&path) else { continue };
            let Some(Ok(dir)) = path.file_name().map(|name| enter(&parent, name)) else { continue };
            let time = TimeSpec::new(mtime as i64, 0);
            let set = fchmod(&dir, mode_of(mode)).and_then(|()| futimens(&dir, &time, &time));
            if let Err(error) = set {
                tracing::debug!(path = %shown(&path), %error, "a directory keeps its mode or time");
            }
        }
    }
}

/// A device, FIFO or socket is not what a copy may take the place of: whoever writes `/dev/null`
/// means the device. A FIFO of the copy may renew one.
fn refuse_special(dir: &OwnedFd, leaf: &OsStr, kind: EntryType, placed: &Path) -> Result<(), CopyError> {
    let Ok(found) = fstatat(dir, leaf, AtFlags::AT_SYMLINK_NOFOLLOW) else { return Ok(()) };
    let what = match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFCHR | SFlag::S_IFBLK => "device",
        SFlag::S_IFIFO if kind != EntryType::Fifo => "FIFO",
        SFlag::S_IFSOCK => "socket",
        _ => return Ok(()),
    };
    Err(CopyError::Refused(format!(
        "{} is a {what} in the workload, which a copy would replace; write into it by a command, as with \
         `fleetctl exec -i WORKLOAD -- tee PATH < FILE`, or remove it first",
        shown(placed)
    )))
}

/// Says what would make it work, where that is known.
fn failure(name: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let name = shown(name);
    move |error| match error.kind() {
        io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty => CopyError::Refused(format!(
            "{name} is a directory in the workload and none in the copy; remove it first, or choose another target"
        )),
        io::ErrorKind::NotADirectory => CopyError::Refused(format!(
            "{name} is a directory in the copy and none in the workload; remove it first, or choose another target"
        )),
        io::ErrorKind::ReadOnlyFilesystem => {
            CopyError::Refused(format!("{name} cannot be written: {READ_ONLY}"))
        }
        _ => CopyError::io(format!("writing {name}"))(error),
    }
}

fn meta(entry: &Entry<'_, impl Read>) -> io::Result<(u32, u64)> {
    Ok((entry.header().mode()? & 0o7777, entry.header().mtime()?))
}

/// Who owns what is copied in.
const OWNER: (Option<Uid>, Option<Gid>) = (Some(Uid::from_raw(0)), Some(Gid::from_raw(0)));

fn mode_of(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode)
}

fn enter(dir: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    openat(
        dir,
        name,
        OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

fn make_directory(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match mkdirat(dir, name, mode_of(0o755)) {
        Err(Errno::EEXIST) => {
            let found = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            if found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
                Ok(())
            } else {
                Err(io::ErrorKind::NotADirectory.into())
            }
        }
        other => Ok(other?),
    }
}

/// Written beside and moved into place: a file is the old one or the new one, never half of it.
fn write_file(
    dir: &OwnedFd,
    name: &OsStr,
    from: &mut Entry<'_, impl Read>,
    mode: u32,
    mtime: u64,
) -> io::Result<u64> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let beside = beside();
    let mut file = File::from(openat(dir, beside.as_os_str(), flags, mode_of(0o600))?);
    let written = (|| {
        let bytes = io::copy(from, &mut file)?;
        // The sender went away in the middle: the old file stays.
        if bytes != from.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        fchown(&file, OWNER.0, OWNER.1)?;
        fchmod(&file, mode_of(mode))?;
        let time = TimeSpec::new(mtime as i64, 0);
        futimens(&file, &time, &time)?;
        renameat(dir, beside.as_os_str(), dir, name)?;
        Ok(bytes)
    })();
    if written.is_err() {
        let _ = unlinkat(dir, beside.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }
    written
}

/// Makes something beside and moves it into place.
fn replace(dir: &OwnedFd, name: &OsStr, make: impl FnOnce(&OsStr) -> nix::Result<()>) -> io::Result<()> {
    let beside = beside();
    make(&beside)?;
    let moved = renameat(dir, beside.as_os_str(), dir, name);
    // Two names of one inode: rename does nothing then, not even remove the old name.
    let _ = unlinkat(dir, beside.as_os_str(), UnlinkatFlags::NoRemoveDir);
    Ok(moved?)
}

fn beside() -> OsString {
    format!(".capsule-cp-{:016x}", rand::random::<u64>()).into()
}
