//! The last boots, and why each ended: a file on `/perm` that init alone writes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::{
    facts::{BootFacts, Slot},
    link::Cause,
};
use crate::{
    clock::{from_millis, to_millis},
    sys::file::write_atomic,
};

/// Below `/perm`, what belongs to booting.
pub const DIR: &str = "/perm/boot";
/// Boots that are kept.
const KEPT: usize = 20;
/// Of a panic's record, the part that is kept.
const PANIC_MAX_BYTES: usize = 2000;

/// One boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The kernel's.
    pub boot_id: String,
    /// When it began, in milliseconds since the epoch, as its clock had it.
    pub at: i64,
    /// The slot.
    pub slot: Slot,
    /// Of the system.
    pub version: String,
    /// Whether it is on trial, or was until it ended.
    pub tentative: bool,
    /// How it ended; `None` of the one that runs.
    pub end: Option<End>,
}

/// A boot's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why.
    pub cause: Cause,
    /// In words; may be empty.
    pub detail: String,
    /// When, where anybody knows.
    pub at: Option<i64>,
}

impl End {
    /// Now.
    pub fn now(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into(), at: Some(to_millis(SystemTime::now())) }
    }
}

impl Boot {
    /// When it began.
    pub fn started(&self) -> SystemTime {
        from_millis(self.at)
    }
}

/// The boots that are known, the newest last.
#[derive(Clone, Debug, Default)]
pub struct History {
    file: PathBuf,
    boots: Vec<Boot>,
}

impl History {
    /// Reads what is kept in `dir`. A damaged file is no reason not to boot: it is begun anew.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let file = dir.join("history.json");
        let boots = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, boots })
    }

    /// The boots.
    pub fn boots(&self) -> &[Boot] {
        &self.boots
    }

    /// Begins this boot; one before it that nobody has ended ended by `unrecorded`.
    pub fn begin(&mut self, facts: &BootFacts, unrecorded: End) -> io::Result<()> {
        if let Some(last) = self.boots.last_mut()
            && last.boot_id != facts.boot_id
            && last.end.is_none()
        {
            last.end = Some(unrecorded);
        }
        if self.boots.last().is_none_or(|last| last.boot_id != facts.boot_id) {
            self.boots.push(Boot {
                boot_id: facts.boot_id.clone(),
                at: to_millis(SystemTime::now()),
                slot: facts.slot,
                version: facts.version.clone(),
                tentative: facts.tentative,
                end: None,
            });
        }
        let surplus = self.boots.len().saturating_sub(KEPT);
        self.boots.drain(..surplus);
        self.save()
    }

    /// Records that this boot is on trial no more.
    pub fn confirm(&mut self) -> io::Result<()> {
        if let Some(last) = self.boots.last_mut() {
            last.tentative = false;
        }
        self.save()
    }

    /// Records why this boot ends, before it does. The first reason stays.
    pub fn end(&mut self, end: End) -> io::Result<()> {
        match self.boots.last_mut() {
            Some(last) if last.end.is_none() => last.end = Some(end),
            _ => return Ok(()),
        }
        self.save()
    }

    fn save(&self) -> io::Result<()> {
        write_atomic(&self.file, &serde_json::to_vec_pretty(&self.boots)?, 0o600)
    }
}

/// Takes what a kernel that panicked left in `pstore`: the lines around its panic.
pub fn take_panic(pstore: &Path) -> Option<String> {
    let mut records: Vec<PathBuf> = fs::read_dir(pstore)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| is_dmesg(path))
        .collect();
    records.sort();
    // Parts are numbered from the newest on.
    let text: String = records
        .iter()
        .rev()
        .map(|path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned())
        .collect();
    for path in &records {
        let _ = fs::remove_file(path);
    }
    panic_of(&text)
}

fn is_dmesg(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("dmesg-"))
}

/// The panic's own line and what follows it.
fn panic_of(text: &str) -> Option<String> {
    let at = text.find("Kernel panic - not syncing")?;
    let mut detail: String = text[at..].chars().take(PANIC_MAX_BYTES).collect();
    detail.truncate(detail.trim_end().len());
    Some(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::Role;

    fn facts(id: usize, slot: Slot) -> BootFacts {
        let path = PathBuf::new;
        BootFacts {
            boot_id: id.to_string(),
            version: "1".into(),
            slot,
            entry: String::new(),
            tentative: false,
            role: Role::Appliance,
            disk: path(),
            esp: path(),
            a: path(),
            b: path(),
            pv: path(),
        }
    }

    fn lost() -> End {
        End { cause: Cause::PowerLoss, detail: String::new(), at: None }
    }

    #[test]
    fn a_boot_that_nobody_ended_lost_its_power_and_the_last_twenty_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for id in 0..30 {
            let mut history = History::open(dir.path()).unwrap();
            history.begin(&facts(id, Slot::A), lost()).unwrap();
            if id % 2 == 0 {
                history.end(End::now(Cause::Operator, "asked")).unwrap();
                history.end(End::now(Cause::Update, "later")).unwrap();
            }
        }
        let history = History::open(dir.path()).unwrap();
        assert_eq!(history.boots().len(), 20);
        let causes: Vec<_> =
            history.boots().iter().map(|boot| boot.end.as_ref().map(|end| end.cause)).collect();
        assert_eq!(causes[0], Some(Cause::Operator));
        assert_eq!(causes[1], Some(Cause::PowerLoss));
        assert_eq!(causes[19], None);
    }

    #[test]
    fn a_boot_whose_trial_is_over_was_none_when_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut history = History::open(dir.path()).unwrap();
        history.begin(&BootFacts { tentative: true, ..facts(1, Slot::B) }, lost()).unwrap();
        history.confirm().unwrap();
        history.begin(&BootFacts { tentative: true, ..facts(2, Slot::A) }, lost()).unwrap();
        let kept = History::open(dir.path()).unwrap();
        assert_eq!(kept.boots().iter().map(|boot| boot.tentative).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn init_that_starts_twice_in_a_boot_begins_it_once() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            History::open(dir.path()).unwrap().begin(&facts(1, Slot::B), lost()).unwrap();
        }
        let history = History::open(dir.path()).unwrap();
        assert_eq!(history.boots().len(), 1);
        assert_eq!(history.boots()[0].end, None);
    }

    #[test]
    fn a_damaged_history_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("history.json"), "{").unwrap();
        let mut history = History::open(dir.path()).unwrap();
        history.begin(&facts(1, Slot::A), lost()).unwrap();
        assert_eq!(History::open(dir.path()).unwrap().boots().len(), 1);
    }

    #[test]
    fn of_a_panic_its_own_words_are_taken_and_its_record_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("dmesg-efi-170000000200001"), "<4>[1.0] before\n").unwrap();
        fs::write(
            dir.path().join("dmesg-efi-170000000100001"),
            "<0>[2.0] Kernel panic - not syncing: sysrq triggered crash\nCPU: 1\n",
        )
        .unwrap();
        fs::write(dir.path().join("console-ramoops-0"), "other").unwrap();
        let panic = take_panic(dir.path()).unwrap();
        assert_eq!(panic, "Kernel panic - not syncing: sysrq triggered crash\nCPU: 1");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(take_panic(dir.path()), None);
    }
}
