//! Entries of the boot loader, systemd-boot, and which of them it boots.
//!
//! Boot counting is in a file's name: `capsule-b+1.conf` has one try left, the loader makes it
//! `capsule-b+0-1.conf` when it uses that, and `capsule-b.conf` needs none: it is good. Names and order
//! are those of the Boot Loader Specification
//! (<https://uapi-group.org/specifications/specs/boot_loader_specification/>).

use std::{
    cmp::Ordering,
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::slots::{self, Slot};
use crate::sys::file;

/// Where entries are, below the ESP.
const ENTRIES: &str = "loader/entries";
/// Every entry of ours has it, so that the loader orders them by `version`.
const SORT_KEY: &str = "capsule";
/// An entry has five short lines.
const MAX_ENTRY_BYTES: usize = 4096;
/// What a half-written entry is called; the loader reads no name that begins so.
const TEMPORARY: &str = ".capsule.new";

/// How often an entry was and will be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tries {
    /// As often as need be: it is good.
    Unlimited,
    /// So many times more, after so many.
    Counted {
        /// To come.
        left: u32,
        /// Used.
        done: u32,
    },
}

impl Tries {
    /// One try, as a new system gets.
    pub const ONE: Self = Self::Counted { left: 1, done: 0 };

    /// Whether the loader boots it only where nothing else is.
    pub fn is_used_up(self) -> bool {
        matches!(self, Self::Counted { left: 0, .. })
    }
}

/// The name of an entry's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryName {
    /// Whose entry it is.
    pub slot: Slot,
    /// Its counter.
    pub tries: Tries,
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "capsule-{}", self.slot)?;
        match self.tries {
            Tries::Unlimited => {}
            Tries::Counted { left, done: 0 } => write!(f, "+{left}")?,
            Tries::Counted { left, done } => write!(f, "+{left}-{done}")?,
        }
        f.write_str(".conf")
    }
}

/// A file name that is none of our entries'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnEntry;

impl FromStr for EntryName {
    type Err = NotAnEntry;

    fn from_str(name: &str) -> Result<Self, NotAnEntry> {
        let stem =
            name.strip_prefix("capsule-").and_then(|name| name.strip_suffix(".conf")).ok_or(NotAnEntry)?;
        let (slot, counter) =
            stem.split_once('+').map_or((stem, None), |(slot, counter)| (slot, Some(counter)));
        let slot = slots::named(slot).ok_or(NotAnEntry)?;
        let Some(counter) = counter else { return Ok(Self { slot, tries: Tries::Unlimited }) };
        let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
        let tries = Tries::Counted { left: number(left)?, done: number(done)? };
        Ok(Self { slot, tries })
    }
}

/// Digits alone: `+3` parses as a number elsewhere.
fn number(digits: &str) -> Result<u32, NotAnEntry> {
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).ok_or(NotAnEntry)
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Slot and counter.
    pub name: EntryName,
    /// The highest is preferred.
    pub sequence: u64,
    /// Of the system that it boots; empty where its title does not tell.
    pub version: String,
}

impl Entry {
    /// The file's content.
    fn text(&self) -> String {
        let Self { name: EntryName { slot, .. }, sequence, version } = self;
        format!(
            "title Capsule {version} ({slot})\nsort-key {SORT_KEY}\nversion {sequence:010}\nefi /{}\n",
            slots::kernel(*slot)
        )
    }

    /// From name and content; what makes no sense in the content counts least.
    fn parse(name: EntryName, text: &str) -> Self {
        let field = |wanted: &str| {
            let lines = text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
            lines
                .filter(|(key, _)| *key == wanted)
                .map(|(_, value)| value.trim())
                .next_back()
                .unwrap_or_default()
        };
        let title = field("title").strip_prefix("Capsule ").unwrap_or_default();
        let version = title.rsplit_once(" (").map_or(title, |(version, _)| version);
        Self { name, sequence: field("version").parse().unwrap_or(0), version: version.to_owned() }
    }

    /// The order in which the loader lists entries of one sort key: used-up ones last, then by
    /// version, the newest first, then by id, the last first.
    fn order(&self, other: &Self) -> Ordering {
        let used_up = |entry: &Self| entry.name.tries.is_used_up();
        let id = |entry: &Self| entry.name.slot;
        used_up(self)
            .cmp(&used_up(other))
            .then(other.sequence.cmp(&self.sequence))
            .then(id(other).cmp(&id(self)))
            .then_with(|| self.tries_order(other))
    }

    /// Of two files for one id, the one with more tries left, then the one tried less.
    fn tries_order(&self, other: &Self) -> Ordering {
        match (self.name.tries, other.name.tries) {
            (Tries::Counted { left, done }, Tries::Counted { left: others, done: others_done }) => {
                others.cmp(&left).then(done.cmp(&others_done))
            }
            _ => Ordering::Equal,
        }
    }
}

