//! Where a testbed's capsules run. `netns`: one network namespace and one `capsuled` each, on
//! this host. [`qemu`]: a virtual machine each, on the same bridge.
//!
//! ```text
//!   root namespace          NAME-hub                 NAME-a, NAME-b, …
//!   NAME 10.99.X.1 ──veth── uplink ┐
//!                                  br0 10.99.X.2
//!                             a, b ┘──────veth────── eth0 10.99.X.11, .12, …
//! ```
//!
//! [`Testbed`] makes and removes it; [`record`] is what survives a crash of whoever made it;
//! [`plan`] says who gets which address; [`agent`] starts and stops the agents; [`fault`] breaks
//! the network; [`nat`] puts a capsule behind a router; [`teardown`] finds and removes whatever is left.

pub mod agent;
pub mod fault;
pub mod nat;
pub mod plan;
pub mod qemu;
pub mod record;
mod teardown;
mod wire;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use self::qemu::Files;
pub use self::{
    plan::Plan,
    qemu::Hardware,
    record::{Node, Record},
};
use crate::sys::{disk, process::Process};

/// Marks a directory as made by a testbed: nothing else is ever removed.
const MARKER: &str = ".testbed";

/// Who a testbed belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The operator, until `down`.
    Nobody,
    /// This program: a testbed of a program that is gone is stale.
    ThisProgram,
}

/// What its capsules are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Substrate {
    /// Network namespaces of this host.
    #[default]
    Netns,
    /// Virtual machines like this one.
    Qemu(Hardware),
}

impl Substrate {
    /// How many times longer its capsules may take for anything than this host would: machines are
    /// emulated where nothing better runs.
    pub fn patience(&self) -> u32 {
        match self {
            Self::Netns => 1,
            Self::Qemu(_) => 10,
        }
    }
}

/// A testbed as asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Prefix of every global name: a DNS label of at most 11 characters.
    pub name: String,
    /// Holds everything the testbed writes.
    pub dir: PathBuf,
    /// Names of the capsules.
    pub nodes: Vec<String>,
    /// Those of them that are behind a router.
    pub behind_nat: Vec<String>,
    /// Who takes it down.
    pub owner: Owner,
    /// What they are.
    pub substrate: Substrate,
}

/// A testbed that exists at least on record.
#[derive(Debug)]
pub struct Testbed {
    /// What was promised to be there.
    pub record: Record,
}

impl Testbed {
    /// Makes the namespaces and joins them, where they are not there yet; starts no agent. A
    /// testbed of the same name is resumed, and grows where more nodes are asked for.
    pub fn ensure(request: &Request) -> Result<Self> {
        check(request)?;
        prepare_dir(&request.dir)?;
        let testbed = Self { record: record::claim(request)? };
        wire::ensure(&testbed.record)?;
        Ok(testbed)
    }

    /// The testbed of this name, where there is one.
    pub fn open(name: &str) -> Result<Option<Self>> {
        Ok(Record::load(name)?.map(|record| Self { record }))
    }

    /// Its addresses and names.
    pub fn plan(&self) -> Plan {
        Plan::new(&self.record.name, self.record.subnet)
    }

    /// Position and record of a node.
    pub fn node(&self, name: &str) -> Result<(usize, &Node)> {
        let nodes = self.record.nodes.iter().enumerate();
        nodes.into_iter().find(|(_, node)| node.name == name).with_context(|| {
            let names: Vec<_> = self.record.nodes.iter().map(|node| node.name.as_str()).collect();
            format!("testbed {} has no capsule {name}; it has {}", self.record.name, names.join(", "))
        })
    }

    /// Starts what a capsule is, unless it runs: its agent, or the keeper of its machine.
    pub fn ensure_capsule(&mut self, node: &str) -> Result<Process> {
        match self.record.substrate {
            Substrate::Netns => self.ensure_agent(node),
            Substrate::Qemu(_) => {
                qemu::ensure_leases(self)?;
                qemu::ensure_keeper(self, node)
            }
        }
    }

