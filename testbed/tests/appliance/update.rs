//! Updates of machines: what is kept, and what is left again by itself.

use anyhow::{Result, ensure};
use testbed::{
    scenario::{Capsule, Fleet},
    substrate::Hardware,
};

use crate::{
    keeper::{fill, is_as_before, write},
    release::{Release, runs},
};

const LINES: &str = "before\n";

/// Pushes the next release to a capsule whose name makes that do harm; it is left for this reason, and
/// nothing is lost by it.
async fn is_left(capsule: &Capsule<'_>, harm: &str, options: &[&str], why: &str) -> Result<()> {
    capsule.fleetctl(&["capsule", "set-hostname", harm]).await?.ok()?;
    let (built, next) = (Release::built()?, Release::next()?);
    let pushed = next.push(capsule, options).await?;
    ensure!(pushed.code != 0 && pushed.stderr.contains(why), "{harm}: {}{}", pushed.stdout, pushed.stderr);
    is_as_before(capsule, LINES).await?;
    runs(capsule, &built, "a").await?;
    let list = capsule.fleetctl(&["update", "list"]).await?.ok()?.stdout;
    ensure!(list.contains("rolled-back") && list.contains(why), "{harm}: {list}");
    Ok(())
}

async fn is_told_once(capsule: &Capsule<'_>) -> Result<()> {
    is_left(capsule, "crashes", &["--auto-confirm", "5s"], "saboteur: it does not start").await?;
    let refused = Release::next()?.push(capsule, &[]).await?;
    ensure!(refused.code != 0 && refused.stderr.contains("--force"), "{}", refused.stderr);
    runs(capsule, &Release::built()?, "a").await?;

    let (built, next) = (Release::built()?, Release::next()?);
    capsule.fleetctl(&["capsule", "set-hostname", "behaves"]).await?.ok()?;
    next.push(capsule, &["--force", "--auto-confirm", "5s"]).await?.ok()?;
    is_as_before(capsule, LINES).await?;
    runs(capsule, &next, "b").await?;
    capsule.fleetctl(&["update", "rollback", "--auto-confirm", "5s"]).await?.ok()?;
    is_as_before(capsule, LINES).await?;
    runs(capsule, &built, "a").await?;

    // The slot that it was kept in, and no longer is.
    let vm = capsule.vm();
    vm.cut_power().await?;
    vm.corrupt("capsule-a", 0).await?;
    vm.power_on().await?;
    is_as_before(capsule, LINES).await?;
    runs(capsule, &next, "b").await
}

async fn panics_and_hangs(capsule: &Capsule<'_>) -> Result<()> {
    is_left(capsule, "panics", &["--auto-confirm", "5s"], "its kernel panicked").await?;
    is_left(capsule, "hangs", &["--auto-confirm", "5s", "--force"], "it hung").await
}

async fn is_deaf(capsule: &Capsule<'_>) -> Result<()> {
    is_left(capsule, "is-deaf", &["--auto-confirm", "5s"], "no network for 180 s").await
}

async fn is_silent(capsule: &Capsule<'_>) -> Result<()> {
    let within = ["--confirm-within", "30s"];
    is_left(capsule, "is-silent", &within, "nobody confirmed it within 30 s").await
}

#[tokio::test]
async fn a_release_that_does_harm_is_left_and_one_that_does_not_is_kept() -> Result<()> {
    let fleet = Fleet::builder(4).qemu(Hardware::built()?.without_tpm()).start().await?;
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| fleet.capsule(name));
    for capsule in [&a, &b, &c, &d] {
        fill(capsule).await?;
        write(capsule, LINES.trim_end()).await?;
    }
    tokio::try_join!(is_told_once(&a), panics_and_hangs(&b), is_deaf(&c), is_silent(&d))?;
    fleet.passed();
    Ok(())
}