/// The entry that the loader boots when nobody is at its menu.
pub fn choose(entries: &[Entry]) -> Option<&Entry> {
    entries.iter().min_by(|one, other| one.order(other))
}

/// What the entry of a slot is; of several, which only a power cut leaves, the last one armed, and of one
/// that was being renamed the confirmed one.
pub fn of_slot(entries: &[Entry], slot: Slot) -> Option<&Entry> {
    entries
        .iter()
        .filter(|entry| entry.name.slot == slot)
        .max_by_key(|entry| (entry.sequence, entry.name.tries == Tries::Unlimited))
}

/// Every entry of ours on the ESP.
pub fn read(esp: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for found in fs::read_dir(esp.join(ENTRIES))? {
        let found = found?;
        let Some(name) = found.file_name().to_str().and_then(|name| name.parse::<EntryName>().ok()) else {
            continue;
        };
        let text = fs::read(found.path())?;
        let text = String::from_utf8_lossy(&text[..text.len().min(MAX_ENTRY_BYTES)]);
        entries.push(Entry::parse(name, &text));
    }
    Ok(entries)
}

/// Removes the entries of a slot: the loader boots it no more.
pub fn remove(esp: &Path, slot: Slot) -> io::Result<()> {
    for entry in read(esp)?.iter().filter(|entry| entry.name.slot == slot) {
        fs::remove_file(path(esp, entry.name))?;
    }
    sync(esp)
}

/// Gives the slot's entry one try and makes it the newest of all.
pub fn arm(esp: &Path, slot: Slot, version: &str) -> io::Result<()> {
    put(esp, EntryName { slot, tries: Tries::ONE }, version)
}

/// Takes the counter off the slot's entry: it is good. One that is gone is written anew.
pub fn confirm(esp: &Path, slot: Slot, version: &str) -> io::Result<()> {
    let good = EntryName { slot, tries: Tries::Unlimited };
    match of_slot(&read(esp)?, slot) {
        None => return put(esp, good, version),
        Some(entry) if entry.name == good => {}
        Some(entry) => fs::rename(path(esp, entry.name), path(esp, good))?,
    }
    sync(esp)
}

/// Makes a good slot the newest of all: it is the loader's first choice.
pub fn prefer(esp: &Path, slot: Slot, version: &str) -> io::Result<()> {
    put(esp, EntryName { slot, tries: Tries::Unlimited }, version)
}

/// Writes an entry, then removes those that the slot had.
fn put(esp: &Path, name: EntryName, version: &str) -> io::Result<()> {
    let entries = read(esp)?;
    let sequence = entries.iter().map(|entry| entry.sequence).max().unwrap_or(0) + 1;
    let entry = Entry { name, sequence, version: version.to_owned() };
    let temporary = esp.join(ENTRIES).join(TEMPORARY);
    fs::write(&temporary, entry.text())?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, path(esp, name))?;
    sync(esp)?;
    for old in entries.iter().filter(|old| old.name.slot == name.slot && old.name != name) {
        fs::remove_file(path(esp, old.name))?;
    }
    sync(esp)
}

/// Removes what a power cut has left: half-written files, and of a slot's entries all but the last.
pub fn tidy(esp: &Path) -> io::Result<()> {
    file::remove_all_if_exists(&esp.join(ENTRIES).join(TEMPORARY))?;
    let entries = read(esp)?;
    for entry in &entries {
        if of_slot(&entries, entry.name.slot).is_some_and(|last| last.name != entry.name) {
            fs::remove_file(path(esp, entry.name))?;
        }
    }
    sync(esp)
}

fn path(esp: &Path, name: EntryName) -> PathBuf {
    esp.join(ENTRIES).join(name.to_string())
}

