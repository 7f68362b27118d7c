//! What a booted capsule makes of harm to its hardware.

use anyhow::{Result, ensure};
use testbed::{scenario::Fleet, substrate::Hardware};

async fn answers(fleet: &Fleet, name: &str) -> Result<bool> {
    Ok(fleet.capsule(name).fleetctl(&["--timeout", "5s", "capsule", "info"]).await?.code == 0)
}

#[tokio::test]
async fn a_capsule_lives_without_its_cable_its_data_disk_and_its_processors_for_a_while() -> Result<()> {
    let fleet = Fleet::builder(1).qemu(Hardware::built()?.without_tpm()).without_images().start().await?;
    let a = fleet.vm("a");
    a.pull_cable().await?;
    ensure!(!answers(&fleet, "a").await?, "it answers without a cable");
    a.plug_cable().await?;
    fleet.capsule("a").wait_healthy().await?;

    a.freeze().await?;
    ensure!(!answers(&fleet, "a").await?, "it answers without processors");
    a.thaw().await?;
    fleet.capsule("a").wait_healthy().await?;

    a.pull_disk("data-1").await?;
    a.plug_disk("data-1").await?;
    fleet.capsule("a").wait_healthy().await?;
    ensure!(a.look().await?.resets.is_empty(), "it was reset");
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_slot_with_a_damaged_block_is_not_run() -> Result<()> {
    let fleet = Fleet::builder(1).qemu(Hardware::built()?.without_tpm()).unattended().start().await?;
    let a = fleet.vm("a");
    a.cut_power().await?;
    // Its file system's superblock is there, and mounted before anything else is read.
    a.corrupt("capsule-a", 0).await?;
    let before = a.console()?;
    a.power_on().await?;
    a.wait_console(&before, "; rebooting").await?;
    a.wait_resets(1).await?;
    ensure!(!answers(&fleet, "a").await?);
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn a_machine_that_panics_starts_again_and_one_whose_perm_is_gone_is_nobodys_to_claim() -> Result<()> {
    // An interrupt finds the kernel anywhere, and firmware that is called then may stand still at the next start.
    let hardware = Hardware::built()?.without_tpm().kernel_words("efi_pstore.pstore_disable=1");
    let fleet = Fleet::builder(1).qemu(hardware).without_images().start().await?;
    let a = fleet.vm("a");
    let before = a.console()?;
    a.panic().await?;
    a.wait_resets(1).await?;
    a.wait_firmware(&before).await?;
    fleet.capsule("a").wait_answers().await?;
    fleet.capsule("a").wait_healthy().await?;

    a.cut_power().await?;
    // LVM's label is in the first sectors.
    a.corrupt("capsule-pv", 0).await?;
    let before = a.console()?;
    a.power_on().await?;
    a.wait_console(&before, "/perm is gone").await?;
    ensure!(!answers(&fleet, "a").await?, "it answers without /perm");
    let adopted = fleet.fleetctl(&["adopt", &fleet.capsule("a").api()?.to_string(), "--yes"]).await?;
    ensure!(adopted.code != 0, "it was adopted without /perm: {}", adopted.stdout);
    fleet.passed();
    Ok(())
}
