//! Containers through their lives.

use anyhow::{Result, ensure};
use testbed::{
    fixtures,
    scenario::{FOREVER, Fleet, shell},
};

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
