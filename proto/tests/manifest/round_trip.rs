//! What is written is read as the same; no text makes the parser panic.

use std::collections::BTreeMap;

use capsule_proto::{
    capability,
    manifest::{load_all, parse, to_yaml},
    v1::{self, manifest::Spec, readiness::Probe},
    validate,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::fixture;

/// Texts that YAML readers like to take for something else.
const TRAPS: [&str; 22] = [
    "",
    " ",
    "null",
    "~",
    "true",
    "yes",
    "8080",
    "0755",
    "1e3",
    ".inf",
    "- a",
    "a: b",
    "a #b",
    "*a",
    "&a",
    "!x",
    "|",
    "---",
    "a\nb",
    "a\n\n  b\n",
    "\ta\n\tb",
    "{a}",
];

fn text() -> impl Strategy<Value = String> {
    let any = prop_oneof![
        select(&TRAPS[..]).prop_map(str::to_owned),
        "[ -~]{0,30}",
        "[ a-z\n\t#:-]{0,40}",
        ".{0,20}",
        any::<String>(),
    ];
    any.prop_map(|text| text.replace('\0', "0"))
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let value = text().prop_map(|text| {
        let clean: String = text.chars().filter(|c| *c != ',' && !c.is_control()).take(50).collect();
        clean.trim().to_owned()
    });
    proptest::collection::btree_map("[A-Za-z0-9._/-]{1,20}", value, 0..4)
}

fn env() -> impl Strategy<Value = Vec<v1::EnvVar>> {
    let variable =
        (text(), text()).prop_map(|(name, value)| v1::EnvVar { name: name.replace('=', "-"), value });
    vec(variable, 0..4)
}

fn port() -> impl Strategy<Value = v1::Port> {
    let ip = select(&["", "127.0.0.1", "::1", "0.0.0.0"][..]);
    (1..65536u32, option::of(0..65536u32), 0..3i32, ip).prop_map(
        |(container_port, host_port, protocol, ip)| {
            let host_ip = if host_port.is_some() { ip.to_owned() } else { String::new() };
            v1::Port { container_port, host_port, protocol, host_ip }
        },
    )
}

fn mount() -> impl Strategy<Value = v1::Mount> {
    (name(), "/[a-z ]{1,8}(/[^/\u{0}.]{1,8})?", any::<bool>())
        .prop_map(|(volume_name, mount_path, read_only)| v1::Mount { volume_name, mount_path, read_only })
}

fn resources() -> impl Strategy<Value = v1::Resources> {
    let cpu = prop_oneof![Just(0), 10..100_000u32];
    (cpu, prop_oneof![Just(0), 64..1u64 << 40], 0..100_000u32)
        .prop_map(|(cpu_millis, memory_mib, pids_max)| v1::Resources { cpu_millis, memory_mib, pids_max })
}

fn readiness() -> impl Strategy<Value = v1::Readiness> {
    let probe = prop_oneof![
        (1..65536u32).prop_map(|port| Probe::Tcp(v1::TcpProbe { port })),
        (1..65536u32, "(/[a-z?=%]{0,8})?").prop_map(|(port, path)| Probe::Http(v1::HttpProbe { port, path })),
        vec("[a-z /]{1,9}", 1..3).prop_map(|command| Probe::Exec(v1::ExecProbe { command })),
    ];
    let period = || {
        let period = (0..3000i64, 1..1_000_000_000i32);
        option::of(period.prop_map(|(seconds, nanos)| pbjson_types::Duration { seconds, nanos }))
    };
    (probe, period(), period(), 0..1000u32).prop_map(|(probe, interval, timeout, threshold)| v1::Readiness {
        probe: Some(probe),
        interval,
        timeout,
        threshold,
    })
}

fn capabilities() -> impl Strategy<Value = v1::Capabilities> {
    let names = || vec(select(&capability::NAMES[..]).prop_map(str::to_owned), 0..3);
    (names(), names()).prop_map(|(add, drop)| v1::Capabilities { add, drop })
}

/// Part in the fabric; references with a port that is never the same twice.
fn fabric() -> impl Strategy<Value = v1::FabricSpec> {
    let peers = || {
        vec(select(&["db@storage", "*@build", "web@*", "cidr:[fd00::/48]", "cidr:100.64.0.0/10"][..]), 0..3)
    };
    let texts = |peers: Vec<&str>| {
        peers.iter().enumerate().map(|(index, peer)| format!("{peer}:{}-9000/udp", index + 1)).collect()
    };
    (peers(), peers())
        .prop_map(move |(to, from)| v1::FabricSpec { allow_to: texts(to), allow_from: texts(from) })
}

prop_compose! {
    fn container()(
        image in "[a-z0-9]{1,9}(/[a-z]{1,9})?(:[a-z0-9.]{1,6})?",
        command in vec("[^\u{0}]{1,9}", 0..3),
        args in vec(text(), 0..3),
        env in env(),
        (working_dir, user) in ("(/[^\u{0}]{0,9})?", "([a-z0-9]{1,5}(:[a-z0-9]{1,5})?)?"),
        (network_mode, restart_policy) in (0..2i32, 0..4i32),
        ports in vec(port(), 0..3),
        mounts in vec(mount(), 0..3),
        resources in option::of(resources()),
        stop_grace_seconds in option::of(0..1000u32),
        readiness in option::of(readiness()),
        (capabilities, fabric, flags) in (option::of(capabilities()), option::of(fabric()), any::<[bool; 5]>()),
    ) -> v1::ContainerSpec {
        let [read_only_rootfs, privileged, host_pid, host_ipc, host_mount] = flags;
        let bind = |mount: &v1::Mount| v1::HostBindPath {
            host_path: "/".into(),
            mount_path: format!("/bind{}", mount.mount_path),
            read_only: mount.read_only,
        };
        v1::ContainerSpec {
            host_bind_paths: mounts.iter().map(bind).collect(),
            image, command, args, env, working_dir, user, network_mode, ports, mounts, resources, restart_policy,
            stop_grace_seconds, readiness, capabilities, read_only_rootfs, privileged, host_pid, host_ipc, host_mount,
            fabric,
        }
    }
}

fn micro_vm() -> impl Strategy<Value = v1::MicroVmSpec> {
    (container(), 0..3i32, 0..17u32, prop_oneof![Just(0), 64..1u64 << 20]).prop_map(
        |(like, backend, cpus, memory_mib)| v1::MicroVmSpec {
            image: like.image,
            command: like.command,
            args: like.args,
            env: like.env,
            working_dir: like.working_dir,
            user: like.user,
            network_mode: like.network_mode,
            ports: like.ports,
            mounts: like.mounts,
            resources: like.resources,
            restart_policy: like.restart_policy,
            stop_grace_seconds: like.stop_grace_seconds,
            readiness: like.readiness,
            backend,
            cpus,
            memory_mib,
            fabric: like.fabric,
        },
    )
}

fn manifest() -> impl Strategy<Value = v1::Manifest> {
    let spec = prop_oneof![
        4 => container().prop_map(|spec| (v1::Kind::Container, Spec::Container(spec))),
        2 => micro_vm().prop_map(|spec| (v1::Kind::MicroVm, Spec::MicroVm(spec))),
        1 => (4 << 20..1u64 << 50).prop_map(|size| (v1::Kind::Volume, Spec::Volume(v1::VolumeSpec { size }))),
    ];
    (name(), labels(), spec)
        .prop_map(|(name, labels, (kind, spec))| v1::Manifest {
            kind: kind.into(),
            name,
            labels,
            spec: Some(spec),
        })
        .prop_filter("it is valid", |manifest| validate(manifest).is_empty())
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 100_000, ..Default::default() })]

    #[test]
    fn a_valid_manifest_survives_yaml(manifest in manifest()) {
        let yaml = to_yaml(&manifest);
        match parse("written.yaml", &yaml) {
            Ok(read) => prop_assert_eq!(read, [manifest], "{}", yaml),
            Err(errors) => prop_assert!(false, "{}\n{}", errors, yaml),
        }
    }

    #[test]
    fn a_valid_manifest_survives_proto3_json(manifest in manifest()) {
        let json = serde_json::to_string_pretty(&manifest).unwrap();
        match parse("written.json", &json) {
            Ok(read) => prop_assert_eq!(read, [manifest], "{}", json),
            Err(errors) => prop_assert!(false, "{}\n{}", errors, json),
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text: String) {
        let _ = parse("any.yaml", &text);
        let _ = parse("any.json", &text);
    }

    #[test]
    fn no_damaged_manifest_makes_the_parser_panic(manifest in manifest(), at: usize, with in text()) {
        let yaml: Vec<char> = to_yaml(&manifest).chars().collect();
        let (before, after) = yaml.split_at(at % yaml.len());
        let damaged: String = before.iter().copied().chain(with.chars()).chain(after.iter().copied().skip(1)).collect();
        let _ = parse("any.yaml", &damaged);
    }
}

#[test]
fn the_fixtures_survive_being_written() {
    let manifests = load_all(&[fixture("stack.yaml"), fixture("host.yaml"), fixture("vm.json")]).unwrap();
    let yaml: Vec<String> = manifests.iter().map(to_yaml).collect();
    assert_eq!(parse("written.yaml", &yaml.join("---\n")).unwrap(), manifests);
}
