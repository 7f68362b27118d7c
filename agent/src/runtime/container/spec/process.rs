//! What runs: arguments, environment, credentials.

use std::collections::{HashMap, hash_map::Entry};

use serde_json::{Value, json};

use super::caps::CapabilitySet;
use crate::{
    image::ImageInfo,
    runtime::{ExecSpec, RuntimeError, Setup, container::user::User},
};

/// Where programs are looked for unless the image says otherwise; as docker's.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The terminal that clients are assumed to be.
const TERM: &str = "TERM=xterm";

/// The user that a workload is to run as, unresolved: the manifest's, else the image's.
pub(crate) fn user_text(setup: &Setup) -> &str {
    match setup.spec.user.as_str() {
        "" => image_config(&setup.image).and_then(|config| config.user().as_deref()).unwrap_or_default(),
        user => user,
    }
}

fn image_config(image: &ImageInfo) -> Option<&oci_spec::image::Config> {
    image.config.config().as_ref()
}

/// The task's first process.
pub(super) fn first_process(
    setup: &Setup,
    user: &User,
    granted: &CapabilitySet,
    oom_score_adj: i32,
) -> Result<Value, RuntimeError> {
    Ok(json!({
        "terminal": false,
        "user": user_json(user),
        "args": arguments(setup)?,
        "env": environment(setup),
        "cwd": working_dir(setup),
        // Nothing inheritable or ambient: a process that is not root keeps none over execve.
        "capabilities": {"bounding": granted, "effective": granted, "permitted": granted},
        "noNewPrivileges": !setup.spec.privileged,
        "oomScoreAdj": oom_score_adj,
    }))
}

fn user_json(user: &User) -> Value {
    json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.extra_gids})
}

/// `command` replaces the image's entrypoint and then its cmd too; `args` replaces the cmd.
fn arguments(setup: &Setup) -> Result<Vec<String>, RuntimeError> {
    let image = image_config(&setup.image);
    let of_image = |list: Option<&Option<Vec<String>>>| list.cloned().flatten().unwrap_or_default();
    let spec = &setup.spec;
    let mut arguments = spec.command.clone();
    if arguments.is_empty() {
        arguments = of_image(image.map(oci_spec::image::Config::entrypoint));
        if spec.args.is_empty() {
            arguments.extend(of_image(image.map(oci_spec::image::Config::cmd)));
        }
    }
    arguments.extend(spec.args.iter().cloned());
    if arguments.is_empty() {
        return Err(RuntimeError::Invalid(format!(
            "the image {} names no command to run; set `command`",
            setup.image.reference
        )));
    }
    Ok(arguments)
}

fn environment(setup: &Setup) -> Vec<String> {
    let image = image_config(&setup.image).and_then(|config| config.env().clone()).unwrap_or_default();
    let mut environment = vec![PATH.to_owned()];
    set_all(&mut environment, image);
    set_all(&mut environment, [format!("HOSTNAME={}", setup.name)]);
    set_all(&mut environment, setup.spec.env.iter().map(|var| format!("{}={}", var.name, var.value)));
    environment
}

/// Later ones replace earlier ones of the same name in place.
fn set_all(environment: &mut Vec<String>, variables: impl IntoIterator<Item = String>) {
    let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
    let mut places: HashMap<String, usize> =
        environment.iter().enumerate().map(|(at, known)| (name(known), at)).collect();
    for variable in variables {
        match places.entry(name(&variable)) {
            Entry::Occupied(at) => environment[*at.get()] = variable,
            Entry::Vacant(new) => {
                new.insert(environment.len());
                environment.push(variable);
            }
        }
    }
}

/// runc makes it where the image lacks it.
fn working_dir(setup: &Setup) -> String {
    let image = image_config(&setup.image).and_then(|config| config.working_dir().clone());
    let dir = match setup.spec.working_dir.as_str() {
        "" => image.unwrap_or_default(),
        dir => dir.to_owned(),
    };
    if dir.starts_with('/') { dir } else { format!("/{dir}") }
}

/// A further process in a sandbox whose first one is `first`, as [`super::build`] made it.
pub(crate) fn exec_process(first: &Value, spec: &ExecSpec, user: Option<&User>) -> Value {
    let mut process = first.clone();
    process["args"] = json!(spec.command);
    process["terminal"] = json!(spec.tty);
    let mut environment: Vec<String> = serde_json::from_value(first["env"].clone()).unwrap_or_default();
    if spec.tty && !environment.iter().any(|known| known.starts_with("TERM=")) {
        environment.push(TERM.to_owned());
    }
    set_all(&mut environment, spec.env.iter().map(|(name, value)| format!("{name}={value}")));
    process["env"] = json!(environment);
    if !spec.working_dir.is_empty() {
        process["cwd"] = json!(spec.working_dir);
    }
    if let Some(user) = user {
        process["user"] = user_json(user);
    }
    if let (true, Some((columns, rows))) = (spec.tty, spec.window) {
        process["consoleSize"] = json!({"width": columns, "height": rows});
    }
    process
}
