use capsule_proto::v1;
use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder};

use super::*;
use crate::{
    image::ImageInfo,
    runtime::{
        Access, BindMount, ExecSpec, Reach,
        container::{cgroup::Cgroups, spec::caps::CapabilitySet},
    },
};

fn image() -> ImageInfo {
    let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let config = ConfigBuilder::default()
        .entrypoint(texts(&["/entry", "-x"]))
        .cmd(texts(&["serve"]))
        .env(texts(&["A=image", "B=image"]))
        .working_dir("/srv".to_owned())
        .user("web".to_owned())
        .build()
        .unwrap();
    ImageInfo {
        reference: "docker.io/library/web:1".into(),
        digest: "sha256:1".into(),
        config: ImageConfigurationBuilder::default().config(config).build().unwrap(),
        chain_id: "sha256:2".into(),
    }
}

fn setup(spec: v1::ContainerSpec) -> Setup {
    Setup {
        name: "web".parse().unwrap(),
        spec_hash: "h".into(),
        spec,
        image: image(),
        mounts: Vec::new(),
        reach: Reach::Spec,
    }
}

fn host() -> Host {
    let capabilities = CapabilitySet::from(["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"]);
    Host { capabilities, cgroups: Cgroups::Legacy { memory: None }, oom_score_adj: 0 }
}

