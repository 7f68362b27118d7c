//! The WireGuard link to the other members.
//!
//! ```text
//!   Fabric ── Wanted ──▶ task ── plan (pure) ── steps ──▶ device (kernel or process)
//!                          ▲ └── plumbing ──▶ MTU, addresses, routes
//!        the process ended ┘
//! ```
//!
//! One task owns the link. It makes what is wanted real and nothing else: a peer that is as it should
//! be is never touched. The link and the process of a userspace device outlive the agent.

mod device;
mod plan;
mod plumbing;
mod process;

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    str::FromStr,
    time::{Duration, Instant},
};

use capsule_fabric::map::{Addresses, CapsuleId, Endpoint, Member, MemberMap, Prefix, PublicKey};
use capsule_proto::v1::WireguardKind;
use tokio::sync::{mpsc, oneshot};

use self::device::Device;
pub(super) use self::device::PeerState;
use super::{FabricError, SUBJECT, blocking, key::KeyPair};
use crate::{
    event::{Events, NewEvent},
    sys::daemon::Running,
};

/// What the names of all capsules' links begin with.
pub const LINK_PREFIX: &str = "cw-";
/// First retry of what could not be made; doubled by each that follows …
const RETRY_MIN: Duration = Duration::from_millis(500);
/// … up to this.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Name of a capsule's link: like its short id, but longer, because a userspace device's socket has
/// this name in a directory that all network namespaces of a host share.
pub fn link_name(capsule: CapsuleId) -> String {
    format!("{LINK_PREFIX}{:.8}", capsule.to_string())
}

/// Which WireGuard is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Wireguard {
    /// The kernel's, where it has one, else the userspace one
    #[default]
    Auto,
    /// The kernel's
    Kernel,
    /// The userspace one, a process of its own
    Userspace,
}

impl FromStr for Wireguard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        clap::ValueEnum::from_str(text, false)
    }
}

/// What the link must be told.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// [`link_name`].
    pub(super) name: String,
    pub(super) wireguard: Wireguard,
    /// The program of the userspace device, which knows `wg`.
    pub(super) program: PathBuf,
    /// For its lock and its log.
    pub(super) dir: PathBuf,
}

/// The link as it is to be.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) key: KeyPair,
    /// UDP.
    pub(super) port: u16,
    pub(super) addresses: Addresses,
    /// Routed over the link.
    pub(super) ranges: [Prefix; 2],
    pub(super) peers: Vec<WantedPeer>,
}

/// A peer as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedPeer {
    pub(super) public_key: PublicKey,
    pub(super) endpoints: Vec<Endpoint>,
    /// Seconds; 0 for never.
    pub(super) keepalive: u16,
    pub(super) allowed: Vec<Prefix>,
}

impl Wanted {
    /// What a map means for one of its members.
    pub(super) fn new(map: &MemberMap, own: &Member, key: KeyPair, port: u16) -> Self {
        let others = map.members().iter().filter(|member| member.capsule != own.capsule);
        let peer = |member: &Member| WantedPeer {
            public_key: member.public_key,
            endpoints: member.endpoints.clone(),
            // Of two members, the one that needs its paths kept open keeps them.
            keepalive: own.keepalive,
            allowed: map.allowed_ips(member),
        };
        Self {
            key,
            port,
            addresses: map.plan().own(own.slot),
            ranges: [map.plan().range(), map.plan().ipv6()],
            peers: others.map(peer).collect(),
        }
    }
}

/// The link as it is.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) kind: WireguardKind,
    pub(super) mtu: u32,
    pub(super) peers: HashMap<PublicKey, PeerState>,
}

enum Message {
    Apply(Option<Box<Wanted>>, oneshot::Sender<Result<(), FabricError>>),
    Observe(oneshot::Sender<Result<Option<Observed>, FabricError>>),
    SendTo(PublicKey, SocketAddr, oneshot::Sender<Result<(), FabricError>>),
}

/// A handle to the task; the task ends with the last one.
#[derive(Clone)]
pub(super) struct Link {
    messages: mpsc::Sender<Message>,
}

