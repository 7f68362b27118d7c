//! Local files as a tar stream with one root entry.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use capsule_proto::Content;
use tar::{Builder, EntryType, Header};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    pipe::{AHEAD, ChannelWriter},
    place::root_name,
};

/// Bytes of a link target that a header itself holds.
const LINK_IN_HEADER: usize = 100;

/// Bytes of all regular files at and below `path`; what cannot be read counts nothing here and is
/// reported when it is packed.
pub fn measure(path: &Path) -> u64 {
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return if metadata.is_file() { metadata.len() } else { 0 };
    }
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries.flatten().map(|entry| measure(&entry.path())).sum()
}

/// Starts to pack `path` on a thread of its own. Links stay links, hard ones too; modes, times and
/// names of any bytes are kept; devices and sockets are left out. The error, if any, is the task's.
pub fn start(path: PathBuf) -> (mpsc::Receiver<Vec<u8>>, JoinHandle<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let task = tokio::task::spawn_blocking(move || pack(&path, ChannelWriter::new(sender)));
    (receiver, task)
}

fn pack(path: &Path, writer: ChannelWriter) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if kind.is_char_device() || kind.is_block_device() || kind.is_socket() {
        let text = "it is a device or a socket, and those are not copied; name a file, a directory or a link";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut packer = Packer { tar: Builder::new(writer), links: HashMap::new() };
    packer.entry(path, &root_name(path))?;
    packer.tar.into_inner()?.finish()
}

struct Packer {
    tar: Builder<ChannelWriter>,
    /// First name of each inode that has several.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Packer {
    /// A link named with a slash behind it means what it points to, as `symlink_metadata` has it.
    fn entry(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(path).map_err(|error| at(path, error))?;
        let mut header = Header::new_gnu();
        header.set_metadata(&metadata);
        header.set_size(0);
        let kind = metadata.file_type();
        let packed = if kind.is_dir() {
            return self.directory(path, name, header);
        } else if kind.is_symlink() {
            fs::read_link(path).and_then(|target| self.symlink(name, &target, header))
        } else if kind.is_file() {
            self.file(path, name, header, &metadata)
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
            self.tar.append_data(&mut header, name, io::empty())
        } else {
            Ok(())
        };
        packed.map_err(|error| at(path, error))
    }

    fn directory(&mut self, path: &Path, name: &Path, mut header: Header) -> io::Result<()> {
        header.set_entry_type(EntryType::Directory);
        let here = |error| at(path, error);
        self.tar.append_data(&mut header, name, io::empty()).map_err(here)?;
        let entries = fs::read_dir(path).map_err(here)?;
        let mut children: Vec<_> =
            entries.map(|entry| Ok(entry.map_err(here)?.file_name())).collect::<io::Result<_>>()?;
        children.sort();
        children.iter().try_for_each(|child| self.entry(&path.join(child), &name.join(child)))
    }

    fn symlink(&mut self, name: &Path, target: &Path, mut header: Header) -> io::Result<()> {
        header.set_entry_type(EntryType::Symlink);
        let bytes = target.as_os_str().as_bytes();
        if bytes.len() >= LINK_IN_HEADER {
            return self.tar.append_link(&mut header, name, target);
        }
        // As it is: `append_link` would tidy it up.
        header.set_link_name_literal(bytes)?;
        self.tar.append_data(&mut header, name, io::empty())
    }

    fn file(&mut self, path: &Path, name: &Path, mut header: Header, metadata: &Metadata) -> io::Result<()> {
        if metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&inode) {
                header.set_entry_type(EntryType::Link);
                return self.tar.append_link(&mut header, name, first);
            }
            self.links.insert(inode, name.to_path_buf());
        }
        let file = File::open(path)?;
        let said = file.metadata()?.len();
        let mut content = Content::begin(file, said)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(content.size());
        self.tar.append_data(&mut header, name, &mut content)
    }
}

fn at(path: &Path, error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return error;
    }
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
