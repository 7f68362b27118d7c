//! The machine that a capsule of a `qemu` fleet is: what happens to hardware.

use std::{fs, io::ErrorKind, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use capsule_vm::Disk;

use super::{Fleet, eventually};
use crate::substrate::qemu::{
    Files, SYSTEM,
    order::{Order, Power, Sight, tell},
    partition::Partition,
};

/// For a keeper to make disks and to start QEMU.
const START_LIMIT: Duration = Duration::from_mins(1);
/// For a guest to do what a button asks, emulated.
const GUEST_LIMIT: Duration = Duration::from_mins(3);
/// For emulated firmware, which takes 4 s on a machine that does nothing else.
const FIRMWARE_LIMIT: Duration = Duration::from_mins(1);
/// What it says when it begins a boot.
const FIRMWARE: &str = "BdsDxe: starting Boot";
/// What a damaged partition holds, over and over: no file system's magic and no hash.
const GARBAGE: [u8; 4096] = [0xa5; 4096];

/// A machine, by its capsule's name.
#[derive(Clone)]
pub struct Machine<'a> {
    fleet: &'a Fleet,
    name: String,
}

impl Fleet {
    /// The machine that is the capsule of this name.
    pub fn vm(&self, name: &str) -> Machine<'_> {
        Machine { fleet: self, name: name.to_owned() }
    }
}

impl Machine<'_> {
    /// How it is.
    pub async fn look(&self) -> Result<Sight> {
        self.tell(Order::Look).await
    }

    /// Waits until its keeper takes orders, which has started it then.
    pub(super) async fn wait_kept(&self) -> Result<()> {
        eventually(START_LIMIT, async || self.look().await.map(drop)).await
    }

    /// A power failure: what the guest had not written is lost.
    pub async fn cut_power(&self) -> Result<()> {
        self.tell(Order::CutPower).await.map(drop)
    }

    /// Starts it again, and waits for nothing.
    pub async fn power_on(&self) -> Result<()> {
        self.tell(Order::PowerOn).await.map(drop)
    }

    /// Power failure, and power.
    pub async fn power_cycle(&self) -> Result<()> {
        self.cut_power().await?;
        self.power_on().await
    }

    /// Presses the power button and waits until the guest has powered off.
    pub async fn power_down(&self) -> Result<()> {
        self.tell(Order::PressPower).await?;
        self.wait_off().await.map(drop)
    }

    /// Presses the reset button.
    pub async fn reset(&self) -> Result<()> {
        self.tell(Order::PressReset).await.map(drop)
    }

    /// Makes its kernel panic, whatever it is doing.
    pub async fn panic(&self) -> Result<()> {
        self.tell(Order::Panic).await.map(drop)
    }

    /// Stops its processors. Its watchdog stands still with them: a hang that it ends is one inside
    /// the guest.
    pub async fn freeze(&self) -> Result<()> {
        self.tell(Order::Freeze).await.map(drop)
    }

    /// Lets them go on.
    pub async fn thaw(&self) -> Result<()> {
        self.tell(Order::Thaw).await.map(drop)
    }

    /// Takes the link from its network card.
    pub async fn pull_cable(&self) -> Result<()> {
        self.tell(Order::PullCable).await.map(drop)
    }

    /// Gives it back.
    pub async fn plug_cable(&self) -> Result<()> {
        self.tell(Order::PlugCable).await.map(drop)
    }

    /// Takes a disk out: `system` (also where that is a USB stick), `data-1`, …. It stays out, powered
    /// on or off, until it is put back.
    pub async fn pull_disk(&self, disk: &str) -> Result<()> {
        self.tell(Order::PullDisk(disk.to_owned())).await.map(drop)
    }

    /// Puts it back.
    pub async fn plug_disk(&self, disk: &str) -> Result<()> {
        self.tell(Order::PlugDisk(disk.to_owned())).await.map(drop)
    }

    /// Makes a disk larger, running or not.
    pub async fn grow_disk(&self, disk: &str, bytes: u64) -> Result<()> {
        self.tell(Order::GrowDisk { disk: disk.to_owned(), bytes }).await.map(drop)
    }

    /// Waits until the guest has powered off; why it is off.
    pub async fn wait_off(&self) -> Result<String> {
        eventually(GUEST_LIMIT, async || match self.look().await?.power {
            Power::Off(why) => Ok(why),
            other => bail!("{} is {other:?}", self.name),
        })
        .await
    }

    /// Waits until it has begun anew this many times since it was powered on; why it did the last of
    /// them.
    pub async fn wait_resets(&self, count: usize) -> Result<String> {
        eventually(GUEST_LIMIT, async || {
            let resets = self.look().await?.resets;
            ensure!(resets.len() >= count, "{} was reset {} times", self.name, resets.len());
            Ok(resets[count - 1].clone())
        })
        .await
    }

    /// One of its disks, for a look from outside while it is off.
    pub async fn disk(&self, name: &str) -> Result<Disk> {
        let sight = self.look().await?;
        ensure!(matches!(sight.power, Power::Off(_)), "{} is on: its disks are not to be touched", self.name);
        Ok(self.files().disk(name))
    }

    /// Writes garbage over 4 KiB of a partition of its system disk, such as `capsule-a`, at an offset
    /// from the partition's beginning, in bytes. It must be off.
    pub async fn corrupt(&self, partition: &str, offset: u64) -> Result<()> {
        let disk = self.disk(SYSTEM).await?;
        let found = Partition::find(&disk, partition).await?;
        ensure!(offset + GARBAGE.len() as u64 <= found.bytes, "{partition} ends before {offset}");
        Ok(disk.write(found.offset + offset, &GARBAGE).await?)
    }

    /// What its serial line brought so far, over all boots.
    pub fn console(&self) -> Result<String> {
        let path = self.fleet.testbed().record.console(&self.name);
        match fs::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Waits until its firmware goes on to a boot loader once more than `before`, an earlier
    /// [`Machine::console`]. Emulated firmware was seen once to say nothing after an interrupt that made the
    /// kernel panic: what boots has no part in that, so it is told, and the reset button pressed.
    pub async fn wait_firmware(&self, before: &str) -> Result<()> {
        if self.wait_shown(FIRMWARE_LIMIT, before, FIRMWARE).await.is_ok() {
            return Ok(());
        }
        for _ in 0..2 {
            eprintln!("{}: its firmware stands still: {:?}", self.name, self.tell(Order::LookInside).await?);
        }
        self.reset().await?;
        self.wait_shown(FIRMWARE_LIMIT, before, FIRMWARE).await
    }

    /// Waits until its console shows `text` once more than `before`, an earlier [`Machine::console`].
    pub async fn wait_console(&self, before: &str, text: &str) -> Result<()> {
        self.wait_shown(GUEST_LIMIT, before, text).await
    }

    async fn wait_shown(&self, limit: Duration, before: &str, text: &str) -> Result<()> {
        let times = before.matches(text).count();
        eventually(limit, async || {
            let shown = self.console()?.matches(text).count();
            ensure!(shown > times, "the console of {} does not show {text:?}", self.name);
            Ok(())
        })
        .await
    }

    fn files(&self) -> Files {
        self.fleet.testbed().files(&self.name)
    }

    async fn tell(&self, order: Order) -> Result<Sight> {
        self.fleet.testbed().hardware(&self.name)?;
        let socket = self.files().socket();
        tell(&socket, &order).await.with_context(|| format!("the machine of {}", self.name))
    }
}
