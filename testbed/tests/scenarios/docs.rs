//! Every command that README.md and docs/ show in a `console` block is run here, in order, in one
//! shell per page, and what it prints must look like what the page shows.
//!
//! Numbers, ids and times differ from run to run, so each run of digits or hex counts as the same.
//! With `BLESS=1` the pages are rewritten with what was really printed.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

/// Read by a shell before a page's first command.
const PRELUDE: &str =
    "set +e; export PROFILE=dev TESTBED_FLEET=docs NO_COLOR=1 COLUMNS=100; rm -rf target/ann;";

#[test]
fn every_command_of_the_readme_does_what_it_shows() -> Result<()> {
    check_page("README.md")
}

#[test]
fn every_command_of_getting_started_does_what_it_shows() -> Result<()> {
    check_page("docs/getting-started.md")
}

#[test]
fn every_command_of_the_fabric_page_does_what_it_shows() -> Result<()> {
    check_page("docs/fabric.md")
}

#[test]
fn every_command_of_the_image_page_does_what_it_shows() -> Result<()> {
    check_page("docs/image.md")
}

#[test]
fn no_other_page_shows_a_command_that_nothing_runs() -> Result<()> {
    for entry in fs::read_dir(top().join("docs"))? {
        let path = entry?.path();
        let run_above =
            ["getting-started.md", "fabric.md", "image.md"].iter().any(|page| path.ends_with(page));
        if path.extension().is_none_or(|kind| kind != "md") || run_above {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        ensure!(!text.contains("```console"), "{} shows commands that no test runs", path.display());
    }
    Ok(())
}

/// One `$ ` line with what stands below it.
#[derive(Debug, PartialEq)]
struct Step {
    command: String,
    shown: String,
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn check_page(page: &str) -> Result<()> {
    let path = top().join(page);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {page}"))?;
    let steps = steps(&text);
    ensure!(!steps.is_empty(), "{page} shows no command");
    let printed = run(&steps);
    down();
    let printed = printed.with_context(|| format!("on {page}"))?;
    if std::env::var_os("BLESS").is_some() {
        return Ok(fs::write(&path, blessed(&text, &printed))?);
    }
    for (step, printed) in steps.iter().zip(&printed) {
        let (shown, real) = (shape(&step.shown), shape(printed));
        ensure!(
            shown == real,
            "{page}: `{}` prints\n{printed}\nwhere the page shows\n{}\n(run with BLESS=1 to rewrite the page)",
            step.command,
            step.shown
        );
    }
    Ok(())
}

/// Also after a page that failed half-way.
fn down() {
    let done = Command::new("make")
        .args(["-s", "down", "PROFILE=dev"])
        .env("TESTBED_FLEET", "docs")
        .current_dir(top())
        .output();
    if let Ok(output) = done {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (inside, line) {
            (false, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) => match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.to_owned(), shown: String::new() }),
                (None, Some(step)) => {
                    step.shown.push_str(line);
                    step.shown.push('\n');
                }
                (None, None) => {}
            },
            (false, _) => {}
        }
    }
    steps
}

/// Runs all in one bash and returns what each printed, stdout and stderr as a terminal mixes them.
fn run(steps: &[Step]) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let mut script = PRELUDE.to_owned();
    for (at, step) in steps.iter().enumerate() {
        let out = dir.path().join(at.to_string());
        // Grouped in braces, not a subshell, so that `eval` and `export` last.
        writeln!(script, "\n{{ {}\n}} >'{}' 2>&1 || exit {}", step.command, out.display(), at + 1)?;
    }
    let status =
        Command::new("bash").args(["-c", &script]).current_dir(top()).env("PATH", path()).status()?;
    let read = |at: usize| fs::read_to_string(dir.path().join(at.to_string())).unwrap_or_default();
    match status.code() {
        Some(0) => Ok((0..steps.len()).map(read).collect()),
        Some(failed) if failed > 0 && failed as usize <= steps.len() => {
            let at = failed as usize - 1;
            bail!("`{}` failed and printed\n{}", steps[at].command, read(at))
        }
        _ => bail!("bash ended with {status}"),
    }
}

/// With the directory of the programs under test first.
fn path() -> String {
    let own = std::env::current_exe().unwrap_or_default();
    let bin = own.ancestors().nth(2).map(|dir| dir.display().to_string()).unwrap_or_default();
    format!("{bin}:{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// What stays the same from run to run: words, without numbers, ids, times and column widths.
fn shape(text: &str) -> String {
    let word = |word: &str| match word {
        word if word.chars().any(|c| c.is_ascii_digit()) => "#".to_owned(),
        // Links are named by a few digits of an id, which may all be letters.
        word if word.starts_with("cap-") || word.starts_with("cw-") => "#".to_owned(),
        "\"docs\"" => "\"fleet\"".to_owned(),
        // Units change with the number before them.
        "s" | "ms" | "B" | "KiB" | "MiB" | "GiB" => "#".to_owned(),
        word => word.to_owned(),
    };
    let line = |line: &str| {
        let mut words: Vec<String> = line.split_whitespace().map(word).collect();
        words.dedup();
        words.join(" ")
    };
    let mut lines: Vec<String> = text.lines().map(line).filter(|line| !line.is_empty()).collect();
    // Rows of a fan-out come in the order in which capsules answer.
    lines.sort();
    lines.join("\n")
}

fn blessed(text: &str, printed: &[String]) -> String {
    let mut fresh = String::new();
    let (mut inside, mut next) = (false, 0);
    for line in text.lines() {
        match (inside, line) {
            (false, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) if line.starts_with("$ ") => {
                fresh.push_str(line);
                fresh.push('\n');
                // As it says for who types it, who has no other fleet.
                let said = printed[next].replace("\"docs\"", "\"fleet\"");
                said.lines().for_each(|line| fresh.extend([line.trim_end(), "\n"]));
                next += 1;
                continue;
            }
            (true, _) => continue,
            (false, _) => {}
        }
        fresh.push_str(line);
        fresh.push('\n');
    }
    fresh
}

#[test]
fn a_page_is_read_and_rewritten_step_by_step() {
    let page = "a\n```console\n$ one\nold\n$ two\n```\nb\n";
    let read = steps(page);
    assert_eq!(read[0], Step { command: "one".into(), shown: "old\n".into() });
    assert_eq!(read[1], Step { command: "two".into(), shown: String::new() });
    let printed = ["new\nlines\n".to_owned(), String::new()];
    assert_eq!(blessed(page, &printed), "a\n```console\n$ one\nnew\nlines\n$ two\n```\nb\n");
    assert_eq!(shape("x 12 s\n"), shape("x   3.4 ms"));
}
