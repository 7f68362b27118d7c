//! Manifests of the containers that scenarios run.

use crate::fixtures;

/// A script that runs until it is asked to end, and then does at once.
pub const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";

/// A busybox container that runs a shell script; `rest` are more fields of `container`, indented by
/// two, each line with its end.
pub fn shell(name: &str, script: &str, rest: &str) -> String {
    // A JSON string is a YAML string.
    let script = serde_json::json!(script);
    format!(
        "kind: Container\nname: {name}\ncontainer:\n  image: {}\n  command: [sh, -c, {script}]\n{rest}",
        fixtures::BUSYBOX
    )
}

/// A container of the echo program; see `testbed/echo`.
pub fn echo(name: &str, rest: &str) -> String {
    format!("kind: Container\nname: {name}\ncontainer:\n  image: {}\n{rest}", fixtures::ECHO)
}

/// The same with labels, written as YAML: `{ app: site }`.
pub fn labelled(labels: &str, manifest: &str) -> String {
    format!("labels: {labels}\n{manifest}")
}
