//! What a testbed made, written before it is made: one JSON file each below [`DIR`], which a
//! reboot empties together with the namespaces and processes it tells of.

use std::{
    fs, mem,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{Hardware, Owner, Plan, Request, Substrate};
use crate::sys::{link, process::Process, replace_file};

/// Where records are.
pub const DIR: &str = "/run/capsule-testbed";

/// One testbed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Prefix of its global names.
    pub name: String,
    /// Holds everything it writes.
    pub dir: PathBuf,
    /// Third byte of its IPv4 network.
    pub subnet: u8,
    /// The program that will remove it; the operator does where there is none.
    pub owner: Option<Process>,
    /// In the order of their addresses.
    pub nodes: Vec<Node>,
    /// Others that it started, such as the registry.
    pub helpers: Vec<Process>,
    /// Control groups seen in use by its capsules, at the root of each hierarchy.
    pub cgroups: Vec<String>,
    /// What its capsules are.
    #[serde(default)]
    pub substrate: Substrate,
}

/// One capsule of a testbed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its agent, when last started.
    pub agent: Option<Process>,
    /// Size of the file system of its own that its state directory has, where it has one.
    pub disk_bytes: Option<u64>,
    /// Further words for its agent.
    #[serde(default)]
    pub options: Vec<String>,
    /// What a shell does to the mounts that its agent sees, and nobody else, before it starts.
    #[serde(default)]
    pub mounts: Option<String>,
    /// Whether it is behind a router.
    #[serde(default)]
    pub behind_nat: bool,
    /// What its machine has, if it is one and has something else than the others.
    #[serde(default)]
    pub hardware: Option<Hardware>,
    /// The process that has its machine, when last started.
    #[serde(default)]
    pub keeper: Option<Process>,
}

impl Node {
    fn new(name: &str, behind_nat: bool) -> Self {
        Self {
            name: name.to_owned(),
            agent: None,
            disk_bytes: None,
            options: Vec::new(),
            mounts: None,
            behind_nat,
            hardware: None,
            keeper: None,
        }
    }

    /// What the capsule ends with: its agent, or the keeper of its machine.
    pub fn life(&self) -> Option<Process> {
        self.agent.or(self.keeper)
    }
}

impl Record {
    /// The record of this name.
    pub fn load(name: &str) -> Result<Option<Self>> {
        let path = path(name);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Every record.
    pub fn all() -> Result<Vec<Self>> {
        let entries = fs::read_dir(DIR).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".json")?.to_owned()));
        names.filter_map(|name| Self::load(&name).transpose()).collect()
    }

    /// Writes it.
    pub fn save(&self) -> Result<()> {
        replace_file(&path(&self.name), &serde_json::to_vec_pretty(self)?)
    }

    /// Forgets it.
    pub fn forget(&self) -> Result<()> {
        match fs::remove_file(path(&self.name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot forget testbed {}", self.name))
            }
            _ => Ok(()),
        }
    }

    /// What a capsule keeps.
    pub fn state_dir(&self, node: &str) -> PathBuf {
        self.dir.join(node).join("state")
    }

    /// What its agent wrote to stderr.
    pub fn console(&self, node: &str) -> PathBuf {
        self.dir.join(node).join("console.log")
    }
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(format!("{name}.json"))
}

/// Makes or takes up the record of what is asked for, with a subnet that nobody else has.
pub fn claim(request: &Request) -> Result<Record> {
    fs::create_dir_all(DIR).with_context(|| format!("cannot make {DIR}"))?;
    let _one_at_a_time = lock()?;
    let node = |name: &String| Node::new(name, request.behind_nat.contains(name));
    let mut record = match Record::load(&request.name)? {
        Some(known) if known.dir != request.dir => {
            bail!("testbed {} exists in {}; take it down first", known.name, known.dir.display())
        }
        Some(known) => known,
        None => Record {
            name: request.name.clone(),
            dir: request.dir.clone(),
            subnet: free_subnet(&request.name)?,
            owner: if request.owner == Owner::ThisProgram { Process::this() } else { None },
            nodes: Vec::new(),
            helpers: Vec::new(),
            cgroups: Vec::new(),
            substrate: request.substrate.clone(),
        },
    };
    if mem::discriminant(&record.substrate) != mem::discriminant(&request.substrate) {
        bail!("testbed {} has capsules of another kind; take it down first", record.name);
    }
    let known = record.nodes.len().min(request.nodes.len());
    if record.nodes[..known].iter().map(|node| &node.name).ne(&request.nodes[..known]) {
        bail!("testbed {} has capsules of other names; take it down first", record.name);
    }
    record.nodes.extend(request.nodes[known..].iter().map(node));
    record.save()?;
    Ok(record)
}

fn lock() -> Result<Flock<fs::File>> {
    let file = fs::File::create(Path::new(DIR).join("lock")).context("cannot make the testbeds' lock")?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context("cannot lock the testbeds")
}

fn free_subnet(name: &str) -> Result<u8> {
    let taken: Vec<u8> = Record::all()?.iter().map(|record| record.subnet).collect();
    let routed = link::routed()?;
    let is_free =
        |subnet: &u8| !taken.contains(subnet) && !routed.contains(&Plan::new(name, *subnet).network_v4());
    (0..=255).find(is_free).context("every network from 10.99.0.0/24 to 10.99.255.0/24 is in use")
}
