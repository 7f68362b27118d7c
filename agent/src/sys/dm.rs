//! Device-mapper: what the kernel says of thin pools and volumes, by one ioctl and without waiting.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path,
};

use super::partition::SECTOR;

/// Where it takes its calls.
const CONTROL: &str = "/dev/mapper/control";
/// How long a full pool lets writes wait before they fail, in seconds; 0 is for ever.
const NO_SPACE_TIMEOUT: &str = "/sys/module/dm_thin_pool/parameters/no_space_timeout";
/// Of one block of a pool's metadata.
const METADATA_BLOCK: u64 = 4096;

/// What a thin pool has and uses, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolFill {
    /// Room for data.
    pub data: u64,
    /// Of it, what volumes use.
    pub data_used: u64,
    /// Room for what is kept of where the data is.
    pub metadata: u64,
    /// Of it, what is used.
    pub metadata_used: u64,
    /// Whether it takes writes.
    pub mode: PoolMode,
}

/// Whether a pool takes writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PoolMode {
    /// It does.
    #[default]
    Writable,
    /// Those that need room wait for it.
    OutOfSpace,
    /// Those that need room fail: its metadata must be checked first.
    ReadOnly,
    /// It takes and gives nothing.
    Failed,
}

/// How full a pool is; `None` where there is no pool of this name.
pub fn pool(name: &str) -> io::Result<Option<PoolFill>> {
    let Some(target) = first_target(name)? else { return Ok(None) };
    if target.kind != "thin-pool" {
        return Ok(None);
    }
    parse_pool(&target).map(Some).ok_or_else(|| nonsense(name, &target.text))
}

/// Bytes that a thin volume uses of its pool; `None` where there is no volume of this name.
pub fn thin_usage(name: &str) -> io::Result<Option<u64>> {
    let Some(target) = first_target(name)? else { return Ok(None) };
    let sectors = target.text.split(' ').next().and_then(|word| word.parse::<u64>().ok());
    sectors.map(|sectors| Some(sectors * SECTOR)).ok_or_else(|| nonsense(name, &target.text))
}

/// From now on writes to a full pool wait until there is room, however long that takes.
pub fn wait_for_room() -> io::Result<()> {
    fs::write(NO_SPACE_TIMEOUT, "0")
}

fn nonsense(name: &str, text: &str) -> io::Error {
    io::Error::other(format!("the kernel's word on {name} is not understood: {text:?}"))
}

struct Target {
    kind: String,
    bytes: u64,
    text: String,
}

/// Documentation/admin-guide/device-mapper/thin-provisioning.rst: `transaction used/total used/total
/// held-root mode …`, metadata first, or one word.
fn parse_pool(target: &Target) -> Option<PoolFill> {
    let mut words = target.text.split(' ');
    let first = words.next()?;
    if matches!(first, "Fail" | "Error") {
        return Some(PoolFill { data: target.bytes, mode: PoolMode::Failed, ..PoolFill::default() });
    }
    let (metadata_used, metadata) = ratio(words.next()?)?;
    let (data_used, data) = ratio(words.next()?)?;
    let mode = match words.nth(1)? {
        "rw" => PoolMode::Writable,
        "out_of_data_space" => PoolMode::OutOfSpace,
        _ => PoolMode::ReadOnly,
    };
    let block = target.bytes / data.max(1);
    Some(PoolFill {
        data: target.bytes,
        data_used: data_used * block,
        metadata: metadata * METADATA_BLOCK,
        metadata_used: metadata_used * METADATA_BLOCK,
        mode,
    })
}

fn ratio(word: &str) -> Option<(u64, u64)> {
    let (used, total) = word.split_once('/')?;
    Some((used.parse().ok()?, total.parse().ok()?))
}

fn first_target(name: &str) -> io::Result<Option<Target>> {
    if !Path::new(CONTROL).exists() {
        return Ok(None);
    }
    let control: File = OpenOptions::new().read(true).write(true).open(CONTROL)?;
    match ioctl::status(&control, name) {
        Ok(target) => Ok(target),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// linux/dm-ioctl.h.
#[allow(unsafe_code)]
mod ioctl {
    use std::os::fd::AsRawFd as _;

    use super::{File, SECTOR, Target, io};

    /// `struct dm_ioctl`.
    const HEAD: usize = 312;
    /// `struct dm_target_spec`, before its text.
    const SPEC: usize = 40;
    const NAME_AT: usize = 48;
    const NAME_MAX: usize = 127;
    const BUFFER: usize = 4096;
    /// DM_NOFLUSH_FLAG: a pool is not to write anything for being looked at.
    const NO_FLUSH: u32 = 1 << 11;

    // DM_TABLE_STATUS.
    nix::ioctl_readwrite!(table_status, 0xfd, 12, [u8; HEAD]);

    #[repr(C, align(8))]
    struct Buffer([u8; BUFFER]);

    pub(super) fn status(control: &File, name: &str) -> io::Result<Option<Target>> {
        if name.len() > NAME_MAX {
            return Ok(None);
        }
        let mut buffer = Buffer([0; BUFFER]);
        let mut put = |at: usize, value: u32| buffer.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        // version, data_size, data_start, flags.
        put(0, 4);
        put(12, BUFFER as u32);
        put(16, HEAD as u32);
        put(28, NO_FLUSH);
        buffer.0[NAME_AT..NAME_AT + name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: the kernel reads a struct dm_ioctl and writes no more than `data_size` bytes, which
        // the buffer has; it is as aligned as the struct.
        unsafe { table_status(control.as_raw_fd(), (&raw mut buffer).cast()) }?;
        Ok(first(&buffer.0))
    }

    fn first(buffer: &[u8]) -> Option<Target> {
        let word = |at: usize| Some(u32::from_ne_bytes(buffer.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_ne_bytes(buffer.get(at..at + 8)?.try_into().ok()?));
        let (start, targets) = (word(16)? as usize, word(20)?);
        if targets == 0 {
            return None;
        }
        Some(Target {
            bytes: long(start + 8)? * SECTOR,
            kind: text(buffer.get(start + 24..start + SPEC)?),
            text: text(buffer.get(start + SPEC..)?),
        })
    }

    /// Up to the first zero.
    fn text(bytes: &[u8]) -> String {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<PoolFill> {
        parse_pool(&Target { kind: "thin-pool".into(), bytes: 1 << 30, text: text.into() })
    }

    #[test]
    fn a_pools_fill_is_read_in_bytes_and_its_mode_in_words() {
        let text = "3 12/2048 4096/16384 - rw discard_passdown queue_if_no_space - 1024";
        let fill = of(text).unwrap();
        assert_eq!((fill.data, fill.data_used), (1 << 30, 1 << 28));
        assert_eq!((fill.metadata, fill.metadata_used, fill.mode), (8 << 20, 48 << 10, PoolMode::Writable));
        assert_eq!(of(&text.replace("rw", "out_of_data_space")).unwrap().mode, PoolMode::OutOfSpace);
        assert_eq!(of(&text.replace("rw", "ro")).unwrap().mode, PoolMode::ReadOnly);
        assert_eq!(of("Fail").unwrap().mode, PoolMode::Failed);
        assert_eq!(of("3 12 -"), None);
    }

    #[test]
    fn there_is_no_pool_where_the_kernel_knows_none() {
        assert_eq!(pool("capsule-of-nobody").unwrap(), None);
    }
}
