//! Which disk, and whether that is meant.

use std::io::{self, BufRead as _, IsTerminal as _};

use anyhow::{Result, bail};
use capsule_proto::v1::{DiskStanding, InstallDisk};

use crate::{
    failure::usage,
    output::{
        clean, human,
        style::Tone,
        table::{Cell, Row, Table, column},
    },
    session::Session,
};

/// Shows every disk on stderr: stdout is for the answer.
pub fn show(session: &Session, disks: &[InstallDisk]) {
    let heads = ["DISK", "MODEL", "SERIAL", "SIZE", "BUS", "HOLDS", ""];
    let rows: Vec<Row> = disks.iter().map(|disk| Row::Cells(cells(disk))).collect();
    let table = Table::new(heads.map(column).to_vec(), false, None).render(&rows);
    session.out.note(table.trim_end());
}

fn cells(disk: &InstallDisk) -> Vec<Cell> {
    let or_dash = |text: &str| Cell::from(if text.is_empty() { "-" } else { text }.to_owned());
    let content = if disk.content.is_empty() { "nothing" } else { &disk.content };
    let remark = match disk.standing() {
        DiskStanding::Unfit | DiskStanding::Unspecified => Cell::new(&disk.reason, Tone::Bad),
        DiskStanding::Capsule => Cell::new("only with --reinstall", Tone::Warn),
        DiskStanding::Free => Cell::default(),
    };
    vec![
        disk.path.clone().into(),
        or_dash(&disk.model),
        or_dash(&disk.serial),
        human::bytes(disk.size_bytes).into(),
        or_dash(&disk.bus),
        content.to_owned().into(),
        remark,
    ]
}

/// The one that `target` means, else the only one that is free. Why there is none.
pub fn choose<'a>(
    disks: &'a [InstallDisk],
    target: Option<&str>,
    reinstall: bool,
) -> Result<&'a InstallDisk, String> {
    let may = |disk: &&InstallDisk| match disk.standing() {
        DiskStanding::Free => true,
        DiskStanding::Capsule => reinstall,
        DiskStanding::Unfit | DiskStanding::Unspecified => false,
    };
    let Some(target) = target else {
        let usable: Vec<_> = disks.iter().filter(may).collect();
        return match usable.as_slice() {
            [one] => Ok(one),
            [] if disks.iter().any(|disk| disk.standing() == DiskStanding::Capsule) => {
                Err("every disk that could be used holds a capsule; --reinstall erases one".into())
            }
            [] => Err("this machine has no disk that a capsule could be put on".into()),
            many => Err(format!(
                "there are {} disks; choose one with --target, by serial number or path",
                many.len()
            )),
        };
    };
    let is_meant = |disk: &&InstallDisk| disk.serial == target || disk.path == target;
    let meant: Vec<_> = disks.iter().filter(is_meant).collect();
    match meant.as_slice() {
        [] => Err(format!("no disk has the serial number or path {target:?}")),
        [one] if may(one) => Ok(one),
        [one] if one.standing() == DiskStanding::Capsule => {
            Err(format!("{} holds a capsule; --reinstall erases it with all its volumes", one.path))
        }
        [one] => Err(format!("{} cannot be used: {}", one.path, one.reason)),
        _ => Err(format!("several disks have the serial number {target:?}; choose one by its path")),
    }
}

/// Has the disk's serial number typed; its path, where it has none.
pub fn confirm(disk: &InstallDisk, yes: bool, is_named: bool) -> Result<()> {
    let InstallDisk { path, serial, content, .. } = disk;
    let (what, word) = if serial.is_empty() { ("path", path) } else { ("serial number", serial) };
    let holds = if content.is_empty() { "nothing" } else { content };
    match yes {
        true if is_named || content.is_empty() => return Ok(()),
        true => {
            return Err(usage(format!(
                "{path} holds {holds}: with --yes it is erased only where --target names it; add --target {word}"
            )));
        }
        false => {}
    }
    if !io::stdin().is_terminal() {
        return Err(usage(format!(
            "{path} ({word}, holds {holds}) is to be erased, and nobody is here to confirm it; add --target {word} --yes"
        )));
    }
    eprintln!("All that is on {} goes: {}.", clean::one_line(path), clean::one_line(holds));
    eprint!("Type its {what} ({}) to erase it: ", clean::one_line(word));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == word {
        return Ok(());
    }
    bail!("not confirmed: no disk was changed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &str, serial: &str, standing: DiskStanding) -> InstallDisk {
        let reason = if standing == DiskStanding::Unfit { "the installer runs from it" } else { "" };
        let (path, serial, reason) = (path.into(), serial.into(), reason.into());
        InstallDisk { path, serial, reason, standing: standing.into(), ..InstallDisk::default() }
    }

    fn chosen(disks: &[InstallDisk], target: Option<&str>, reinstall: bool) -> Result<String, String> {
        choose(disks, target, reinstall).map(|disk| disk.path.clone())
    }

    #[test]
    fn the_only_free_disk_needs_no_name_and_of_several_one_must_be_named() {
        let stick = disk("/dev/sda", "stick", DiskStanding::Unfit);
        let mut disks = vec![stick, disk("/dev/vda", "one", DiskStanding::Free)];
        assert_eq!(chosen(&disks, None, false).unwrap(), "/dev/vda");
        disks.push(disk("/dev/vdb", "two", DiskStanding::Capsule));
        assert_eq!(chosen(&disks, None, false).unwrap(), "/dev/vda");
        assert!(chosen(&disks, None, true).unwrap_err().starts_with("there are 2 disks"));
        assert_eq!(chosen(&disks, Some("two"), true).unwrap(), "/dev/vdb");
        assert!(chosen(&disks, Some("two"), false).unwrap_err().contains("--reinstall"));
        assert_eq!(chosen(&disks, Some("/dev/vda"), false).unwrap(), "/dev/vda");
        assert!(chosen(&disks, Some("three"), false).unwrap_err().contains("\"three\""));
        let refusal = chosen(&disks, Some("stick"), true).unwrap_err();
        assert_eq!(refusal, "/dev/sda cannot be used: the installer runs from it");
        disks.push(disk("/dev/vdc", "one", DiskStanding::Free));
        assert!(chosen(&disks, Some("one"), false).unwrap_err().contains("by its path"));
        assert!(chosen(&disks[..1], None, true).unwrap_err().contains("no disk"));
    }

    #[test]
    fn without_a_question_only_a_disk_that_was_named_or_is_blank_goes() {
        let blank = disk("/dev/vda", "one", DiskStanding::Free);
        let full = InstallDisk { content: "ext4 \"photos\"".into(), ..blank.clone() };
        confirm(&blank, true, false).unwrap();
        confirm(&full, true, true).unwrap();
        let error = confirm(&full, true, false).unwrap_err().to_string();
        assert!(error.ends_with("add --target one"), "{error}");
    }
}
