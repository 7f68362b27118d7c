//! Readiness probes.

use std::time::Duration;

use pbjson_types::Duration as ProtoDuration;

use super::{Report, command, network::port_is_valid};
use crate::{
    format_duration,
    v1::{self, readiness::Probe},
};

/// Longest interval or time-out of a probe.
const MAX_PERIOD: Duration = Duration::from_hours(1);

/// Most failures in a row that can be waited for.
const MAX_THRESHOLD: u32 = 1000;

pub(super) fn check_readiness(report: &mut Report, mode: v1::NetworkMode, readiness: &v1::Readiness) {
    check_period(report, "interval", readiness.interval.as_ref());
    check_period(report, "timeout", readiness.timeout.as_ref());
    if readiness.threshold > MAX_THRESHOLD {
        report.add_at("threshold", format!("{} is more than {MAX_THRESHOLD}", readiness.threshold));
    }
    match &readiness.probe {
        None => report.add("it has no probe; write one of tcp, http and exec"),
        Some(Probe::Exec(probe)) => report.at("exec", |report| {
            command::check_command(report, &probe.command);
            if probe.command.is_empty() {
                report.add_at("command", "it is missing; name the program to run");
            }
        }),
        Some(Probe::Tcp(probe)) => report.at("tcp", |report| check_target(report, mode, probe.port)),
        Some(Probe::Http(probe)) => report.at("http", |report| {
            check_target(report, mode, probe.port);
            check_http_path(report, &probe.path);
        }),
    }
}

fn check_period(report: &mut Report, field: &str, period: Option<&ProtoDuration>) {
    let Some(period) = period else { return };
    let sane = u64::try_from(period.seconds)
        .ok()
        .zip(u32::try_from(period.nanos).ok().filter(|nanos| *nanos < 1_000_000_000))
        .map(|(seconds, nanos)| Duration::new(seconds, nanos));
    if !sane.is_some_and(|period| period > Duration::ZERO && period <= MAX_PERIOD) {
        report.add_at(field, format!("it lies between 0 and {}", format_duration(MAX_PERIOD)));
    }
}

fn check_target(report: &mut Report, mode: v1::NetworkMode, port: u32) {
    if !port_is_valid(port) {
        report.add_at("port", format!("{port} is not a port from 1 to 65535"));
    }
    if mode == v1::NetworkMode::None {
        report.add("a workload without a network can only be probed with exec");
    }
}

fn check_http_path(report: &mut Report, path: &str) {
    let strange = |c: char| c.is_whitespace() || c.is_control();
    if !path.is_empty() && (!path.starts_with('/') || path.contains(strange)) {
        report.add_at("path", format!("{path:?} is no path of a URL; begin it with / and escape spaces"));
    }
}
