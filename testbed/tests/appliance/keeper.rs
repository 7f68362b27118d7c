//! A capsule that has something to lose: workloads, and lines in a volume.

use std::time::Instant;

use anyhow::{Result, ensure};
use testbed::scenario::{Capsule, FOREVER, echo, shell};

const WEB: &str = "  ports: [{ containerPort: 8080, hostPort: 8080 }]\n";
const KEPT: &str = "  mounts: [{ volumeName: data, mountPath: /data }]\n";
const VOLUME: &str = "kind: Volume\nname: data\nsize: 64M\n---\n";

/// Gives it workloads `web` and `keeper`, and a volume.
pub async fn fill(capsule: &Capsule<'_>) -> Result<()> {
    let keeper = shell("keeper", FOREVER, KEPT);
    capsule.apply(&format!("{}---\n{VOLUME}{keeper}", echo("web", WEB))).await.map(drop)
}

/// Writes a line that must be there whatever happens to the power from now on.
pub async fn write(capsule: &Capsule<'_>, line: &str) -> Result<()> {
    let script = format!("echo {line} >>/data/lines; sync");
    capsule.exec("keeper", &["sh", "-c", &script]).await?.ok().map(drop)
}

/// It answers its operator, runs what it ran, and has kept `lines`.
pub async fn is_as_before(capsule: &Capsule<'_>, lines: &str) -> Result<()> {
    let started = Instant::now();
    capsule.wait_answers().await?;
    eprintln!("{}: answers after {:.1} s", capsule.name(), started.elapsed().as_secs_f64());
    capsule.wait_healthy().await?;
    for workload in ["web", "keeper"] {
        capsule.wait_running(workload).await?;
    }
    let kept = capsule.exec("keeper", &["cat", "/data/lines"]).await?.ok()?.stdout;
    ensure!(kept == lines, "{} has {kept:?}, not {lines:?}", capsule.name());
    Ok(())
}
