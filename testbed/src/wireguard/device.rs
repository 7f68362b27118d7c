//! A userspace device of any make, running.

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

use crate::sys::{self, netns, process::Process};

/// Until it answers, and until it has ended.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two looks.
const POLL: Duration = Duration::from_millis(10);
/// Where `scripts/setup bench` puts peers that the system does not have.
const PEERS: &str = "target/peers";

/// Who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Make {
    /// `capsuled wg`, with more words on its command line.
    Ours(Vec<&'static str>),
    /// wireguard-go, this program.
    WireguardGo(PathBuf),
    /// boringtun-cli, this program.
    Boringtun(PathBuf),
}

/// A device's process; it ends when this is dropped.
pub struct Device {
    child: Child,
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

    fn command(&self, namespace: &str, interface: &str) -> Result<Command> {
        Ok(match self {
            Self::Ours(words) => {
                let mut command = netns::command(namespace, sys::program("capsuled")?);
                command.args(["wg", "--interface", interface]).args(words);
                command
            }
            Self::WireguardGo(program) => {
                let mut command = netns::command(namespace, program);
                command.args(["-f", interface]);
                command
            }
            Self::Boringtun(program) => {
                let mut command = netns::command(namespace, program);
                command.args(["-f", "--disable-drop-privileges", interface]);
                command
            }
        })
    }
}

impl Device {
    /// Starts it and waits until its API answers.
    pub fn start(make: &Make, namespace: &str, interface: &str) -> Result<Self> {
        let mut command = make.command(namespace, interface)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot run {}", sys::show(&command)))?;
        let socket = Path::new("/var/run/wireguard").join(format!("{interface}.sock"));
        let mut device = Self { child, socket };
        let end = Instant::now() + LIMIT;
        while UnixStream::connect(&device.socket).is_err() {
            if let Some(status) = device.child.try_wait()? {
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
        Process::of(self.child.id()).context("the device is gone")
    }

    /// Where its API is.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a signal and waits for its end; how it ended.
    pub fn end(&mut self, signal: Signal) -> Result<std::process::ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        kill(Pid::from_raw(self.child.id() as i32), signal)?;
        self.wait()
    }

    /// Waits for its end; how it ended.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait()? {
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
        if self.end(Signal::SIGTERM).is_err() {
            let _ = self.end(Signal::SIGKILL);
        }
        // One that was killed leaves its socket; another's answers.
        if UnixStream::connect(&self.socket).is_err() {
            let _ = std::fs::remove_file(&self.socket);
        }
    }
}

/// A peer's program below `target/`, wherever in it this program is.
fn fetched(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    Some(root.join(PEERS).join(path)).filter(|path| path.is_file())
}
