//! Limits and grace periods.

use super::Report;
use crate::{Size, v1};

/// Smallest quota the kernel's CPU controller takes: 1 ms in a period of 100 ms.
const MIN_CPU_MILLIS: u32 = 10;

/// Least memory that runc starts a process in, as docker has it.
const MIN_MEMORY_MIB: u64 = 6;

/// Most memory whose bytes a cgroup can count.
const MAX_MEMORY_MIB: u64 = i64::MAX as u64 >> 20;

/// Longest grace period: one day.
const MAX_GRACE_SECONDS: u32 = 86_400;

pub(super) fn check_resources(report: &mut Report, resources: &v1::Resources) {
    if (1..MIN_CPU_MILLIS).contains(&resources.cpu_millis) {
        report.add_at("cpuMillis", format!("{} is less than {MIN_CPU_MILLIS}", resources.cpu_millis));
    }
    report.at("memoryMib", |report| check_memory(report, resources.memory_mib, MIN_MEMORY_MIB));
    if resources.pids_max > i32::MAX as u32 {
        report.add_at("pidsMax", format!("{} is more than {}", resources.pids_max, i32::MAX));
    }
}

/// No limit or default where 0.
pub(super) fn check_memory(report: &mut Report, mib: u64, least: u64) {
    if (1..least).contains(&mib) {
        report.add(format!("{mib}MiB is too little; it takes at least {least}MiB"));
    } else if mib > MAX_MEMORY_MIB {
        let most = Size::from_bytes(MAX_MEMORY_MIB << 20);
        report.add(format!("{mib}MiB is too much; it takes at most {most}"));
    }
}

pub(super) fn check_stop_grace(report: &mut Report, seconds: Option<u32>) {
    if let Some(seconds) = seconds.filter(|seconds| *seconds > MAX_GRACE_SECONDS) {
        report.add_at("stopGraceSeconds", format!("{seconds} is more than a day ({MAX_GRACE_SECONDS})"));
    }
}
