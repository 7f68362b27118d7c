//! fleetctl's own side: contexts, targets, terminals and shells. No capsule runs here.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use capsule_client::{ConfigError, Context, Home};
use capsule_proto::Fingerprint;
use testbed::{
    scenario::{Operator, Output},
    sys,
};

/// An operator with contexts that nothing answers.
fn operator(dir: &tempfile::TempDir, names: &[&str]) -> Result<Operator> {
    let home = Home::at(dir.path());
    home.ensure_key()?;
    for name in names {
        let context = Context {
            address: "127.0.0.1:1".parse()?,
            capsule_id: format!("id-of-{name}"),
            fingerprint: Fingerprint::of(name.as_bytes()),
            groups: Default::default(),
            labels: Default::default(),
        };
        home.update(|contexts| contexts.insert(name, context).map_err(ConfigError::from))?;
    }
    Ok(Operator::at(dir.path()))
}

/// Names of the capsules that these words mean, by asking them all in vain.
async fn meant(operator: &Operator, words: &[&str]) -> Result<Vec<String>> {
    let words = [words, &["whoami", "-o", "json"]].concat();
    let output = operator.run(&words).await?.expect_code(1)?;
    let name = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).ok()?["capsule"].as_str().map(str::to_owned)
    };
    let mut names: Vec<String> = output.stdout.lines().filter_map(name).collect();
    names.sort();
    Ok(names)
}

/// Runs fleetctl on a terminal of its own and types `input`.
async fn on_terminal(operator: &Operator, variables: &str, words: &str, input: &str) -> Result<Output> {
    let typed = format!("{variables} {} {words}", sys::program("fleetctl")?.display());
    let mut command = tokio::process::Command::new("script");
    command
        .args(["-qec", &typed, "/dev/null"])
        .env("FLEETCTL_CONFIG", operator.config())
        .env("TERM", "xterm");
    command.env_remove("NO_COLOR").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot run script(1)")?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    drop(stdin);
    Ok(Output {
        command: typed,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::new(),
        elapsed: Default::default(),
    })
}

