use super::*;
use crate::v1::manifest::Spec;

/// The spec of a text's first container.
#[track_caller]
fn container(text: &str) -> v1::ContainerSpec {
    let manifests = parse("web.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    match manifests.into_iter().next().and_then(|manifest| manifest.spec) {
        Some(Spec::Container(spec)) => spec,
        other => panic!("{other:?}"),
    }
}

/// The spec of a container with these lines in its body.
#[track_caller]
fn body(lines: &str) -> v1::ContainerSpec {
    container(&with_body(lines))
}

fn with_body(lines: &str) -> String {
    let lines: Vec<&str> = lines.lines().collect();
    format!("kind: Container\nname: web\ncontainer:\n  image: busybox\n  {}\n", lines.join("\n  "))
}

/// The errors of a text, as they are shown.
#[track_caller]
fn errors(text: &str) -> String {
    parse("web.yaml", text).expect_err("it has errors").to_string()
}

/// The one error of a container with these lines in its body, without the file's name.
#[track_caller]
fn error(lines: &str) -> String {
    errors(&with_body(lines)).trim_start_matches("web.yaml:").to_owned()
}

fn size_of(text: &str) -> u64 {
    let manifests = parse("v.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
    match manifests[0].spec {
        Some(Spec::Volume(v1::VolumeSpec { size })) => size,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn field_names_are_taken_in_camel_and_in_snake_case() {
    assert_eq!(body("ports: [{containerPort: 80}]").ports[0].container_port, 80);
    assert_eq!(body("ports: [{container_port: 80, host_port: 0}]").ports[0].host_port, Some(0));
    let both = error("ports: [{containerPort: 80, container_port: 81}]");
    assert_eq!(both, "5:31: container.ports[0].containerPort: this field is already set in line 5; keep one");
}

#[test]
fn enums_are_taken_in_full_and_short_in_any_case() {
    for text in ["host", "HOST", "Host", "NETWORK_MODE_HOST", "2"] {
        assert_eq!(body(&format!("networkMode: {text}")).network_mode(), v1::NetworkMode::Host, "{text}");
    }
    for text in ["on-failure", "onFailure", "ON_FAILURE", "OnFailure", "RESTART_POLICY_ON_FAILURE"] {
        assert_eq!(body(&format!("restartPolicy: {text}")).restart_policy(), v1::RestartPolicy::OnFailure);
    }
    assert_eq!(
        error("restartPolicy: on-failur"),
        "5:18: container.restartPolicy: expected one of always, on-failure, never, found the text \"on-failur\"; \
         did you mean on-failure?"
    );
    assert!(error("networkMode: 9").contains("expected one of bridge, host, none, found the number 9"));
}

#[test]
fn an_environment_is_a_map_or_a_list() {
    let variable = |name: &str, value: &str| v1::EnvVar { name: name.into(), value: value.into() };
    let wanted =
        [variable("Z", "text"), variable("PORT", "8080"), variable("ON", "true"), variable("V", "1.10")];
    assert_eq!(body("env: {Z: text, PORT: 8080, ON: true, V: 1.10}").env, wanted);
    assert_eq!(body("env: [{name: A, value: 1}]").env, [variable("A", "1")]);
    assert_eq!(error("env: {A: 1, A: 2}"), "5:15: the key \"A\" is already set in line 5; keep one");
    let nothing = error("env:\n  A:\n");
    assert_eq!(nothing, "6:5: env.A: expected a text, found nothing; write \"\" for an empty one");
    assert!(error("env: {A=B: 1}").contains("container.env[0].name: \"A=B\" has '='"));
}

#[test]
fn sizes_take_units_and_bare_memory_counts_mebibytes() {
    let memory =
        |text: &str| body(&format!("resources: {{memoryMib: {text}}}")).resources.unwrap().memory_mib;
    assert_eq!(memory("512"), 512);
    assert_eq!(memory("\"512\""), 512);
    assert_eq!(memory("500M"), 500);
    assert_eq!(memory("1.5GiB"), 1536);
    let odd = error("resources: {memoryMib: 512MB}");
    assert_eq!(
        odd,
        "5:26: container.resources.memoryMib: 512MB is not a whole number of MiB; the next is 489MiB"
    );
    assert_eq!(size_of("kind: Volume\nname: data\nsize: 10G"), 10 << 30);
    assert_eq!(size_of("kind: Volume\nname: data\nsize: 10GB"), 10_000_000_000);
    assert_eq!(size_of("kind: Volume\nname: data\nsize: 1073741824"), 1 << 30);
    assert_eq!(size_of("kind: Volume\nname: data\nvolume: {size: \"1073741824\"}"), 1 << 30);
}

#[test]
fn spans_of_time_take_units() {
    let readiness = body("readiness: {tcp: {port: 80}, interval: 500ms, timeout: 1m}").readiness.unwrap();
    assert_eq!(readiness.interval.unwrap().nanos, 500_000_000);
    assert_eq!(readiness.timeout.unwrap().seconds, 60);
    assert!(error("readiness: {tcp: {port: 80}, interval: 5}").contains("it has no unit"));
}

#[test]
fn texts_take_unquoted_numbers_and_truths_as_they_are_written() {
    assert_eq!(
        body("args: [8080, 1.10, true, yes, 0755, 1e3]").args,
        ["8080", "1.10", "true", "yes", "0755", "1e3"]
    );
    assert!(error("args: [~]").contains("container.args[0]: expected a text, found nothing"));
    assert!(error("args: [[a]]").contains("container.args[0]: expected a text, found a list"));
    assert!(error("command: sh").contains("expected a list, found the text \"sh\"; write [sh]"));
}

#[test]
fn the_traps_of_older_yaml_are_errors_that_say_what_to_write() {
    assert!(error("privileged: yes").contains("expected true or false, found the text \"yes\"; write true"));
    assert!(error("privileged: \"false\"").contains("write false"));
    assert!(error("ports: [{containerPort: 0080}]").contains("write 80, or 0o80"));
    assert_eq!(body("ports: [{containerPort: 1e3}]").ports[0].container_port, 1000);
    assert_eq!(body("ports: [{containerPort: \"80\"}]").ports[0].container_port, 80);
    assert_eq!(body("ports: [{containerPort: 0x50}]").ports[0].container_port, 80);
    assert_eq!(body("networkMode: none").network_mode(), v1::NetworkMode::None);
}

#[test]
fn numbers_out_of_range_are_refused_at_their_place() {
    assert_eq!(
        error("ports:\n  - containerPort: 4294967296"),
        "6:22: container.ports[0].containerPort: 4294967296 is out of range; it lies between 0 and 4294967295"
    );
    assert_eq!(
        error("ports:\n  - containerPort: 80\n    hostPort: 99999"),
        "7:17: container.ports[0].hostPort: 99999 is not a port from 1 to 65535, nor 0 for any free one"
    );
    assert!(error("ports: [{containerPort: -1}]").contains("-1 is out of range"));
    assert!(error("ports: [{containerPort: 1.5}]").contains("expected a whole number, found the number 1.5"));
}

#[test]
fn unknown_fields_propose_the_nearest_known_one() {
    assert_eq!(
        error("ports:\n  - containerPort: 80\n    hostPrt: 81"),
        "7:7: container.ports[0].hostPrt: unknown field; did you mean hostPort?"
    );
    assert!(error("environment: {}").contains("did you mean env?"));
    assert!(error("resources: {colour: 1}").contains("known here: cpuMillis, memoryMib, pidsMax"));
    let misplaced = errors("kind: Container\nname: web\nimage: nginx\n");
    assert_eq!(misplaced, "web.yaml:3:1: image: it belongs below container: indent it there");
}

#[test]
fn every_error_of_a_file_is_reported_in_order_and_none_twice() {
    let text = "kind: Container\nname: Web\ncontainer:\n  imag: nginx\n  privileged: 1\n  ports: 80\n---\nkind: Volum\nname: x\n";
    assert_eq!(
        errors(text),
        "web.yaml:2:7: name: \"Web\" is not a name: it has a character that is not allowed; use 1 to 63 of a-z, \
         0-9 and '-', with no '-' at either end\n\
         web.yaml:4:3: container.imag: unknown field; did you mean image?\n\
         web.yaml:5:15: container.privileged: expected true or false, found the number 1\n\
         web.yaml:6:10: container.ports: expected a list, found the number 80\n\
         web.yaml:8:7: kind: expected one of Container, MicroVM, Volume, found the text \"Volum\"; \
         did you mean Volume?"
    );
}

#[test]
fn a_reference_that_is_wrong_is_found_in_the_file() {
    assert_eq!(
        error("fabric:\n  allowTo: [db@storage:5432/tcp, 'db@storage:543x/tcp']"),
        "6:36: container.fabric.allowTo[1]: \"db@storage:543x/tcp\" is wrong at character 12: \"543x\" is not a \
         port from 1 to 65535"
    );
    assert_eq!(body("fabric: {}").fabric, Some(v1::FabricSpec::default()));
    assert_eq!(body("fabric:").fabric, None);
    let misplaced = errors("kind: Container\nname: web\ncontainer: {image: a}\nfabric: {}\n");
    assert_eq!(misplaced, "web.yaml:4:1: fabric: it belongs below container: indent it there");
}

#[test]
fn kind_and_body_must_agree() {
    assert_eq!(
        errors("kind: Container\nname: web\nmicroVm: {image: a}\n"),
        "web.yaml:3:1: microVm: a Container has no microVm; it takes container, or another kind"
    );
    assert_eq!(
        errors("kind: Container\nname: web\n"),
        "web.yaml:1:1: a Container needs a body: container: {image: …}"
    );
    assert_eq!(
        errors("name: web\ncontainer: {image: a}\n"),
        "web.yaml:1:1: kind: it is missing; write kind: Container"
    );
    assert!(errors("kind: Volume\nname: web\n").contains("size: it is missing"));
    assert!(
        errors("kind: Volume\nname: web\nsize: 1G\ncontainer: {image: a}").contains("its size at the top")
    );
}

#[test]
fn a_micro_vm_is_read_in_full() {
    let text =
        "kind: MicroVM\nname: vm\nmicroVm: {image: a, backend: firecracker, cpus: 2, memoryMib: 1GiB}\n";
    let Some(Spec::MicroVm(spec)) = parse("vm.yaml", text).unwrap().remove(0).spec else {
        panic!("no microVM")
    };
    assert_eq!((spec.backend(), spec.cpus, spec.memory_mib), (v1::MicroVmBackend::Firecracker, 2, 1024));
}

#[test]
fn only_one_probe_can_be_asked_for() {
    let two = error("readiness:\n  tcp: {port: 80}\n  http: {port: 80}");
    assert_eq!(two, "7:5: container.readiness.http: only one of tcp and http can be set");
}

#[test]
fn a_key_is_set_once() {
    assert_eq!(
        errors("kind: Container\nname: a\nname: b\ncontainer: {image: a}\n"),
        "web.yaml:3:1: the key \"name\" is already set in line 2; keep one"
    );
}

#[test]
fn two_documents_do_not_describe_the_same_thing() {
    let one = "kind: Container\nname: web\ncontainer: {image: a}\n";
    let volume = "kind: Volume\nname: web\nsize: 1G\n";
    assert_eq!(parse("web.yaml", &format!("{one}---\n{volume}")).unwrap().len(), 2);
    let twice = errors(&format!("{one}---\n{one}"));
    assert_eq!(twice, "web.yaml:6:7: name: Container web is already described in line 2");
}

#[test]
fn byte_order_marks_line_ends_and_empty_documents_are_no_matter() {
    let one = "kind: Container\nname: web\ncontainer: {image: a}\n";
    for text in ["", "\n", "# only a comment\n", "---\n---\n", "--- # nothing\n...\n", "null"] {
        assert_eq!(parse("web.yaml", text).unwrap(), [], "{text:?}");
    }
    for text in [format!("\u{feff}{one}"), one.replace('\n', "\r\n"), format!("---\n---\n{one}---\n# end\n")]
    {
        assert_eq!(container(&text).image, "a", "{text:?}");
    }
    let crlf = errors("kind: Container\r\nname: web\r\ncontainer:\r\n  imag: a\r\n");
    assert_eq!(crlf, "web.yaml:4:3: container.imag: unknown field; did you mean image?");
}

#[test]
fn what_is_no_yaml_says_where() {
    let tab = errors("kind: Container\nname: web\ncontainer:\n\timage: a\n");
    assert!(tab.starts_with("web.yaml:4:"), "{tab}");
    assert!(tab.contains("this is not valid YAML"), "{tab}");
    assert!(tab.contains("blanks, not with tabs"), "{tab}");
    let open = errors("kind: [Container\n");
    assert!(open.contains("this is not valid YAML") && !open.contains("tabs"), "{open}");
    assert!(errors("just a text").contains("expected a manifest with kind and name"));
    assert_eq!(
        errors("kind: \u{1}"),
        "web.yaml:1:7: the control character U+0001 is not allowed in a manifest"
    );
}

#[test]
fn another_programs_file_is_recognised() {
    let deployment = errors("apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: web }\nspec: {}\n");
    assert!(deployment.contains("Kubernetes") && deployment.lines().count() == 1, "{deployment}");
    let compose = errors("version: '3'\nservices:\n  web: { image: nginx }\n");
    assert!(compose.contains("docker compose") && compose.lines().count() == 1, "{compose}");
}

#[test]
fn what_makes_small_texts_huge_is_refused() {
    assert!(error("args: &a [b]\ncommand: *a").contains("anchors (&) and aliases (*) are not taken"));
    assert!(error("workingDir: !!binary aGk=").contains("is not taken in manifests"));
    assert_eq!(body("args: [!!str 1]").args, ["1"]);
    let deep = errors(&format!("{}{}", "[".repeat(100), "]".repeat(100)));
    assert!(deep.contains("nested more than 32 deep"), "{deep}");
    let long = errors(&" ".repeat(MAX_BYTES + 1));
    assert!(long.contains("more than 4 MiB"), "{long}");
    let unknown: Vec<String> = (0..5000).map(|index| format!("x{index}: 1")).collect();
    let many = errors(&unknown.join("\n"));
    assert!(many.ends_with("there are more errors; the first 100 are shown"), "{many}");
    assert_eq!(many.lines().count(), 101);
}

#[test]
fn json_is_read_strictly_and_in_every_arrangement() {
    let one = r#"{"kind": "KIND_CONTAINER", "name": "web", "container": {"image": "a", "user": "😀"}}"#;
    assert_eq!(container(one).user, "😀");
    assert_eq!(container(&one.replace("😀", "\\ud83d\\ude00")).user, "😀");
    let other = one.replace("web", "api");
    for text in [format!("[{one},\n{other}]"), format!("{one}\n{other}"), format!("---\n{one}\n---\n{other}")]
    {
        assert_eq!(
            parse("web.json", &text).map_or(0, |manifests| manifests.len()),
            if text.starts_with('-') { 0 } else { 2 }
        );
        assert_eq!(parse("-", &text).unwrap().len(), 2);
    }
    let tabs = "{\n\t\"kind\": \"Container\",\n\t\"name\": \"web\",\n\t\"container\": {\"imag\": \"a\"}\n}";
    assert_eq!(errors(tabs), "web.yaml:4:16: container.imag: unknown field; did you mean image?");
}

#[test]
fn a_mistake_in_json_is_named_in_json_words() {
    let json = |text: &str| parse("web.json", text).unwrap_err().to_string();
    assert_eq!(json("{\"kind\": }"), "web.json:1:10: this is not valid JSON: expected a value, found '}'");
    assert_eq!(
        json("{\"kind\": \"a\""),
        "web.json:1:13: this is not valid JSON: expected ',' or '}', found the end"
    );
    assert!(json("{kind: a}").contains("expected a key in double quotes, found 'k'"));
    assert!(json("{\"a\": \"\\ud83d\"}").contains("half of a surrogate pair"));
    assert!(json("{\"a\": 1, \"a\": 2}").contains("the key \"a\" is already set in line 1"));
}

#[test]
fn a_flow_mapping_of_yaml_is_no_json_and_still_read() {
    assert_eq!(container("{kind: Container, name: web, container: {image: 'a'}}").image, "a");
}

#[test]
fn null_is_the_same_as_leaving_a_field_out() {
    let spec = body("ports:\nreadiness: null\nuser: ~\nresources: {}\n");
    assert_eq!((spec.ports.len(), spec.readiness, spec.user.as_str()), (0, None, ""));
    assert_eq!(spec.resources, Some(v1::Resources::default()));
}

#[test]
fn what_is_written_for_an_editor_is_what_people_write() {
    let text = "\
kind: Container
name: web
labels:
  tier: front
container:
  image: nginx:1.27
  command:
    - sh
    - -c
    - |
      set -e
        exec nginx
  env:
    Z: \"1\"
    A: a b
  networkMode: bridge
  ports:
    - containerPort: 80
      hostPort: 0
      protocol: tcp
  resources:
    memoryMib: 512
  restartPolicy: on-failure
  readiness:
    http:
      port: 80
      path: /health
    interval: 2s
";
    // `-c` is quoted: a dash could begin a list.
    let manifest = parse("web.yaml", text).unwrap_or_else(|errors| panic!("{errors}")).remove(0);
    assert_eq!(to_yaml(&manifest), text.replace("- -c", "- \"-c\""));
    let volume = parse("v.yaml", "kind: Volume\nname: data\nsize: 10G\n").unwrap().remove(0);
    assert_eq!(to_yaml(&volume), "kind: Volume\nname: data\nsize: 10GiB\n");
}
