//! What the firmware boots, and in which order: its variables `Boot####`, `BootOrder` and `BootNext`
//! (UEFI specification, 3.1 and 10.3), as efivarfs has them.

use std::{
    fs,
    io::{self, ErrorKind},
    path::PathBuf,
};

use uuid::Uuid;

/// The specification's own variables.
const VENDOR: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Kept over a reset, seen by boot loaders and by the running system.
const ATTRIBUTES: u32 = 0x7;
/// LOAD_OPTION_ACTIVE.
const ACTIVE: u32 = 1;
/// Where the firmware looks by itself, too.
const LOADER: &str = r"\EFI\BOOT\BOOTX64.EFI";
/// Attributes, then attributes of the option and the length of its device path.
const DESCRIPTION_AT: usize = 4 + 4 + 2;

/// A boot partition, as the firmware finds it whatever it is plugged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its number in the table.
    pub number: u32,
    /// Its first block, in the disk's own blocks.
    pub start: u64,
    /// How many blocks it has.
    pub size: u64,
    /// Its own GUID.
    pub guid: Uuid,
}

/// The firmware's variables.
#[derive(Clone, Debug)]
pub struct Variables(PathBuf);

impl Variables {
    /// Those of this machine; the initramfs has mounted them.
    pub fn of_this_machine() -> Self {
        Self(capsule_initramfs::mounts::EFI_VARIABLES.into())
    }

    /// Makes the loader of a partition what is booted next, and first from then on. An entry of this
    /// description is replaced.
    pub fn boot_first(&self, description: &str, target: &Target) -> io::Result<()> {
        if !self.0.is_dir() {
            return Err(io::Error::new(ErrorKind::Unsupported, "the firmware shows no variables"));
        }
        let order = self.numbers("BootOrder")?;
        let number = self.place(description)?;
        self.write(&entry_name(number), &option(description, target))?;
        let others = order.into_iter().filter(|other| *other != number);
        let order: Vec<u8> = std::iter::once(number).chain(others).flat_map(u16::to_le_bytes).collect();
        self.write("BootOrder", &order)?;
        // Some firmware puts removable media first whatever the order says; once it is told otherwise.
        self.write("BootNext", &number.to_le_bytes())
    }

    /// The number of the entry of this description, else the first that is free.
    fn place(&self, description: &str) -> io::Result<u16> {
        let wanted: Vec<u8> = text(description);
        let mut free = None;
        for number in 0..=u16::MAX {
            match self.read(&entry_name(number))? {
                Some(found) if found.get(DESCRIPTION_AT..).is_some_and(|rest| rest.starts_with(&wanted)) => {
                    return Ok(number);
                }
                Some(_) => {}
                None => {
                    free.get_or_insert(number);
                    // Nobody has so many; each look is one at the firmware's flash.
                    if number > 0xff {
                        break;
                    }
                }
            }
        }
        free.ok_or_else(|| io::Error::new(ErrorKind::StorageFull, "every number of a boot entry is taken"))
    }

    fn numbers(&self, name: &str) -> io::Result<Vec<u16>> {
        let found = self.read(name)?.unwrap_or_default();
        let (pairs, _) = found.get(4..).unwrap_or_default().as_chunks::<2>();
        Ok(pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}-{VENDOR}"))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A variable is written whole by one write.
    fn write(&self, name: &str, value: &[u8]) -> io::Result<()> {
        fs::write(self.path(name), [&ATTRIBUTES.to_le_bytes()[..], value].concat())
    }
}

fn entry_name(number: u16) -> String {
    format!("Boot{number:04X}")
}

/// EFI_LOAD_OPTION.
fn option(description: &str, target: &Target) -> Vec<u8> {
    let path = device_path(target);
    let mut option = ACTIVE.to_le_bytes().to_vec();
    option.extend((path.len() as u16).to_le_bytes());
    option.extend(text(description));
    option.extend(path);
    option
}

/// A partition of a GPT, a file on it, and the end.
fn device_path(target: &Target) -> Vec<u8> {
    let Target { number, start, size, guid } = target;
    // Media, hard drive, 42 bytes.
    let mut path = vec![4, 1, 42, 0];
    path.extend(number.to_le_bytes());
    path.extend(start.to_le_bytes());
    path.extend(size.to_le_bytes());
    path.extend(guid.to_bytes_le());
    // A GPT, whose partitions are told by GUID.
    path.extend([2, 2]);
    let file = text(LOADER);
    path.extend([4, 4]);
    path.extend((4 + file.len() as u16).to_le_bytes());
    path.extend(file);
    path.extend([0x7f, 0xff, 4, 0]);
    path
}

/// UTF-16 and a NUL.
fn text(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TARGET: Target = Target {
        number: 1,
        start: 2048,
        size: 524_288,
        guid: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
    };

    fn variables(dir: &Path, order: &[u16]) -> Variables {
        let variables = Variables(dir.to_owned());
        let order: Vec<u8> = order.iter().copied().flat_map(u16::to_le_bytes).collect();
        variables.write("BootOrder", &order).unwrap();
        variables
    }

    #[test]
    fn an_entry_is_laid_out_as_the_specification_has_it() {
        // As efibootmgr writes `--part 1 --loader \EFI\BOOT\BOOTX64.EFI --label Capsule`.
        let option = option("Capsule", &TARGET);
        assert_eq!(&option[..6], [1, 0, 0, 0, 94, 0]);
        assert_eq!(&option[6..22], text("Capsule"));
        let path = &option[22..];
        assert_eq!(&path[..8], [4, 1, 42, 0, 1, 0, 0, 0]);
        assert_eq!(
            &path[24..40],
            [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]
        );
        assert_eq!((&path[40..44], &path[path.len() - 4..]), (&[2, 2, 4, 4][..], &[0x7f, 0xff, 4, 0][..]));
        assert_eq!(path.len(), 94);
    }

    #[test]
    fn a_disk_is_put_before_all_others_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let variables = variables(dir.path(), &[3, 0]);
        for number in [0, 3] {
            variables.write(&entry_name(number), &option("Another", &TARGET)).unwrap();
        }
        for _ in 0..2 {
            variables.boot_first("Capsule (disk-1)", &TARGET).unwrap();
            assert_eq!(variables.numbers("BootOrder").unwrap(), [1, 3, 0]);
            assert_eq!(variables.numbers("BootNext").unwrap(), [1]);
        }
        variables.boot_first("Capsule (disk-2)", &TARGET).unwrap();
        assert_eq!(variables.numbers("BootOrder").unwrap(), [2, 1, 3, 0]);
        let written = variables.read("Boot0001").unwrap().unwrap();
        assert_eq!(&written[..4], 7_u32.to_le_bytes());
    }
}