fn built(spec: v1::ContainerSpec) -> Value {
    build(&setup(spec), &User::default(), &host(), "capsule-a3f2").unwrap()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn namespaces_of(spec: &Value) -> Vec<&str> {
    spec["linux"]["namespaces"].as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect()
}

#[test]
fn command_and_args_replace_what_docker_users_expect() {
    for (command, args, expected) in [
        (&[][..], &[][..], &["/entry", "-x", "serve"][..]),
        (&[], &["-v"], &["/entry", "-x", "-v"]),
        (&["sh"], &[], &["sh"]),
        (&["sh"], &["-c", "true"], &["sh", "-c", "true"]),
    ] {
        let spec = built(v1::ContainerSpec {
            command: texts(command),
            args: texts(args),
            ..v1::ContainerSpec::default()
        });
        assert_eq!(spec["process"]["args"], json!(expected));
    }
}

#[test]
fn an_image_without_a_command_needs_one_in_the_manifest() {
    let mut setup = setup(v1::ContainerSpec::default());
    setup.image.config = ImageConfigurationBuilder::default().build().unwrap();
    let error = build(&setup, &User::default(), &host(), "p").unwrap_err().to_string();
    assert!(error.contains("set `command`"), "{error}");
}

#[test]
fn the_manifests_environment_wins_over_the_images_and_there_is_always_a_path() {
    let env = vec![v1::EnvVar { name: "B".into(), value: "mine=1".into() }];
    let spec = built(v1::ContainerSpec { env, ..v1::ContainerSpec::default() });
    let env = spec["process"]["env"].as_array().unwrap();
    assert!(env[0].as_str().unwrap().starts_with("PATH=/usr/local/sbin:"));
    assert_eq!(env[1..], [json!("A=image"), json!("B=mine=1"), json!("HOSTNAME=web")]);
}

/// Were each compared with all, it would take minutes and hold up the whole agent.
#[test]
fn the_largest_environment_costs_no_time_to_speak_of() {
    let variable = |at: u32| v1::EnvVar { name: format!("A{at}"), value: String::new() };
    let env = (0..100_000).map(variable).collect();
    let start = std::time::Instant::now();
    let spec = built(v1::ContainerSpec { env, ..v1::ContainerSpec::default() });
    assert!(spec["process"]["env"].as_array().unwrap().len() > 100_000);
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

#[test]
fn defaults_are_closed() {
    let spec = built(v1::ContainerSpec::default());
    assert_eq!(spec["process"]["noNewPrivileges"], json!(true));
    assert_eq!(spec["process"]["capabilities"]["bounding"], json!(["CAP_CHOWN", "CAP_KILL"]));
    assert_eq!(spec["process"]["cwd"], json!("/srv"));
    assert!(spec["linux"]["seccomp"].is_object());
    assert_eq!(spec["linux"]["cgroupsPath"], json!("/capsule-a3f2/web"));
    assert_eq!(namespaces_of(&spec), ["mount", "uts", "pid", "ipc", "network"]);
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": false, "access": "rwm"}]));
}

#[test]
fn host_modes_share_namespaces_and_privileged_opens_the_rest() {
    let spec = built(v1::ContainerSpec {
        network_mode: v1::NetworkMode::Host.into(),
        host_pid: true,
        host_ipc: true,
        host_mount: true,
        privileged: true,
        ..v1::ContainerSpec::default()
    });
    assert_eq!(namespaces_of(&spec), ["mount", "uts"]);
    assert!(spec["linux"]["seccomp"].is_null() && spec["linux"]["maskedPaths"].is_null());
    assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 3);
    let devices = spec["linux"]["devices"].as_array().unwrap();
    assert!(devices.iter().any(|device| device["path"] == "/dev/null"));
    let mounts = spec["mounts"].as_array().unwrap();
    let root = mounts.iter().find(|mount| mount["destination"] == "/host").unwrap();
    assert_eq!(root["options"], json!(["rbind", "rprivate", "rro"]));
}

#[test]
fn a_debug_shell_sees_the_hosts_devices_and_not_a_copy_of_them() {
    let spec = v1::ContainerSpec { privileged: true, ..v1::ContainerSpec::default() };
    let setup = Setup { reach: Reach::Host, ..setup(spec) };
    let spec = build(&setup, &User::default(), &host(), "p").unwrap();
    let mounts = spec["mounts"].as_array().unwrap();
    let places: Vec<_> = mounts.iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
    assert_eq!(places, ["/proc", "/dev", "/sys", "/run", "/host"]);
    assert_eq!(mounts[1]["source"], "/dev");
    assert_eq!(mounts[4]["options"], json!(["rbind", "rslave", "rro"]));
    assert_eq!(spec["linux"]["devices"], json!([]));
}

#[test]
fn limits_are_translated_to_what_the_kernel_takes() {
    let resources = Some(v1::Resources { cpu_millis: 250, memory_mib: 64, pids_max: 10 });
    let spec = built(v1::ContainerSpec { resources, ..v1::ContainerSpec::default() });
    let resources = &spec["linux"]["resources"];
    assert_eq!(resources["cpu"], json!({"period": 100_000, "quota": 25_000, "shares": 256}));
    assert_eq!(resources["memory"]["limit"], json!(64 * 1024 * 1024));
    assert_eq!(resources["pids"]["limit"], json!(10));
}

#[test]
fn a_mount_inside_another_comes_after_it() {
    let mut setup = setup(v1::ContainerSpec::default());
    let bind = |target: &str, access| BindMount { source: "/s".into(), target: target.into(), access };
    setup.mounts = vec![bind("/data/inner", Access::ReadWrite), bind("/data", Access::ReadOnly)];
    let spec = build(&setup, &User::default(), &host(), "p").unwrap();
    let mounts = spec["mounts"].as_array().unwrap();
    let [outer, inner] = &mounts[mounts.len() - 2..] else { panic!() };
    assert_eq!((&outer["destination"], &inner["destination"]), (&json!("/data"), &json!("/data/inner")));
    assert_eq!(outer["options"], json!(["rbind", "rprivate", "rro"]));
}

#[test]
fn the_manifests_user_comes_before_the_images() {
    assert_eq!(user_text(&setup(v1::ContainerSpec::default())), "web");
    let spec = v1::ContainerSpec { user: "7:7".into(), ..v1::ContainerSpec::default() };
    assert_eq!(user_text(&setup(spec)), "7:7");
}

#[test]
fn an_exec_inherits_from_the_first_process_and_overrides() {
    let spec = built(v1::ContainerSpec::default());
    let exec = ExecSpec {
        command: texts(&["sh"]),
        tty: true,
        env: [("A".to_owned(), "exec".to_owned())].into(),
        working_dir: "/tmp".into(),
        window: Some((120, 40)),
        ..ExecSpec::default()
    };
    let process = exec_process(&spec["process"], &exec, Some(&User { uid: 5, ..User::default() }));
    let env = process["env"].as_array().unwrap();
    assert!(env.contains(&json!("A=exec")) && env.contains(&json!("TERM=xterm")), "{env:?}");
    assert_eq!((&process["cwd"], &process["user"]["uid"]), (&json!("/tmp"), &json!(5)));
    assert_eq!(process["consoleSize"], json!({"width": 120, "height": 40}));
    assert_eq!(process["capabilities"], spec["process"]["capabilities"]);
}
