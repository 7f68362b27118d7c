use super::*;

/// A container that nothing is wrong with, after `change`.
fn container(change: impl FnOnce(&mut v1::ContainerSpec)) -> v1::Manifest {
    let mut spec = v1::ContainerSpec { image: "busybox".into(), ..Default::default() };
    change(&mut spec);
    v1::Manifest {
        kind: v1::Kind::Container.into(),
        name: "web".into(),
        spec: Some(Spec::Container(spec)),
        ..Default::default()
    }
}

fn volume(size: u64) -> v1::Manifest {
    let spec = Some(Spec::Volume(v1::VolumeSpec { size }));
    v1::Manifest { kind: v1::Kind::Volume.into(), name: "data".into(), spec, ..Default::default() }
}

fn port(container_port: u32, host_port: Option<u32>) -> v1::Port {
    v1::Port { container_port, host_port, ..Default::default() }
}

fn mount(volume: &str, path: &str) -> v1::Mount {
    v1::Mount { volume_name: volume.into(), mount_path: path.into(), read_only: false }
}

/// The one violation has this path and this text in its message.
#[track_caller]
fn refused(manifest: &v1::Manifest, path: &str, message: &str) {
    let found = validate(manifest);
    assert!(found.len() == 1 && found[0].path == path && found[0].message.contains(message), "{found:#?}");
}

#[track_caller]
fn accepted(manifest: &v1::Manifest) {
    assert_eq!(validate(manifest), []);
}

#[test]
fn an_empty_manifest_lacks_a_kind_and_a_name() {
    let found = validate(&v1::Manifest::default());
    assert_eq!(found.iter().map(|v| v.path.as_str()).collect::<Vec<_>>(), ["kind", "name"]);
}

#[test]
fn kind_and_body_must_agree() {
    let mut manifest = container(|_| {});
    manifest.kind = v1::Kind::Volume.into();
    refused(&manifest, "kind", "it is Volume, but the manifest describes a Container");
    manifest.kind = 77;
    refused(&manifest, "kind", "does not know");
    manifest.kind = v1::Kind::Container.into();
    manifest.spec = None;
    refused(&manifest, "", "container: {image: …}");
}

#[test]
fn labels_are_what_a_selector_can_name() {
    let mut manifest = container(|_| {});
    manifest.labels = [("app.example/tier".into(), "web 1".into())].into();
    accepted(&manifest);
    manifest.labels = [("a=b".into(), "x".into())].into();
    refused(&manifest, "labels.a=b", "letters, digits");
    manifest.labels = [("a".into(), "x,y".into())].into();
    refused(&manifest, "labels.a", "no comma");
}

#[test]
fn an_image_is_named_without_scheme_or_spaces() {
    refused(&container(|c| c.image.clear()), "container.image", "missing");
    refused(&container(|c| c.image = "https://ghcr.io/a/b".into()), "container.image", "write ghcr.io/a/b");
    refused(&container(|c| c.image = "a b".into()), "container.image", "space");
}

#[test]
fn commands_and_environments_are_what_a_process_can_be_given() {
    refused(&container(|c| c.command = vec![String::new()]), "container.command[0]", "names the program");
    refused(&container(|c| c.args = vec!["a\0b".into()]), "container.args[0]", "NUL");
    let variable = |name: &str| v1::EnvVar { name: name.into(), value: "v".into() };
    refused(&container(|c| c.env = vec![variable("A"), variable("A")]), "container.env[1].name", "set twice");
    refused(&container(|c| c.env = vec![variable("A=B")]), "container.env[0].name", "'='");
    let many = |count: usize| (0..count).map(|i| variable(&format!("A{i}"))).collect::<Vec<_>>();
    accepted(&container(|c| c.env = many(100_000)));
    refused(&container(|c| c.env = many(200_000)), "container", "2097152");
    refused(&container(|c| c.working_dir = "srv".into()), "container.workingDir", "absolute");
    for user in ["root", "1000", "1000:1000", "www-data:www-data"] {
        accepted(&container(|c| c.user = user.into()));
    }
    for user in [":", "a:", "a:b:c", "4294967295", "a b"] {
        refused(&container(|c| c.user = user.into()), "container.user", "no user");
    }
}

