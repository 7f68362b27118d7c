//! Debug shells: a command in a privileged container that sees the machine as it is.
//!
//! ```text
//!   open ─▶ image ─▶ sandbox ─▶ placeholder runs ─▶ the command, by exec ─▶ removed
//!           on board or by name    holds it open                            unless it is kept
//! ```
//!
//! There is no row: a shell's name is one that no workload can have, and its sandbox says whether it is to be
//! kept. An agent that starts removes those that are not, so that whatever ended the one before, nothing of
//! them stays. [`rpc`] serves it; `identity/` lets only admins in.

mod error;
pub mod rpc;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use capsule_proto::{Name, v1};
use futures_util::Stream;
use tonic::Status;

pub use error::DebugError;

use crate::{
    event::{Events, NewEvent},
    identity::Caller,
    image::{ImageInfo, Images},
    runtime::{self, Access, BindMount, Reach, RuntimeError, Sandbox, Setup, SharedRuntime, TaskState},
    workload::exec::{self, Sender},
};

/// The image that an appliance brings, as an archive.
pub const ON_BOARD: &str = "/usr/share/capsule/images/debug.tar";
/// What its sandbox has for a hash: whether the shell is to be kept.
const KEPT: &str = "kept";
const PASSING: &str = "passing";
/// Holds the container open while commands run in it.
const PLACEHOLDER: [&str; 2] = ["sleep", "2147483647"];
/// The better shell of the two, where the image has it.
const SHELL: [&str; 3] = ["sh", "-c", "command -v bash >/dev/null && exec bash; exec sh"];
/// Characters of a command in an event.
const SHOWN: usize = 200;

/// What debug shells are made with.
pub struct DebugParts {
    /// What runs them.
    pub runtime: SharedRuntime,
    /// What they are made from.
    pub images: Images,
    /// Where is told who opened one.
    pub events: Events,
    /// Holds `logs/`.
    pub state_dir: PathBuf,
    /// The archive of the image on board, where there is one.
    pub on_board: Option<PathBuf>,
    /// What of the machine they may write beside `/dev`, `/sys` and `/run`.
    pub writable: Vec<PathBuf>,
}

/// The capability; cheap to clone.
#[derive(Clone)]
pub struct Debug(Arc<DebugParts>);

impl Debug {
    /// Removes what an earlier agent left of shells that were not to be kept.
    pub async fn start(parts: DebugParts) -> Self {
        let this = Self(Arc::new(parts));
        for sandbox in this.sandboxes().await.unwrap_or_default() {
            if sandbox.spec_hash != KEPT {
                this.discard(&sandbox.name).await;
                this.tell(&sandbox.name, "DebugClosed", "an earlier agent was cut off and left it; removed");
            }
        }
        this
    }

    /// Runs a command in a shell until it or the call has ended. `None` where the caller left first.
    async fn open(
        &self,
        shell: &v1::DebugShell,
        start: v1::ExecStart,
        caller: &Caller,
        input: &mut (impl Stream<Item = Result<v1::ExecInput, Status>> + Unpin),
        to: &Sender,
    ) -> Result<Option<v1::ExitStatus>, Status> {
        let name = parse(&shell.name)?;
        let is_passing = !shell.enter && !shell.keep;
        let made = if shell.enter { self.enter(&name).await } else { self.make(&name, shell).await };
        let digest = match made {
            Ok(digest) => digest,
            Err(error) => {
                if error.is_half_made() {
                    self.discard(&name).await;
                }
                return Err(error.into());
            }
        };
        self.tell(&name, "DebugOpened", &opened(caller, &start.command, &digest));
        let mut spec = exec::spec_of(start);
        if spec.command.is_empty() {
            spec.command = SHELL.map(str::to_owned).to_vec();
        }
        let process = self.0.runtime.exec(&name, spec).await;
        let ended = exec::converse(process, input, to).await;
        if is_passing {
            self.discard(&name).await;
        }
        self.tell(&name, "DebugClosed", &closed(caller, &ended, is_passing));
        ended
    }

    /// Makes a new one; the digest of its image.
    async fn make(&self, name: &Name, shell: &v1::DebugShell) -> Result<String, DebugError> {
        // First, since it may take minutes: two of one name would not see each other.
        let image = self.image(&shell.image).await?;
        if self.0.runtime.get(name).await?.is_some() {
            return Err(DebugError::Exists(name.clone()));
        }
        let digest = image.digest.clone();
        let setup = Setup {
            name: name.clone(),
            spec_hash: if shell.keep { KEPT } else { PASSING }.to_owned(),
            spec: spec(),
            mounts: self.0.writable.iter().map(|path| writable(path)).collect(),
            image,
            reach: Reach::Host,
        };
        let made = async {
            self.0.runtime.create(&setup).await?;
            self.run(name).await
        };
        made.await.map_err(|source| DebugError::Make { image: setup.image.reference.clone(), source })?;
        Ok(digest)
    }

    /// Sees to it that a kept one runs, also after a reboot; the digest of its image.
    async fn enter(&self, name: &Name) -> Result<String, DebugError> {
        let sandbox = self.0.runtime.get(name).await?.ok_or_else(|| DebugError::NotFound(name.clone()))?;
        match sandbox.task.as_ref().map(|task| &task.state) {
            Some(TaskState::Running) => {}
            task => {
                if task.is_some() {
                    runtime::end_task(&*self.0.runtime, &sandbox).await?;
                }
                self.run(name).await?;
            }
        }
        Ok(sandbox.image_digest)
    }

