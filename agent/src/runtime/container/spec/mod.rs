//! From a manifest and an image to what runc reads: the OCI runtime spec, version 1.0.2.
//!
//! Pure but for privileged workloads, which get the host's devices as they are. Defaults are those
//! that users of docker and containerd expect.

pub(super) mod caps;
mod mounts;
mod process;
mod seccomp;
#[cfg(test)]
mod tests;

use capsule_proto::v1;
use serde_json::{Value, json};

use super::{
    host::{self, Host},
    user::User,
};
use crate::runtime::{Reach, RuntimeError, Setup};

pub(super) use process::{exec_process, user_text};

/// Microseconds in which a workload may use its share of a CPU: the kernel's default.
const CPU_PERIOD: u64 = 100_000;
/// The kernel refuses less, in microseconds.
const CPU_QUOTA_MIN: u64 = 1_000;
/// Hidden from unprivileged workloads, as docker does: they tell about or reach into the host.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Readable only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The spec of a workload's sandbox.
pub(super) fn build(
    setup: &Setup,
    user: &User,
    host: &Host,
    cgroup_parent: &str,
) -> Result<Value, RuntimeError> {
    let spec = &setup.spec;
    let granted = caps::granted(spec, &host.capabilities)?;
    let mut linux = json!({
        "cgroupsPath": cgroup_path(cgroup_parent, setup.name.as_str()),
        "namespaces": namespaces(spec, host),
        "resources": resources(spec, host),
        "devices": devices(setup),
        "sysctl": sysctls(spec),
    });
    if !spec.privileged {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
        linux["seccomp"] = seccomp::profile(&granted);
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": process::first_process(setup, user, &granted, host.oom_score_adj)?,
        "root": {"path": "rootfs", "readonly": spec.read_only_rootfs},
        "hostname": setup.name.as_str(),
        "mounts": mounts::mounts(setup),
        "linux": linux,
    }))
}

/// Absolute, so that runc does not place it below its own cgroup.
pub(super) fn cgroup_path(parent: &str, name: &str) -> String {
    format!("/{parent}/{name}")
}

fn namespaces(spec: &v1::ContainerSpec, host: &Host) -> Vec<Value> {
    let mut kinds = vec!["mount", "uts"];
    if !spec.host_pid {
        kinds.push("pid");
    }
    if !spec.host_ipc {
        kinds.push("ipc");
    }
    if spec.network_mode() != v1::NetworkMode::Host {
        kinds.push("network");
    }
    if host.cgroups.is_unified() {
        kinds.push("cgroup");
    }
    kinds.into_iter().map(|kind| json!({"type": kind})).collect()
}

/// As docker sets them in a network namespace of its own: low ports and ping for everyone.
fn sysctls(spec: &v1::ContainerSpec) -> Value {
    match spec.network_mode() {
        v1::NetworkMode::Host => json!({}),
        _ => json!({"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}),
    }
}

fn resources(spec: &v1::ContainerSpec, host: &Host) -> Value {
    let limits = spec.resources.unwrap_or_default();
    let mut resources = json!({"devices": [{"allow": spec.privileged, "access": "rwm"}]});
    if limits.cpu_millis > 0 {
        let millis = u64::from(limits.cpu_millis);
        resources["cpu"] = json!({
            "period": CPU_PERIOD,
            "quota": (millis * CPU_PERIOD / 1000).max(CPU_QUOTA_MIN),
            "shares": (millis * 1024 / 1000).clamp(2, 262_144),
        });
    }
    if limits.memory_mib > 0 {
        let bytes = limits.memory_mib.saturating_mul(1024 * 1024).min(i64::MAX as u64);
        resources["memory"] = json!({"limit": bytes});
        // Equal limits mean: no swap.
        if host.cgroups.limits_swap() {
            resources["memory"]["swap"] = json!(bytes);
        }
    }
    if limits.pids_max > 0 {
        resources["pids"] = json!({"limit": limits.pids_max});
    }
    resources
}

/// None where the host's own /dev is there.
fn devices(setup: &Setup) -> Vec<Value> {
    let is_own = setup.spec.privileged && setup.reach == Reach::Spec;
    let found = if is_own { host::devices() } else { Vec::new() };
    let render = |device: host::Device| {
        json!({
            "path": device.path.display().to_string(),
            "type": device.kind.to_string(),
            "major": device.major,
            "minor": device.minor,
            "fileMode": device.mode,
            "uid": device.uid,
            "gid": device.gid,
        })
    };
    found.into_iter().map(render).collect()
}
