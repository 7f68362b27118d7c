//! Loop devices: a file as a block device.
//!
//! Every device is made with auto-clear, so that the kernel frees it with its last user, whatever
//! becomes of the agent.

use std::{
    ffi::CStr,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// Others may take the free device between asking and configuring.
const ATTEMPTS: u32 = 64;
/// Major number of loop devices.
const LOOP_MAJOR: u64 = 7;

/// A configured loop device. While this lives the device does, too.
#[derive(Debug)]
pub struct LoopDevice {
    file: File,
    path: PathBuf,
}

impl LoopDevice {
    /// `/dev/loopN`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a device that is configured already.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: open_rw(path)?, path: path.to_owned() })
    }

    /// Takes over the backing file's present size.
    pub fn refresh_capacity(&self) -> io::Result<()> {
        ioctl::set_capacity(&self.file)
    }

    /// The device of `backing`: the one that has it already, or a new one. Two devices over one
    /// file would let two mounts of it ruin each other.
    pub fn attach(backing: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(backing)?;
        if let Some(found) = Self::find(&file)? {
            return Ok(found);
        }
        let control = open_rw(Path::new("/dev/loop-control"))?;
        for _ in 0..ATTEMPTS {
            let path = node(ioctl::free_number(&control)?)?;
            let device = open_rw(&path)?;
            let name = backing.as_os_str().as_encoded_bytes();
            match configure(&device, &file, name) {
                Ok(()) => return Ok(Self { file: device, path }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "every free loop device was taken by someone else"))
    }

    fn find(backing: &File) -> io::Result<Option<Self>> {
        let wanted = backing.metadata()?;
        for entry in fs::read_dir("/dev")?.flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("loop"));
            if number.is_none_or(|number| number.parse::<u32>().is_err()) {
                continue;
            }
            // One that cannot be opened or has no file is not ours.
            let Ok(device) = open_rw(&entry.path()) else { continue };
            let Ok(status) = ioctl::status(&device) else { continue };
            if status.lo_inode == wanted.ino() && status.lo_device == wanted.dev() {
                return Ok(Some(Self { file: device, path: entry.path() }));
            }
        }
        Ok(None)
    }
}

/// Direct I/O spares the page cache a second copy; not every file system under the file has it.
fn configure(device: &File, backing: &File, name: &[u8]) -> io::Result<()> {
    let auto = ioctl::AUTOCLEAR;
    match ioctl::configure(device, backing, name, auto | ioctl::DIRECT_IO) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            ioctl::configure(device, backing, name, auto)
        }
        outcome => outcome,
    }
}

fn open_rw(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path)
}

/// The device's node; containers often have only the first few.
fn node(number: u32) -> io::Result<PathBuf> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    if !path.exists() {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IWGRP;
        match mknod(&path, SFlag::S_IFBLK, mode, makedev(LOOP_MAJOR, u64::from(number))) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(path)
}

/// The backing file's path as the kernel keeps it, for people who list loop devices.
fn short_name(name: &[u8]) -> [u8; 64] {
    let mut field = [0; 64];
    let tail = &name[name.len().saturating_sub(field.len() - 1)..];
    field[..tail.len()].copy_from_slice(tail);
    debug_assert!(CStr::from_bytes_until_nul(&field).is_ok());
    field
}

/// `include/uapi/linux/loop.h`; no crate in use here wraps it.
#[allow(unsafe_code)]
mod ioctl {
    use std::os::fd::AsRawFd as _;

    use super::{File, io, short_name};

    pub(super) const AUTOCLEAR: u32 = 4;
    pub(super) const DIRECT_IO: u32 = 16;

    #[repr(C)]
    #[derive(Clone, Copy)]
    #[allow(clippy::struct_field_names)] // the kernel's own names
    pub(super) struct Status {
        pub(super) lo_device: u64,
        pub(super) lo_inode: u64,
        lo_rdevice: u64,
        lo_offset: u64,
        lo_sizelimit: u64,
        lo_number: u32,
        lo_encrypt_type: u32,
        lo_encrypt_key_size: u32,
        lo_flags: u32,
        lo_file_name: [u8; 64],
        lo_crypt_name: [u8; 64],
        lo_encrypt_key: [u8; 32],
        lo_init: [u64; 2],
    }

    impl Status {
        const EMPTY: Self = Self {
            lo_device: 0,
            lo_inode: 0,
            lo_rdevice: 0,
            lo_offset: 0,
            lo_sizelimit: 0,
            lo_number: 0,
            lo_encrypt_type: 0,
            lo_encrypt_key_size: 0,
            lo_flags: 0,
            lo_file_name: [0; 64],
            lo_crypt_name: [0; 64],
            lo_encrypt_key: [0; 32],
            lo_init: [0; 2],
        };
    }

    #[repr(C)]
    pub(super) struct Config {
        fd: u32,
        block_size: u32,
        info: Status,
        reserved: [u64; 8],
    }

    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
    nix::ioctl_none_bad!(loop_set_capacity, 0x4C07);
    nix::ioctl_read_bad!(loop_get_status64, 0x4C05, Status);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, Config);

    pub(super) fn free_number(control: &File) -> io::Result<u32> {
        // SAFETY: takes no argument; the descriptor is open for the call.
        let number = unsafe { loop_ctl_get_free(control.as_raw_fd()) }?;
        u32::try_from(number).map_err(io::Error::other)
    }

    pub(super) fn set_capacity(device: &File) -> io::Result<()> {
        // SAFETY: takes no argument; the descriptor is open for the call.
        unsafe { loop_set_capacity(device.as_raw_fd()) }?;
        Ok(())
    }

    pub(super) fn status(device: &File) -> io::Result<Status> {
        let mut status = Status::EMPTY;
        // SAFETY: the kernel fills a struct loop_info64, whose layout `Status` has.
        unsafe { loop_get_status64(device.as_raw_fd(), &raw mut status) }?;
        Ok(status)
    }

    pub(super) fn configure(device: &File, backing: &File, name: &[u8], flags: u32) -> io::Result<()> {
        let info = Status { lo_flags: flags, lo_file_name: short_name(name), ..Status::EMPTY };
        let config = Config { fd: backing.as_raw_fd() as u32, block_size: 0, info, reserved: [0; 8] };
        // SAFETY: the kernel reads a struct loop_config, whose layout `Config` has, during the call.
        unsafe { loop_configure(device.as_raw_fd(), &raw const config) }?;
        Ok(())
    }
}
