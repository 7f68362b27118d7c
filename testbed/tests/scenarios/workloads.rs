//! Containers through their lives.

use anyhow::{Result, ensure};
use testbed::scenario::{FOREVER, Fleet, shell};

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
