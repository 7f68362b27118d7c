//! docs/cli.md, made from the same tree that reads the command line.

use std::fmt::Write as _;

use clap::{Arg, Command, builder::StyledStr};

const INTRODUCTION: &str = "\
# fleetctl

The reference of every command, made from the program itself; `fleetctl help COMMAND`
prints the same. [json.md](json.md) describes `-o json`.

## Targets

| given | capsules that are meant |
|---|---|
| `-c a,b` | these contexts; `HOST:PORT` of an adopted capsule works too |
| `--group g` | every context in the group (`fleetctl context group NAME g`) |
| `-l key=value` | every context with the label (`fleetctl context label NAME key=value`); with `-c` or `--group`, only those of them |
| `--all` | every context; with `-l`, those with the label; not together with `-c` or `--group` |
| nothing | `FLEETCTL_CAPSULE` (names, joined by commas), else the current context |

`WORKLOAD@CAPSULE` names one workload on one capsule, whatever the flags say. Answers are printed as
they come; a capsule that cannot be reached is a row with its error and delays no other.

## Exit codes

| code | meaning |
|---|---|
| 0 | every capsule did what was asked |
| 1 | none did |
| 2 | the command line or a manifest is wrong; nothing was sent |
| 3 | some did, some did not |
| 4 | `diff --exit-code`: something would change |
| any | `exec` on one capsule: the command's own, 128 + N where signal N ended it |

## Environment

| variable | meaning |
|---|---|
| `FLEETCTL_CAPSULE` | capsules that are meant where no flag says |
| `FLEETCTL_CONFIG` | directory of contexts and key, instead of `fleetctl` in the XDG configuration directory |
| `FLEETCTL_INTERFACES` | network interfaces to listen on, instead of all (`--interface`) |
| `FLEETCTL_REGISTRY_PASSWORD` | password for `image pull --username` |
| `NO_COLOR` | no colours |
";

/// The whole document.
pub fn markdown(mut command: Command) -> String {
    command.build();
    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n## Global flags\n\n");
    let globals = command.get_arguments().filter(|argument| argument.is_global_set());
    globals.for_each(|argument| flag(&mut text, argument));
    for sub in shown(&command) {
        section(&mut text, sub, "fleetctl");
    }
    text
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

fn section(text: &mut String, command: &Command, parent: &str) {
    let name = format!("{parent} {}", command.get_name());
    let _ = write!(text, "\n## {name}\n\n{}\n", paragraph(command.get_about()));
    if let Some(long) = command.get_long_about().map(ToString::to_string) {
        let rest = long.split_once("\n\n").map_or("", |(_, rest)| rest);
        let _ = write!(text, "\n{}\n", rest.trim());
    }
    let aliases: Vec<_> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        let _ = write!(text, "\nAlso: {}\n", aliases.join(", "));
    }
    if command.has_subcommands() {
        shown(command).for_each(|sub| section(text, sub, &name));
        return;
    }
    usage(text, command, &name);
    let own = command.get_arguments().filter(|a| !a.is_global_set() && a.get_id() != "help");
    let own: Vec<&Arg> = own.collect();
    if !own.is_empty() {
        text.push('\n');
        own.iter().for_each(|argument| flag(text, argument));
    }
    if let Some(examples) = command.get_after_help().map(ToString::to_string) {
        let examples = examples.trim().trim_start_matches("Examples:").trim_matches('\n');
        let lines: Vec<&str> = examples.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
        let _ = write!(text, "\n```sh\n{}\n```\n", lines.join("\n"));
    }
}

fn usage(text: &mut String, command: &Command, name: &str) {
    let positionals = command.get_positionals().map(|argument| {
        let value = argument.to_string();
        if argument.is_required_set() { value } else { format!("[{value}]") }
    });
    let words: Vec<String> = std::iter::once(name.to_owned()).chain(positionals).collect();
    let _ = write!(text, "\nUsage: `{}`\n", words.join(" "));
}

/// ``- `-n, --tail <N>`: begin with the last N lines``.
fn flag(text: &mut String, argument: &Arg) {
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let mut name = [short, long].into_iter().flatten().collect::<Vec<_>>().join(", ");
    if name.is_empty() {
        name = argument.to_string();
    } else if argument.get_action().takes_values() {
        let values = argument.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
        let _ = write!(name, " <{values}>");
    }
    let mut about = paragraph(argument.get_help());
    let possible: Vec<_> =
        argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if argument.get_action().takes_values() && !possible.is_empty() {
        let _ = write!(about, " ({})", possible.join(", "));
    }
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if argument.get_action().takes_values() && !defaults.is_empty() {
        let _ = write!(about, "; default `{}`", defaults.join(","));
    }
    let _ = writeln!(text, "- `{name}`{}{about}", if about.is_empty() { "" } else { ": " });
}

fn paragraph(text: Option<&StyledStr>) -> String {
    text.map(|text| text.to_string().replace('\n', " ").trim().to_owned()).unwrap_or_default()
}
