//! How one workload looks in a list: the cells of a row.

use capsule_proto::v1::{ExitStatus, Phase, Port, Workload, WorkloadStatus, manifest::Spec};

use crate::output::{
    human,
    style::Tone,
    table::{Cell, Column, column, wide},
};

/// Columns of a list of workloads.
pub fn columns() -> Vec<Column> {
    vec![
        column("NAME"),
        column("KIND"),
        column("STATUS"),
        column("RESTARTS"),
        column("AGE"),
        column("PORTS"),
        column("IMAGE"),
        wide("PID"),
        wide("IPV4"),
        wide("IPV6"),
        wide("FABRIC"),
        wide("GENERATION"),
        wide("REASON"),
    ]
}

/// A row below [`columns`].
pub fn row(workload: &Workload) -> Vec<Cell> {
    let manifest = workload.manifest.clone().unwrap_or_default();
    let status = workload.status.clone().unwrap_or_default();
    vec![
        manifest.name.as_str().into(),
        manifest.kind().to_string().into(),
        status_cell(workload),
        status.restarts.to_string().into(),
        human::age(status.started_at.as_ref().or(workload.created_at.as_ref())).into(),
        ports(&status.ports).into(),
        image(workload).into(),
        if status.pid == 0 { "-".into() } else { status.pid.to_string().into() },
        status.ipv4.as_str().into(),
        status.ipv6.as_str().into(),
        fabric(&status).into(),
        workload.generation.to_string().into(),
        status.reason.as_str().into(),
    ]
}

/// Its name, as its manifest has it.
pub fn name(workload: &Workload) -> String {
    workload.manifest.as_ref().map(|manifest| manifest.name.clone()).unwrap_or_default()
}

/// Phase with what makes it remarkable: `Running (not ready)`, `CrashLoop (exit 1)`.
pub fn status_text(workload: &Workload) -> String {
    let status = workload.status.clone().unwrap_or_default();
    let phase = status.phase();
    let remark = match phase {
        Phase::Running if !status.ready => Some("not ready".to_owned()),
        Phase::BackOff | Phase::CrashLoop | Phase::Failed | Phase::Paused => trouble(&status),
        _ => None,
    };
    remark.map_or_else(|| phase.to_string(), |remark| format!("{phase} ({remark})"))
}

/// How its last run ended, where that is the trouble; else the heart of the reason, which is its last
/// clause: `pulling x: cannot talk to registry y: connection refused`.
fn trouble(status: &WorkloadStatus) -> Option<String> {
    const LONGEST: usize = 40;
    let reason = status.reason.as_str();
    let of_run = reason.is_empty() || reason.starts_with("it ended") || reason.starts_with("it was ");
    if let (true, Some(exit)) = (of_run, &status.last_exit) {
        return Some(exit_text(exit));
    }
    let clause = reason.lines().next()?.rsplit(": ").next()?;
    let clause = clause.split([';', ',']).next()?.split(" (os error").next()?.trim().trim_end_matches('.');
    let cut = clause.char_indices().nth(LONGEST).map(|(at, _)| format!("{}…", clause[..at].trim_end()));
    Some(cut.unwrap_or_else(|| clause.to_owned())).filter(|text| !text.is_empty())
}

/// `exit 1`, `SIGKILL`, `out of memory`, `lost`.
pub fn exit_text(exit: &ExitStatus) -> String {
    match exit {
        ExitStatus { oom_killed: true, .. } => "out of memory".to_owned(),
        ExitStatus { lost: true, .. } => "lost".to_owned(),
        ExitStatus { signal, .. } if !signal.is_empty() => signal.clone(),
        ExitStatus { code, .. } => format!("exit {code}"),
    }
}

/// Colour of a workload's state.
pub fn tone(workload: &Workload) -> Tone {
    let status = workload.status.clone().unwrap_or_default();
    match status.phase() {
        Phase::Running if status.ready => Tone::Good,
        Phase::BackOff | Phase::CrashLoop | Phase::Failed => Tone::Bad,
        Phase::Stopped | Phase::Completed => Tone::Dim,
        _ => Tone::Warn,
    }
}

fn status_cell(workload: &Workload) -> Cell {
    Cell::new(&status_text(workload), tone(workload))
}

/// `8080->80/tcp`, as docker writes published ports.
pub fn ports(ports: &[Port]) -> String {
    let shown = ports.iter().map(|port| {
        let host = if port.host_ip.is_empty() { String::new() } else { format!("{}:", port.host_ip) };
        let outer = port.host_port.map(|outer| format!("{host}{outer}->")).unwrap_or_default();
        format!("{outer}{}/{}", port.container_port, port.protocol())
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Its addresses in the fabric, or `waiting` where it has none yet.
fn fabric(status: &WorkloadStatus) -> String {
    match &status.fabric {
        None => "-".to_owned(),
        Some(fabric) if fabric.ipv4.is_empty() => "waiting".to_owned(),
        Some(fabric) => format!("{}, {}", fabric.ipv4, fabric.ipv6),
    }
}

fn image(workload: &Workload) -> String {
    match workload.manifest.as_ref().and_then(|manifest| manifest.spec.as_ref()) {
        Some(Spec::Container(spec)) => spec.image.clone(),
        Some(Spec::MicroVm(spec)) => spec.image.clone(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use capsule_proto::v1::Protocol;

    use super::*;

    #[test]
    fn a_crash_names_its_cause() {
        let of = |exit| {
            let mut status = WorkloadStatus { last_exit: Some(exit), ..Default::default() };
            status.set_phase(Phase::CrashLoop);
            status_text(&Workload { status: Some(status), ..Default::default() })
        };
        assert_eq!(of(ExitStatus { code: 3, ..Default::default() }), "CrashLoop (exit 3)");
        let oom = ExitStatus { code: 137, signal: "SIGKILL".into(), oom_killed: true, ..Default::default() };
        assert_eq!(of(oom), "CrashLoop (out of memory)");
    }

    #[test]
    fn a_failure_before_any_run_names_the_heart_of_its_reason() {
        let of = |reason: &str| {
            let ended = ExitStatus { code: 3, ..Default::default() };
            let mut status =
                WorkloadStatus { reason: reason.into(), last_exit: Some(ended), ..Default::default() };
            status.set_phase(Phase::BackOff);
            status_text(&Workload { status: Some(status), ..Default::default() })
        };
        assert_eq!(of("it ended with exit code 3"), "BackOff (exit 3)");
        let pull = "pulling r:5000/x:1: cannot talk to registry r:5000: Connection refused (os error 111)";
        assert_eq!(of(pull), "BackOff (Connection refused)");
        let start = r#"cannot make the task of workload x: exec: "no": executable file not found in $PATH"#;
        assert_eq!(of(start), "BackOff (executable file not found in $PATH)");
        let tag = "pulling r/x:1: registry r has no such tag or digest \"1\" in repository x; check it";
        assert_eq!(of(tag), "BackOff (registry r has no such tag or digest \"1\"…)");
        assert_eq!(of("the host has no /x, which hostBindPaths names"), "BackOff (the host has no /x)");
    }

    #[test]
    fn ports_read_as_docker_writes_them() {
        let published = Port { container_port: 80, host_port: Some(8080), ..Default::default() };
        let mut local = Port {
            container_port: 53,
            host_ip: "127.0.0.1".into(),
            host_port: Some(53),
            ..Default::default()
        };
        local.set_protocol(Protocol::Udp);
        let inner = Port { container_port: 9000, ..Default::default() };
        assert_eq!(ports(&[published, local, inner]), "8080->80/tcp, 127.0.0.1:53->53/udp, 9000/tcp");
    }
}
