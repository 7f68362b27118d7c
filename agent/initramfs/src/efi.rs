//! What systemd-boot and this tell each other by EFI variables (its Boot Loader Interface).

use std::{fs, io};

use crate::mounts::EFI_VARIABLES;

/// Vendor of the boot loader's variables.
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Kept over a reset, seen by the running system.
const ATTRIBUTES: u32 = 0x7;

/// The PARTUUID of the ESP that the boot loader was started from, in lower case.
pub fn loader_partition() -> Option<String> {
    read("LoaderDevicePartUUID").map(|text| text.to_ascii_lowercase())
}

/// The entry that was booted, without the count of its tries: `capsule-a.conf`.
pub fn selected_entry() -> Option<String> {
    read("LoaderEntrySelected")
}

/// The file of the entry that was booted, by the name that it has now, where its tries are counted:
/// `capsule-b+0-1.conf`.
pub fn counted_entry() -> Option<String> {
    read("LoaderBootCountPath").map(|path| file_name(&path).to_owned())
}

/// EFI's paths have backslashes.
fn file_name(path: &str) -> &str {
    path.rsplit('\\').next().unwrap_or(path)
}

/// Of both slots, the one of an entry's name.
pub fn slot_of(entry: &str) -> Option<char> {
    let rest = entry.strip_prefix("capsule-")?;
    let slot = rest.chars().next().filter(|slot| matches!(slot, 'a' | 'b'))?;
    matches!(rest[1..].chars().next(), None | Some('.' | '+')).then_some(slot)
}

/// Makes the next boot, and only that, start from the slot that was not booted now, where there is
/// one. Says which.
pub fn prefer_other() -> io::Result<Option<String>> {
    let Some(selected) = selected_entry().as_deref().and_then(slot_of) else { return Ok(None) };
    let entries = read_list("LoaderEntries");
    let other = entries.into_iter().find(|entry| slot_of(entry).is_some_and(|slot| slot != selected));
    if let Some(entry) = &other {
        write("LoaderEntryOneShot", entry)?;
    }
    Ok(other)
}

fn path(name: &str) -> String {
    format!("{EFI_VARIABLES}/{name}-{VENDOR}")
}

fn read(name: &str) -> Option<String> {
    read_list(name).into_iter().next()
}

/// Strings that each end with a NUL; none where there is no such variable.
fn read_list(name: &str) -> Vec<String> {
    decode(&fs::read(path(name)).unwrap_or_default())
}

/// Attributes, then UTF-16.
fn decode(bytes: &[u8]) -> Vec<String> {
    let units =
        bytes.get(4..).unwrap_or_default().as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
    let units: Vec<u16> = units.collect();
    let strings = units.split(|unit| *unit == 0).map(String::from_utf16_lossy);
    strings.filter(|string| !string.is_empty()).collect()
}

fn encode(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
    ATTRIBUTES.to_le_bytes().into_iter().chain(units).collect()
}

/// A variable is written by one write. One that exists cannot be replaced: the kernel protects it.
fn write(name: &str, text: &str) -> io::Result<()> {
    fs::write(path(name), encode(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_strings_in_utf_16_behind_its_attributes() {
        assert_eq!(decode(&encode("capsule-a.conf")), ["capsule-a.conf"]);
        let list = [encode("a"), encode("b")[4..].to_vec()].concat();
        assert_eq!(decode(&list), ["a", "b"]);
        assert!(decode(&[]).is_empty() && decode(&[7, 0, 0, 0, 1]).is_empty());
    }

    #[test]
    fn of_a_path_the_name_is_what_follows_its_last_backslash() {
        assert_eq!(file_name(r"\loader\entries\capsule-b+0-1.conf"), "capsule-b+0-1.conf");
        assert_eq!(file_name("capsule-a.conf"), "capsule-a.conf");
    }

    #[test]
    fn the_name_of_an_entry_tells_its_slot() {
        for (entry, slot) in [
            ("capsule-a.conf", Some('a')),
            ("capsule-b+0-1.conf", Some('b')),
            ("capsule-b", Some('b')),
            ("capsule-c.conf", None),
            ("capsule-about.conf", None),
            ("auto-reboot", None),
        ] {
            assert_eq!(slot_of(entry), slot, "{entry}");
        }
    }
}
