//! Bodies of containers and microVMs.

use super::{
    Report, command, fabric,
    mount::{self, MountPoints},
    network, privilege, readiness, resources,
};
use crate::v1;

/// Most virtual CPUs of a microVM.
const MAX_CPUS: u32 = 256;

/// Least memory that a guest kernel boots in.
const MIN_GUEST_MEMORY_MIB: u64 = 64;

/// What containers and microVMs have in common.
struct Common<'a> {
    image: &'a str,
    command: &'a [String],
    args: &'a [String],
    env: &'a [v1::EnvVar],
    working_dir: &'a str,
    user: &'a str,
    network_mode: i32,
    ports: &'a [v1::Port],
    resources: Option<&'a v1::Resources>,
    restart_policy: i32,
    stop_grace_seconds: Option<u32>,
    readiness: Option<&'a v1::Readiness>,
    fabric: Option<&'a v1::FabricSpec>,
}

/// The fields of [`Common`] from either body.
macro_rules! common {
    ($spec:expr) => {
        Common {
            image: &$spec.image,
            command: &$spec.command,
            args: &$spec.args,
            env: &$spec.env,
            working_dir: &$spec.working_dir,
            user: &$spec.user,
            network_mode: $spec.network_mode,
            ports: &$spec.ports,
            resources: $spec.resources.as_ref(),
            restart_policy: $spec.restart_policy,
            stop_grace_seconds: $spec.stop_grace_seconds,
            readiness: $spec.readiness.as_ref(),
            fabric: $spec.fabric.as_ref(),
        }
    };
}

pub(super) fn check_container(report: &mut Report, name: &str, spec: &v1::ContainerSpec) {
    check_common(report, name, &common!(spec));
    let mut points = MountPoints::new(spec.host_mount);
    mount::check_mounts(report, &mut points, &spec.mounts);
    mount::check_host_paths(report, &mut points, &spec.host_bind_paths);
    privilege::check_privilege(report, spec);
}

pub(super) fn check_micro_vm(report: &mut Report, name: &str, spec: &v1::MicroVmSpec) {
    check_common(report, name, &common!(spec));
    mount::check_mounts(report, &mut MountPoints::new(false), &spec.mounts);
    report.check_enum::<v1::MicroVmBackend>("backend", spec.backend);
    if spec.network_mode() == v1::NetworkMode::Host {
        report.add_at("networkMode", "a microVM has a network stack of its own; use bridge or none");
    }
    if spec.cpus > MAX_CPUS {
        report.add_at("cpus", format!("{} is more than {MAX_CPUS}", spec.cpus));
    }
    report.at("memoryMib", |report| resources::check_memory(report, spec.memory_mib, MIN_GUEST_MEMORY_MIB));
}

fn check_common(report: &mut Report, name: &str, spec: &Common) {
    let mode = v1::NetworkMode::try_from(spec.network_mode).unwrap_or_default();
    report.at("image", |report| command::check_image(report, spec.image));
    command::check_command(report, spec.command);
    command::check_arguments(report, "args", spec.args);
    command::check_env(report, spec.env);
    command::check_together(report, spec.command, spec.args, spec.env);
    report.at("workingDir", |report| command::check_working_dir(report, spec.working_dir));
    report.at("user", |report| command::check_user(report, spec.user));
    report.check_enum::<v1::NetworkMode>("networkMode", spec.network_mode);
    network::check_ports(report, mode, spec.ports);
    if let Some(limits) = spec.resources {
        report.at("resources", |report| resources::check_resources(report, limits));
    }
    report.check_enum::<v1::RestartPolicy>("restartPolicy", spec.restart_policy);
    resources::check_stop_grace(report, spec.stop_grace_seconds);
    if let Some(probe) = spec.readiness {
        report.at("readiness", |report| readiness::check_readiness(report, mode, probe));
    }
    if let Some(fabric) = spec.fabric {
        report.at("fabric", |report| fabric::check_fabric(report, name, mode, fabric));
    }
}
