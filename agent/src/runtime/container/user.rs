//! Who a process runs as: `user`, `uid`, `user:group` or `uid:gid`, looked up in the image.

use std::{fs::File, io::Read, os::unix::fs::OpenOptionsExt, path::Path};

use nix::fcntl::OFlag;
use pathrs::{Root, flags::OpenFlags};

use crate::runtime::RuntimeError;

/// Larger passwd and group files are cut off, in bytes: they come from the image.
const FILE_MAX: u64 = 1024 * 1024;

/// Credentials of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) extra_gids: Vec<u32>,
}

/// The image's /etc/passwd and /etc/group; empty where it has none.
#[derive(Clone, Debug, Default)]
pub(super) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads them beneath `root`; no link in it leads out.
    pub(super) fn read(root: &Path) -> Self {
        // Opened here, as `root` may be a link of the kernel's: /proc/PID/root.
        let flags = (OFlag::O_PATH | OFlag::O_DIRECTORY).bits();
        let Ok(dir) = File::options().read(true).custom_flags(flags).open(root) else {
            return Self::default();
        };
        let root = Root::from_fd(dir);
        Self { passwd: read_file(&root, "/etc/passwd"), group: read_file(&root, "/etc/group") }
    }
}

fn read_file(root: &Root, path: &str) -> String {
    // Not blocking: the image may have put a FIFO there.
    let flags = OpenFlags::O_RDONLY | OpenFlags::O_NONBLOCK;
    let mut bytes = Vec::new();
    if let Ok(file) = root.open_subpath(path, flags)
        && file.metadata().is_ok_and(|found| found.is_file())
        && let Err(error) = file.take(FILE_MAX).read_to_end(&mut bytes)
    {
        tracing::warn!(%error, path, "a file of the image cannot be read");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether `text` says everything by itself, so that no file need be read.
pub(super) fn is_numeric_pair(text: &str) -> bool {
    let number = |part: &str| part.parse::<u32>().is_ok();
    text.split_once(':').is_some_and(|(user, group)| number(user) && number(group))
}

/// Resolves as docker does: an unknown number is used as it is, with group 0; an unknown name is
/// an error. Supplementary groups come from the image unless a group is named.
pub(super) fn resolve(text: &str, accounts: &Accounts) -> Result<User, RuntimeError> {
    let (wanted, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let entry = find_user(wanted, &accounts.passwd);
    let (uid, own_gid) = match (&entry, wanted.parse()) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Ok(uid)) => (uid, 0),
        (None, Err(_)) => return Err(missing("user", wanted, "/etc/passwd")),
    };
    if let Some(group) = wanted_group {
        return Ok(User { uid, gid: find_group(group, &accounts.group)?, extra_gids: Vec::new() });
    }
    let extra_gids = entry.map_or_else(Vec::new, |entry| groups_of(entry.name, own_gid, &accounts.group));
    Ok(User { uid, gid: own_gid, extra_gids })
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// By name first, as a name may be digits; then by number.
fn find_user<'a>(wanted: &str, passwd: &'a str) -> Option<Entry<'a>> {
    let parse = |line: &'a str| {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Entry {
            name: fields.first()?,
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
        })
    };
    let entries = || passwd.lines().filter_map(parse);
    let uid = wanted.parse::<u32>();
    entries()
        .find(|entry| entry.name == wanted)
        .or_else(|| entries().find(|entry| uid.as_ref().is_ok_and(|uid| *uid == entry.uid)))
}

/// Name, number and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        Some((*fields.first()?, fields.get(2)?.parse().ok()?, fields.get(3).copied().unwrap_or_default()))
    })
}

fn find_group(wanted: &str, group: &str) -> Result<u32, RuntimeError> {
    let named = groups(group).find(|(name, ..)| *name == wanted).map(|(_, gid, _)| gid);
    named.or_else(|| wanted.parse().ok()).ok_or_else(|| missing("group", wanted, "/etc/group"))
}

fn groups_of(user: &str, own_gid: u32, group: &str) -> Vec<u32> {
    let is_member = |members: &str| members.split(',').any(|member| member.trim() == user);
    let mut gids: Vec<u32> = groups(group)
        .filter(|(_, gid, members)| *gid != own_gid && is_member(members))
        .map(|(_, gid, _)| gid)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

fn missing(what: &str, name: &str, file: &str) -> RuntimeError {
    RuntimeError::Invalid(format!(
        "the image has no {what} {name:?} in its {file}; set `user` to one that it has, or to a number"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/:/bin/false\n7:x:77:78::/:\nbroken\n"
                .into(),
            group: "root:x:0:root\nwheel:x:10:root,web\nlog:x:20:web\nweb:x:102:web\n".into(),
        }
    }

    fn user(uid: u32, gid: u32, extra_gids: &[u32]) -> User {
        User { uid, gid, extra_gids: extra_gids.to_vec() }
    }

    #[test]
    fn users_are_resolved_as_docker_does() {
        for (text, expected) in [
            ("", user(0, 0, &[10])),
            ("web", user(101, 102, &[10, 20])),
            ("101", user(101, 102, &[10, 20])),
            ("7", user(77, 78, &[])),
            ("4242", user(4242, 0, &[])),
            ("web:log", user(101, 20, &[])),
            ("5:6", user(5, 6, &[])),
            ("web:", user(101, 102, &[10, 20])),
            (":log", user(0, 20, &[])),
        ] {
            assert_eq!(resolve(text, &accounts()).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_missing_user_or_group_is_named_with_the_file_it_was_sought_in() {
        for (text, file) in [("nobody", "/etc/passwd"), ("web:nobody", "/etc/group")] {
            let error = resolve(text, &accounts()).unwrap_err();
            assert!(!error.is_retryable());
            assert!(error.to_string().contains("nobody") && error.to_string().contains(file), "{error}");
        }
    }

    #[test]
    fn a_link_out_of_the_root_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "evil:x:1:1::/:\n").unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::os::unix::fs::symlink("../../secret", root.join("etc/passwd")).unwrap();
        assert!(Accounts::read(&root).passwd.is_empty());
    }

    #[test]
    fn a_fifo_in_place_of_a_file_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("etc/passwd"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Accounts::read(dir.path()).passwd.is_empty());
    }
}
