//! One capsule of a fleet: what an operator does with it, and what may happen to it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    Fleet, Output, eventually,
    fleet::{START_LIMIT, wait_agent_at},
};
use crate::sys::process::Process;

/// For a workload to get where a scenario wants it.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// A capsule, by name.
#[derive(Clone)]
pub struct Capsule<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) name: String,
}

impl<'a> Capsule<'a> {
    pub(super) fn new(fleet: &'a Fleet, name: &str) -> Self {
        Self { fleet, name: name.to_owned() }
    }

    /// Its name, and its context's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine that it is.
    pub fn vm(&self) -> super::Machine<'a> {
        self.fleet.vm(&self.name)
    }

    /// Where its agent answers.
    pub fn api(&self) -> Result<SocketAddr> {
        let testbed = self.fleet.testbed();
        Ok(testbed.plan().api(testbed.node(&self.name)?.0))
    }

    /// What the agent keeps.
    pub fn state_dir(&self) -> PathBuf {
        self.fleet.testbed().record.state_dir(&self.name)
    }

    /// Its network namespace, by name.
    pub fn namespace(&self) -> String {
        self.fleet.testbed().plan().namespace(&self.name)
    }

    /// The fleet's operator.
    pub fn operator(&self) -> &'a super::Operator {
        self.fleet.operator()
    }

    /// `fleetctl` aimed at this capsule.
    pub async fn fleetctl(&self, words: &[&str]) -> Result<Output> {
        self.fleetctl_with(words, b"").await
    }

    /// The same with this on its stdin.
    pub async fn fleetctl_with(&self, words: &[&str], stdin: &[u8]) -> Result<Output> {
        let words: Vec<&str> = ["-c", &self.name].iter().chain(words).copied().collect();
        self.fleet.operator().run_with(&words, stdin).await
    }

    /// Enrolls the fleet's operator and stores the context.
    pub async fn adopt(&self) -> Result<Output> {
        let api = self.api()?.to_string();
        self.fleet.operator().run(&["adopt", &api, "--name", &self.name, "--yes"]).await?.ok()
    }

    /// Applies manifests and waits until they are as desired.
    pub async fn apply(&self, manifests: &str) -> Result<Output> {
        self.fleetctl_with(&["apply", "-f", "-", "--wait"], manifests.as_bytes()).await?.ok()
    }

    /// Applies manifests that must be refused; the refusal.
    pub async fn apply_err(&self, manifests: &str) -> Result<String> {
        let output = self.fleetctl_with(&["apply", "-f", "-"], manifests.as_bytes()).await?;
        ensure!(output.code != 0, "the manifests were accepted: {}", output.stdout);
        Ok(output.stderr)
    }

    /// What a command that shows one thing says of it as JSON.
    pub async fn shown(&self, words: &[&str]) -> Result<Value> {
        only_result(self.fleetctl(&[words, &["-o", "json"]].concat()).await?.ok()?.json()?)
    }

    /// A workload as the API shows it (proto3-JSON of `Workload`).
    pub async fn workload(&self, name: &str) -> Result<Value> {
        self.shown(&["workload", "get", name]).await
    }

    /// Its phase, such as `PHASE_RUNNING`.
    pub async fn phase(&self, name: &str) -> Result<String> {
        let workload = self.workload(name).await?;
        Ok(workload["status"]["phase"].as_str().unwrap_or("PHASE_UNSPECIFIED").to_owned())
    }

    /// PID of its first process.
    pub async fn pid(&self, name: &str) -> Result<u64> {
        let workload = self.workload(name).await?;
        workload["status"]["pid"].as_u64().with_context(|| format!("{name} has no process: {workload}"))
    }

    /// Waits for a phase; the workload then.
    pub async fn wait_phase(&self, name: &str, phase: &str) -> Result<Value> {
        eventually(self.fleet.patiently(SETTLE_LIMIT), async || {
            let workload = self.workload(name).await?;
            ensure!(workload["status"]["phase"] == phase, "{name} is not in {phase}: {workload}");
            Ok(workload)
        })
        .await
    }

    /// Waits until it runs.
    pub async fn wait_running(&self, name: &str) -> Result<Value> {
        self.wait_phase(name, "PHASE_RUNNING").await
    }

    /// Deletes a workload and waits until it is gone.
    pub async fn delete(&self, name: &str) -> Result<()> {
        self.fleetctl(&["workload", "delete", name]).await?.ok()?;
        eventually(self.fleet.patiently(SETTLE_LIMIT), async || {
            let got = self.fleetctl(&["workload", "get", name]).await?;
            ensure!(got.code != 0, "{name} is still there: {}", got.stdout);
            Ok(())
        })
        .await
    }

    /// Runs a command inside a workload.
    pub async fn exec(&self, name: &str, command: &[&str]) -> Result<Output> {
        let words: Vec<&str> = ["exec", name, "--"].iter().chain(command).copied().collect();
        self.fleetctl(&words).await
    }

    /// All that the workload wrote, stdout and stderr.
    pub async fn logs(&self, name: &str) -> Result<String> {
        let output = self.fleetctl(&["logs", name]).await?.ok()?;
        Ok(output.stdout + &output.stderr)
    }

    /// What happened, as `fleetctl events` prints it.
    pub async fn events(&self) -> Result<String> {
        Ok(self.fleetctl(&["events"]).await?.ok()?.stdout)
    }

    /// Waits until something listens on the API's port.
    pub async fn wait_answers(&self) -> Result<()> {
        let (life, console) = {
            let testbed = self.fleet.testbed();
            (testbed.node(&self.name)?.1.life(), testbed.record.console(&self.name))
        };
        let limit = self.fleet.patiently(START_LIMIT);
        let answers = wait_agent_at(life, self.api()?, &console, limit).await;
        answers.with_context(|| format!("{} does not come up", self.name))
    }

    /// Waits until all that the agent serves has started, and it answers calls of the operator.
    pub async fn wait_healthy(&self) -> Result<()> {
        eventually(self.fleet.patiently(SETTLE_LIMIT), async || {
            self.fleetctl(&["capsule", "info"]).await?.ok().map(drop)
        })
        .await
    }

    /// The agent's process.
    pub fn agent(&self) -> Result<Process> {
        self.fleet.testbed().agent(&self.name)
    }

    /// Every process that lives on it.
    pub fn processes(&self) -> std::collections::BTreeSet<Process> {
        self.fleet.testbed().processes(&self.name)
    }

    /// The process of its userspace WireGuard device, if it has one.
    pub fn device(&self) -> Option<Process> {
        let is_device = |process: &Process| process.arguments().get(1).is_some_and(|word| word == "wg");
        self.processes().into_iter().find(is_device)
    }
}

/// The one result in the output of a verb for one capsule: `[{capsule, result}]` or an object.
fn only_result(shown: Value) -> Result<Value> {
    let row = match shown {
        Value::Array(mut rows) if rows.len() == 1 => rows.remove(0),
        Value::Array(rows) => bail!("expected one row, not {}", rows.len()),
        other => other,
    };
    Ok(row.get("result").cloned().unwrap_or(row))
}
