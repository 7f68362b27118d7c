//! WireGuard in userspace, for kernels that have none: one device, one process, one thread.
//!
//! ```text
//!            read, cut                     seal                   GSO
//!   TUN ──▶ from_tun ─ segment ──▶ peers (boringtun) ──▶ outbound ──▶ UDP
//!       ◀── to_tun  ◀─ allowed IPs ◀─ peers ◀────────── inbound ◀─── (mmsg)
//!            merge, write             open                    GRO
//! ```
//!
//! [`engine`] waits for all of them and for the API ([`uapi`]), which changes [`state`]. [`timers`]
//! are looked at four times a second. The protocol is boringtun's `noise`; how packets move is ours.

mod allowed;
mod checksum;
mod engine;
mod flow;
mod from_tun;
mod inbound;
#[cfg(test)]
mod join_tests;
mod mmsg;
mod outbound;
mod packet;
mod peers;
mod segment;
#[cfg(test)]
mod session_tests;
mod state;
mod timers;
mod to_tun;
mod tun;
mod uapi;
mod udp;
mod vnet;

use std::{
    ffi::{CStr, CString},
    fmt, io,
    path::PathBuf,
    str::FromStr,
};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};

use self::{engine::Engine, state::State, tun::Tun, uapi::socket::Socket};

pub use self::uapi::socket::DIR as SOCKET_DIR;

/// The largest IP packet.
const MAX_PACKET: usize = 65_535;
/// What a path of 1500 bytes leaves inside, with IPv6 outside.
pub const DEFAULT_MTU: u16 = 1420;

/// How a device is made. Keys and peers come later, over the API.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name.
    pub interface: InterfaceName,
    /// Bytes of a packet inside.
    pub mtu: u16,
    /// UDP port until the API says another; any where it is 0.
    pub listen_port: u16,
    /// Mark of what it sends, for routing rules; none where it is 0.
    pub fwmark: u32,
    /// What it may leave to the kernel.
    pub offloads: Offloads,
}

/// Work on many packets at once that the kernel may take; each is done without where it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Headers on the TUN that say what is to be done with a packet; the next two need them.
    pub vnet_header: bool,
    /// TCP segments come from and go to the TUN as one packet.
    pub tso: bool,
    /// UDP datagrams do.
    pub uso: bool,
    /// Datagrams of one size are sent as one.
    pub udp_gso: bool,
    /// They are received as one.
    pub udp_gro: bool,
}

/// The name of a network interface, as the kernel takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceName(CString);

/// Why a device could not be made or go on.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A name that no interface can have.
    #[error(
        "`{0}` cannot be the name of an interface: it takes 1 to 15 characters of ASCII without spaces, `/` and `:`"
    )]
    Name(String),
    /// There is one already.
    #[error(
        "a WireGuard device {name} runs already ({holder}); stop it first, or choose another --interface"
    )]
    Running {
        /// Its name.
        name: InterfaceName,
        /// "PID 12", as far as it is known.
        holder: String,
    },
    /// The kernel refused the interface.
    #[error("cannot {attempt} the interface {name}: {source}{hint}")]
    Tun {
        /// Its name.
        name: InterfaceName,
        /// What was tried.
        attempt: &'static str,
        /// What would help.
        hint: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The API's socket could not be made.
    #[error("cannot make the API socket {path}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The port could not be had.
    #[error("cannot listen on UDP port {port}; give another with --listen-port, or 0 for any that is free")]
    Port {
        /// Which.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Waiting for the kernel failed.
    #[error("the device cannot go on")]
    Engine(#[source] io::Error),
}

/// Runs a device until SIGTERM or SIGINT, in the network namespace of the caller. The interface and
/// the API's socket go with it.
pub fn run(config: &Config) -> Result<(), DeviceError> {
    // From the start on, so that a signal never ends it half-way.
    let stop = stop_signals().map_err(DeviceError::Engine)?;
    let socket = Socket::bind(&config.interface)?;
    let tun = Tun::create(&config.interface, config.mtu, config.offloads)?;
    let offloads = tun.offloads();
    let state = State::new(config.listen_port, config.fwmark, offloads)
        .map_err(|source| DeviceError::Port { port: config.listen_port, source })?;
    tracing::info!(interface = %config.interface, port = state.sockets.port(), ?offloads, "running");
    let engine = Engine::new(tun, state, socket).map_err(DeviceError::Engine)?;
    engine.run(std::os::fd::AsFd::as_fd(&stop)).map_err(DeviceError::Engine)
}

fn stop_signals() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

impl Offloads {
    /// Every one.
    pub const ALL: Self = Self { vnet_header: true, tso: true, uso: true, udp_gso: true, udp_gro: true };

    fn without_vnet_header(self) -> Self {
        Self { vnet_header: false, tso: false, uso: false, ..self }
    }
}

impl InterfaceName {
    fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        let fits = (1..libc::IFNAMSIZ).contains(&name.len()) && !matches!(name, "." | "..");
        let plain = name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
        let taken = if fits && plain { CString::new(name).ok() } else { None };
        taken.map(Self).ok_or_else(|| DeviceError::Name(name.to_owned()))
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string_lossy())
    }
}
