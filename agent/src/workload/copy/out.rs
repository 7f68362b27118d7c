//! Out of a root: a GNU tar stream.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use capsule_proto::Content;
use nix::{
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::{
        stat::{FileStat, Mode, SFlag, fstat, fstatat},
        statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs},
    },
};
use pathrs::Root;
use tar::{Builder, EntryType, Header};

use super::{CopyError, Sink, shown};

/// Directories below directories at most: ends what a workload might nest to exhaust descriptors.
const DEEPEST: usize = 256;
/// Longest name and link target that a header itself holds.
const IN_HEADER: usize = 100;

/// Writes what is at `path`.
pub(in crate::workload) fn pack(root: &Root, path: &Path, to: &mut dyn Sink) -> Result<(), CopyError> {
    let content_only = path.as_os_str().as_bytes().ends_with(b"/.") || path == Path::new("/");
    let follow = content_only || path.as_os_str().as_bytes().ends_with(b"/");
    let found = if follow { root.resolve(path) } else { root.resolve_nofollow(path) };
    let missing = |error: pathrs::error::Error| match error.kind() {
        pathrs::error::ErrorKind::OsError(Some(libc::ENOENT)) => {
            CopyError::Refused(format!("there is no {} in the workload", shown(path)))
        }
        _ => CopyError::io(format!("opening {}", shown(path)))(io::Error::other(error)),
    };
    let found: OwnedFd = found.map_err(missing)?.into();
    let name = match path.file_name() {
        Some(name) if !content_only => name.to_owned(),
        _ => OsString::from("."),
    };
    let stat =
        fstat(&found).map_err(|error| CopyError::io(format!("looking at {}", shown(path)))(error.into()))?;
    if follow && !is(&stat, SFlag::S_IFDIR) {
        return Err(CopyError::Refused(format!("{} is not a directory", shown(path))));
    }
    if [SFlag::S_IFCHR, SFlag::S_IFBLK, SFlag::S_IFSOCK].into_iter().any(|kind| is(&stat, kind)) {
        return Err(CopyError::Refused(format!(
            "{} is a device or a socket, and those are not copied; name a file, a directory or a link",
            shown(path)
        )));
    }
    to.expect(size_of(found.as_fd(), &stat, 0));
    let mut packer = Packer { to: Builder::new(to), links: HashMap::new() };
    packer.entry(Place::Open(found.as_fd()), name.as_bytes(), &stat, 0)?;
    let failed = || CopyError::io("sending the copy");
    packer.to.finish().map_err(failed())?;
    packer.to.into_inner().map_err(failed())?.flush().map_err(failed())
}

/// How an entry is reached: opened with O_PATH, or by name in an open directory.
#[derive(Clone, Copy)]
enum Place<'a> {
    Open(std::os::fd::BorrowedFd<'a>),
    In(std::os::fd::BorrowedFd<'a>, &'a OsStr),
}

impl Place<'_> {
    fn open(self, flags: OFlag) -> nix::Result<File> {
        let flags = flags | OFlag::O_CLOEXEC;
        Ok(match self {
            // An O_PATH descriptor is reopened through its magic link; it is no link itself.
            Self::Open(fd) => {
                nix::fcntl::open(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str(), flags, Mode::empty())?
            }
            Self::In(dir, name) => openat(dir, name, flags | OFlag::O_NOFOLLOW, Mode::empty())?,
        }
        .into())
    }

    fn target(self) -> nix::Result<OsString> {
        match self {
            Self::Open(fd) => readlinkat(fd, ""),
            Self::In(dir, name) => readlinkat(dir, name),
        }
    }
}

