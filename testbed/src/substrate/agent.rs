//! Starts, stops and harms the agents of a testbed.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::Testbed;
use crate::{
    sys::{self, cgroup, disk, netns, process, process::Process},
    wireguard,
};

/// For an agent to end on SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(10);

impl Testbed {
    /// Gives the state directory of a node a file system of its own of this size, for the time
    /// until it is taken down. Before its agent starts.
    pub fn limit_disk(&mut self, node: &str, bytes: u64) -> Result<()> {
        let (position, _) = self.node(node)?;
        self.record.nodes[position].disk_bytes = Some(bytes);
        self.record.save()
    }

    /// Starts the agent of a node from now on with mounts of its own, which this script changes.
    pub fn set_mounts(&mut self, node: &str, script: &str) -> Result<()> {
        let (position, _) = self.node(node)?;
        self.record.nodes[position].mounts = Some(script.to_owned());
        self.record.save()
    }

    /// Gives the agent of a node further words from its next start on.
    pub fn set_options(&mut self, node: &str, options: &[&str]) -> Result<()> {
        let (position, _) = self.node(node)?;
        self.record.nodes[position].options = options.iter().map(ToString::to_string).collect();
        self.record.save()
    }

    /// Starts the agent of a node, unless it runs.
    pub fn ensure_agent(&mut self, node: &str) -> Result<Process> {
        let (position, known) = self.node(node)?;
        if let Some(agent) = known.agent.filter(|agent| agent.is_alive()) {
            return Ok(agent);
        }
        let (plan, state) = (self.plan(), self.record.state_dir(node));
        fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
        if let Some(bytes) = known.disk_bytes {
            disk::ensure_small(&state, bytes)?;
        }
        let program = sys::program("capsuled")?;
        let mut command = match &known.mounts {
            None => netns::command(&plan.namespace(node), program),
            Some(script) => {
                let mut command = netns::command(&plan.namespace(node), "unshare");
                // Private: nothing of it may reach the host.
                command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
                command.arg(format!("{script}\nexec \"$@\"")).arg("sh").arg(program);
                command
            }
        };
        command
            .arg("--state-dir")
            .arg(&state)
            .args(["--listen", &format!("[::]:{}", capsule_proto::DEFAULT_PORT), "--hostname", node])
            .args(["--bridge-subnet", &plan.workloads(position)])
            .args(["--insecure-registry", &plan.registry().to_string()])
            .args(&known.options);
        let chosen = known.options.iter().any(|option| option == "--wireguard");
        if let Some(kind) = env::var_os(wireguard::KIND_VARIABLE).filter(|_| !chosen) {
            command.arg("--wireguard").arg(kind);
        }
        let agent = self.spawn(&mut command, node)?;
        self.record.nodes[position].agent = Some(agent);
        self.record.save()?;
        Ok(agent)
    }

    /// Starts a command that outlives this program, with its output in the node's console log.
    pub fn spawn(&self, command: &mut Command, node: &str) -> Result<Process> {
        let console = self.record.console(node);
        if let Some(dir) = console.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let log = File::options().create(true).append(true).open(&console);
        let log = log.with_context(|| format!("cannot write {}", console.display()))?;
        let shown = sys::show(command);
        let mut console_end = log.try_clone()?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run `{shown}`"))?;
        let spawned = Process::of(child.id());
        // Reaps it, so that its PID tells the truth as long as this program lives, and says how it
        // ended: one that was killed has no last words of its own.
        thread::spawn(move || {
            let status = child.wait()?;
            writeln!(console_end, "PID {} has ended: {status}", child.id())
        });
        spawned
            .with_context(|| format!("`{shown}` ended at once; its last words are in {}", console.display()))
    }

    /// The agent of a node, which must run.
    pub fn agent(&self, node: &str) -> Result<Process> {
        let (_, known) = self.node(node)?;
        let running = known.agent.filter(|agent| agent.is_alive());
        running.with_context(|| format!("the agent of {node} does not run"))
    }

    /// SIGKILL: what the agent was doing is cut off.
    pub fn kill_agent(&self, node: &str) -> Result<()> {
        let agent = self.agent(node)?;
        agent.signal(Signal::SIGKILL);
        agent.signal(Signal::SIGCONT);
        if !agent.wait_gone(STOP_LIMIT) {
            bail!("the agent of {node} (PID {}) survives SIGKILL", agent.pid);
        }
        Ok(())
    }

    /// SIGTERM, as an init system would; its workloads stay.
    pub fn stop_agent(&self, node: &str) -> Result<()> {
        let agent = self.agent(node)?;
        agent.signal(Signal::SIGTERM);
        if !agent.wait_gone(STOP_LIMIT) {
            bail!("the agent of {node} (PID {}) does not end on SIGTERM", agent.pid);
        }
        Ok(())
    }

    /// The containerd that the agent of a node supervises, by the PID file the agent keeps.
    pub fn containerd(&self, node: &str) -> Result<Process> {
        let file = self.record.state_dir(node).join("containerd/pid");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let pid = text.split_whitespace().next().and_then(|word| word.parse().ok());
        pid.and_then(Process::of).with_context(|| format!("{} names no process: {text:?}", file.display()))
    }

    /// Every process of a node: agent, engine, shims and workloads.
    pub fn processes(&self, node: &str) -> BTreeSet<Process> {
        let namespace = netns::inode(&self.plan().namespace(node)).into_iter().collect();
        process::living_in(&namespace, &self.record.state_dir(node))
    }

    /// Remembers the control groups now in use, so that they are removed even when the processes
    /// in them are gone by then.
    pub fn note_cgroups(&mut self) -> Result<()> {
        let mut names: BTreeSet<String> = self.record.cgroups.drain(..).collect();
        for node in &self.record.nodes {
            names.extend(cgroup::subtrees_of(&self.processes(&node.name)));
        }
        self.record.cgroups = names.into_iter().collect();
        self.record.save()
    }
}
