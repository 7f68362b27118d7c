//! A running machine, from its start to the reason it ended.

use std::{
    fmt, fs,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{net::UnixStream as Socket, process::ExitStatusExt as _},
    },
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::UnixStream,
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    Carrier, Console, Disk, Error, Machine, Result,
    arguments::{self, Wiring},
    machine::Firmware,
    process::spawn,
    qmp::{Events, Qmp},
};

/// From QEMU's start to its first answer, on a busy host.
const START_LIMIT: Duration = Duration::from_mins(1);
/// For an answer that needs nothing of the guest.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// For what is in sockets when QEMU has ended, and for a killed process to be gone.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Of what QEMU says, which is errors.
const SAID_MAX_BYTES: usize = 64 * 1024;
const SWTPM: &str = "swtpm";

/// A machine that was started. Dropping it cuts its power.
#[derive(Debug)]
pub struct Vm {
    /// Its serial line.
    pub console: Console,
    qemu: Child,
    qmp: Qmp,
    said: Said,
    exit: Option<Exit>,
    /// As it was started with.
    disks: Vec<Disk>,
    /// So many of its resets were waited for.
    met: usize,
    /// Killed with it.
    _tpm: Option<Tpm>,
}

/// Where a machine is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its CPUs run.
    Running,
    /// Its CPUs stand still, as [`Vm::pause`] asks.
    Paused,
    /// There is no such machine any more.
    Ended(Exit),
}

/// Why a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered off.
    PoweredOff,
    /// The guest asked for a reset, as by rebooting.
    Reset,
    /// The guest's kernel panicked. Only one whose pvpanic driver is loaded tells; others reset.
    Panicked,
    /// The guest stopped feeding its watchdog.
    Watchdog,
    /// A signal killed QEMU, as [`Vm::cut_power`] does.
    Killed(Signal),
    /// Anything else, in QEMU's words.
    Other(String),
}

/// Why a machine that reboots ([`Machine::reboots`]) began anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The guest asked for it, as by rebooting. A kernel whose pvpanic driver is not loaded does so
    /// after a panic as well.
    Guest,
    /// The guest's kernel had panicked.
    Panicked,
    /// The guest stopped feeding its watchdog.
    Watchdog,
    /// [`Vm::reset`] did.
    Button,
}

impl Machine {
    /// Starts it, and returns when the guest runs.
    pub async fn start(&self) -> Result<Vm> {
        let (console, far_console) = pair()?;
        let (qmp, far_qmp) = pair()?;
        let mut inherited = vec![far_console, far_qmp];
        let tpm = match &self.tpm {
            Some(state) => {
                let (ours, theirs) = pair()?;
                inherited.push(ours.into());
                Some(start_tpm(state, theirs)?)
            }
            None => None,
        };
        let number = |at: usize| inherited[at].as_raw_fd();
        let wiring = Wiring { console: number(0), qmp: number(1), tpm: tpm.as_ref().map(|_| number(2)) };
        self.firmware.as_ref().map_or(Ok(()), ensure_variables)?;
        let mut command = Command::new(&self.program);
        command.args(arguments::build(self, wiring)?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let started = spawn(command, inherited);
        let mut qemu = started.map_err(|source| Error::Spawn { program: self.program.clone(), source })?;
        let said = Said::gather(qemu.stderr.take());
        let mut qmp = match Qmp::connect(adopt(qmp)?, START_LIMIT).await {
            Ok(qmp) => qmp,
            Err(error @ Error::Control { .. }) => {
                return Err(self.refusal(qemu, said, tpm).await.unwrap_or(error));
            }
            Err(error) => return Err(error),
        };
        let console = Console::new(adopt(console)?);
        qmp.execute("cont", json!({}), ANSWER_LIMIT).await?;
        Ok(Vm { console, qemu, qmp, said, exit: None, disks: self.disks.clone(), met: 0, _tpm: tpm })
    }

    /// Why QEMU closed its socket before it answered.
    async fn refusal(&self, mut qemu: Child, mut said: Said, tpm: Option<Tpm>) -> Option<Error> {
        let status = timeout(END_LIMIT, qemu.wait()).await.ok()?.ok()?;
        let mut said = said.all().await;
        if let Some(mut tpm) = tpm {
            // Without QEMU it ends by itself.
            said += &tpm.said.all().await;
        }
        Some(Error::Refused { program: self.program.clone(), status: status.to_string(), said })
    }
}

impl Vm {
    /// QEMU's process.
    pub fn pid(&self) -> Option<u32> {
        self.qemu.id()
    }