impl Link {
    pub(super) fn start(settings: Settings, events: Events) -> Self {
        let (messages, incoming) = mpsc::channel(16);
        let owner = Owner { settings, events, wanted: None, running: None, told: HashMap::new() };
        tokio::spawn(owner.run(incoming));
        Self { messages }
    }

    /// Makes the link so, or removes it. An error is one for now: it is tried again.
    pub(super) async fn apply(&self, wanted: Option<Wanted>) -> Result<(), FabricError> {
        let (answer, outcome) = oneshot::channel();
        let message = Message::Apply(wanted.map(Box::new), answer);
        self.messages.send(message).await.map_err(|_| FabricError::Closed)?;
        outcome.await.map_err(|_| FabricError::Closed)?
    }

    /// The same without waiting: what fails is told as an event, and tried again.
    pub(super) fn begin(&self, wanted: Option<Wanted>) {
        let (answer, _) = oneshot::channel();
        // The task has just begun: there is room.
        let _ = self.messages.try_send(Message::Apply(wanted.map(Box::new), answer));
    }

    /// The link as it is; `None` where there is none.
    pub(super) async fn observe(&self) -> Result<Option<Observed>, FabricError> {
        let (answer, observed) = oneshot::channel();
        self.messages.send(Message::Observe(answer)).await.map_err(|_| FabricError::Closed)?;
        observed.await.map_err(|_| FabricError::Closed)?
    }

    /// Sends a peer's packets there, until it is heard from elsewhere; nothing where there is no such
    /// peer.
    pub(super) async fn send_to(&self, peer: PublicKey, at: SocketAddr) -> Result<(), FabricError> {
        let (answer, sent) = oneshot::channel();
        self.messages.send(Message::SendTo(peer, at, answer)).await.map_err(|_| FabricError::Closed)?;
        sent.await.map_err(|_| FabricError::Closed)?
    }
}

/// Removes link and process of a capsule whose agent does not run.
pub(super) async fn teardown(settings: &Settings) -> Result<(), FabricError> {
    process::stop(settings).await?;
    let name = settings.name.clone();
    blocking(move || plumbing::remove(&name)).await
}

struct Owner {
    settings: Settings,
    events: Events,
    wanted: Option<Wanted>,
    /// The userspace device's process, where there is one.
    running: Option<Running>,
    /// Where each peer was last said to be: it is only sent elsewhere when that changes.
    told: HashMap<PublicKey, Vec<Endpoint>>,
}

