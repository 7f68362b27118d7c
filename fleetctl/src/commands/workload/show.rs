//! How one workload looks: the cells of a row and the lines of a description.

use capsule_proto::v1::{ContainerSpec, DesiredState, ExitStatus, Phase, Port, Workload, manifest::Spec};

use crate::output::{
    clean, human,
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
        Phase::BackOff | Phase::CrashLoop | Phase::Failed => status.last_exit.as_ref().map(exit_text),
        _ => None,
    };
    remark.map_or_else(|| phase.to_string(), |remark| format!("{phase} ({remark})"))
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

fn image(workload: &Workload) -> String {
    match workload.manifest.as_ref().and_then(|manifest| manifest.spec.as_ref()) {
        Some(Spec::Container(spec)) => spec.image.clone(),
        Some(Spec::MicroVm(spec)) => spec.image.clone(),
        _ => String::new(),
    }
}

/// A description for people, one field a line.
pub fn describe(workload: &Workload) -> Vec<String> {
    let status = workload.status.clone().unwrap_or_default();
    let manifest = workload.manifest.clone().unwrap_or_default();
    let mut lines = Vec::new();
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{name:<12} {}", clean::one_line(&value)));
        }
    };
    field("Name", manifest.name.clone());
    field("Kind", manifest.kind().to_string());
    field("Status", status_text(workload));
    field("Reason", status.reason.clone());
    if workload.desired_state() != DesiredState::Running {
        field("Desired", workload.desired_state().to_string());
    }
    field("Image", image(workload));
    field("Digest", status.image_digest.clone());
    field("Labels", manifest.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", "));
    field("Ports", ports(&status.ports));
    field(
        "Addresses",
        [status.ipv4, status.ipv6].into_iter().filter(|a| !a.is_empty()).collect::<Vec<_>>().join(", "),
    );
    field("PID", if status.pid == 0 { String::new() } else { status.pid.to_string() });
    field("Restarts", status.restarts.to_string());
    field("Last exit", status.last_exit.as_ref().map(last_exit).unwrap_or_default());
    field("Started", status.started_at.as_ref().map(human::date_time).unwrap_or_default());
    field("Next start", status.next_start_at.as_ref().map(human::date_time).unwrap_or_default());
    field("Created", workload.created_at.as_ref().map(human::date_time).unwrap_or_default());
    field("Generation", workload.generation.to_string());
    if let Some(Spec::Container(spec)) = &manifest.spec {
        container(spec, &mut field);
    }
    lines
}

fn container(spec: &ContainerSpec, field: &mut impl FnMut(&str, String)) {
    field("Command", [&spec.command[..], &spec.args[..]].concat().join(" "));
    field("Network", spec.network_mode().to_string());
    field("Restart", spec.restart_policy().to_string());
    let mount = |m: &capsule_proto::v1::Mount| {
        format!("{} at {}{}", m.volume_name, m.mount_path, if m.read_only { " (read-only)" } else { "" })
    };
    field("Mounts", spec.mounts.iter().map(mount).collect::<Vec<_>>().join(", "));
}

fn last_exit(exit: &ExitStatus) -> String {
    let at = exit.at.as_ref().map(|at| format!(" at {}", human::date_time(at))).unwrap_or_default();
    format!("{}{at}", exit_text(exit))
}

#[cfg(test)]
mod tests {
    use capsule_proto::v1::{Protocol, WorkloadStatus};

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
