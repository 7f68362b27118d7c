//! The files of name resolution that are mounted into workloads.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use capsule_proto::Name;

use super::{Reservation, dns::resolv::ResolvConf, error::NetworkError, layout::Layout};
use crate::runtime::{Access, BindMount};

/// Domain of the capsule's workloads.
pub(super) const DOMAIN: &str = "capsule";

/// Writes the files for `name` below `dir` and says where they belong.
pub(super) fn write(
    dir: &Path,
    host_resolv_conf: &Path,
    layout: &Layout,
    name: &Name,
    reservation: Option<&Reservation>,
) -> Result<Vec<BindMount>, NetworkError> {
    let dir = dir.join(name.as_str());
    let host = fs::read_to_string(host_resolv_conf).unwrap_or_default();
    let resolv = match reservation {
        Some(_) => resolv_conf(layout, &ResolvConf::parse(&host)),
        None => host,
    };
    let files =
        [("resolv.conf", resolv), ("hosts", hosts(name, reservation)), ("hostname", format!("{name}\n"))];
    let attempt =
        || NetworkError::kernel(format!("write the name files of workload {name} in {}", dir.display()));
    fs::create_dir_all(&dir).map_err(attempt())?;
    files
        .into_iter()
        .map(|(file, content)| {
            let source = write_if_changed(dir.join(file), &content).map_err(attempt())?;
            Ok(BindMount { source, target: Path::new("/etc").join(file), access: Access::ReadWrite })
        })
        .collect()
}

/// A running workload has the file itself mounted, not its name: what has not changed keeps its
/// inode, and what has is written in place.
fn write_if_changed(path: PathBuf, content: &str) -> io::Result<PathBuf> {
    if fs::read_to_string(&path).ok().as_deref() != Some(content) {
        fs::write(&path, content)?;
    }
    Ok(path)
}

fn resolv_conf(layout: &Layout, host: &ResolvConf) -> String {
    let search = std::iter::once(DOMAIN).chain(host.search.iter().map(String::as_str));
    let search = search.collect::<Vec<_>>().join(" ");
    format!("nameserver {}\nsearch {search}\n", layout.subnet4.gateway())
}

fn hosts(name: &Name, reservation: Option<&Reservation>) -> String {
    let loopback = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n";
    match reservation {
        Some(Reservation { ipv4, ipv6, .. }) => {
            format!("{loopback}{ipv4} {name} {name}.{DOMAIN}\n{ipv6} {name} {name}.{DOMAIN}\n")
        }
        None => format!("{loopback}127.0.1.1 {name}\n"),
    }
}