#[tokio::test]
async fn targets_are_named_grouped_labelled_current_or_all() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let operator = operator(&dir, &["kitchen", "attic", "cellar"])?;
    operator.run(&["context", "group", "attic,cellar", "edge"]).await?.ok()?;
    operator.run(&["context", "label", "kitchen,attic", "zone=warm", "x=1"]).await?.ok()?;
    let told = operator.run(&["context", "label", "attic", "x-"]).await?.ok()?.stderr;
    ensure!(told == "labels of attic: zone=warm\n", "{told}");
    ensure!(meant(&operator, &["-c", "kitchen,attic"]).await? == ["attic", "kitchen"]);
    ensure!(meant(&operator, &["--group", "edge"]).await? == ["attic", "cellar"]);
    ensure!(meant(&operator, &["-l", "zone=warm"]).await? == ["attic", "kitchen"]);
    ensure!(meant(&operator, &["-l", "x=1"]).await? == ["kitchen"]);
    ensure!(meant(&operator, &["--group", "edge", "-l", "zone=warm"]).await? == ["attic"]);
    ensure!(meant(&operator, &["--all"]).await? == ["attic", "cellar", "kitchen"]);
    ensure!(meant(&operator, &[]).await? == ["kitchen"], "the first context is not current");
    operator.run(&["context", "use", "cellar"]).await?.ok()?;
    operator.run(&["context", "rename", "cellar", "vault"]).await?.ok()?;
    ensure!(meant(&operator, &[]).await? == ["vault"]);
    ensure!(meant(&operator, &["-c", "127.0.0.1:1"]).await?.len() == 1, "an address names no context");
    let output = operator.command(&["whoami"])?.env("FLEETCTL_CAPSULE", "attic,kitchen").output().await?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("attic") && text.contains("kitchen") && !text.contains("vault"), "{text}");
    operator.run(&["context", "remove", "attic", "vault"]).await?.ok()?;
    ensure!(meant(&operator, &["--all"]).await? == ["kitchen"]);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_meant_exits_with_2_and_says_what_could() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let nobody = operator(&dir, &[])?;
    let said = nobody.run(&["whoami"]).await?.expect_code(2)?.stderr;
    ensure!(said.contains("fleetctl adopt"), "{said}");
    let operator = operator(&dir, &["kitchen"])?;
    for (words, hint) in [
        (&["-c", "kitchn", "ps"][..], "did you mean \"kitchen\""),
        (&["-c", "10.1.2.3:7", "ps"], "fleetctl adopt 10.1.2.3:7"),
        (&["--group", "dark", "ps"], "in group dark"),
        (&["-l", "zone=x", "ps"], "labelled zone=x"),
        (&["context", "use", "kitchn"], "did you mean \"kitchen\""),
        (&["context", "rename", "kitchen", "a b"], "cannot name a context"),
        (&["context", "label", "kitchen", "zone"], "KEY=VALUE"),
        (&["whoam"], "whoami"),
        (&["ps", "--timeot", "5s"], "--timeout"),
        (&["ps", "-o", "jsn"], "json"),
        (&["adopt", "a:b:c", "--yes"], "HOST:PORT"),
        (&["stop", "web"], "fleetctl workload stop"),
        (&["rm", "web"], "fleetctl workload delete"),
        (&["--all", "-c", "kitchen", "ps"], "leave out one of them"),
        (&["logs", "web", "-n", "abc"], "such as 20"),
        (&["ps", "--timeout", "2"], "a number and a unit, such as 500ms, 2s"),
        (&["logs", "web", "-o", "name"], "use -o json"),
        (&["exec", "-o", "json", "web", "--", "true"], "leave it out"),
        (&["context", "label", "kitchen", "zone=a,b"], "no comma"),
        (&["apply", "-f", "-", "--prune", ""], "it names no label"),
        (&["apply", "-f", "-"], "standard input holds no manifest"),
    ] {
        let said = operator.run(words).await?.expect_code(2)?.stderr;
        ensure!(said.contains(hint), "{words:?} does not hint at {hint:?}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn many_fleetctls_at_once_lose_none_of_each_others_changes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let operator = operator(&dir, &["kitchen"])?;
    let labels: Vec<String> = (0..24).map(|at| format!("k{at}=v")).collect();
    let runs = labels
        .iter()
        .map(|label| async { operator.run(&["context", "label", "kitchen", label]).await?.ok() });
    for run in futures_util::future::join_all(runs).await {
        run?;
    }
    let shown = operator.run(&["context", "list", "-o", "json"]).await?.ok()?.json()?;
    let kept = shown["result"]["context"]["labels"].as_object().map_or(0, serde_json::Map::len);
    ensure!(kept == 24, "{kept} of 24 labels were kept: {shown}");
    Ok(())
}

#[tokio::test]
async fn a_broken_configuration_is_explained_and_left_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let operator = operator(&dir, &["kitchen"])?;
    let (contexts, key) = (dir.path().join("contexts.toml"), dir.path().join("key.pem"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    let said = operator.run(&["whoami"]).await?.expect_code(1)?.stderr;
    ensure!(said.contains("chmod 600"), "{said}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let broken = "current = \"kitchen\"\n[contexts.kitchen]\naddres = 1\n";
    fs::write(&contexts, broken)?;
    for words in [&["whoami"][..], &["context", "label", "kitchen", "a=b"], &["context", "list"]] {
        let said = operator.run(words).await?.expect_code(1)?.stderr;
        ensure!(said.contains("contexts.toml") && said.contains("line 3"), "{said}");
        ensure!(said.contains("Correct it"), "no next step: {said}");
    }
    ensure!(fs::read_to_string(&contexts)? == broken, "the broken file was changed");
    Ok(())
}

#[tokio::test]
async fn a_pipe_gets_plain_text_and_a_terminal_gets_colours_in_its_width() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let operator = operator(&dir, &["kitchen", "attic"])?;
    let long = format!("note={}", "x".repeat(150));
    operator.run(&["context", "label", "kitchen", &long]).await?.ok()?;
    for words in [&["context", "list"][..], &["--all", "whoami"], &["--help"], &["--all", "ps", "-o", "wide"]]
    {
        let output = operator.command(words)?.env_remove("NO_COLOR").output().await?;
        let text = [output.stdout, output.stderr].concat();
        ensure!(!text.contains(&0x1b), "{words:?} writes escapes into a pipe: {text:?}");
    }
    let piped = operator.command(&["context", "list"])?.env("COLUMNS", "60").output().await?;
    ensure!(String::from_utf8_lossy(&piped.stdout).contains(&long), "a pipe's table was cut");
    let coloured = on_terminal(&operator, "", "context list", "").await?;
    ensure!(coloured.stdout.contains('\x1b'), "{:?}", coloured.stdout);
    let plain = on_terminal(&operator, "COLUMNS=60 NO_COLOR=1", "context list", "").await?;
    ensure!(!plain.stdout.contains('\x1b'), "{:?}", plain.stdout);
    ensure!(plain.stdout.contains('…'), "{}", plain.stdout);
    ensure!(plain.stdout.lines().all(|line| line.trim_end().chars().count() <= 60), "{}", plain.stdout);
    Ok(())
}

#[tokio::test]
async fn output_that_cannot_be_written_is_told_and_one_that_nobody_reads_is_not() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let operator = operator(&dir, &["kitchen"])?;
    for words in [&["context", "list"][..], &["completions", "bash"], &["--help"], &["version"]] {
        let full = fs::File::options().write(true).open("/dev/full")?;
        let output = onto(&mut operator.command(words)?, full.into()).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{words:?} ended with {}: {said}", output.status);
        ensure!(said.contains("cannot be written") && said.contains("No space left"), "{words:?}: {said}");
        let output = onto(&mut operator.command(words)?, unread()?).await?;
        ensure!(output.status.code() == Some(141), "{words:?} ended with {}", output.status);
        ensure!(output.stderr.is_empty(), "{words:?} says {:?}", String::from_utf8_lossy(&output.stderr));
    }
    let mut testbed = tokio::process::Command::new(sys::program("testbed")?);
    let output = onto(testbed.arg("status"), unread()?).await?;
    ensure!(output.status.code() == Some(141) && output.stderr.is_empty(), "{output:?}");
    Ok(())
}

/// Runs a command with this as its stdout.
async fn onto(command: &mut tokio::process::Command, stdout: Stdio) -> Result<std::process::Output> {
    let child = command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped()).spawn()?;
    Ok(child.wait_with_output().await?)
}