#[test]
fn ports_stay_in_range_and_apart() {
    refused(&container(|c| c.ports = vec![port(0, None)]), "container.ports[0].containerPort", "missing");
    refused(&container(|c| c.ports = vec![port(65536, None)]), "container.ports[0].containerPort", "65535");
    refused(&container(|c| c.ports = vec![port(1, Some(70000))]), "container.ports[0].hostPort", "70000");
    accepted(&container(|c| c.ports = vec![port(80, Some(0)), port(80, Some(8080)), port(81, Some(0))]));
    refused(&container(|c| c.ports = vec![port(80, None); 2000]), "container.ports", "1024 is the most");
    let two = container(|c| c.ports = vec![port(80, Some(8080)), port(81, Some(8080))]);
    refused(&two, "container.ports[1]", "host port 8080/tcp is taken by ports[0]");
    refused(
        &container(|c| c.ports = vec![port(80, None), port(80, None)]),
        "container.ports[1]",
        "repeats ports[0]",
    );
}

#[test]
fn one_host_port_can_be_used_once_per_address_and_protocol() {
    let on = |ip: &str| v1::Port { host_ip: ip.into(), ..port(80, Some(8080)) };
    accepted(&container(|c| c.ports = vec![on("127.0.0.1"), on("127.0.0.2")]));
    accepted(&container(|c| {
        c.ports = vec![on(""), v1::Port { protocol: v1::Protocol::Udp.into(), ..on("") }];
    }));
    refused(&container(|c| c.ports = vec![on("127.0.0.1"), on("0.0.0.0")]), "container.ports[1]", "taken");
    refused(&container(|c| c.ports = vec![on("localhost")]), "container.ports[0].hostIp", "not an IPv4");
    let unpublished = v1::Port { host_port: None, ..on("127.0.0.1") };
    refused(&container(|c| c.ports = vec![unpublished]), "container.ports[0].hostIp", "add hostPort");
}

#[test]
fn a_port_fits_the_network_mode() {
    let on = |mode: v1::NetworkMode, port| {
        container(|c| {
            c.network_mode = mode.into();
            c.ports = vec![port];
        })
    };
    accepted(&on(v1::NetworkMode::Host, port(80, Some(80))));
    refused(&on(v1::NetworkMode::Host, port(80, Some(81))), "container.ports[0].hostPort", "as it is");
    refused(&on(v1::NetworkMode::None, port(80, Some(81))), "container.ports[0].hostPort", "bridge");
}

#[test]
fn mounts_have_a_volume_and_a_place_of_their_own() {
    accepted(&container(|c| c.mounts = vec![mount("data", "/srv"), mount("data", "/srv/sub")]));
    refused(&container(|c| c.mounts = vec![mount("", "/srv")]), "container.mounts[0].volumeName", "missing");
    for (path, reason) in
        [("srv", "absolute"), ("/a/../b", "'..'"), ("/", "whole root"), ("/proc/x", "/proc")]
    {
        refused(
            &container(|c| c.mounts = vec![mount("data", path)]),
            "container.mounts[0].mountPath",
            reason,
        );
    }
    let twice = container(|c| c.mounts = vec![mount("a", "/srv"), mount("b", "//srv/")]);
    refused(&twice, "container.mounts[1].mountPath", "place of mounts[0]");
    let host = container(|c| {
        c.host_mount = true;
        c.mounts = vec![mount("a", "/host")];
    });
    refused(&host, "container.mounts[0].mountPath", "place of hostMount");
}

#[test]
fn capabilities_are_known_and_not_at_odds() {
    let with = |privileged, add: &[&str], drop: &[&str]| {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        container(|c| {
            c.privileged = privileged;
            c.capabilities = Some(v1::Capabilities { add: texts(add), drop: texts(drop) });
        })
    };
    accepted(&with(false, &["CAP_NET_ADMIN"], &["ALL"]));
    refused(&with(false, &["net_admin"], &[]), "container.capabilities.add[0]", "write NET_ADMIN");
    refused(&with(false, &["FLY"], &[]), "container.capabilities.add[0]", "not a capability");
    refused(&with(false, &["KILL"], &["CAP_KILL"]), "container.capabilities", "both");
    refused(&with(true, &[], &["KILL"]), "container.capabilities.drop", "privileged");
}

#[test]
fn a_readiness_probe_is_one_that_can_succeed() {
    let probed = |mode: v1::NetworkMode, readiness| {
        container(|c| {
            c.network_mode = mode.into();
            c.readiness = Some(readiness);
        })
    };
    let tcp = |port| v1::Readiness {
        probe: Some(v1::readiness::Probe::Tcp(v1::TcpProbe { port })),
        ..Default::default()
    };
    accepted(&probed(v1::NetworkMode::Bridge, tcp(80)));
    refused(&probed(v1::NetworkMode::Bridge, tcp(0)), "container.readiness.tcp.port", "0 is not a port");
    refused(&probed(v1::NetworkMode::None, tcp(80)), "container.readiness.tcp", "exec");
    refused(&probed(v1::NetworkMode::Bridge, v1::Readiness::default()), "container.readiness", "no probe");
    let never = pbjson_types::Duration { seconds: 0, nanos: 0 };
    let readiness = v1::Readiness { interval: Some(never), ..tcp(80) };
    refused(&probed(v1::NetworkMode::Bridge, readiness), "container.readiness.interval", "between 0 and 1h");
}

