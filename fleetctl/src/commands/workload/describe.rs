//! One workload in full, for people: what is asked for, what there is, and what happened lately.

use capsule_proto::{
    format_duration,
    v1::{
        ContainerSpec, DesiredState, EnvVar, Event, ExitStatus, Manifest, Readiness, Resources, Workload,
        WorkloadStatus, manifest::Spec, readiness::Probe,
    },
};

use super::show;
use crate::{
    commands::events,
    output::{clean, human},
};

/// Columns of the names.
const NAMES: usize = 12;

/// Lines under way: a field's name stands before its first value, the others below it.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn field(&mut self, name: &str, value: impl AsRef<str>) {
        self.list(name, [value]);
    }

    fn list<T: AsRef<str>>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        let values = values.into_iter().filter(|value| !value.as_ref().is_empty());
        for (at, value) in values.enumerate() {
            let name = if at == 0 { name } else { "" };
            self.0.push(format!("{name:<NAMES$} {}", clean::one_line(value.as_ref())));
        }
    }
}

/// A description, one field a line; what is empty or usual is left out.
pub fn lines(workload: &Workload, events: &[Event]) -> Vec<String> {
    let mut lines = Lines::default();
    let manifest = workload.manifest.clone().unwrap_or_default();
    let status = workload.status.clone().unwrap_or_default();
    lines.field("Name", &manifest.name);
    lines.field("Kind", manifest.kind().to_string());
    lines.field("Status", show::status_text(workload));
    lines.list("Reason", status.reason.lines());
    if workload.desired_state() != DesiredState::Running {
        lines.field("Desired", workload.desired_state().to_string());
    }
    observed(&mut lines, &status);
    lines.field("Created", workload.created_at.as_ref().map(human::date_time).unwrap_or_default());
    lines.field("Generation", workload.generation.to_string());
    asked(&mut lines, &manifest);
    lines.list("Events", events.iter().map(events::brief));
    lines.0
}

fn observed(lines: &mut Lines, status: &WorkloadStatus) {
    lines.field("PID", if status.pid == 0 { String::new() } else { status.pid.to_string() });
    lines
        .field("Addresses", joined([&status.ipv4, &status.ipv6].into_iter().filter(|text| !text.is_empty())));
    if let Some(fabric) = &status.fabric {
        let addresses = [&fabric.ipv4, &fabric.ipv6].into_iter().filter(|text| !text.is_empty());
        lines.field(
            "In fabric",
            if fabric.problem.is_empty() { joined(addresses) } else { fabric.problem.clone() },
        );
        let waiting = fabric.waiting.iter();
        lines.list("Waiting", waiting.map(|waiting| format!("{}: {}", waiting.reference, waiting.reason)));
    }
    lines.field("Ports", show::ports(&status.ports));
    lines.field("Restarts", status.restarts.to_string());
    lines.field("Last exit", status.last_exit.as_ref().map(last_exit).unwrap_or_default());
    lines.field("Started", status.started_at.as_ref().map(human::date_time).unwrap_or_default());
    lines.field("Next start", status.next_start_at.as_ref().map(human::date_time).unwrap_or_default());
    lines.field("Digest", &status.image_digest);
}

fn asked(lines: &mut Lines, manifest: &Manifest) {
    lines.list("Labels", manifest.labels.iter().map(|(key, value)| format!("{key}={value}")));
    if let Some(Spec::Container(spec)) = &manifest.spec {
        container(lines, spec);
    }
}

fn container(lines: &mut Lines, spec: &ContainerSpec) {
    lines.field("Image", &spec.image);
    lines.field("Command", spec.command.join(" "));
    lines.field("Args", spec.args.join(" "));
    lines.list("Env", spec.env.iter().map(|EnvVar { name, value }| format!("{name}={value}")));
    lines.field("Directory", &spec.working_dir);
    lines.field("User", &spec.user);
    lines.field("Network", spec.network_mode().to_string());
    lines.list("Fabric", fabric(spec));
    lines.list("Mounts", mounts(spec));
    lines.field("Resources", spec.resources.as_ref().map(resources).unwrap_or_default());
    lines.field("Restart", spec.restart_policy().to_string());
    lines.field("Stop grace", spec.stop_grace_seconds.map(|grace| format!("{grace} s")).unwrap_or_default());
    lines.field("Readiness", spec.readiness.as_ref().map(readiness).unwrap_or_default());
    lines.field("Security", joined(security(spec)));
}

fn joined<T: AsRef<str>>(parts: impl IntoIterator<Item = T>) -> String {
    parts.into_iter().map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join(", ")
}

/// `to db@storage:5432/tcp`, `from nobody`; nothing without a part in it.
fn fabric(spec: &ContainerSpec) -> Vec<String> {
    let Some(fabric) = &spec.fabric else { return Vec::new() };
    let each = |way: &str, references: &[String]| match references {
        [] => vec![format!("{way} nobody")],
        references => references.iter().map(|reference| format!("{way} {reference}")).collect(),
    };
    [each("to", &fabric.allow_to), each("from", &fabric.allow_from)].concat()
}

/// `data at /var/lib/data`, `/srv of the host at /srv (read-only)`.
fn mounts(spec: &ContainerSpec) -> Vec<String> {
    let access = |read_only| if read_only { " (read-only)" } else { "" };
    let volumes =
        spec.mounts.iter().map(|m| format!("{} at {}{}", m.volume_name, m.mount_path, access(m.read_only)));
    let binds = spec.host_bind_paths.iter();
    let binds =
        binds.map(|b| format!("{} of the host at {}{}", b.host_path, b.mount_path, access(b.read_only)));
    let host = spec.host_mount.then(|| "/ of the host at /host (read-only)".to_owned());
    volumes.chain(binds).chain(host).collect()
}