    /// What the machine of a node has.
    pub fn hardware(&self, node: &str) -> Result<&Hardware> {
        let (_, known) = self.node(node)?;
        match (&known.hardware, &self.record.substrate) {
            (Some(own), Substrate::Qemu(_)) => Ok(own),
            (None, Substrate::Qemu(common)) => Ok(common),
            (_, Substrate::Netns) => bail!("{node} is no virtual machine: it runs on this host"),
        }
    }

    /// Gives the machine of a node other hardware than the others have, before it is there.
    pub fn set_hardware(&mut self, node: &str, hardware: Hardware) -> Result<()> {
        let (position, _) = self.node(node)?;
        self.record.nodes[position].hardware = Some(hardware);
        self.record.save()
    }

    /// The files of a node's machine.
    pub fn files(&self, node: &str) -> Files {
        Files::of(&self.record, node)
    }

    /// Removes everything it made and, unless told to keep it, everything its capsules wrote. Safe
    /// to repeat; what could not be removed is an error that lists it, and stays on record.
    pub fn remove(self, state: State) -> Result<()> {
        teardown::remove(&self.record, state)
    }
}

/// What happens to the state directories when a testbed goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They stay: the next `up` finds the same capsules.
    Keep,
    /// They go too.
    Remove,
}

/// Removes testbeds whose owner is gone without having done so.
pub fn remove_stale() -> Result<()> {
    for record in Record::all()? {
        let stale = record.owner.is_some_and(|owner: Process| !owner.is_alive());
        if stale {
            teardown::remove(&record, State::Remove)?;
        }
    }
    Ok(())
}

/// Removes the directory of a testbed that a reboot took down, where there is one.
pub fn remove_leftover_dir(dir: &Path) -> Result<()> {
    if dir.join(MARKER).exists() { disk::remove_tree(dir) } else { Ok(()) }
}

/// Names of `count` capsules: `a`, `b`, … up to 26 of them, else `nuc-1`, `nuc-2`, ….
pub fn node_names(count: usize) -> Vec<String> {
    match count {
        0..=26 => ('a'..='z').take(count).map(String::from).collect(),
        _ => (1..=count).map(|at| format!("nuc-{at}")).collect(),
    }
}

fn check(request: &Request) -> Result<()> {
    let label = |text: &str, longest: usize| {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !text.is_empty() && text.len() <= longest && text.chars().all(allowed) && !text.starts_with('-')
    };
    if !label(&request.name, plan::MAX_NAME) {
        bail!(
            "{:?} cannot name a testbed: interfaces are called after it; use 1 to {} of a-z, 0-9 and '-'",
            request.name,
            plan::MAX_NAME
        );
    }
    if let Some(name) = request.nodes.iter().find(|name| !label(name, plan::MAX_NAME)) {
        bail!("{name:?} cannot name a capsule: use 1 to {} of a-z, 0-9 and '-'", plan::MAX_NAME);
    }
    if request.nodes.is_empty() || request.nodes.len() > plan::MAX_NODES {
        bail!("a testbed has 1 to {} capsules, not {}", plan::MAX_NODES, request.nodes.len());
    }
    if matches!(request.substrate, Substrate::Qemu(_)) && !request.behind_nat.is_empty() {
        bail!("a virtual machine cannot be behind a router");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("a testbed makes network namespaces and mounts: run it as root");
    }
    Ok(())
}

fn prepare_dir(dir: &Path) -> Result<()> {
    let at = || format!("cannot prepare {}", dir.display());
    fs::create_dir_all(dir).with_context(at)?;
    let marker = dir.join(MARKER);
    if !marker.exists() && fs::read_dir(dir).with_context(at)?.next().is_some() {
        bail!("{} holds files that no testbed made; name another directory with --dir", dir.display());
    }
    fs::write(marker, "").with_context(at)
}
