//! The disk to flash or to boot: a GPT with the EFI partition, both slots and the start of the volume
//! group. It is sparse: what is empty takes no room.
//!
//! ```text
//!   ┌─────┬───────────────┬─────────────┬─────────────┬──────────────┬─────┐
//!   │ GPT │ 1 capsule-esp │ 2 capsule-a │ 3 capsule-b │ 4 capsule-pv │ GPT │
//!   │     │ 256 MiB FAT32 │ 512 MiB     │ 512 MiB     │ 64 MiB here, │     │
//!   │     │               │ root+verity │ empty       │ then grown   │     │
//!   └─────┴───────────────┴─────────────┴─────────────┴──────────────┴─────┘
//! ```

use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use crate::{
    Error, Result, esp,
    root::{Root, uuid_of},
    run::Program,
};

const SECTOR_BYTES: u64 = 512;
const MIB: u64 = 1 << 20;
/// Of each slot.
pub const SLOT_BYTES: u64 = 512 * MIB;
/// Of the volume group in the image; the first boot grows it to the disk.
pub const PV_BYTES: u64 = 64 * MIB;
/// Before the first partition and behind the last.
const MARGIN_BYTES: u64 = MIB;
/// What is looked at for zeros at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Partition types.
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const ROOT_X86_64: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
const LVM: &str = "e6d6d379-f507-44c2-a23c-238f2a3df928";

/// Name, type and size of each partition, in order.
const PARTITIONS: [(&str, &str, u64); 4] = [
    ("capsule-esp", ESP, esp::BYTES),
    ("capsule-a", ROOT_X86_64, SLOT_BYTES),
    ("capsule-b", ROOT_X86_64, SLOT_BYTES),
    ("capsule-pv", LVM, PV_BYTES),
];

/// Writes the disk to `into`. Its ids come from the root hash: the same image has the same ids, and an
/// installation gives the disk its own.
pub fn build(esp: &Path, root_image: &Path, root: &Root, into: &Path) -> Result<()> {
    if root.bytes > SLOT_BYTES {
        return Err(Error::TooLarge { what: "the root image", bytes: root.bytes, limit: SLOT_BYTES });
    }
    let file = File::create(into).map_err(Error::file("write", into))?;
    let bytes = 2 * MARGIN_BYTES + PARTITIONS.iter().map(|(.., bytes)| bytes).sum::<u64>();
    file.set_len(bytes).map_err(Error::file("write", into))?;
    drop(file);
    Program::new("sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(into)
        .run_with(script(&root.hash).as_bytes())?;
    copy(esp, into, MARGIN_BYTES)?;
    copy(root_image, into, MARGIN_BYTES + esp::BYTES)
}

/// What sfdisk reads.
fn script(seed: &str) -> String {
    let mut script = format!("label: gpt\nunit: sectors\nlabel-id: {}\n", uuid_of(&[seed, "disk"]));
    let mut start = MARGIN_BYTES;
    for (name, kind, bytes) in PARTITIONS {
        let uuid = uuid_of(&[seed, name]);
        let (first, count) = (start / SECTOR_BYTES, bytes / SECTOR_BYTES);
        let _ = writeln!(script, "start={first}, size={count}, type={kind}, uuid={uuid}, name={name}");
        start += bytes;
    }
    script
}

/// Copies a file into another at a place, and leaves zeros out.
fn copy(from: &Path, into: &Path, place: u64) -> Result<()> {
    let mut source = File::open(from).map_err(Error::file("read", from))?;
    let mut target = OpenOptions::new().write(true).open(into).map_err(Error::file("write", into))?;
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let mut at = place;
    loop {
        chunk.clear();
        let read = (&mut source).take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
        let read = read.map_err(Error::file("read", from))?;
        if read == 0 {
            return Ok(());
        }
        if chunk.iter().any(|&byte| byte != 0) {
            target
                .seek(SeekFrom::Start(at))
                .and_then(|_| target.write_all(&chunk))
                .map_err(Error::file("write", into))?;
        }
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{FileExt as _, MetadataExt as _},
    };

    use super::*;

    fn build_in(dir: &Path, name: &str) -> std::path::PathBuf {
        let (esp, root_image, into) = (dir.join("esp"), dir.join("root"), dir.join(name));
        fs::write(&esp, b"the EFI partition").unwrap();
        fs::write(&root_image, b"the root").unwrap();
        let root = Root { hash: "c0ffee".to_owned(), data_bytes: 4, bytes: 8 };
        build(&esp, &root_image, &root, &into).unwrap();
        into
    }

    fn read(disk: &Path, from: u64, bytes: usize) -> Vec<u8> {
        let mut content = vec![0; bytes];
        File::open(disk).unwrap().read_exact_at(&mut content, from).unwrap();
        content
    }

    #[test]
    fn a_disk_has_four_partitions_and_what_belongs_into_them() {
        let dir = tempfile::tempdir().unwrap();
        let disk = build_in(dir.path(), "disk");
        let table = Program::new("sfdisk").arg("--json").arg(&disk).run().unwrap();
        let table: serde_json::Value = serde_json::from_slice(&table).unwrap();
        let partitions = table["partitiontable"]["partitions"].as_array().unwrap();
        let names: Vec<_> = partitions.iter().map(|partition| partition["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["capsule-esp", "capsule-a", "capsule-b", "capsule-pv"]);
        let at = |number: usize, bytes: usize| {
            read(&disk, partitions[number]["start"].as_u64().unwrap() * SECTOR_BYTES, bytes)
        };
        assert_eq!((at(0, 17), at(1, 8)), (b"the EFI partition".to_vec(), b"the root".to_vec()));
        assert!(fs::metadata(&disk).unwrap().blocks() * SECTOR_BYTES < 8 * MIB);
    }

    #[test]
    fn the_same_root_gives_the_same_disk() {
        let dir = tempfile::tempdir().unwrap();
        let tables = |disk: &Path| {
            let end = fs::metadata(disk).unwrap().len() - MARGIN_BYTES;
            [read(disk, 0, MARGIN_BYTES as usize), read(disk, end, MARGIN_BYTES as usize)]
        };
        let first = tables(&build_in(dir.path(), "first"));
        assert!(first == tables(&build_in(dir.path(), "second")));
    }

    #[test]
    fn a_root_that_no_slot_can_hold_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root { hash: String::new(), data_bytes: 0, bytes: SLOT_BYTES + 1 };
        let error = build(dir.path(), dir.path(), &root, &dir.path().join("disk")).unwrap_err().to_string();
        assert_eq!(error, "the root image has 512 MiB and must not exceed 512 MiB; take something out");
    }
}
