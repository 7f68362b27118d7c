//! Machines of the `qemu` substrate, without an image: firmware that finds nothing to boot. What a
//! booted capsule makes of faults is told in `tests/appliance`.

use std::{fs::File, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use testbed::{
    scenario::Fleet,
    substrate::{
        Hardware,
        qemu::{order::Power, partition::Partition},
    },
    sys::{self, link, netns, process::Process},
};

/// Of a disk with a partition table that names the partition `slot`.
const DISK_BYTES: u64 = 8 << 20;
/// For processes to end, and for a keeper to look for its owner.
const SOON: Duration = Duration::from_secs(10);
/// Firmware's last words where no disk can be booted.
const NOTHING: &str = "BdsDxe: failed to load Boot0001";

async fn machines(nodes: usize, dir: &Path) -> Result<Fleet> {
    let image = dir.join("blank.img");
    File::create(&image)?.set_len(DISK_BYTES)?;
    let table = "label: gpt\nstart=2048, size=2048, name=slot\n";
    sys::run(Command::new("sfdisk").arg("--quiet").arg(&image), table)?;
    let hardware =
        Hardware { system_bytes: 2 * DISK_BYTES, data_bytes: vec![DISK_BYTES], ..Hardware::of(image) };
    let fleet =
        Fleet::builder(nodes).qemu(Hardware { memory_mib: 256, ..hardware }).unattended().start().await?;
    for name in fleet.names() {
        fleet.vm(&name).wait_console("", NOTHING).await?;
    }
    Ok(fleet)
}

#[tokio::test]
async fn a_machine_loses_its_power_and_gets_it_back_with_the_same_disks() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let fleet = machines(1, dir.path()).await?;
    let a = fleet.vm("a");
    let first = a.look().await?;
    ensure!(first.power == Power::On && first.resets.is_empty(), "{first:?}");
    ensure!(a.power_on().await.is_err_and(|error| format!("{error:#}").contains("it is on")));
    ensure!(a.corrupt("slot", 0).await.is_err_and(|error| format!("{error:#}").contains("is on")));
    a.freeze().await?;
    ensure!(a.look().await?.power == Power::Frozen);
    a.thaw().await?;
    a.pull_cable().await?;
    a.plug_cable().await?;
    a.reset().await?;
    ensure!(a.wait_resets(1).await? == "its reset button was pressed");

    a.cut_power().await?;
    ensure!(a.wait_off().await?.contains("SIGKILL"));
    a.corrupt("slot", 4096).await?;
    a.grow_disk("data-1", 2 * DISK_BYTES).await?;
    a.pull_disk("data-1").await?;
    ensure!(a.pull_disk("data-1").await.is_err());
    ensure!(a.corrupt("slot", 1 << 20).await.is_err(), "that is behind the partition");
    let before = a.console()?;
    a.power_on().await?;
    a.wait_console(&before, NOTHING).await?;
    let again = a.look().await?;
    ensure!(again.power == Power::On && again.resets.is_empty() && again.pid != first.pid, "{again:?}");
    ensure!(a.plug_disk("data-1").await.is_err(), "it was powered on without that disk");

    a.cut_power().await?;
    let system = a.disk("system").await?;
    let slot = Partition::find(&system, "slot").await?;
    ensure!(slot == Partition { offset: 1 << 20, bytes: 1 << 20 }, "{slot:?}");
    ensure!(system.read(slot.offset, 512).await? == [0; 512]);
    ensure!(system.read(slot.offset + 4096, 512).await? == [0xa5; 512]);
    ensure!(a.disk("data-1").await?.path().metadata()?.len() == 2 * DISK_BYTES);
    fleet.passed();
    Ok(())
}

#[tokio::test]
async fn machines_have_addresses_on_the_bridge_and_go_with_their_testbed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let fleet = machines(2, dir.path()).await?;
    let (plan, record) = {
        let testbed = fleet.testbed();
        (testbed.plan(), testbed.record.clone())
    };
    let ports = link::names_in(&plan.hub())?;
    ensure!(ports.contains(&"p-a".to_owned()) && ports.contains(&"p-b".to_owned()), "{ports:?}");
    ensure!(fleet.capsule("a").kill_agent().is_err(), "a machine has no agent of this host's");
    let mut processes = record.helpers.clone();
    for name in fleet.names() {
        let qemu = fleet.vm(&name).look().await?.pid.and_then(Process::of);
        processes.push(qemu.context("there is no QEMU")?);
        processes.extend(record.nodes.iter().filter_map(|node| node.keeper));
    }
    ensure!(processes.len() > 4 && processes.iter().all(|process| process.is_alive()));
    fleet.passed();
    ensure!(!processes.into_iter().any(Process::is_alive), "something of it is left");
    ensure!(!netns::exists(&plan.hub()) && !record.dir.exists());
    Ok(())
}

#[tokio::test]
async fn machines_end_with_the_program_that_they_belong_to() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let fleet = machines(1, dir.path()).await?;
    let keeper = fleet.testbed().record.nodes[0].keeper.context("there is no keeper")?;
    let qemu = fleet.vm("a").look().await?.pid.and_then(Process::of).context("there is no QEMU")?;
    // A keeper reads who that is when it starts.
    let mut owner = Command::new("sleep").arg("1000").spawn()?;
    {
        let mut testbed = fleet.testbed();
        keeper.signal(nix::sys::signal::Signal::SIGKILL);
        ensure!(keeper.wait_gone(SOON) && qemu.wait_gone(SOON), "QEMU outlives its keeper");
        testbed.record.owner = Process::of(owner.id());
        testbed.record.save()?;
        testbed.ensure_capsule("a")?;
    }
    fleet.vm("a").wait_console("", NOTHING).await?;
    let keeper = fleet.testbed().record.nodes[0].keeper.context("there is no keeper")?;
    owner.kill()?;
    owner.wait()?;
    ensure!(keeper.wait_gone(SOON), "the keeper outlives its testbed's owner");
    fleet.passed();
    Ok(())
}