    /// Where it is in its life.
    pub async fn status(&mut self) -> Result<Status> {
        if let Some(exit) = self.try_exit().await {
            return Ok(Status::Ended(exit));
        }
        match self.qmp.execute("query-status", json!({}), ANSWER_LIMIT).await {
            Ok(status) if status["running"] == true => Ok(Status::Running),
            Ok(_) => Ok(Status::Paused),
            // It ended meanwhile.
            Err(Error::Control { .. }) => self.wait(END_LIMIT).await.map(Status::Ended),
            Err(error) => Err(error),
        }
    }

    /// Waits for its end, whatever the reason.
    pub async fn wait(&mut self, limit: Duration) -> Result<Exit> {
        if let Some(exit) = &self.exit {
            return Ok(exit.clone());
        }
        let Ok(status) = timeout(limit, self.qemu.wait()).await else {
            let what = "waiting for the machine to end".to_owned();
            return Err(Error::TimedOut { what, limit, tail: self.console.tail() });
        };
        let status = status.map_err(|source| Error::Control { command: "wait".to_owned(), source })?;
        Ok(self.ended(status).await)
    }

    /// Presses the power button.
    pub async fn press_power(&mut self) -> Result<()> {
        self.qmp.execute("system_powerdown", json!({}), ANSWER_LIMIT).await.map(drop)
    }

    /// Presses the power button and waits for what the guest does about it.
    pub async fn power_down(&mut self, limit: Duration) -> Result<Exit> {
        match self.press_power().await {
            // It ended before, by itself.
            Ok(()) | Err(Error::Control { .. }) => {}
            Err(error) => return Err(error),
        }
        let ended = self.wait(limit).await;
        ended.map_err(|error| error.named("the guest's answer to its power button", limit))
    }

    /// Ends it at once, as a power failure does: what the guest has not written to its disks is lost.
    pub async fn cut_power(&mut self) -> Result<Exit> {
        // One that has ended needs no kill.
        let _ = self.qemu.start_kill();
        self.wait(END_LIMIT).await
    }

    /// Presses the reset button.
    pub async fn reset(&mut self) -> Result<()> {
        self.qmp.execute("system_reset", json!({}), ANSWER_LIMIT).await.map(drop)
    }

    /// Every reset so far of a machine that reboots.
    pub fn resets(&self) -> Vec<Reset> {
        self.qmp.events().resets
    }

    /// Waits for the first reset that was not waited for yet, which may have been.
    pub async fn wait_for_reset(&mut self, limit: Duration) -> Result<Reset> {
        let what = || "it was reset".to_owned();
        self.wait_until(limit, what, |events| events.resets.len() > self.met).await?;
        let reset = self.qmp.events().resets[self.met];
        self.met += 1;
        Ok(reset)
    }

    /// Sends each CPU a non-maskable interrupt. A kernel that was booted with `unknown_nmi_panic`
    /// panics, at once and whatever it does. Others write a line. (The keys for it, SysRq and C, are off
    /// in most distributions' kernels.)
    pub async fn interrupt_cpus(&mut self) -> Result<()> {
        self.qmp.execute("inject-nmi", json!({}), ANSWER_LIMIT).await.map(drop)
    }

    /// Pulls the cable of the network card at this place among the machine's, or plugs it in again.
    pub async fn set_link(&mut self, network: usize, link: Carrier) -> Result<()> {
        let name = arguments::network_name(network);
        let arguments = json!({"name": name, "up": link == Carrier::Up});
        self.qmp.execute("set_link", arguments, ANSWER_LIMIT).await.map(drop)
    }

