//! A fleet of its own for each test.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use capsule_client::{Connector, OperatorKey, adopt};
use tokio::net::TcpStream;

use super::{Capsule, Operator, Relay, eventually, report};
use crate::{
    fixtures,
    registry::{Access, Registry, token::TokenService},
    substrate::{
        self, Hardware, Owner, Request, State, Substrate, Testbed,
        fault::Faults,
        qemu::{self, Medium},
    },
    sys::process::Process,
};

/// Holds the directories of testbeds, one each.
pub const DIR: &str = "/var/lib/capsule-testbed";
/// Lines of an agent's log that tell why it ended.
const LAST_WORDS: usize = 5;
/// For an agent to answer after it was started.
pub(super) const START_LIMIT: Duration = Duration::from_secs(30);

static MADE: AtomicU32 = AtomicU32::new(0);

/// A fleet as asked for.
#[derive(Clone, Debug)]
pub struct FleetBuilder {
    nodes: usize,
    disks: Vec<(String, u64)>,
    mounts: Vec<(String, String)>,
    behind_nat: Vec<String>,
    substrate: Substrate,
    machines: Vec<(String, Hardware)>,
    wait: bool,
    adopt: bool,
    images: bool,
}

impl FleetBuilder {
    /// Gives the state directory of a capsule a file system of its own of this size.
    pub fn disk(mut self, capsule: &str, bytes: u64) -> Self {
        self.disks.push((capsule.to_owned(), bytes));
        self
    }

    /// Gives the agent of a capsule mounts of its own, which this shell script changes before it
    /// starts.
    pub fn mounts(mut self, capsule: &str, script: &str) -> Self {
        self.mounts.push((capsule.to_owned(), script.to_owned()));
        self
    }

    /// Puts a capsule behind a router of its own.
    pub fn behind_nat(mut self, capsule: &str) -> Self {
        self.behind_nat.push(capsule.to_owned());
        self
    }

    /// Makes its capsules virtual machines like this one.
    pub fn qemu(mut self, hardware: Hardware) -> Self {
        self.substrate = Substrate::Qemu(hardware);
        self
    }

    /// Gives the machine of a capsule other hardware than the others have. One with a USB stick is
    /// started, but neither waited for nor adopted.
    pub fn machine(mut self, capsule: &str, hardware: Hardware) -> Self {
        self.machines.push((capsule.to_owned(), hardware));
        self
    }

    /// Leaves the capsules unadopted, and so without images.
    pub fn unadopted(mut self) -> Self {
        self.adopt = false;
        self.images = false;
        self
    }

    /// Starts the capsules, and waits for none of them.
    pub fn unattended(mut self) -> Self {
        self.wait = false;
        self.unadopted()
    }

    /// Pushes no image.
    pub fn without_images(mut self) -> Self {
        self.images = false;
        self
    }

    /// Makes it: every agent answers, is adopted, and has the images of [`fixtures`].
    pub async fn start(self) -> Result<Fleet> {
        substrate::remove_stale().context("an earlier run left a testbed that cannot be removed")?;
        let name = format!("t{:x}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let nodes = substrate::node_names(self.nodes);
        let request = Request {
            dir: Path::new(DIR).join(&name),
            name,
            nodes: nodes.clone(),
            behind_nat: self.behind_nat.clone(),
            owner: Owner::ThisProgram,
            substrate: self.substrate.clone(),
        };
        let mut testbed = Testbed::ensure(&request)?;
        for (capsule, bytes) in &self.disks {
            testbed.limit_disk(capsule, *bytes)?;
        }
        for (capsule, script) in &self.mounts {
            testbed.set_mounts(capsule, script)?;
        }
        for (capsule, hardware) in &self.machines {
            testbed.set_hardware(capsule, hardware.clone())?;
        }
        let fleet = Fleet {
            operator: Operator::at(&request.dir.join("operator")).patient(&self.substrate),
            testbed: Mutex::new(testbed),
            faults: Mutex::new(Faults::default()),
            passed: AtomicBool::new(false),
        };
        fleet.bring_up(&nodes, &self).await?;
        Ok(fleet)
    }
}

/// Capsules on this machine that only one test knows of.
pub struct Fleet {
    testbed: Mutex<Testbed>,
    pub(super) faults: Mutex<Faults>,
    operator: Operator,
    passed: AtomicBool,
}

impl Fleet {
    /// `nodes` adopted capsules called `a`, `b`, ….
    pub async fn netns(nodes: usize) -> Result<Self> {
        Self::builder(nodes).start().await
    }

    /// The same with choices.
    pub fn builder(nodes: usize) -> FleetBuilder {
        FleetBuilder {
            nodes,
            disks: Vec::new(),
            mounts: Vec::new(),
            behind_nat: Vec::new(),
            substrate: Substrate::Netns,
            machines: Vec::new(),
            wait: true,
            adopt: true,
            images: true,
        }
    }

    /// One of its capsules.
    pub fn capsule(&self, name: &str) -> Capsule<'_> {
        Capsule::new(self, name)
    }

    /// The operator whose key every capsule enrolled.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Another one, with neither key nor contexts at first.
    pub fn other_operator(&self, name: &str) -> Operator {
        let operator = Operator::at(&self.dir().join(format!("operator-{name}")));
        operator.patient(&self.testbed().record.substrate)
    }