struct Packer<'a> {
    to: Builder<&'a mut dyn Sink>,
    /// First name of each inode that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Packer<'_> {
    fn entry(
        &mut self,
        place: Place<'_>,
        name: &[u8],
        stat: &FileStat,
        depth: usize,
    ) -> Result<(), CopyError> {
        let failed = || CopyError::io(format!("copying {}", String::from_utf8_lossy(name)));
        let mut header = header_of(stat);
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => self.directory(place, name, header, stat, depth),
            SFlag::S_IFLNK => {
                let target = place.target().map_err(|error| failed()(error.into()))?;
                header.set_entry_type(EntryType::Symlink);
                self.put(header, name, Some(target.as_bytes()), io::empty()).map_err(failed())
            }
            SFlag::S_IFIFO => {
                header.set_entry_type(EntryType::Fifo);
                self.put(header, name, None, io::empty()).map_err(failed())
            }
            SFlag::S_IFREG => self.file(place, name, header, stat).map_err(failed()),
            _ => {
                tracing::debug!(name = %String::from_utf8_lossy(name), "devices and sockets are not copied");
                Ok(())
            }
        }
    }

    fn file(&mut self, place: Place<'_>, name: &[u8], mut header: Header, stat: &FileStat) -> io::Result<()> {
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&inode).cloned() {
                header.set_entry_type(EntryType::Link);
                return self.put(header, name, Some(&first), io::empty());
            }
            self.links.insert(inode, name.to_vec());
        }
        // A file swapped for a FIFO in the meantime must not block.
        let file = match place.open(OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ELOOP) => return Ok(()),
            other => other?,
        };
        let said = file.metadata()?.len();
        let content = Content::begin(file, said)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(content.size());
        self.put(header, name, None, content)
    }

    fn directory(
        &mut self,
        place: Place<'_>,
        name: &[u8],
        mut header: Header,
        stat: &FileStat,
        depth: usize,
    ) -> Result<(), CopyError> {
        let failed = || CopyError::io(format!("copying {}", String::from_utf8_lossy(name)));
        if depth > DEEPEST {
            return Err(CopyError::Refused(format!("directories nest deeper than {DEEPEST}")));
        }
        let dir = match place.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            // Gone or swapped since it was listed.
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR | nix::errno::Errno::ELOOP) => {
                return Ok(());
            }
            other => other.map_err(|error| failed()(error.into()))?,
        };
        header.set_entry_type(EntryType::Directory);
        let slashed = [name, b"/"].concat();
        self.put(header, &slashed, None, io::empty()).map_err(failed())?;
        for child in children(&dir, stat, depth).map_err(failed())? {
            let Ok(stat) = fstatat(&dir, child.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            let below = [&slashed, child.as_bytes()].concat();
            self.entry(Place::In(dir.as_fd(), &child), &below, &stat, depth + 1)?;
        }
        Ok(())
    }

    /// Like `Builder::append_data`, but names and targets stay byte for byte as they are.
    fn put(
        &mut self,
        mut header: Header,
        name: &[u8],
        link: Option<&[u8]>,
        data: impl Read,
    ) -> io::Result<()> {
        if let Some(link) = link {
            self.set_long(b'K', link, &mut header)?;
        }
        self.set_long(b'L', name, &mut header)?;
        header.set_cksum();
        self.to.append(&header, data)
    }

    /// A name (`L`) or link target (`K`): in the header, or before it as GNU tar does.
    fn set_long(&mut self, kind: u8, text: &[u8], header: &mut Header) -> io::Result<()> {
        if text.len() >= IN_HEADER {
            let mut long = Header::new_gnu();
            long.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
            long.set_entry_type(EntryType::new(kind));
            long.set_mode(0o644);
            long.set_size(text.len() as u64 + 1);
            long.set_cksum();
            self.to.append(&long, text.chain(&b"\0"[..]))?;
        }
        let short = &text[..text.len().min(IN_HEADER)];
        let old = header.as_old_mut();
        let field = if kind == b'K' { &mut old.linkname } else { &mut old.name };
        field.fill(0);
        field[..short.len()].copy_from_slice(short);
        Ok(())
    }
}

fn header_of(stat: &FileStat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(stat.st_mtime.max(0) as u64);
    header.set_size(0);
    header
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

/// Sorted, so that equal trees give equal streams. Kernel file systems below the start are shown
/// as empty directories: their files have no end.
fn children(dir: &File, stat: &FileStat, depth: usize) -> io::Result<Vec<OsString>> {
    if depth > 0 && stat.st_dev != 0 {
        let kind = fstatfs(dir)?.filesystem_type();
        if [PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&kind) {
            return Ok(Vec::new());
        }
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))? {
        names.push(entry?.file_name());
    }
    names.sort();
    Ok(names)
}

/// Bytes of the regular files, as a guess for a progress bar.
fn size_of(fd: std::os::fd::BorrowedFd<'_>, stat: &FileStat, depth: usize) -> u64 {
    if is(stat, SFlag::S_IFREG) {
        return stat.st_size as u64;
    }
    if !is(stat, SFlag::S_IFDIR) || depth > DEEPEST {
        return 0;
    }
    let Ok(dir) = Place::Open(fd).open(OFlag::O_RDONLY | OFlag::O_DIRECTORY) else { return 0 };
    let mut total = 0;
    for child in children(&dir, stat, depth).unwrap_or_default() {
        let Ok(stat) = fstatat(&dir, child.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        total += if is(&stat, SFlag::S_IFDIR) {
            Place::In(dir.as_fd(), &child)
                .open(OFlag::O_PATH | OFlag::O_DIRECTORY)
                .map_or(0, |below| size_of(below.as_fd(), &stat, depth + 1))
        } else {
            size_of(dir.as_fd(), &stat, depth + 1)
        };
    }
    total
}
