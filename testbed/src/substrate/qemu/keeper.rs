//! A machine's keeper: a process of its own that starts it, does what it is told, and ends with it.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use capsule_vm::{Carrier, Status, Vm};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    Files, Hardware,
    order::{Answer, Order, Power, Sight},
};
use crate::{
    substrate::{Node, Plan, Record, Testbed},
    sys::{self, netns, process::Process},
};

/// Between two looks at the program that owns the testbed: without it, machines end.
const OWNER_LOOK: Duration = Duration::from_secs(1);
/// For whoever connects to say what it wants.
const ORDER_LIMIT: Duration = Duration::from_secs(10);
/// For a guest to let go of a disk.
const LET_GO_LIMIT: Duration = Duration::from_mins(1);

/// Starts the keeper of a node, unless it runs; it starts the machine.
pub fn ensure(testbed: &mut Testbed, node: &str) -> Result<Process> {
    let (position, known) = testbed.node(node)?;
    if let Some(keeper) = known.keeper.filter(|keeper| keeper.is_alive()) {
        return Ok(keeper);
    }
    let mut command = netns::command(&testbed.plan().hub(), sys::program("testbed")?);
    command.args(["keep", &testbed.record.name, node]);
    let keeper = testbed.spawn(&mut command, node)?;
    testbed.record.nodes[position].keeper = Some(keeper);
    testbed.record.save()?;
    Ok(keeper)
}

/// What that process does, until the testbed's owner or somebody else ends it.
pub async fn keep(name: &str, node: &str) -> Result<()> {
    let record = Record::load(name)?.with_context(|| format!("there is no testbed {name}"))?;
    let owner = record.owner;
    let mut keeper = Keeper::new(record, node)?;
    keeper.files.ensure(&keeper.hardware).await?;
    let socket = keeper.files.socket();
    // Of a keeper that was killed.
    let _ = fs::remove_file(&socket);
    let listener =
        UnixListener::bind(&socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
    keeper.power_on().await?;
    let mut look = interval(OWNER_LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("cannot accept an order")?;
                // Whoever gave it may be gone.
                let _ = keeper.serve(stream).await;
            }
            _ = look.tick() => if owner.is_some_and(|owner| !owner.is_alive()) {
                return Ok(());
            }
        }
    }
}

struct Keeper {
    plan: Plan,
    position: usize,
    node: Node,
    hardware: Hardware,
    files: Files,
    /// Out until they are put back, whatever happens to the power.
    pulled: BTreeSet<String>,
    vm: Option<Running>,
}

/// A machine, which may have ended.
struct Running {
    vm: Vm,
    /// As it was started with, in QEMU's order.
    disks: Vec<String>,
}

impl Keeper {
    fn new(record: Record, node: &str) -> Result<Self> {
        let files = Files::of(&record, node);
        let testbed = Testbed { record };
        let (position, known) = testbed.node(node)?;
        let hardware = testbed.hardware(node)?.clone();
        let (plan, node) = (testbed.plan(), known.clone());
        Ok(Self { plan, position, node, hardware, files, pulled: BTreeSet::new(), vm: None })
    }

    async fn serve(&mut self, stream: UnixStream) -> Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        timeout(ORDER_LIMIT, stream.read_line(&mut line)).await??;
        let answer: Answer = match serde_json::from_str(&line) {
            Ok(order) => self.follow(order).await.map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        };
        Ok(stream.write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes()).await?)
    }

    async fn follow(&mut self, order: Order) -> Result<Sight> {
        let mut processors = Vec::new();
        match order {
            Order::Look => {}
            Order::LookInside if !self.is_on().await? => {}
            Order::LookInside => processors = self.vm()?.vm.cpus_stand().await?,
            Order::PowerOn => self.power_on().await?,
            Order::CutPower => drop(self.vm()?.vm.cut_power().await?),
            Order::PressPower => self.vm()?.vm.press_power().await?,
            Order::PressReset => self.vm()?.vm.reset().await?,
            Order::Panic => self.vm()?.vm.interrupt_cpus().await?,
            Order::Freeze => self.vm()?.vm.pause().await?,
            Order::Thaw => self.vm()?.vm.resume().await?,
            Order::PullCable => self.vm()?.vm.set_link(0, Carrier::Down).await?,
            Order::PlugCable => self.vm()?.vm.set_link(0, Carrier::Up).await?,
            Order::PullDisk(disk) => self.pull(disk).await?,
            Order::PlugDisk(disk) => self.plug(&disk).await?,
            Order::GrowDisk { disk, bytes } => self.grow(&disk, bytes).await?,
        }
        Ok(Sight { processors, ..self.look().await? })
    }

    fn vm(&mut self) -> Result<&mut Running> {
        self.vm.as_mut().context("it was never powered on")
    }

    async fn look(&mut self) -> Result<Sight> {
        let Some(Running { vm, .. }) = &mut self.vm else {
            let power = Power::Off("it was never powered on".to_owned());
            return Ok(Sight { power, resets: Vec::new(), pid: None, processors: Vec::new() });
        };
        let power = match vm.status().await? {
            Status::Running => Power::On,
            Status::Paused => Power::Frozen,
            Status::Ended(exit) => Power::Off(exit.to_string()),
        };
        let resets = vm.resets().iter().map(ToString::to_string).collect();
        Ok(Sight { power, resets, pid: vm.pid(), processors: Vec::new() })
    }

    async fn is_on(&mut self) -> Result<bool> {
        let Some(running) = &mut self.vm else { return Ok(false) };
        Ok(!matches!(running.vm.status().await?, Status::Ended(_)))
    }

    async fn power_on(&mut self) -> Result<()> {
        ensure!(!self.is_on().await?, "it is on");
        let accelerator = super::accelerator().await?;
        let who = (&self.plan, self.position, &self.node);
        let machine = self.files.machine(who, &self.hardware, &self.pulled, accelerator)?;
        let disks = self.hardware.disks().into_iter().filter(|disk| !self.pulled.contains(disk)).collect();
        self.vm = Some(Running { vm: machine.start().await?, disks });
        Ok(())
    }

    async fn pull(&mut self, disk: String) -> Result<()> {
        ensure!(self.hardware.disks().contains(&disk), "it has no disk {disk}");
        ensure!(!self.pulled.contains(&disk), "its disk {disk} is out already");
        if self.is_on().await? {
            let running = self.vm()?;
            running.vm.unplug(running.place(&disk)?, LET_GO_LIMIT).await?;
        }
        self.pulled.insert(disk);
        Ok(())
    }

    async fn plug(&mut self, disk: &str) -> Result<()> {
        ensure!(self.pulled.contains(disk), "its disk {disk} is not out");
        if self.is_on().await? {
            let running = self.vm()?;
            running.vm.plug(running.place(disk)?).await?;
        }
        self.pulled.remove(disk);
        Ok(())
    }

    async fn grow(&mut self, disk: &str, bytes: u64) -> Result<()> {
        if self.is_on().await? {
            let running = self.vm()?;
            return Ok(running.vm.resize_disk(running.place(disk)?, bytes).await?);
        }
        Ok(self.files.disk(disk).grow(bytes).await?)
    }
}

impl Running {
    fn place(&self, disk: &str) -> Result<usize> {
        let place = self.disks.iter().position(|known| known == disk);
        place.with_context(|| format!("it was powered on without a disk {disk}"))
    }
}
