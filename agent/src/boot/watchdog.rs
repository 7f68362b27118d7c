//! The watchdog: hardware's where there is some, else the kernel's own.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

const NODE: &str = "/dev/watchdog";
/// Of a machine that has no hardware for it.
pub const SOFT_MODULE: &str = "softdog";
/// Without food for so long it resets the machine, in seconds.
const TIMEOUT_SECONDS: i32 = 60;
/// Of `struct watchdog_info`'s status (Linux' include/uapi/linux/watchdog.h).
const CARD_RESET: i32 = 0x20;

/// An open watchdog; it is armed as long as the machine runs.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    was_cause: bool,
}

impl Watchdog {
    /// Whether there is one.
    pub fn is_there() -> bool {
        Path::new(NODE).exists()
    }

    /// Opens and arms it; `None` where there is none.
    pub fn open() -> io::Result<Option<Self>> {
        if !Self::is_there() {
            return Ok(None);
        }
        let device = OpenOptions::new().write(true).open(NODE)?;
        ioctl::set_timeout(&device, TIMEOUT_SECONDS)?;
        let was_cause = ioctl::boot_status(&device).is_ok_and(|status| status & CARD_RESET != 0);
        Ok(Some(Self { device, was_cause }))
    }

    /// Whether it says that it has reset the machine. Many cannot tell.
    pub fn was_cause(&self) -> bool {
        self.was_cause
    }

    /// Puts its end off.
    pub fn feed(&mut self) -> io::Result<()> {
        self.device.write_all(b"1")
    }
}

/// Two calls of the kernel's interface.
#[allow(unsafe_code)]
mod ioctl {
    use std::{fs::File, io, os::fd::AsRawFd as _};

    nix::ioctl_read!(get_boot_status, b'W', 2, libc::c_int);
    nix::ioctl_readwrite!(exchange_timeout, b'W', 6, libc::c_int);

    pub(super) fn set_timeout(device: &File, seconds: i32) -> io::Result<()> {
        let mut seconds = seconds;
        // SAFETY: the kernel reads and writes one int, which lives for the call.
        unsafe { exchange_timeout(device.as_raw_fd(), &raw mut seconds) }?;
        Ok(())
    }

    pub(super) fn boot_status(device: &File) -> io::Result<i32> {
        let mut status = 0;
        // SAFETY: as above.
        unsafe { get_boot_status(device.as_raw_fd(), &raw mut status) }?;
        Ok(status)
    }
}
