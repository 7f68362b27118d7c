//! Whenever writing ends, the boot loader finds a whole system.

use std::{
    cell::Cell,
    process::{Command, Stdio},
    time::Duration,
};

use capsule_bundle::{FORMAT, Kernel, Root, Version};
use rand::RngExt as _;
use tempfile::TempDir;

use super::*;
use crate::update::{
    esp::Esp,
    loader::{choose, read},
};

/// Where the child finds its disk.
const DISK: &str = "CAPSULE_TEST_DISK";
const PART_BYTES: usize = 3 << 19;
const SLOT_BYTES: usize = 2 << 20;

/// Slot a runs version 1, slot b was version 0, and version 2 is to be written.
struct Disk(PathBuf);

impl Disk {
    fn make(dir: &Path) -> Self {
        let disk = Self(dir.to_owned());
        for made in ["esp/loader/entries", "esp/EFI/capsule", "boot"] {
            fs::create_dir_all(dir.join(made)).unwrap();
        }
        for (slot, version) in [(Slot::A, 1), (Slot::B, 0)] {
            fs::write(disk.kernel(slot), content(version, "kernel")).unwrap();
            fs::write(
                disk.partition(slot),
                [content(version, "root"), vec![0; SLOT_BYTES - PART_BYTES]].concat(),
            )
            .unwrap();
            loader::arm(&disk.esp(), slot, &version.to_string()).unwrap();
            loader::confirm(&disk.esp(), slot, &version.to_string()).unwrap();
        }
        // Armed last, so that it is preferred.
        loader::arm(&disk.esp(), Slot::A, "1").unwrap();
        loader::confirm(&disk.esp(), Slot::A, "1").unwrap();
        fs::write(dir.join("kernel.efi"), content(2, "kernel")).unwrap();
        fs::write(dir.join("root.img"), content(2, "root")).unwrap();
        disk
    }

    fn esp(&self) -> PathBuf {
        self.0.join("esp")
    }

    fn kernel(&self, slot: Slot) -> PathBuf {
        self.esp().join(kernel(slot))
    }

    fn partition(&self, slot: Slot) -> PathBuf {
        self.0.join(format!("slot-{slot}"))
    }

    fn slots(&self) -> Slots {
        Slots {
            boot_id: "boot".into(),
            version: Version::new(1, 0, 0),
            active: Slot::A,
            esp: Esp::new(self.esp()),
            a: self.partition(Slot::A),
            b: self.partition(Slot::B),
        }
    }

    fn write(&self, checkpoint: &dyn Fn() -> io::Result<()>) -> Result<(), UpdateError> {
        let root = content(2, "root");
        let manifest = Manifest {
            format: FORMAT,
            version: Version::new(2, 0, 0),
            minimum_version: Version::new(0, 0, 0),
            architecture: String::new(),
            kernel: Kernel { bytes: PART_BYTES as u64, sha256: Digest::of(&content(2, "kernel")) },
            root: Root {
                bytes: PART_BYTES as u64,
                sha256: Digest::of(&root),
                roothash: Digest::of(b""),
                data_bytes: 4096,
            },
        };
        let record =
            || fs::write(self.0.join("boot/tentative.json"), "{}").map_err(UpdateError::io("write", "it"));
        let job = Job {
            slots: &self.slots(),
            manifest: &manifest,
            kernel: &self.0.join("kernel.efi"),
            root: &self.0.join("root.img"),
            record: &record,
            progress: &|_, _| (),
            checkpoint,
        };
        job.run()
    }

    /// The version that the loader boots now, if what it boots is whole.
    fn boots(&self) -> u8 {
        let entries = read(&self.esp()).unwrap();
        let entry = choose(&entries).unwrap();
        let slot = entry.name.slot;
        let version = fs::read(self.kernel(slot)).unwrap()[0];
        assert_eq!(fs::read(self.kernel(slot)).unwrap(), content(version, "kernel"), "{entry:?}");
        let root = fs::read(self.partition(slot)).unwrap();
        assert_eq!(root[..PART_BYTES], content(version, "root"), "{entry:?}");
        let told = entry.version.split('.').next().unwrap();
        assert_eq!(told, version.to_string(), "the entry tells of another version");
        if version == 2 {
            assert_eq!(entry.name.tries, Tries::ONE);
            assert!(self.0.join("boot/tentative.json").exists(), "no trial is recorded");
        }
        version
    }