/// A pipe whose reader is gone.
fn unread() -> Result<Stdio> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    Ok(writer.into())
}

#[tokio::test]
async fn shells_complete_commands_and_names() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let operator = operator(&dir, &["kitchen", "attic"])?;
    let complete = async |words: &[&str]| -> Result<String> {
        let line = [&["--", "fleetctl"], words].concat();
        let output = operator
            .command(&line)?
            .env("FLEETCTL_COMPLETE", "bash")
            .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
            .env("_CLAP_COMPLETE_COMP_TYPE", "9")
            .env("_CLAP_COMPLETE_SPACE", "true")
            .env("_CLAP_IFS", "\n")
            .output()
            .await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    ensure!(complete(&["-c", "ki"]).await? == "kitchen");
    ensure!(complete(&["-c", "kitchen,"]).await?.contains("kitchen,attic"));
    ensure!(complete(&["context", "use", "at"]).await? == "attic");
    ensure!(complete(&["work"]).await?.contains("workload"));
    for shell in ["bash", "zsh", "fish"] {
        let script = operator.run(&["completions", shell]).await?.ok()?.stdout;
        ensure!(script.contains("FLEETCTL_COMPLETE"), "{script}");
    }
    let pages = dir.path().join("man1");
    operator.run(&["man", &pages.display().to_string()]).await?.ok()?;
    ensure!(fs::read_to_string(pages.join("fleetctl-adopt.1"))?.contains("fingerprint"));
    Ok(())
}
