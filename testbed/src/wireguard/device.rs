//! A device of any make, running.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::sys::{self, link, netns, process::Process};

/// Until it answers, and until it has ended.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two looks.
const POLL: Duration = Duration::from_millis(10);
/// Where `scripts/setup bench` puts peers that the system does not have.
const PEERS: &str = "peers";
const NO_PROCESS: &str = "the kernel's device has no process";

/// Who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Make {
    /// `capsuled wg`, with more words on its command line.
    Ours(Vec<&'static str>),
    /// wireguard-go, this program.
    WireguardGo(PathBuf),
    /// boringtun-cli, this program.
    Boringtun(PathBuf),
    /// The kernel's, where it has one.
    Kernel,
}

/// A device; its process ends when this is dropped, and the kernel's goes with its namespace.
pub struct Device {
    process: Option<Child>,
    socket: PathBuf,
}

impl Make {
    /// Ours, as it is without options.
    pub fn ours() -> Self {
        Self::Ours(Vec::new())
    }

    /// The system's wireguard-go.
    pub fn wireguard_go() -> Self {
        Self::WireguardGo("wireguard-go".into())
    }

    /// The newer wireguard-go that `scripts/setup bench` fetches; `None` where it did not.
    pub fn newer_wireguard_go() -> Option<Self> {
        fetched("wireguard-go/usr/bin/wireguard-go").map(Self::WireguardGo)
    }

    /// The boringtun-cli that `scripts/setup bench` builds; `None` where it did not.
    pub fn boringtun() -> Option<Self> {
        fetched("bin/boringtun-cli").map(Self::Boringtun)
    }

    /// What runs it; the kernel's needs nothing.
    fn command(&self, namespace: &str, interface: &str) -> Result<Option<Command>> {
        let (program, words) = match self {
            Self::Ours(words) => {
                (sys::program("capsuled")?, [&["wg", "--interface", interface], words.as_slice()].concat())
            }
            Self::WireguardGo(program) => (program.clone(), vec!["-f", interface]),
            Self::Boringtun(program) => (program.clone(), vec!["-f", "--disable-drop-privileges", interface]),
            Self::Kernel => return Ok(None),
        };
        let mut command = netns::command(namespace, program);
        command.args(words);
        Ok(Some(command))
    }
}

impl Device {
    /// Starts it and waits until its API answers.
    pub fn start(make: &Make, namespace: &str, interface: &str) -> Result<Self> {
        let socket = Path::new("/var/run/wireguard").join(format!("{interface}.sock"));
        let Some(mut command) = make.command(namespace, interface)? else {
            link::batch_in(namespace, &format!("link add {interface} type wireguard\n"))?;
            return Ok(Self { process: None, socket });
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot run {}", sys::show(&command)))?;
        let mut device = Self { process: Some(child), socket };
        let end = Instant::now() + LIMIT;
        while UnixStream::connect(&device.socket).is_err() {
            if let Some(status) = device.child()?.try_wait()? {
                bail!("`{}` ended with {status}", sys::show(&command));
            }
            if Instant::now() > end {
                bail!("`{}` does not answer", sys::show(&command));
            }
            thread::sleep(POLL);
        }
        Ok(device)
    }

    /// Its process, which nsenter has become.
    pub fn process(&self) -> Result<Process> {
        let child = self.process.as_ref().context(NO_PROCESS)?;
        Process::of(child.id()).context("the device is gone")
    }

    fn child(&mut self) -> Result<&mut Child> {
        self.process.as_mut().context(NO_PROCESS)
    }

    /// Where its API is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a signal and waits for its end; how it ended.
    pub fn end(&mut self, signal: Signal) -> Result<std::process::ExitStatus> {
        let child = self.child()?;
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        kill(Pid::from_raw(child.id() as i32), signal)?;
        self.wait()
    }

    /// Waits for its end; how it ended.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child()?.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("the device {} does not end", self.socket.display());
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.process.is_none() {
            return;
        }
        if self.end(Signal::SIGTERM).is_err() {
            let _ = self.end(Signal::SIGKILL);
        }
        // One that was killed leaves its socket; another's answers.
        if UnixStream::connect(&self.socket).is_err() {
            let _ = std::fs::remove_file(&self.socket);
        }
    }
}

/// A peer's program.
fn fetched(path: &str) -> Option<PathBuf> {
    Some(sys::target_dir().join(PEERS).join(path)).filter(|path| path.is_file())
}
