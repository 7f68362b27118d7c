//! Local files as a tar stream with one root entry.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    pipe::{AHEAD, ChannelWriter},
    place::root_name,
};

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

/// Starts to pack `path` on a thread of its own. Links are packed as links; modes, times and names
/// of any bytes are kept. The error, if any, is the task's.
pub fn start(path: PathBuf) -> (mpsc::Receiver<Vec<u8>>, JoinHandle<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let task = tokio::task::spawn_blocking(move || pack(&path, ChannelWriter::new(sender)));
    (receiver, task)
}

fn pack(path: &Path, writer: ChannelWriter) -> io::Result<()> {
    let mut tar = tar::Builder::new(writer);
    tar.follow_symlinks(false);
    tar.sparse(false);
    let root = root_name(path);
    // A link named on the command line with a trailing slash means what it points to.
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        tar.append_dir_all(&root, path)?;
    } else {
        tar.append_path_with_name(path, &root)?;
    }
    tar.into_inner()?.flush_all()
}

impl ChannelWriter {
    fn flush_all(mut self) -> io::Result<()> {
        io::Write::flush(&mut self)
    }
}
