//! Image, command, environment, directory and user: what a process is started with.

use std::collections::HashSet;

use super::Report;
use crate::v1;

/// Longest argument or `NAME=value` that Linux starts a process with: `MAX_ARG_STRLEN` (32 pages)
/// less its final NUL.
const MAX_ARGUMENT: usize = 131_071;

/// Most bytes of command, arguments and environment together, each with its NUL and a pointer to
/// it: a quarter of the usual stack of 8 MiB (execve(2)).
const MAX_TOGETHER: usize = 2 << 20;

/// Longest image reference.
const MAX_IMAGE: usize = 512;

/// Longest path: `PATH_MAX` less its final NUL.
pub(super) const MAX_PATH: usize = 4095;

/// The capsule parses the reference; here only what can be no reference at all.
pub(super) fn check_image(report: &mut Report, image: &str) {
    let strange = |c: char| c.is_whitespace() || c.is_control();
    if image.is_empty() {
        report.add("it is missing; write a reference, such as nginx:1.27");
    } else if image.len() > MAX_IMAGE {
        report.add(format!("a reference of {} bytes is too long; {MAX_IMAGE} is the most", image.len()));
    } else if image.contains(strange) {
        report.add(format!("{image:?} has a space or a control character in it"));
    } else if let Some((_, rest)) = image.split_once("://") {
        report.add(format!("{image:?} has a scheme; write {rest}"));
    }
}

/// A command and arguments that a process can be started with.
pub(super) fn check_arguments(report: &mut Report, field: &str, arguments: &[String]) {
    report.each(field, arguments, |report, _, argument| check_text(report, argument));
}

/// As [`check_arguments`]; the first names the program.
pub(super) fn check_command(report: &mut Report, command: &[String]) {
    check_arguments(report, "command", command);
    if command.first().is_some_and(String::is_empty) {
        report.add_at("command[0]", "it is empty; it names the program to start");
    }
}

fn check_text(report: &mut Report, text: &str) {
    if text.contains('\0') {
        report.add("it has a NUL character in it, which no process can be given");
    } else if text.len() > MAX_ARGUMENT {
        report.add(format!("{} bytes are too long; Linux takes {MAX_ARGUMENT}", text.len()));
    }
}

pub(super) fn check_env(report: &mut Report, env: &[v1::EnvVar]) {
    let mut seen = HashSet::new();
    report.each("env", env, |report, _, variable| {
        let name = variable.name.as_str();
        if name.is_empty() {
            report.add_at("name", "it is missing");
        } else if name.contains(['=', '\0']) {
            report.add_at("name", format!("{name:?} has '=' or a NUL character in it"));
        } else if !seen.insert(name) {
            report.add_at("name", format!("{name} is set twice"));
        }
        report.at("value", |report| check_text(report, &variable.value));
        if name.len().saturating_add(variable.value.len()) >= MAX_ARGUMENT
            && variable.value.len() <= MAX_ARGUMENT
        {
            report.add(format!("name and value are too long together; Linux takes {MAX_ARGUMENT} bytes"));
        }
    });
}

/// Whether Linux starts a process with all of it; the image may add some.
pub(super) fn check_together(report: &mut Report, command: &[String], args: &[String], env: &[v1::EnvVar]) {
    let words = command.iter().chain(args).map(String::len);
    let variables = env.iter().map(|variable| variable.name.len() + 1 + variable.value.len());
    let bytes: usize = words.chain(variables).map(|length| length + 1 + size_of::<u64>()).sum();
    if bytes > MAX_TOGETHER {
        report.add(format!(
            "command, args and env are {bytes} bytes together, and Linux starts no process with more than \
             {MAX_TOGETHER}; put large values in a volume"
        ));
    }
}

pub(super) fn check_working_dir(report: &mut Report, directory: &str) {
    if directory.is_empty() {
        return;
    }
    if !directory.starts_with('/') {
        report.add(format!("{directory:?} is not absolute; begin it with /"));
    } else if directory.contains('\0') || directory.len() > MAX_PATH {
        report.add(format!("it is no path: it has a NUL character or more than {MAX_PATH} bytes"));
    }
}

/// `user`, `uid`, `user:group` or `uid:gid`.
pub(super) fn check_user(report: &mut Report, user: &str) {
    if user.is_empty() {
        return;
    }
    let (name, group) = user.split_once(':').unwrap_or((user, "root"));
    let part_is_sane = |part: &str| {
        let strange = |c: char| c == ':' || c.is_whitespace() || c.is_control();
        let number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        // (uid_t)-1 means "leave as is" to the kernel.
        !part.is_empty()
            && !part.contains(strange)
            && (!number || part.parse::<u32>().is_ok_and(|id| id != u32::MAX))
    };
    if !part_is_sane(name) || !part_is_sane(group) {
        report.add(format!("{user:?} is no user; write user, uid, user:group or uid:gid"));
    }
}