    /// Takes out the disk at this place among the machine's, which must be one that can be
    /// ([`Disk::hot_plug`], [`Disk::usb`]). The guest is not asked about what it has there; its kernel
    /// must run for a disk on a port to be let go.
    pub async fn unplug(&mut self, disk: usize, limit: Duration) -> Result<()> {
        let name = arguments::disk_name(disk);
        let times = |events: &Events| events.unplugged.iter().filter(|known| **known == name).count();
        let before = times(&self.qmp.events());
        self.qmp.execute("device_del", json!({"id": name}), ANSWER_LIMIT).await?;
        let what = || format!("the guest let go of its disk {disk}");
        self.wait_until(limit, what, |events| times(events) > before).await
    }

    /// Puts the same disk back.
    pub async fn plug(&mut self, disk: usize) -> Result<()> {
        let known = self.disks.get(disk);
        let known = known.ok_or_else(|| Error::Invalid(format!("it has no disk {disk}")))?;
        let (drive, device) = (arguments::drive(disk, known), arguments::disk_device(disk, known));
        let drive = drive.to_str().ok_or_else(|| {
            Error::Invalid(format!("{} is no UTF-8, as a running QEMU needs it", known.path.display()))
        })?;
        self.type_in(&format!("drive_add 0 {}", quoted(drive))).await?;
        self.type_in(&format!("device_add {}", quoted(&device))).await
    }

    /// Gives the disk at this place among the machine's another size, in bytes, as a running guest
    /// may notice.
    pub async fn resize_disk(&mut self, disk: usize, bytes: u64) -> Result<()> {
        let arguments = json!({"device": arguments::drive_name(disk), "size": bytes});
        self.qmp.execute("block_resize", arguments, ANSWER_LIMIT).await.map(drop)
    }

    /// Where each CPU stands and whether it waits (`HLT=1`), a line each, as QEMU writes it; for whoever
    /// wants to know what a machine does that says nothing.
    pub async fn cpus_stand(&mut self) -> Result<Vec<String>> {
        let registers = self.say("info registers -a").await?;
        Ok(registers.lines().filter(|line| line.contains("IP=")).map(str::to_owned).collect())
    }

    /// One of the commands that QEMU has for people alone, which says nothing where it went well.
    async fn type_in(&mut self, line: &str) -> Result<()> {
        match self.say(line).await?.trim() {
            "" | "OK" => Ok(()),
            why => Err(Error::Command { command: line.to_owned(), description: why.to_owned() }),
        }
    }

    async fn say(&mut self, line: &str) -> Result<String> {
        let arguments = json!({"command-line": line});
        let said = self.qmp.execute("human-monitor-command", arguments, ANSWER_LIMIT).await?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    async fn wait_until(
        &self,
        limit: Duration,
        what: impl Fn() -> String,
        told: impl FnMut(&Events) -> bool,
    ) -> Result<()> {
        let tail = || self.console.tail();
        match timeout(limit, self.qmp.wait_until(told)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Ended { what: what(), tail: tail() }),
            Err(_) => {
                let what = format!("waiting until {}", what());
                Err(Error::TimedOut { what, limit, tail: tail() })
            }
        }
    }

    /// Stops its CPUs, as if it hung. Its watchdog's clock stands still with them.
    pub async fn pause(&mut self) -> Result<()> {
        self.qmp.execute("stop", json!({}), ANSWER_LIMIT).await.map(drop)
    }

    /// Lets its CPUs go on.
    pub async fn resume(&mut self) -> Result<()> {
        self.qmp.execute("cont", json!({}), ANSWER_LIMIT).await.map(drop)
    }

    async fn try_exit(&mut self) -> Option<Exit> {
        if self.exit.is_none() {
            let status = self.qemu.try_wait().ok()??;
            self.ended(status).await;
        }
        self.exit.clone()
    }

