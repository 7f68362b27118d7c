use std::{env, fs, path::Path};

use clap::Command;

use super::*;
use crate::docs;

#[test]
fn the_tree_is_consistent() {
    command().debug_assert();
}

fn leaves(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name());
        if sub.has_subcommands() {
            leaves(sub, &path, found);
        } else {
            found.push((path, sub.clone()));
        }
    }
}

#[test]
fn the_help_of_every_command_says_what_it_does_and_shows_an_example() {
    let mut found = Vec::new();
    leaves(&command(), "fleetctl", &mut found);
    assert!(found.len() > 35, "{}", found.len());
    for (path, mut command) in found {
        assert!(command.get_about().is_some(), "{path} has no description");
        let help = command.render_help().to_string();
        assert!(help.contains("Examples:\n") && help.contains("fleetctl"), "{path} has no example");
    }
}

#[test]
fn every_example_is_a_valid_command_line() {
    let mut found = Vec::new();
    leaves(&command(), "fleetctl", &mut found);
    for (path, command) in found {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in help.lines().filter_map(|line| line.split_once("fleetctl ").map(|(_, rest)| rest)) {
            let line = line.split(['|', '>', '<', ')']).next().unwrap_or_default().replace('…', "0");
            let line = line.replace("5f3c0", &"5f".repeat(32));
            let words = shell_words(&line);
            let parsed = Cli::try_parse_from(std::iter::once("fleetctl".to_owned()).chain(words));
            assert!(parsed.is_ok(), "{path}: {line}: {}", parsed.unwrap_err());
        }
    }
}

/// Enough of a shell's quoting for the examples.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
fn targets_and_output_are_read_before_and_after_the_command() {
    let cli =
        Cli::try_parse_from(["fleetctl", "-c", "a,b", "ps", "-c", "c", "-o", "json", "--timeout", "2s"])
            .unwrap();
    assert_eq!(cli.global.output, Format::Json);
    assert_eq!(cli.global.timeout, Some(Duration::from_secs(2)));
    assert!(cli.global.capsules.contains(&"c".to_owned()));
}

#[test]
fn the_command_of_exec_keeps_its_own_flags() {
    let cli = Cli::try_parse_from(["fleetctl", "exec", "-it", "web", "ls", "-l", "--all"]).unwrap();
    assert!(!cli.global.all && cli.global.selector.is_none());
}

#[test]
fn wrong_usage_exits_with_2_and_a_typo_suggests() {
    let error = Cli::try_parse_from(["fleetctl", "aply", "-f", "x"]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("apply"), "{error}");
}

/// `BLESS=1` writes the document anew.
#[test]
fn docs_cli_md_is_what_the_program_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let text = docs::markdown(command());
    if env::var_os("BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == text,
        "docs/cli.md is stale; run `BLESS=1 cargo nextest run -p fleetctl docs_cli_md` to renew it"
    );
}
