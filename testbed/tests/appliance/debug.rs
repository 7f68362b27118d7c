//! A shell on a machine that nobody can log in to.

use anyhow::{Result, ensure};
use testbed::{scenario::Fleet, substrate::Hardware};

#[tokio::test]
async fn a_debug_shell_is_made_of_what_is_on_board_and_sees_the_disks() -> Result<()> {
    let fleet = Fleet::builder(1).qemu(Hardware::built()?.without_tpm()).without_images().start().await?;
    let a = fleet.capsule("a");
    let debug = async |script: &str| a.fleetctl(&["debug", "--", "sh", "-c", script]).await;
    let seen =
        debug("lvs --noheadings -o lv_name capsule; ls /perm/capsule; cat /proc/1/comm; strace -V").await?;
    let seen = seen.ok()?.stdout;
    for word in ["perm", "pool", "identity", "capsuled", "strace -- version"] {
        ensure!(seen.contains(word), "no {word} in {seen}");
    }
    // A logical volume is there for the host, too, and gone for both.
    debug("lvcreate -q -y -n scratch -L 4M -T capsule/pool 2>&1 || lvcreate -y -n scratch -V 4M -T capsule/pool").await?.ok()?;
    debug("dd if=/dev/zero of=/dev/capsule/scratch bs=4k count=1 && lvremove -y capsule/scratch")
        .await?
        .ok()?;
    debug("echo kept >/perm/note").await?.ok()?;
    let note =
        debug("cat /host/perm/note; rm /perm/note; touch /host/etc/x || echo read-only").await?.ok()?;
    ensure!(note.stdout == "kept\nread-only\n", "{note:?}");
    debug("exit 9").await?.expect_code(9)?;

    let events = a.events().await?;
    ensure!(
        events.contains("Pushed") && !events.contains("Pulling"),
        "not made of what is on board: {events}"
    );
    ensure!(events.matches("Pushed").count() == 1, "taken again and again: {events}");
    ensure!(a.fleetctl(&["debug", "--list", "-o", "name"]).await?.ok()?.stdout.is_empty());
    fleet.passed();
    Ok(())
}