    /// As long, for capsules like these.
    pub(super) fn patiently(&self, limit: Duration) -> Duration {
        limit * self.testbed().record.substrate.patience()
    }

    /// `fleetctl` with these words.
    pub async fn fleetctl(&self, words: &[&str]) -> Result<super::Output> {
        self.operator.run(words).await
    }

    /// Makes all its capsules members of one fabric.
    pub async fn enroll_all(&self) -> Result<()> {
        self.fleetctl(&["fabric", "init"]).await?.ok()?;
        self.fleetctl(&["--all", "fabric", "enroll", "--yes"]).await?.ok().map(drop)
    }

    /// Where a test may keep its files; goes with the fleet.
    pub fn dir(&self) -> PathBuf {
        self.testbed().record.dir.clone()
    }

    /// Names of its capsules.
    pub fn names(&self) -> Vec<String> {
        self.testbed().record.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// Where the operator's host is, seen from a capsule.
    pub fn operator_address(&self) -> Ipv4Addr {
        self.testbed().plan().operator().0
    }

    /// Starts a registry that every capsule reaches.
    pub fn registry(&self, access: Access) -> Result<Registry> {
        Registry::start(&mut self.testbed(), access)
    }

    /// Starts a service where registries may send their clients for tokens.
    pub fn token_service(&self) -> Result<TokenService> {
        TokenService::start(self.operator_address(), &self.dir())
    }

    /// Starts a relay to a server, such as a registry, that every capsule reaches.
    pub fn relay(&self, server: &str, bytes_per_second: u64) -> Result<Relay> {
        let server = server.parse().with_context(|| format!("{server:?} is not ADDRESS:PORT"))?;
        Relay::start(self.operator_address(), server, bytes_per_second)
    }

    /// The substrate, for what this type does not offer.
    pub fn testbed(&self) -> MutexGuard<'_, Testbed> {
        // What it guards is a record that is saved whole: a panic elsewhere leaves it usable.
        self.testbed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the story went as told: nothing is reported when the fleet goes.
    pub fn passed(self) {
        self.passed.store(true, Ordering::Relaxed);
    }

    async fn bring_up(&self, nodes: &[String], asked: &FleetBuilder) -> Result<()> {
        if let Substrate::Qemu(_) = asked.substrate {
            // Before each keeper wants to know.
            qemu::accelerator().await?;
        }
        for node in nodes {
            self.testbed().ensure_capsule(node)?;
        }
        if let Substrate::Qemu(_) = asked.substrate {
            for node in nodes {
                self.vm(node).wait_kept().await?;
            }
        }
        let is_stick = |node: &&String| {
            let hardware = asked.machines.iter().find(|(capsule, _)| capsule == *node);
            hardware.is_some_and(|(_, hardware)| hardware.medium == Medium::Stick)
        };
        for node in nodes.iter().filter(|node| asked.wait && !is_stick(node)) {
            self.capsule(node).wait_answers().await?;
            if asked.adopt {
                self.capsule(node).adopt().await?;
                self.capsule(node).wait_healthy().await?;
            }
        }
        if asked.images {
            let archives = fixtures::ensure_archives(&self.dir().join("images"))?;
            for archive in &archives {
                self.push_to_all(archive).await?;
            }
        }
        self.testbed().note_cgroups()
    }

    /// Pushes an image archive to every capsule.
    pub async fn push_to_all(&self, archive: &Path) -> Result<()> {
        let archive = archive.display().to_string();
        self.fleetctl(&["--all", "image", "push", &archive]).await?.ok().map(drop)
    }
}

/// Waits until something listens there.
pub async fn wait_listens(address: SocketAddr, limit: Duration) -> Result<()> {
    eventually(limit, async || {
        TcpStream::connect(address).await.map(drop).with_context(|| format!("nothing answers on {address}"))
    })
    .await
}

/// Waits until an agent answers, as long as it lives; an agent that ended is shown with its last
/// words.
pub async fn wait_agent(testbed: &Testbed, node: &str) -> Result<()> {
    let (position, known) = testbed.node(node)?;
    let (api, console) = (testbed.plan().api(position), testbed.record.console(node));
    let limit = START_LIMIT * testbed.record.substrate.patience();
    wait_agent_at(known.life(), api, &console, limit).await
}

pub(super) async fn wait_agent_at(
    life: Option<Process>,
    api: SocketAddr,
    console: &Path,
    limit: Duration,
) -> Result<()> {
    let (stranger, address) = (Connector::new(OperatorKey::generate()?)?, api.to_string().parse()?);
    let end = Instant::now() + limit;
    // An agent listens before it serves: what counts is that it shows its certificate.
    while let Err(error) = adopt::probe(&stranger, &address).await {
        let ended = !life.is_some_and(Process::is_alive);
        if ended || Instant::now() > end {
            let words = report::tail_of(console, LAST_WORDS);
            let what = if ended { "the agent ended at once" } else { "the agent does not answer" };
            return Err(error)
                .with_context(|| format!("{what}; {} ends with:\n{words}\n{api}", console.display()));
        }
        tokio::time::sleep(super::POLL).await;
    }
    Ok(())
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if !self.passed.load(Ordering::Relaxed) || std::thread::panicking() {
            report::print(&self.testbed());
        }
        let record = self.testbed().record.clone();
        if let Err(error) = (Testbed { record }).remove(State::Remove) {
            eprintln!("{error:#}");
        }
    }
}
