//! What a failed scenario leaves behind for whoever reads its output.

use std::{fs, path::Path, process::Command};

use crate::{
    substrate::{
        Substrate, Testbed,
        qemu::order::{Order, Sight, tell_blocking},
    },
    sys::{netns, process::Process, program, run},
};

/// Lines of each log that are shown.
const TAIL: usize = 60;
/// Lines of events and of each part of the network state.
const PART: usize = 40;

/// Prints log, events and network state of every capsule to stderr.
pub fn print(testbed: &Testbed) {
    eprintln!("\n===== testbed {} did not pass =====", testbed.record.name);
    for node in &testbed.record.nodes {
        let name = &node.name;
        let alive = node.life().is_some_and(Process::is_alive);
        let is_machine = matches!(testbed.record.substrate, Substrate::Qemu(_));
        let what = if is_machine { "machine" } else { "agent" };
        eprintln!("\n----- {name}: {what} {} -----", if alive { "runs" } else { "does not run" });
        section("log", &tail_of(&testbed.record.console(name), TAIL));
        if alive {
            section("events", &events(testbed, name));
        }
        if is_machine {
            // Twice: whether it stands still or goes round tells one hang from another.
            for _ in 0..if alive { 2 } else { 0 } {
                section("machine", &sight(testbed, name));
            }
            continue;
        }
        let namespace = testbed.plan().namespace(name);
        section("addresses", &inside(&namespace, &["ip", "-br", "address"]));
        section("nftables", &inside(&namespace, &["nft", "list", "ruleset"]));
        section("tracked connections", &inside(&namespace, &["conntrack", "-C"]));
    }
}

fn section(title: &str, text: &str) {
    eprintln!("[{title}]");
    for line in text.lines() {
        eprintln!("  {line}");
    }
}

/// The last lines of a file.
pub(super) fn tail_of(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    last(&String::from_utf8_lossy(&bytes), lines)
}

fn last(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn sight(testbed: &Testbed, name: &str) -> String {
    match tell_blocking(&testbed.files(name).socket(), &Order::LookInside) {
        Ok(Sight { power, resets, processors, .. }) => {
            format!("{power:?}, resets: {resets:?}\n{}", processors.join("\n"))
        }
        Err(error) => format!("{error:#}"),
    }
}

fn events(testbed: &Testbed, name: &str) -> String {
    let Ok(fleetctl) = program("fleetctl") else { return String::new() };
    let mut command = Command::new(fleetctl);
    command.args(["-c", name, "--timeout", "5s", "events", "-n", "40"]);
    command.env("FLEETCTL_CONFIG", testbed.record.dir.join("operator")).env("NO_COLOR", "1");
    run(&mut command, "").map_or_else(|error| format!("{error:#}"), |text| last(&text, PART))
}

fn inside(namespace: &str, words: &[&str]) -> String {
    let mut command = netns::command(namespace, words[0]);
    run(command.args(&words[1..]), "").map_or_else(|error| format!("{error:#}"), |text| last(&text, 3 * PART))
}
