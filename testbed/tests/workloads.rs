//! Containers through their lives.

use anyhow::{Result, ensure};
use testbed::{fixtures, scenario::Fleet};

fn shell(name: &str, script: &str, rest: &str) -> String {
    let script = serde_json::json!(script);
    format!(
        "kind: Container\nname: {name}\ncontainer:\n  image: {}\n  command: [sh, -c, {script}]\n{rest}",
        fixtures::BUSYBOX
    )
}

const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";

#[tokio::test]
async fn a_container_runs_and_an_unchanged_manifest_leaves_it_alone() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    let first = a.pid("w").await?;
    a.apply(&shell("w", FOREVER, "")).await?;
    ensure!(a.pid("w").await? == first, "an unchanged manifest restarted the workload");
    a.apply(&shell("w", FOREVER, "  env: { NEW: yes }\n")).await?;
    ensure!(a.pid("w").await? != first, "a changed manifest did not recreate the workload");
    ensure!(a.exec("w", &["sh", "-c", "echo $NEW"]).await?.ok()?.stdout == "yes\n");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn killing_agent_and_containerd_disturbs_no_container() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    let first = a.pid("w").await?;
    a.restart_agent().await?;
    a.wait_healthy().await?;
    ensure!(a.wait_running("w").await?["status"]["pid"] == first);
    a.kill_containerd()?;
    a.wait_running("w").await?;
    let after = testbed::scenario::eventually(std::time::Duration::from_secs(30), async || {
        a.exec("w", &["true"]).await?.ok().map(drop)
    });
    after.await?;
    ensure!(a.pid("w").await? == first, "killing containerd restarted the workload");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_stopped_workload_stays_stopped_over_a_restart_of_the_agent() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    a.fleetctl(&["workload", "stop", "w"]).await?.ok()?;
    a.wait_phase("w", "PHASE_STOPPED").await?;
    a.restart_agent().await?;
    a.wait_healthy().await?;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    a.wait_phase("w", "PHASE_STOPPED").await?;
    a.fleetctl(&["workload", "start", "w"]).await?.ok()?;
    a.wait_running("w").await?;
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn how_a_workload_ended_is_told() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let never = "  restartPolicy: never\n";
    let manifests = [
        shell("fails", "exit 7", never),
        shell("ends", "exit 0", never),
        shell("dies", "kill -9 $$", "  restartPolicy: never\n  hostPid: true\n"),
        shell("crashes", "exit 3", ""),
        format!(
            "kind: Container\nname: eats\ncontainer:\n  image: {}\n  args: [eat, '200']\n  resources: {{ memoryMib: 32 }}\n{never}",
            fixtures::ECHO
        ),
    ];
    a.fleetctl_with(&["apply", "-f", "-"], manifests.join("---\n").as_bytes()).await?.ok()?;
    let failed = a.wait_phase("fails", "PHASE_FAILED").await?;
    ensure!(failed["status"]["lastExit"]["code"] == 7, "{failed}");
    a.wait_phase("ends", "PHASE_COMPLETED").await?;
    let killed = a.wait_phase("dies", "PHASE_FAILED").await?;
    ensure!(killed["status"]["lastExit"]["signal"] == "SIGKILL", "{killed}");
    let eaten = a.wait_phase("eats", "PHASE_FAILED").await?;
    ensure!(eaten["status"]["lastExit"]["oomKilled"] == true, "{eaten}");
    let looping = a.wait_phase("crashes", "PHASE_CRASH_LOOP").await?;
    ensure!(looping["status"]["reason"].as_str().is_some_and(|reason| reason.contains('3')), "{looping}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn exec_passes_streams_and_exit_codes_through() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    a.apply(&shell("w", FOREVER, "")).await?;
    let output = a.exec("w", &["sh", "-c", "echo out; echo err >&2; exit 42"]).await?.expect_code(42)?;
    ensure!(output.stdout == "out\n" && output.stderr.contains("err\n"), "{output:?}");
    let cat =
        a.fleetctl_with(&["exec", "-i", "w", "--", "sha256sum"], &fixtures::noise(1 << 20, 1)).await?.ok()?;
    let expected = fixtures::image::digest(&fixtures::noise(1 << 20, 1));
    ensure!(format!("sha256:{}", cat.stdout.trim_end_matches("  -\n")) == expected, "{}", cat.stdout);
    let calls = (0..20).map(|at| {
        let a = a.clone();
        async move { a.exec("w", &["echo", &at.to_string()]).await?.ok().map(|output| output.stdout) }
    });
    let said = futures_util::future::try_join_all(calls).await?;
    ensure!(said == (0..20).map(|at| format!("{at}\n")).collect::<Vec<_>>(), "{said:?}");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_tree_with_links_and_odd_names_comes_back_as_it_went() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let echo = format!("kind: Container\nname: w\ncontainer:\n  image: {}\n", fixtures::ECHO);
    a.apply(&echo).await?;
    let (from, back) = (fleet.dir().join("from"), fleet.dir().join("back"));
    std::fs::create_dir_all(from.join("deep/er"))?;
    std::fs::write(from.join("deep/er/big"), fixtures::noise(20 << 20, 3))?;
    std::fs::write(from.join("a name with\ttab and 'quotes'"), "x")?;
    std::os::unix::fs::symlink("deep/er", from.join("link"))?;
    let (source, target) = (from.display().to_string(), back.display().to_string());
    a.fleetctl(&["cp", &source, "w:/tree"]).await?.ok()?;
    a.fleetctl(&["cp", "w:/tree", &target]).await?.ok()?;
    let diff =
        std::process::Command::new("diff").args(["-r", "--no-dereference", &source, &target]).output()?;
    ensure!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_manifest_that_cannot_work_is_refused_before_anything_changes() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let port = "  ports: [{ containerPort: 80, hostPort: 8080 }]\n";
    a.apply(&shell("first", FOREVER, port)).await?;
    let conflict = a.apply_err(&shell("second", FOREVER, port)).await?;
    ensure!(conflict.contains("first") && conflict.contains("8080"), "{conflict}");
    let missing =
        a.apply_err(&shell("third", FOREVER, "  mounts: [{ volumeName: nowhere, mountPath: /x }]\n")).await?;
    ensure!(missing.contains("nowhere"), "{missing}");
    let both = format!("{}---\n{}", shell("good", FOREVER, ""), shell("bad", FOREVER, port));
    a.apply_err(&both).await?;
    let typo = a.apply_err("kind: Container\nname: w\ncontainer:\n  imagee: x\n").await?;
    ensure!(typo.contains("4:") && typo.contains("image"), "no position and no hint: {typo}");
    let list = a.fleetctl(&["ps", "-o", "json"]).await?.ok()?.stdout;
    ensure!(
        ["second", "third", "good", "bad"].iter().all(|name| !list.contains(&format!("\"{name}\""))),
        "{list}"
    );
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn stdout_and_stderr_are_kept_over_a_restart_of_the_agent() -> Result<()> {
    let fleet = Fleet::netns(1).await?;
    let a = fleet.capsule("a");
    let script = "i=0; trap 'exit 0' TERM; while :; do i=$((i+1)); echo out $i; echo err $i >&2; sleep 0.1 & wait $!; done";
    a.apply(&shell("w", script, "")).await?;
    a.kill_agent()?;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    a.start_agent().await?;
    a.wait_healthy().await?;
    let logs = a.fleetctl(&["logs", "w"]).await?.ok()?;
    let count = |text: &str, word: &str| text.lines().filter(|line| line.contains(word)).count();
    let (out, err) = (count(&logs.stdout, "out "), count(&(logs.stdout.clone() + &logs.stderr), "err "));
    ensure!(out >= 10 && err >= 10, "lines were lost: {logs:?}");
    for at in 1..=10 {
        ensure!(logs.stdout.lines().any(|line| line.ends_with(&format!("out {at}"))), "line {at} is missing");
    }
    fleet.passed();
    Ok(())
}
