//! Commands that somebody may have meant who looked for them elsewhere: `fleetctl stop web` as with
//! docker, where it is `fleetctl workload stop web`.

use clap::{
    Command, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::cli;

/// What other programs call what a command here does.
const SYNONYMS: [(&str, &str); 10] = [
    ("attach", "exec"),
    ("create", "apply"),
    ("describe", "get"),
    ("inspect", "get"),
    ("kill", "stop"),
    ("login", "adopt"),
    ("node", "capsule"),
    ("nodes", "capsule"),
    ("rmi", "remove"),
    ("run", "apply"),
];

/// The error of an unknown command, with the whole names of those that have this name elsewhere.
pub fn with_commands(mut error: Error) -> Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let found = elsewhere(word);
    if !found.is_empty() {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(found));
    }
    error
}

/// `fleetctl workload stop` for `stop`; a synonym counts where the word itself is nowhere.
fn elsewhere(word: &str) -> Vec<String> {
    let root = cli::command();
    let mut found = Vec::new();
    collect(&root, "fleetctl", word, &mut found);
    let synonym = SYNONYMS.iter().find(|(other, _)| *other == word);
    if let (true, Some((_, ours))) = (found.is_empty(), synonym) {
        collect(&root, "fleetctl", ours, &mut found);
    }
    found
}

fn collect(command: &Command, path: &str, word: &str, found: &mut Vec<String>) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let path = format!("{path} {}", sub.get_name());
        if sub.get_name() == word || sub.get_all_aliases().any(|alias| alias == word) {
            found.push(path.clone());
        }
        collect(sub, &path, word, found);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn told(words: &[&str]) -> String {
        let words = [&["fleetctl"], words].concat();
        let error = with_commands(cli::Cli::try_parse_from(words).unwrap_err());
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn a_command_that_is_elsewhere_is_named_in_whole() {
        for (word, meant) in [
            ("stop", "fleetctl workload stop"),
            ("start", "fleetctl workload start"),
            ("restart", "fleetctl workload restart"),
            ("wait", "fleetctl workload wait"),
            ("get", "fleetctl workload get"),
            ("delete", "fleetctl workload delete"),
            ("rm", "fleetctl workload delete"),
            ("inspect", "fleetctl workload get"),
            ("pull", "fleetctl image pull"),
            ("rmi", "fleetctl image remove"),
            ("use", "fleetctl context use"),
            ("run", "fleetctl apply"),
        ] {
            let told = told(&[word, "web"]);
            assert!(told.contains(&format!("'{meant}'")), "{word}: {told}");
        }
        assert!(told(&["aply"]).contains("'apply'"), "a typo still finds what is here");
    }
}
