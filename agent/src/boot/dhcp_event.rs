//! What dhcpcd's hook calls when a lease or an advertisement comes or goes: writes down who resolves names.
//!
//! It runs as a process of its own, told by its environment (dhcpcd-run-hooks(8)). Each interface and
//! protocol has a file below /run; all of them together are resolv.conf.

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::sys::file::{ensure_dir, write_atomic};

/// The name that this program has then.
pub const NAME: &str = "dhcp-event";
/// Where /etc/resolv.conf leads.
pub const RESOLV_CONF: &str = "/run/resolv.conf";
const DIR: &str = "/run/capsule/resolvers";

/// Whether this process was started by dhcpcd.
pub fn is_asked_for(program: Option<&std::ffi::OsStr>) -> bool {
    program.is_some_and(|program| Path::new(program).file_name().is_some_and(|name| name == NAME))
}

/// Does it.
pub fn run() -> io::Result<()> {
    let told: BTreeMap<String, String> = env::vars().collect();
    apply(&told, Path::new(DIR), Path::new(RESOLV_CONF))
}

fn apply(told: &BTreeMap<String, String>, dir: &Path, resolv_conf: &Path) -> io::Result<()> {
    let value = |key: &str| told.get(key).map_or("", String::as_str);
    let Some(file) = file_of(dir, value("interface"), value("protocol")) else { return Ok(()) };
    ensure_dir(dir, 0o755)?;
    let lines = lines(told);
    if lines.is_empty() || value("if_up") == "false" {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    } else {
        write_atomic(&file, lines.as_bytes(), 0o644)?;
    }
    let mut files: Vec<PathBuf> = fs::read_dir(dir)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let all: String = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
    write_atomic(resolv_conf, all.as_bytes(), 0o644)
}

/// Names come from the kernel and dhcpcd, and make no path of more than one part.
fn file_of(dir: &Path, interface: &str, protocol: &str) -> Option<PathBuf> {
    let is_name = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c))
    };
    (is_name(interface) && is_name(protocol)).then(|| dir.join(format!("{interface}.{protocol}")))
}

/// Of whichever protocol: DHCP's and DHCPv6's servers, and the numbered ones of advertisements.
fn lines(told: &BTreeMap<String, String>) -> String {
    let is_servers = |key: &str| {
        matches!(key, "new_domain_name_servers" | "new_dhcp6_name_servers")
            || (key.starts_with("nd") && key.ends_with("_servers") && key.contains("rdnss"))
    };
    let servers =
        told.iter().filter(|(key, _)| is_servers(key)).flat_map(|(_, list)| list.split_whitespace());
    let servers: Vec<IpAddr> = servers.filter_map(|server| server.parse().ok()).collect();
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn resolvers_of_all_leases_are_listed_until_theirs_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (files, conf) = (dir.path().join("d"), dir.path().join("resolv.conf"));
        let bound = event(&[
            ("interface", "eth0"),
            ("protocol", "dhcp"),
            ("if_up", "true"),
            ("new_domain_name_servers", "10.0.2.3 not-an-address"),
        ]);
        apply(&bound, &files, &conf).unwrap();
        let advertised = event(&[
            ("interface", "eth0"),
            ("protocol", "ra"),
            ("if_up", "true"),
            ("nd1_rdnss1_servers", "fd00::3"),
        ]);
        apply(&advertised, &files, &conf).unwrap();
        assert_eq!(fs::read_to_string(&conf).unwrap(), "nameserver 10.0.2.3\nnameserver fd00::3\n");
        let expired = event(&[("interface", "eth0"), ("protocol", "dhcp"), ("if_up", "false")]);
        apply(&expired, &files, &conf).unwrap();
        assert_eq!(fs::read_to_string(&conf).unwrap(), "nameserver fd00::3\n");
    }

    #[test]
    fn a_name_that_would_leave_the_directory_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let event =
            event(&[("interface", "../x"), ("protocol", "dhcp"), ("new_domain_name_servers", "10.0.0.1")]);
        apply(&event, &dir.path().join("d"), &dir.path().join("resolv.conf")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
