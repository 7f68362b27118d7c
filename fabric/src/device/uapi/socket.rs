//! The listening socket: `/var/run/wireguard/NAME.sock`, for root alone.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::sys::socket::{getsockopt, sockopt};

use crate::device::{DeviceError, InterfaceName};

/// Where every WireGuard tool looks.
pub const DIR: &str = "/var/run/wireguard";

/// The socket, removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Takes the name: removes a socket that nobody listens on, refuses one that somebody does.
    pub fn bind(name: &InterfaceName) -> Result<Self, DeviceError> {
        let path = Path::new(DIR).join(format!("{name}.sock"));
        let failed = |source| DeviceError::Socket { path: path.clone(), source };
        fs::create_dir_all(DIR).map_err(failed)?;
        // Two that start at once must not both find nobody there.
        let guard = lock().map_err(failed)?;
        match UnixStream::connect(&path) {
            Ok(stream) => return Err(DeviceError::Running { name: name.clone(), holder: holder(&stream) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(&path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        // Under the guard nobody of ours connects; others could only as root, who may.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let inode = fs::symlink_metadata(&path).map_err(failed)?.ino();
        drop(guard);
        Ok(Self { listener, path, inode })
    }

    /// Whether the name still leads here.
    pub fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode)
    }

    /// The next client, if one waits.
    pub fn accept(&self) -> Option<UnixStream> {
        self.listener.accept().ok().map(|(stream, _)| stream)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _guard = lock();
        if self.is_in_place() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Held while names are taken and given back; the kernel lets go of it whatever happens.
fn lock() -> io::Result<File> {
    let dir = File::open(DIR)?;
    dir.lock()?;
    Ok(dir)
}

fn holder(stream: &UnixStream) -> String {
    match getsockopt(stream, sockopt::PeerCredentials) {
        Ok(peer) => format!("PID {}", peer.pid()),
        Err(_) => "its PID is not known".to_owned(),
    }
}