impl Owner {
    async fn run(mut self, mut incoming: mpsc::Receiver<Message>) {
        let (mut pause, mut retry) = (RETRY_MIN, None::<Instant>);
        loop {
            let due = retry.map(tokio::time::Instant::from_std);
            let outcome = tokio::select! {
                message = incoming.recv() => match message {
                    None => return,
                    Some(Message::Observe(answer)) => {
                        let _ = answer.send(self.observe().await);
                        continue;
                    }
                    Some(Message::SendTo(peer, at, answer)) => {
                        let _ = answer.send(self.send_to(peer, at).await);
                        continue;
                    }
                    Some(Message::Apply(wanted, answer)) => {
                        self.wanted = wanted.map(|wanted| *wanted);
                        let outcome = self.converge().await;
                        let failed = outcome.as_ref().err().map(|error| crate::status::chain(error));
                        if let (Some(text), Err(_)) = (&failed, answer.send(outcome)) {
                            self.warn("LinkFailed", text.clone());
                        }
                        failed.is_none()
                    }
                },
                how = ended(&mut self.running) => {
                    self.warn("LinkDied", format!("the WireGuard process ended ({how}); it is started again"));
                    self.running = None;
                    false
                }
                () = tokio::time::sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {
                    self.retry().await
                }
            };
            retry = (!outcome).then(|| Instant::now() + pause);
            pause = if outcome { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
        }
    }

    async fn retry(&mut self) -> bool {
        match self.converge().await {
            Ok(()) => {
                self.events.emit(NewEvent::new(
                    SUBJECT,
                    "",
                    "LinkUp",
                    "the WireGuard link is as it should be again",
                ));
                true
            }
            Err(error) => {
                self.warn("LinkFailed", crate::status::chain(&error));
                false
            }
        }
    }

    fn warn(&self, reason: &'static str, message: String) {
        self.events.emit(NewEvent::new(SUBJECT, "", reason, message).warning());
    }

    async fn converge(&mut self) -> Result<(), FabricError> {
        let Some(wanted) = self.wanted.clone() else {
            self.running = None;
            self.told.clear();
            return teardown(&self.settings).await;
        };
        let device = self.ensure_device().await?;
        let near = plan::nearest(&wanted.peers);
        let told = std::mem::take(&mut self.told);
        let name = self.settings.name.clone();
        let told_now = wanted.peers.iter().map(|peer| (peer.public_key, peer.endpoints.clone())).collect();
        blocking(move || {
            let observed = device.read()?;
            for step in plan::plan(&wanted, &observed, &near, &told) {
                device.take(&wanted, step)?;
            }
            plumbing::ensure(&name, &wanted)
        })
        .await?;
        self.told = told_now;
        Ok(())
    }

    /// The device that is there, or a new one of the kind that is asked for.
    async fn ensure_device(&mut self) -> Result<Device, FabricError> {
        let name = self.settings.name.clone();
        let found = blocking(move || plumbing::kind(&name)).await?;
        let is_kernel = match (self.settings.wireguard, found) {
            (Wireguard::Kernel | Wireguard::Auto, Some(WireguardKind::Kernel)) => true,
            (Wireguard::Userspace, Some(WireguardKind::Kernel)) => {
                teardown(&self.settings).await?;
                false
            }
            (Wireguard::Kernel, Some(_)) => {
                self.running = None;
                teardown(&self.settings).await?;
                self.make_in_kernel().await?
            }
            (Wireguard::Auto | Wireguard::Userspace, Some(_)) | (Wireguard::Userspace, None) => false,
            (Wireguard::Auto | Wireguard::Kernel, None) => self.make_in_kernel().await?,
        };
        if !is_kernel && self.running.is_none() {
            self.running = Some(process::ensure(&self.settings).await?);
        }
        Device::new(&self.settings.name, is_kernel)
    }

    /// Whether the kernel has WireGuard; an error where it must have it.
    async fn make_in_kernel(&self) -> Result<bool, FabricError> {
        let name = self.settings.name.clone();
        let made = blocking(move || plumbing::make_in_kernel(&name)).await?;
        if made || self.settings.wireguard == Wireguard::Auto {
            return Ok(made);
        }
        let source = std::io::Error::from(std::io::ErrorKind::Unsupported);
        let attempt = "make a WireGuard link in this kernel, which has no WireGuard; start the agent with \
                       --wireguard auto or userspace";
        Err(FabricError::Kernel { attempt: attempt.into(), source })
    }

    async fn send_to(&self, key: PublicKey, at: SocketAddr) -> Result<(), FabricError> {
        let Some(wanted) = self.wanted.clone() else { return Ok(()) };
        let Some(peer) = wanted.peers.iter().find(|peer| peer.public_key == key).cloned() else {
            return Ok(());
        };
        let name = self.settings.name.clone();
        blocking(move || {
            let Some(kind) = plumbing::kind(&name)? else { return Ok(()) };
            let device = Device::new(&name, kind == WireguardKind::Kernel)?;
            let WantedPeer { public_key, keepalive, allowed, .. } = peer;
            let peer = plan::Peer { public_key, endpoint: Some(at), keepalive, allowed };
            device.take(&wanted, plan::Step::Set(peer))
        })
        .await
    }

    async fn observe(&self) -> Result<Option<Observed>, FabricError> {
        let name = self.settings.name.clone();
        blocking(move || {
            let Some(kind) = plumbing::kind(&name)? else { return Ok(None) };
            let device = Device::new(&name, kind == WireguardKind::Kernel)?;
            let Some(mtu) = plumbing::mtu(&name)? else { return Ok(None) };
            Ok(Some(Observed { kind, mtu, peers: device.read()?.peers }))
        })
        .await
    }
}

/// Resolves when the process ends; never where there is none.
async fn ended(running: &mut Option<Running>) -> String {
    match running {
        Some(running) => running.ended().await,
        None => std::future::pending().await,
    }
}