    async fn run(&self, name: &Name) -> Result<(), RuntimeError> {
        let logs = self.0.state_dir.join("logs").join(name.as_str());
        std::fs::create_dir_all(&logs).map_err(|error| RuntimeError::Engine {
            attempt: format!("make the directory {}", logs.display()),
            message: error.to_string(),
        })?;
        self.0.runtime.settled(name).await;
        self.0.runtime.prepare_task(name, &logs).await?;
        self.0.runtime.start_task(name).await
    }

    async fn image(&self, asked: &str) -> Result<ImageInfo, DebugError> {
        if !asked.is_empty() {
            return Ok(self.0.images.ensure(asked, None).await?);
        }
        let archive = self.0.on_board.as_ref().ok_or(DebugError::NoImage)?;
        Ok(self.0.images.ensure_archive(archive).await?)
    }

    async fn list(&self) -> Result<Vec<v1::DebugShellStatus>, DebugError> {
        let status = |sandbox: Sandbox| v1::DebugShellStatus {
            name: sandbox.name.to_string(),
            kept: sandbox.spec_hash == KEPT,
            running: sandbox.task.is_some_and(|task| task.state == TaskState::Running),
            image_digest: sandbox.image_digest,
        };
        Ok(self.sandboxes().await?.into_iter().map(status).collect())
    }

    async fn remove(&self, name: &str, caller: &Caller) -> Result<(), DebugError> {
        let name = parse(name)?;
        let sandbox = self.0.runtime.get(&name).await?.ok_or_else(|| DebugError::NotFound(name.clone()))?;
        self.remove_sandbox(&sandbox).await?;
        self.tell(&name, "DebugClosed", &format!("removed by {}", who(caller)));
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        let mut sandboxes = self.0.runtime.list().await?;
        sandboxes.retain(|sandbox| sandbox.name.is_debug_shell());
        Ok(sandboxes)
    }

    /// Removes it; what fails is left to the next start of the agent.
    async fn discard(&self, name: &Name) {
        let removed = async {
            match self.0.runtime.get(name).await? {
                Some(sandbox) => self.remove_sandbox(&sandbox).await,
                None => Ok(()),
            }
        };
        if let Err(error) = removed.await {
            tracing::error!(shell = %name, %error, "a debug shell stays until the agent starts anew");
        }
    }

    async fn remove_sandbox(&self, sandbox: &Sandbox) -> Result<(), RuntimeError> {
        runtime::end_task(&*self.0.runtime, sandbox).await?;
        self.0.runtime.remove(&sandbox.name).await?;
        // Its placeholder writes nothing.
        let _ = std::fs::remove_dir_all(self.0.state_dir.join("logs").join(sandbox.name.as_str()));
        Ok(())
    }

    fn tell(&self, name: &Name, reason: &'static str, message: &str) {
        self.0.events.emit(NewEvent::new("debug", name, reason, message).warning());
    }
}

fn parse(name: &str) -> Result<Name, DebugError> {
    let parsed = name.parse::<Name>().ok().filter(Name::is_debug_shell);
    parsed.ok_or_else(|| DebugError::Name(name.chars().take(Name::MAX_LEN).collect()))
}

/// All that a container can be let do.
fn spec() -> v1::ContainerSpec {
    v1::ContainerSpec {
        command: PLACEHOLDER.map(str::to_owned).to_vec(),
        network_mode: v1::NetworkMode::Host.into(),
        host_pid: true,
        host_ipc: true,
        privileged: true,
        user: "0:0".into(),
        ..v1::ContainerSpec::default()
    }
}

fn writable(path: &Path) -> BindMount {
    BindMount { source: path.to_owned(), target: path.to_owned(), access: Access::ReadWrite }
}

fn who(caller: &Caller) -> String {
    format!("{} ({})", caller.name, caller.key_id)
}

fn opened(caller: &Caller, command: &[String], digest: &str) -> String {
    let what = match command {
        [] => "a shell".to_owned(),
        words => format!("`{}`", words.join(" ").chars().take(SHOWN).collect::<String>()),
    };
    format!("{} runs {what} with all rights, in image {digest}", who(caller))
}

fn closed(caller: &Caller, ended: &Result<Option<v1::ExitStatus>, Status>, is_passing: bool) -> String {
    let how = match ended {
        Ok(Some(exit)) => format!("ended with {}", exit.code),
        Ok(None) => "was cut off".to_owned(),
        Err(status) => format!("failed: {}", status.message()),
    };
    let rest = if is_passing { "the container is removed" } else { "the container is kept" };
    format!("what {} ran {how}; {rest}", who(caller))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        let key_id = capsule_proto::KeyId::of(&[7; 32]);
        Caller { key_id, role: v1::Role::Admin, name: "ann".into() }
    }

    #[test]
    fn events_tell_who_ran_what_and_how_it_ended() {
        let caller = caller();
        let text = opened(&caller, &["lvs".into(), "-a".into()], "sha256:1");
        assert!(text.starts_with(&format!("ann ({}) runs `lvs -a`", caller.key_id)), "{text}");
        let exit = v1::ExitStatus { code: 3, ..Default::default() };
        let text = closed(&caller, &Ok(Some(exit)), true);
        assert!(text.ends_with("ended with 3; the container is removed"), "{text}");
        assert!(closed(&caller, &Ok(None), false).ends_with("was cut off; the container is kept"));
    }

    #[test]
    fn only_names_that_no_workload_has_are_shells() {
        assert!(parse("debug-3f2a").is_ok());
        assert!(parse("web").unwrap_err().to_string().contains("four hex digits"));
    }
}