    /// What a trial falls back to.
    fn is_slot_a_untouched(&self) -> bool {
        let root = fs::read(self.partition(Slot::A)).unwrap();
        fs::read(self.kernel(Slot::A)).unwrap() == content(1, "kernel")
            && root[..PART_BYTES] == content(1, "root")
    }
}

/// Begins with the version; else different for each.
fn content(version: u8, part: &str) -> Vec<u8> {
    let seed = part.len() as u64 + u64::from(version) * 7 + 1;
    let mut bytes: Vec<u8> = (0..PART_BYTES as u64).map(|at| ((at * seed) >> 3) as u8).collect();
    bytes[0] = version;
    bytes
}

fn disk() -> (TempDir, Disk) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::make(dir.path());
    (dir, disk)
}

#[test]
fn a_slot_that_was_written_is_booted_once() {
    let (_dir, disk) = disk();
    assert_eq!(disk.boots(), 1);
    disk.write(&|| Ok(())).unwrap();
    assert_eq!(disk.boots(), 2);
    assert!(disk.is_slot_a_untouched());
}

#[test]
fn writing_that_ends_before_any_of_its_steps_leaves_a_whole_system() {
    let mut steps = 0;
    loop {
        let (_dir, disk) = disk();
        let left = Cell::new(steps);
        let written = disk.write(&|| {
            left.set(left.get() - 1);
            if left.get() < 0 { Err(io::Error::other("power cut")) } else { Ok(()) }
        });
        let expected = if written.is_ok() { 2 } else { 1 };
        assert_eq!(disk.boots(), expected, "after {steps} steps");
        assert!(disk.is_slot_a_untouched(), "after {steps} steps");
        if written.is_ok() {
            break;
        }
        // The next try does all of it.
        disk.write(&|| Ok(())).unwrap();
        assert_eq!(disk.boots(), 2, "after {steps} steps and another try");
        steps += 1;
    }
    assert!(steps > 10, "only {steps} steps");
}

#[test]
#[ignore = "is killed by the test below"]
fn a_child_writes_until_it_is_killed() {
    let disk = Disk(std::env::var_os(DISK).unwrap().into());
    loop {
        disk.write(&|| Ok(())).unwrap();
    }
}

#[test]
fn writers_that_are_killed_at_any_moment_leave_a_whole_system() {
    let (dir, disk) = disk();
    for _ in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "update::write::tests::a_child_writes_until_it_is_killed", "--ignored"]);
        let mut child =
            child.env(DISK, dir.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(rand::rng().random_range(20..300)));
        child.kill().unwrap();
        child.wait().unwrap();
        disk.boots();
        assert!(disk.is_slot_a_untouched());
    }
}

#[test]
fn a_slot_is_not_written_where_nothing_would_be_left_to_fall_back_to() {
    let (_dir, disk) = disk();
    loader::remove(&disk.esp(), Slot::A).unwrap();
    let before = fs::read(disk.partition(Slot::B)).unwrap();
    let refusal = disk.write(&|| Ok(())).unwrap_err();
    assert!(matches!(refusal, UpdateError::NoFallback(Slot::A)), "{refusal}");
    assert_eq!(fs::read(disk.partition(Slot::B)).unwrap(), before);
}

#[test]
fn a_disk_that_keeps_something_else_is_told_of_and_never_booted() {
    let (_dir, disk) = disk();
    fs::write(disk.0.join("root.img"), content(9, "root")).unwrap();
    let refusal = disk.write(&|| Ok(())).unwrap_err();
    assert!(matches!(refusal, UpdateError::ReadBack { part: Part::Root, .. }), "{refusal}");
    assert_eq!(disk.boots(), 1);
}
