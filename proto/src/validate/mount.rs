//! Volumes and host paths mounted into a workload.

use std::collections::HashMap;

use super::{Report, command::MAX_PATH};
use crate::{Name, v1};

/// Made by the runtime for each workload; a mount over one would break it.
const RESERVED: [&str; 2] = ["/proc", "/sys"];

/// Where `hostMount` puts the host's root.
const HOST_MOUNT: &str = "/host";

/// Mount points taken so far, and by what.
pub(super) struct MountPoints(HashMap<String, String>);

impl MountPoints {
    /// No mount yet but the one of `hostMount`.
    pub(super) fn new(host_mount: bool) -> Self {
        Self(host_mount.then(|| (HOST_MOUNT.to_owned(), "hostMount".to_owned())).into_iter().collect())
    }

    /// Checks the mount point `path` and takes it for `owner`.
    fn take(&mut self, report: &mut Report, owner: String, path: &str) {
        if path.is_empty() {
            report.add("it is missing; write an absolute path inside the workload");
            return;
        }
        if let Some(problem) = path_problem(path) {
            report.add(problem);
            return;
        }
        let clean = normal(path);
        let holds = |reserved: &str| clean == reserved || clean.starts_with(&format!("{reserved}/"));
        if clean.is_empty() {
            report.add("the whole root cannot be mounted over; name a directory");
        } else if let Some(reserved) = RESERVED.into_iter().find(|reserved| holds(reserved)) {
            report.add(format!("{path} lies in {reserved}, which the runtime makes; choose another place"));
        } else if clean == "/dev" {
            report.add("/dev is made by the runtime; mount below it, or elsewhere");
        }
        if let Some(other) = self.0.insert(clean, owner) {
            report.add(format!("{path} is already the place of {other}"));
        }
    }
}

/// The path without doubled or final slashes; empty for the root.
fn normal(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty()).flat_map(|part| ["/", part]).collect()
}

/// Why a path is not one a mount can name.
fn path_problem(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        Some(format!("{path:?} is not absolute; begin it with /"))
    } else if path.split('/').any(|part| part == ".." || part == ".") {
        Some(format!("{path:?} has '.' or '..' in it; write the path out"))
    } else if path.contains('\0') || path.len() > MAX_PATH {
        Some(format!("it is no path: it has a NUL character or more than {MAX_PATH} bytes"))
    } else {
        None
    }
}

pub(super) fn check_mounts(report: &mut Report, points: &mut MountPoints, mounts: &[v1::Mount]) {
    report.each("mounts", mounts, |report, index, mount| {
        report.at("volumeName", |report| match mount.volume_name.parse::<Name>() {
            Err(_) if mount.volume_name.is_empty() => report.add("it is missing; name a volume"),
            Err(error) => report.add(error.to_string()),
            Ok(_) => {}
        });
        report.at("mountPath", |report| points.take(report, format!("mounts[{index}]"), &mount.mount_path));
    });
}

pub(super) fn check_host_paths(report: &mut Report, points: &mut MountPoints, paths: &[v1::HostBindPath]) {
    report.each("hostBindPaths", paths, |report, index, bind| {
        report.at("hostPath", |report| {
            if bind.host_path.is_empty() {
                report.add("it is missing; write an absolute path on the host");
            } else if let Some(problem) = path_problem(&bind.host_path) {
                report.add(problem);
            }
        });
        report.at("mountPath", |report| {
            points.take(report, format!("hostBindPaths[{index}]"), &bind.mount_path);
        });
    });
}
