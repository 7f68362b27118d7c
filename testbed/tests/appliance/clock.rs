//! A machine whose clock has no battery, in a network without time.

use anyhow::{Result, ensure};
use testbed::{scenario::Fleet, substrate::Hardware};

/// Seconds.
const DAY: i64 = 86_400;

#[tokio::test]
async fn a_capsule_years_behind_is_operated_and_takes_nothing_twice() -> Result<()> {
    let hardware = Hardware::built()?.without_tpm().clock("2020-01-01");
    let fleet = Fleet::builder(1).qemu(hardware).without_images().start().await?;
    let a = fleet.capsule("a");
    let console = fleet.vm("a").console()?;
    ensure!(console.contains("behind"), "it does not say that its clock was behind");
    a.wait_healthy().await?;

    let forger = a.forger().await?;
    let ahead = forger.sign(&forger.skewed(2)?)?;
    forger.whoami(&ahead).await?;
    let again = forger.whoami(&ahead).await.unwrap_err();
    ensure!(again.message().contains("used before"), "{again}");
    // What this key was signed with since is the time now, whatever the clock says.
    for seconds in [-DAY, -120] {
        let old = forger.whoami_claiming(&forger.skewed(seconds)?).await.unwrap_err();
        ensure!(old.message().contains("only forward"), "{old}");
    }

    // From then on it is a floor, over reboots too, also where the machine's own clock is in 2020 again.
    let old = forger.sign(&forger.skewed(-120)?)?;
    fleet.vm("a").power_cycle().await?;
    a.wait_answers().await?;
    a.wait_healthy().await?;
    let refused = a.forger().await?.whoami(&old).await.unwrap_err();
    ensure!(refused.message().contains("only forward"), "{refused}");
    fleet.passed();
    Ok(())
}
