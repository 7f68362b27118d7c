//! What fleetctl says of workloads to who looks at them.

use std::fs;

use anyhow::{Result, ensure};
use testbed::scenario::{FOREVER, Fleet, echo, shell};

#[tokio::test]
async fn a_workload_that_fails_says_why_wherever_one_looks() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let crash = shell("crash", "echo first; echo boom; exit 3", "");
    let absent = echo("absent", "  command: [no-such-program]\n");
    a.fleetctl_with(&["apply", "-f", "-"], format!("{crash}---\n{absent}").as_bytes()).await?.ok()?;
    a.wait_phase("crash", "PHASE_CRASH_LOOP").await?;
    a.wait_phase("absent", "PHASE_FAILED").await?;

    let list = a.fleetctl(&["ps"]).await?.ok()?.stdout;
    ensure!(list.contains("CrashLoop (exit 3)"), "{list}");
    ensure!(list.contains("Failed (executable file not found in $PATH)"), "{list}");
    let reason = a.fleetctl(&["workload", "get", "absent", "-o", "json"]).await?.ok()?.json()?;
    let reason = reason["result"]["status"]["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(reason.matches("the task of").count() == 1, "steps are repeated: {reason}");

    let wait = a.fleetctl(&["workload", "wait", "crash", "--timeout", "1s"]).await?.expect_code(1)?.stderr;
    ensure!(wait.contains("it is CrashLoop: it ended with exit code 3"), "{wait}");
    ensure!(wait.contains("\nits last lines were:\n  first\n  boom\n"), "lines run together: {wait}");
    let described = a.fleetctl(&["workload", "get", "crash"]).await?.ok()?.stdout;
    for part in ["Status       CrashLoop (exit 3)", "Network      bridge", "Restart      always", "Events "] {
        ensure!(described.contains(part), "{part:?} is not in\n{described}");
    }
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_is_said_not_to_be() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    let gone = a.fleetctl(&["workload", "wait", "nope", "--for", "deleted"]).await?.ok()?.stdout;
    ensure!(gone == "nope is gone\n", "{gone}");
    let events = a.fleetctl(&["workload", "events", "nope"]).await?.expect_code(1)?.stderr;
    ensure!(events.contains("no workload nope"), "{events}");
    // Of one that was there, they tell how it went.
    a.fleetctl(&["workload", "delete", "w"]).await?.ok()?;
    let events = a.fleetctl(&["workload", "events", "w"]).await?.ok()?.stdout;
    ensure!(events.contains("Started"), "{events}");

    let text = fleet.dir().join("no-archive");
    fs::write(&text, "\u{1}\u{fffd} no archive ".repeat(100))?;
    let push = a.fleetctl(&["image", "push", &text.display().to_string()]).await?.expect_code(1)?.stderr;
    ensure!(push.contains("it is no tar archive") && !push.contains("\\u{"), "{push}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_difference_is_written_as_a_manifest_is() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    let manifest = shell("w", FOREVER, "  networkMode: host\n");
    let diff = a.fleetctl_with(&["diff", "-f", "-"], manifest.as_bytes()).await?.ok()?.stdout;
    ensure!(diff.starts_with("would recreate w\n"), "{diff}");
    ensure!(diff.contains("- container.networkMode: \"bridge\""), "{diff}");
    ensure!(diff.contains("+ container.networkMode: \"host\""), "{diff}");
    fleet.passed();
    Ok(())
}
