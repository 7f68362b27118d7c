//! The agent and the root image agree on which programs there are.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use capsule_images::contents::Contents;

/// Where the agent runs programs.
const FOLDERS: [&str; 2] = ["sys", "boot"];
/// How it does, before the program's name.
const CALLS: [&str; 2] = [" run(\"", "Command::new(\""];

#[test]
fn every_program_that_the_agent_runs_is_in_the_root() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = Contents::read(&top.join("images/contents"), "root").unwrap();
    let files = root.packages.values();
    let named = |name: &str| {
        files.clone().any(|files| {
            let mut kept =
                files.keep.iter().map(Path::new).chain(files.links.iter().map(|(link, _)| link.as_path()));
            kept.any(|path| path.file_name().is_some_and(|file| file == name))
        })
    };
    let mut programs = Vec::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(top.join("agent/src").join(folder)).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            programs.extend(run_by(text.split("#[cfg(test)]").next().unwrap()));
        }
    }
    assert!(programs.contains(&"mkfs.ext4".to_owned()), "{programs:?}");
    for program in programs {
        assert!(named(&program), "the agent runs {program}, which images/contents/root.toml does not keep");
    }
}

/// Programs that a source file names where it runs them.
fn run_by(source: &str) -> Vec<String> {
    let after = CALLS.iter().flat_map(|call| source.split(call).skip(1));
    after.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}