/// `500m CPU, 256 MiB, 100 PIDs`; what has no limit is left out.
fn resources(limits: &Resources) -> String {
    let cpu = (limits.cpu_millis > 0).then(|| format!("{}m CPU", limits.cpu_millis));
    let memory = (limits.memory_mib > 0).then(|| human::bytes(limits.memory_mib.saturating_mul(1 << 20)));
    let pids = (limits.pids_max > 0).then(|| format!("{} PIDs", limits.pids_max));
    joined([cpu, memory, pids].into_iter().flatten())
}

/// `http :80/health every 1s, 3 failures`; what is absent is the capsule's own choice.
fn readiness(readiness: &Readiness) -> String {
    let probe = match &readiness.probe {
        Some(Probe::Tcp(tcp)) => format!("tcp :{}", tcp.port),
        Some(Probe::Http(http)) if http.path.is_empty() => format!("http :{}/", http.port),
        Some(Probe::Http(http)) => format!("http :{}{}", http.port, http.path),
        Some(Probe::Exec(exec)) => format!("exec {}", exec.command.join(" ")),
        None => String::new(),
    };
    let span = |span: Option<pbjson_types::Duration>, what: &str| {
        let span = span.and_then(|span| std::time::Duration::try_from(span).ok());
        span.map(|span| format!("{what} {}", format_duration(span)))
    };
    let threshold = (readiness.threshold > 0).then(|| format!("{} failures", readiness.threshold));
    let parts = [span(readiness.interval, "every"), span(readiness.timeout, "time-out"), threshold];
    joined(std::iter::once(probe).chain(parts.into_iter().flatten()))
}

/// What is not as usual.
fn security(spec: &ContainerSpec) -> Vec<String> {
    let flags = [
        (spec.privileged, "privileged"),
        (spec.read_only_rootfs, "read-only root"),
        (spec.host_pid, "host's PIDs"),
        (spec.host_ipc, "host's IPC"),
    ];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name.to_owned());
    let capabilities = spec.capabilities.clone().unwrap_or_default();
    let added = capabilities.add.iter().map(|name| format!("+{name}"));
    let dropped = capabilities.drop.iter().map(|name| format!("-{name}"));
    flags.chain(added).chain(dropped).collect()
}

fn last_exit(exit: &ExitStatus) -> String {
    let at = exit.at.as_ref().map(|at| format!(" at {}", human::date_time(at))).unwrap_or_default();
    format!("{}{at}", show::exit_text(exit))
}

#[cfg(test)]
mod tests {
    use capsule_proto::v1::{WaitingReference, WorkloadFabric};

    use super::*;

    #[test]
    fn every_part_of_a_manifest_is_described() {
        let text = "kind: Container\nname: web\nlabels: { app: site }\ncontainer:\n  image: nginx:1\n  \
                    command: [run, it]\n  env: { A: 1, B: 2 }\n  user: www\n  workingDir: /srv\n  \
                    networkMode: bridge\n  fabric: { allowTo: [\"db@storage:5432\"] }\n  mounts: [{ volumeName: data, mountPath: /data, readOnly: true }]\n  \
                    hostBindPaths: [{ hostPath: /etc, mountPath: /host/etc }]\n  \
                    resources: { cpuMillis: 500, memoryMib: 256, pidsMax: 9 }\n  restartPolicy: never\n  \
                    stopGraceSeconds: 3\n  readOnlyRootfs: true\n  capabilities: { drop: [ALL], add: [CHOWN] }\n  \
                    readiness: { http: { port: 80, path: /up }, interval: 2s, threshold: 4 }\n";
        let manifest = capsule_proto::manifest::parse("web.yaml", text).unwrap().remove(0);
        let waiting =
            WaitingReference { reference: "db@storage:5432/tcp".into(), reason: "nobody is there".into() };
        let fabric = WorkloadFabric {
            ipv4: "100.64.0.2".into(),
            ipv6: "fd12::2".into(),
            waiting: vec![waiting],
            problem: String::new(),
        };
        let status = WorkloadStatus { fabric: Some(fabric), ..Default::default() };
        let workload = Workload { manifest: Some(manifest), status: Some(status), ..Default::default() };
        let event = Event { reason: "Started".into(), message: "it runs".into(), ..Default::default() };
        let described = lines(&workload, &[event]);
        for expected in [
            "Name         web",
            "Labels       app=site",
            "Image        nginx:1",
            "Command      run it",
            "Env          A=1",
            "             B=2",
            "User         www",
            "Directory    /srv",
            "Network      bridge",
            "Mounts       data at /data (read-only)",
            "             /etc of the host at /host/etc",
            "Resources    500m CPU, 256 MiB, 9 PIDs",
            "In fabric    100.64.0.2, fd12::2",
            "Waiting      db@storage:5432/tcp: nobody is there",
            "Fabric       to db@storage:5432",
            "             from nobody",
            "Restart      never",
            "Stop grace   3 s",
            "Readiness    http :80/up, every 2s, 4 failures",
            "Security     read-only root, +CHOWN, -ALL",
        ] {
            assert!(described.iter().any(|line| line == expected), "{expected:?} in {described:#?}");
        }
        let last = described.last().unwrap();
        assert!(
            last.starts_with("Events") && last.contains("Started") && last.ends_with("it runs"),
            "{last}"
        );
    }
}