    async fn ended(&mut self, status: ExitStatus) -> Exit {
        let events = self.qmp.last_events(END_LIMIT).await;
        self.console.drain(END_LIMIT).await;
        let exit = match Exit::of(status, &events) {
            Ok(exit) => exit,
            Err(why) => Exit::Other(format!("{why}\n{}", self.said.all().await).trim_end().to_owned()),
        };
        self.exit.insert(exit).clone()
    }
}

impl Exit {
    /// Or why it is none of the usual ones.
    fn of(status: ExitStatus, events: &Events) -> Result<Self, String> {
        if let Some(signal) = status.signal() {
            return Signal::try_from(signal).map(Self::Killed).map_err(|_| status.to_string());
        }
        if !status.success() {
            return Err(status.to_string());
        }
        match (events.panicked, events.watchdog, events.shutdown.as_deref()) {
            (true, ..) => Ok(Self::Panicked),
            (_, true, _) => Ok(Self::Watchdog),
            (.., Some("guest-shutdown")) => Ok(Self::PoweredOff),
            (.., Some("guest-reset")) => Ok(Self::Reset),
            (.., other) => Err(other.unwrap_or("QEMU told no reason").to_owned()),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::Panicked => f.write_str("the guest's kernel panicked"),
            Self::Watchdog => f.write_str("the guest did not feed its watchdog"),
            Self::Killed(signal) => write!(f, "QEMU was killed by {signal}"),
            Self::Other(why) => write!(f, "QEMU ended: {why}"),
        }
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guest => "the guest asked for a reset",
            Self::Panicked => "the guest's kernel panicked",
            Self::Watchdog => "the guest did not feed its watchdog",
            Self::Button => "its reset button was pressed",
        })
    }
}

/// What a program writes to its standard error.
#[derive(Debug)]
struct Said {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Said {
    fn gather(pipe: Option<impl AsyncRead + Send + Unpin + 'static>) -> Self {
        let text = Arc::<Mutex<Vec<u8>>>::default();
        let kept = text.clone();
        let reader = tokio::spawn(async move {
            let Some(mut pipe) = pipe else { return };
            let mut chunk = [0; 1024];
            while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let room = SAID_MAX_BYTES.saturating_sub(kept.len()).min(count);
                kept.extend_from_slice(&chunk[..room]);
            }
        });
        Self { text, reader }
    }

    /// All of it, once the program has ended.
    async fn all(&mut self) -> String {
        // A child of it may hold the pipe.
        if !self.reader.is_finished() {
            let _ = timeout(END_LIMIT, &mut self.reader).await;
        }
        String::from_utf8_lossy(&self.text.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// A running swtpm.
#[derive(Debug)]
struct Tpm {
    _process: Child,
    said: Said,
}

fn start_tpm(state: &Path, socket: OwnedFd) -> Result<Tpm> {
    if !state.is_dir() {
        let why = format!("its TPM's state belongs in {}, which is no directory; create it", state.display());
        return Err(Error::Invalid(why));
    }
    let mut command = Command::new(SWTPM);
    let number = socket.as_raw_fd();
    let dir = format!("dir={}", state.display());
    command.args(["socket", "--tpm2", "--terminate", "--tpmstate", &dir]);
    command.args(["--ctrl", &format!("type=unixio,clientfd={number}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let started = spawn(command, vec![socket]);
    let mut process = started.map_err(|source| Error::Spawn { program: SWTPM.into(), source })?;
    let said = Said::gather(process.stderr.take());
    Ok(Tpm { _process: process, said })
}

fn ensure_variables(firmware: &Firmware) -> Result<()> {
    let Firmware { template, variables, .. } = firmware;
    if variables.exists() {
        return Ok(());
    }
    fs::copy(template, variables).map(drop).map_err(Error::file("copy", template))
}

/// As one word for QEMU's monitor.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

fn pair() -> Result<(Socket, OwnedFd)> {
    let made = Socket::pair().map_err(Error::file("make a pair of sockets for", "QEMU"));
    made.map(|(near, far)| (near, far.into()))
}

fn adopt(socket: Socket) -> Result<UnixStream> {
    let adopted = socket.set_nonblocking(true).and_then(|()| UnixStream::from_std(socket));
    adopted.map_err(Error::file("use a socket of", "QEMU"))
}
