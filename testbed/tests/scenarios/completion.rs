//! What shells complete, asked for as they ask.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    fixtures,
    scenario::{Fleet, echo},
    sys,
};
use tokio::process::Command;

/// Longer than this no shell may wait, with all that runs beside the test.
const PATIENCE: Duration = Duration::from_secs(3);
/// The function of the script that `fleetctl completions bash` prints, called as bash calls it.
const BASH: &str = r#"source <(fleetctl completions bash)
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9
    _clap_complete_fleetctl fleetctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
    printf '%s\n' "${COMPREPLY[@]}""#;

/// What is offered for the last word, one a line as the shell gets it.
async fn offered(fleet: &Fleet, shell: &str, words: &[&str]) -> Result<Vec<String>> {
    let fleetctl: PathBuf = sys::program("fleetctl")?;
    let mut command = match shell {
        "bash" => Command::new("bash"),
        _ => Command::new(&fleetctl),
    };
    let index = words.len().to_string();
    match shell {
        "bash" => command.args(["-c", BASH, "bash", "fleetctl"]),
        // As the scripts of zsh and fish call it.
        "zsh" => command.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_INDEX", index).args(["--", "fleetctl"]),
        _ => command.args(["--", "fleetctl"]),
    };
    if shell != "bash" {
        command.env("FLEETCTL_COMPLETE", shell);
    }
    let dir = fleetctl.parent().context("fleetctl is in a directory")?.display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(words).env("PATH", format!("{dir}:{path}")).env_remove("FLEETCTL_CAPSULE");
    command.env("FLEETCTL_CONFIG", fleet.operator().config()).stdin(Stdio::null());
    let asked = Instant::now();
    let output = tokio::time::timeout(PATIENCE * 4, command.output()).await.context("it hangs")??;
    ensure!(asked.elapsed() < PATIENCE, "{words:?} took {:?}", asked.elapsed());
    ensure!(output.status.success(), "{words:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// Names of [`offered`], without the help that zsh and fish get beside some.
async fn names(fleet: &Fleet, shell: &str, words: &[&str]) -> Result<Vec<String>> {
    let lines = offered(fleet, shell, words).await?;
    let name = |line: &String| line.split([':', '\t']).next().map(|name| name.trim().to_owned());
    Ok(lines.iter().filter_map(name).collect())
}

#[tokio::test]
async fn shells_complete_live_names_and_wait_for_no_dead_capsule() -> Result<()> {
    let fleet = Fleet::netns(2).await?;
    let (a, b) = (fleet.capsule("a"), fleet.capsule("b"));
    a.apply(&(echo("web", "") + "---\n" + &echo("worker", ""))).await?;
    a.apply("kind: Volume\nname: data\nsize: 16M\n").await?;
    b.apply(&echo("wiki", "")).await?;
    let cases: [(&[&str], &[&str]); 9] = [
        (&["-c", ""], &["a", "b"]),
        (&["-c", "a,"], &["a,b"]),
        (&["-c", "a", "logs", ""], &["web", "worker"]),
        (&["-c", "b", "exec", "w"], &["wiki"]),
        (&["--all", "logs", "w"], &["web", "wiki", "worker"]),
        (&["-c", "a", "workload", "stop", "wo"], &["worker"]),
        (&["-c", "a", "volume", "resize", ""], &["data"]),
        (&["context", "use", ""], &["a", "b"]),
        (&["fabric", "explain", "w"], &["web@a", "wiki@b", "worker@a"]),
    ];
    for (words, expected) in cases {
        for shell in ["bash", "zsh", "fish"] {
            let mut found = names(&fleet, shell, words).await?;
            // Options and helpers are offered where a word has not begun.
            found.retain(|name| !name.starts_with('-'));
            ensure!(found == expected, "{shell} offers {found:?} for {words:?}");
        }
    }
    let images = offered(&fleet, "bash", &["-c", "a", "image", "remove", "localhost/"]).await?;
    ensure!(images == [fixtures::BUSYBOX, fixtures::ECHO], "{images:?}");

    // One that vanished, and one that is there and says nothing.
    b.partition()?;
    ensure!(names(&fleet, "bash", &["--all", "logs", "w"]).await? == ["web", "worker"]);
    b.heal()?;
    b.pause()?;
    ensure!(names(&fleet, "zsh", &["--all", "logs", "w"]).await? == ["web", "worker"]);
    ensure!(names(&fleet, "fish", &["-c", "b", "logs", ""]).await?.iter().all(|name| name.starts_with('-')));
    b.resume()?;
    fleet.passed();
    Ok(())
}
