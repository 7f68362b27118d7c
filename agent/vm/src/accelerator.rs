//! What executes a guest's instructions.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, sync::Mutex, time::timeout};

use crate::{Error, Result, arguments::keyed, process::spawn};

const KVM_DEVICE: &str = "/dev/kvm";
/// A processor is through with the payload in half a second, its BIOS included.
const KVM_LIMIT: Duration = Duration::from_secs(5);
/// What QEMU ends with when the payload writes 0x10 to isa-debug-exit: twice that and one.
const PAYLOAD_DONE: i32 = 0x21;
/// A smaller one is no disk to SeaBIOS.
const DISK_BYTES: usize = 1 << 20;

/// What executes a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's emulator, which works everywhere and is ten times slower.
    Tcg,
}

/// Programs that were asked, and what they answered.
static PROBED: Mutex<Vec<(PathBuf, Accelerator)>> = Mutex::const_new(Vec::new());

impl Accelerator {
    /// KVM if it runs a guest here. There are hosts whose KVM device opens and whose guests crawl,
    /// because every instruction is emulated one by one; those get [`Accelerator::Tcg`]. Takes seconds
    /// the first time and is remembered for this process.
    pub async fn probe(program: &Path) -> Result<Self> {
        let mut probed = PROBED.lock().await;
        if let Some((_, known)) = probed.iter().find(|(asked, _)| asked == program) {
            return Ok(*known);
        }
        let usable = Path::new(KVM_DEVICE).exists() && runs(program, "kvm", KVM_LIMIT).await?;
        let found = if usable { Self::Kvm } else { Self::Tcg };
        probed.push((program.to_owned(), found));
        Ok(found)
    }
}

/// Whether the payload comes to its end in time.
async fn runs(program: &Path, accelerator: &str, limit: Duration) -> Result<bool> {
    let mut disk = tempfile::NamedTempFile::new().map_err(Error::file("write in", std::env::temp_dir()))?;
    let written = disk.write_all(&boot_disk()).and_then(|()| disk.flush());
    written.map_err(Error::file("write", disk.path()))?;
    let mut command = Command::new(program);
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-M",
        "q35",
        "-m",
        "64",
    ]);
    command.args(["-accel", accelerator, "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
    command.arg("-drive").arg(keyed("file=", disk.path(), ",format=raw,if=virtio,readonly=on"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut qemu =
        spawn(command, Vec::new()).map_err(|source| Error::Spawn { program: program.to_owned(), source })?;
    // Dropped, it is killed.
    let ended = timeout(limit, qemu.wait()).await;
    Ok(matches!(ended, Ok(Ok(status)) if status.code() == Some(PAYLOAD_DONE)))
}

/// A boot sector that counts down from 50 million in protected mode, in memory, and ends QEMU. That
/// is a twentieth of a second for a processor and minutes where each instruction is emulated: there
/// stock kernels stay in their own decompression.
#[rustfmt::skip]
const PAYLOAD: [u8; 86] = [
    // In real mode, at 0x7c00.
    0xfa,                                           // cli
    0x31, 0xc0,                                     // xor ax, ax
    0x8e, 0xd8,                                     // mov ds, ax
    0x66, 0x0f, 0x01, 0x16, 0x50, 0x7c,             // lgdt [0x7c50]
    0x0f, 0x20, 0xc0,                               // mov eax, cr0
    0x0c, 0x01,                                     // or al, 1
    0x0f, 0x22, 0xc0,                               // mov cr0, eax
    0x66, 0xea, 0x1b, 0x7c, 0x00, 0x00, 0x08, 0x00, // jmp 8:0x7c1b
    // In protected mode, at 0x7c1b.
    0x66, 0xb8, 0x10, 0x00,                         // mov ax, 0x10
    0x8e, 0xd8,                                     // mov ds, ax
    0xb9, 0x80, 0xf0, 0xfa, 0x02,                   // mov ecx, 50000000
    0x89, 0x0d, 0x00, 0x80, 0x00, 0x00,             // again: mov [0x8000], ecx
    0x49,                                           // dec ecx
    0x75, 0xf7,                                     // jnz again
    0xb0, 0x10,                                     // mov al, 0x10
    0xe6, 0xf4,                                     // out 0xf4, al
    0xf4,                                           // halt: hlt
    0xeb, 0xfd,                                     // jmp halt
    0x66, 0x90,                                     // two bytes up to 0x7c38
    // Segments: none, 4 GiB of code, 4 GiB of data.
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00,
    0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00,
    // What lgdt reads at 0x7c50: 24 bytes at 0x7c38.
    0x17, 0x00, 0x38, 0x7c, 0x00, 0x00,
];

fn boot_disk() -> Vec<u8> {
    let mut disk = PAYLOAD.to_vec();
    disk.resize(DISK_BYTES, 0);
    // By which a BIOS knows a boot sector.
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Emulated, for any host.
    const LIMIT: Duration = Duration::from_mins(1);

    fn qemu() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest/qemu/run")
    }

    #[tokio::test]
    async fn the_payload_comes_to_its_end_where_guests_run() {
        assert!(runs(&qemu(), "tcg", LIMIT).await.unwrap());
        assert!(!runs(&qemu(), "none", LIMIT).await.unwrap());
    }

    #[tokio::test]
    async fn a_guest_that_crawls_does_not_run() {
        assert!(!runs(&qemu(), "tcg", Duration::from_millis(1)).await.unwrap());
    }

    #[tokio::test]
    async fn without_qemu_there_is_no_answer() {
        let error = runs(Path::new("/nowhere/qemu"), "tcg", LIMIT).await.unwrap_err();
        assert!(error.to_string().contains("cannot run /nowhere/qemu"), "{error}");
    }
}