#[test]
fn limits_are_ones_the_kernel_takes() {
    let limited = |resources| container(|c| c.resources = Some(resources));
    accepted(&limited(v1::Resources::default()));
    refused(
        &limited(v1::Resources { cpu_millis: 1, ..Default::default() }),
        "container.resources.cpuMillis",
        "less than 10",
    );
    refused(
        &limited(v1::Resources { memory_mib: 1, ..Default::default() }),
        "container.resources.memoryMib",
        "at least 6MiB",
    );
    refused(
        &limited(v1::Resources { memory_mib: u64::MAX, ..Default::default() }),
        "container.resources.memoryMib",
        "at most",
    );
    refused(&container(|c| c.stop_grace_seconds = Some(86_401)), "container.stopGraceSeconds", "day");
}

#[test]
fn enum_values_of_a_newer_version_are_refused() {
    refused(&container(|c| c.network_mode = 9), "container.networkMode", "does not know the value 9");
    refused(&container(|c| c.restart_policy = 9), "container.restartPolicy", "does not know");
}

#[test]
fn a_volume_has_a_size_that_can_be_made() {
    accepted(&volume(1 << 30));
    refused(&volume(0), "size", "missing");
    accepted(&volume(MIN_VOLUME.bytes()));
    accepted(&volume(MAX_VOLUME.bytes()));
    let bounds = "for a volume, which has 16MiB to 15TiB";
    refused(&volume(MIN_VOLUME.bytes() - 1), "size", &format!("too small {bounds}"));
    refused(&volume(MAX_VOLUME.bytes() + 1), "size", &format!("too large {bounds}"));
}

#[test]
fn a_micro_vm_has_no_host_network() {
    let spec = v1::MicroVmSpec {
        image: "busybox".into(),
        network_mode: v1::NetworkMode::Host.into(),
        ..Default::default()
    };
    let manifest = v1::Manifest {
        kind: v1::Kind::MicroVm.into(),
        name: "vm".into(),
        spec: Some(Spec::MicroVm(spec)),
        ..Default::default()
    };
    refused(&manifest, "microVm.networkMode", "bridge or none");
}

/// A container with a part in the fabric.
fn in_fabric(allow_to: &[&str], allow_from: &[&str]) -> v1::FabricSpec {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    v1::FabricSpec { allow_to: owned(allow_to), allow_from: owned(allow_from) }
}

#[test]
fn a_part_in_the_fabric_takes_references_and_a_network_of_its_own() {
    let with = |fabric: v1::FabricSpec| container(|spec| spec.fabric = Some(fabric));
    assert_eq!(validate(&with(in_fabric(&[], &[]))), []);
    assert_eq!(validate(&with(in_fabric(&["db@storage:5432"], &["host@edge", "db@storage:5432"]))), []);
    let path = "container.fabric.allowTo[1]";
    refused(&with(in_fabric(&["a@b:1", "a@b:70000"], &[])), path, "wrong at character 5");
    refused(&with(in_fabric(&["a@b:1", "a@b:1-1/tcp"], &[])), path, "it repeats allowTo[0]");
    refused(&with(in_fabric(&["a@b:1", "host@b:1"], &[])), path, "takes no connections");
    refused(&with(in_fabric(&[], &["db"])), "container.fabric.allowFrom[0]", "with its capsule");
    let many: Vec<String> = (0..20_000).map(|index| format!("w{index}@b:1")).collect();
    let many = v1::FabricSpec { allow_from: many, ..Default::default() };
    refused(&with(many), "container.fabric.allowFrom", "too many");
    for mode in [v1::NetworkMode::Host, v1::NetworkMode::None] {
        let manifest = container(|spec| {
            spec.set_network_mode(mode);
            spec.fabric = Some(in_fabric(&[], &[]));
        });
        refused(&manifest, "container.fabric", "a network of its own");
    }
    let named = v1::Manifest { name: "operator".into(), ..with(in_fabric(&[], &[])) };
    refused(&named, "container.fabric", "another name");
}
