//! One device of device-mapper, by the kernel's own interface (Linux' include/uapi/linux/dm-ioctl.h):
//! its tools would be ten times as large as all that is here.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use nix::sys::stat::{major, minor};

use crate::{Error, Result, verity::Table};

const CONTROL: &str = "/dev/mapper/control";
const NAME: &[u8] = b"root";
const READ_ONLY: u32 = 1;
const HEADER: usize = 312;
const SPECIFICATION: usize = 40;
/// Whole sectors' worth of room for header, target and its parameters.
const BUFFER: usize = 4096;

/// Makes the read-only device of a slot; its node.
pub fn open_verity(partition: &Path, table: &Table) -> Result<PathBuf> {
    let number = std::fs::metadata(partition).map_err(Error::io("look at", partition))?;
    let number = std::os::unix::fs::MetadataExt::rdev(&number);
    let device = format!("{}:{}", major(number), minor(number));
    let control = File::options().read(true).write(true).open(CONTROL).map_err(Error::io("open", CONTROL))?;
    let mut create = Message::new(READ_ONLY);
    create.send(&control, ioctl::create).map_err(|source| Error::Mapper { attempt: "make", source })?;
    let mut load = Message::new(READ_ONLY);
    load.target("verity", table.sectors, &table.parameters(&device));
    load.send(&control, ioctl::load).map_err(|source| Error::Mapper { attempt: "describe", source })?;
    // Without the flag that suspends, the same call resumes.
    let mut resume = Message::new(READ_ONLY);
    resume.send(&control, ioctl::suspend).map_err(|source| Error::Mapper { attempt: "start", source })?;
    Ok(format!("/dev/dm-{}", minor(create.device())).into())
}

/// `struct dm_ioctl` and what follows it.
struct Message(Box<[u64; BUFFER / 8]>);

impl Message {
    fn new(flags: u32) -> Self {
        let mut message = Self(Box::new([0; BUFFER / 8]));
        for (at, value) in [(0, 4u32), (12, BUFFER as u32), (16, HEADER as u32), (28, flags)] {
            message.put(at, &value.to_ne_bytes());
        }
        message.put(48, NAME);
        message
    }

    /// One `struct dm_target_spec` and its parameters.
    fn target(&mut self, kind: &str, sectors: u64, parameters: &str) {
        self.put(20, &1u32.to_ne_bytes());
        self.put(HEADER + 8, &sectors.to_ne_bytes());
        self.put(HEADER + 24, kind.as_bytes());
        self.put(HEADER + SPECIFICATION, parameters.as_bytes());
    }

    /// The kernel's number of it.
    fn device(&self) -> u64 {
        self.0[40 / 8]
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (offset, byte) in bytes.iter().enumerate() {
            let (word, shift) = ((at + offset) / 8, (at + offset) % 8 * 8);
            self.0[word] |= u64::from(*byte) << shift;
        }
    }

    fn send(&mut self, control: &File, call: ioctl::Call) -> std::io::Result<()> {
        ioctl::call(control, call, &mut self.0)
    }
}

/// The three calls.
#[allow(unsafe_code)]
mod ioctl {
    use std::{fs::File, io, os::fd::AsRawFd as _};

    use super::{BUFFER, HEADER};

    pub(super) type Call = unsafe fn(libc::c_int, *mut [u8; HEADER]) -> nix::Result<libc::c_int>;

    nix::ioctl_readwrite!(create, 0xfd, 3, [u8; HEADER]);
    nix::ioctl_readwrite!(suspend, 0xfd, 6, [u8; HEADER]);
    nix::ioctl_readwrite!(load, 0xfd, 9, [u8; HEADER]);

    pub(super) fn call(control: &File, call: Call, buffer: &mut [u64; BUFFER / 8]) -> io::Result<()> {
        // SAFETY: the buffer begins with a whole dm_ioctl, is aligned as one, and has the length that its
        // data_size tells, which is as far as the kernel reads and writes.
        unsafe { call(control.as_raw_fd(), buffer.as_mut_ptr().cast()) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_laid_out_as_the_kernel_reads_it() {
        let mut message = Message::new(READ_ONLY);
        message.target("verity", 2400, "1 253:1");
        let bytes: Vec<u8> = message.0.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((u32_at(0), u32_at(12), u32_at(16), u32_at(20), u32_at(28)), (4, 4096, 312, 1, 1));
        assert_eq!(&bytes[48..53], b"root\0");
        assert_eq!(&bytes[312..328], [0u64.to_ne_bytes(), 2400u64.to_ne_bytes()].concat());
        assert_eq!(&bytes[336..343], b"verity\0");
        assert_eq!(&bytes[352..360], b"1 253:1\0");
    }
}