/// Names on a FAT are in their directory's blocks.
fn sync(esp: &Path) -> io::Result<()> {
    file::sync_dir(&esp.join(ENTRIES))?;
    file::sync_filesystem(esp)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot() -> impl Strategy<Value = Slot> {
        prop_oneof![Just(Slot::A), Just(Slot::B)]
    }

    fn tries() -> impl Strategy<Value = Tries> {
        let counted = (0_u32..4, 0_u32..4).prop_map(|(left, done)| Tries::Counted { left, done });
        prop_oneof![Just(Tries::Unlimited), counted]
    }

    fn entry() -> impl Strategy<Value = Entry> {
        (slot(), tries(), 0_u64..5).prop_map(|(slot, tries, sequence)| Entry {
            name: EntryName { slot, tries },
            sequence,
            version: "0.1.0".into(),
        })
    }

    proptest! {
        #[test]
        fn names_and_contents_read_back(entry in entry()) {
            prop_assert_eq!(entry.name.to_string().parse(), Ok(entry.name));
            prop_assert_eq!(Entry::parse(entry.name, &entry.text()), entry);
        }

        // As boot_loader_specification puts it: "all entries with tries left 0 last", then "by version,
        // in decreasing order".
        #[test]
        fn the_newest_entry_with_tries_left_is_booted(entries in prop::collection::vec(entry(), 1..6)) {
            let chosen = choose(&entries).unwrap();
            let with_tries: Vec<_> = entries.iter().filter(|entry| !entry.name.tries.is_used_up()).collect();
            if with_tries.is_empty() {
                prop_assert_eq!(chosen.sequence, entries.iter().map(|entry| entry.sequence).max().unwrap());
            } else {
                prop_assert!(!chosen.name.tries.is_used_up());
                prop_assert_eq!(chosen.sequence, with_tries.iter().map(|entry| entry.sequence).max().unwrap());
            }
        }

        #[test]
        fn names_that_are_not_ours_are_none(name in "[a-z+.-]{0,24}") {
            if let Ok(parsed) = name.parse::<EntryName>() {
                prop_assert_eq!(parsed.to_string(), name);
            }
        }
    }

    #[test]
    fn counters_are_written_as_the_loader_writes_them() {
        let name = |text: &str| text.parse::<EntryName>();
        assert_eq!(name("capsule-a.conf").unwrap().tries, Tries::Unlimited);
        assert_eq!(name("capsule-b+1.conf").unwrap().tries, Tries::ONE);
        assert_eq!(name("capsule-b+0-1.conf").unwrap().tries, Tries::Counted { left: 0, done: 1 });
        for other in [
            "capsule-c.conf",
            "capsule-a+.conf",
            "capsule-a+1-.conf",
            "capsule-a++1.conf",
            "auto-efi",
            "capsule-a",
        ] {
            assert_eq!(name(other), Err(NotAnEntry), "{other}");
        }
    }

    #[test]
    fn an_armed_slot_is_booted_once_and_then_the_good_one_until_it_is_confirmed() {
        let dir = tempfile::tempdir().unwrap();
        let esp = dir.path();
        fs::create_dir_all(esp.join(ENTRIES)).unwrap();
        let first = "title Capsule 0.1.0 (a)\nsort-key capsule\nversion 0000000001\nefi /EFI/capsule/a.efi\n";
        fs::write(esp.join(ENTRIES).join("capsule-a.conf"), first).unwrap();
        fs::write(esp.join(ENTRIES).join(TEMPORARY), "half").unwrap();
        let chosen = || choose(&read(esp).unwrap()).unwrap().clone();
        assert_eq!((chosen().name.slot, chosen().version.as_str()), (Slot::A, "0.1.0"));
        arm(esp, Slot::B, "0.2.0").unwrap();
        assert_eq!((chosen().name.to_string(), chosen().sequence), ("capsule-b+1.conf".into(), 2));
        let entries = esp.join(ENTRIES);
        fs::rename(entries.join("capsule-b+1.conf"), entries.join("capsule-b+0-1.conf")).unwrap();
        assert_eq!(chosen().name.slot, Slot::A, "its try was used");
        confirm(esp, Slot::B, "0.2.0").unwrap();
        assert_eq!(chosen().name.to_string(), "capsule-b.conf");
        arm(esp, Slot::A, "0.1.0").unwrap();
        assert_eq!(chosen().name.to_string(), "capsule-a+1.conf");
        assert_eq!(read(esp).unwrap().len(), 2, "the entry that slot a had is gone");
        remove(esp, Slot::A).unwrap();
        assert_eq!(chosen().name.slot, Slot::B);
        remove(esp, Slot::B).unwrap();
        confirm(esp, Slot::B, "0.2.0").unwrap();
        assert_eq!(
            (chosen().name.to_string(), chosen().version.as_str()),
            ("capsule-b.conf".into(), "0.2.0")
        );
    }

    #[test]
    fn of_two_entries_of_one_slot_the_last_one_armed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let entries = dir.path().join(ENTRIES);
        fs::create_dir_all(&entries).unwrap();
        for (name, sequence) in [("capsule-a.conf", 1), ("capsule-a+1.conf", 3), ("capsule-b.conf", 2)] {
            fs::write(entries.join(name), format!("version {sequence}\n")).unwrap();
        }
        fs::write(entries.join(TEMPORARY), "half").unwrap();
        tidy(dir.path()).unwrap();
        let left = read(dir.path()).unwrap();
        let mut names: Vec<_> = left.iter().map(|entry| entry.name.to_string()).collect();
        names.sort();
        assert_eq!(names, ["capsule-a+1.conf", "capsule-b.conf"]);
        assert!(!entries.join(TEMPORARY).exists());
    }
}
