//! Each step of the plan, done.

use std::{
    path::PathBuf,
    time::{Instant, SystemTime},
};

use capsule_proto::{Name, v1};
use nix::sys::signal::Signal;

use super::Actor;
use crate::{
    runtime::{Access, BindMount, Reach, RuntimeError, Setup, Task, TaskState, Whom},
    workload::{
        WorkloadError,
        plan::{self, Step, Stopping},
        spec::{self, Desired},
        status, table,
    },
};

impl Actor {
    /// Does one step and notes what there is afterwards.
    pub(super) async fn execute(&mut self, step: &Step) -> Result<(), WorkloadError> {
        if matches!(step, Step::Create | Step::Prepare) {
            if !self.settled().await {
                return Ok(());
            }
            self.take_permit().await;
        }
        match step {
            Step::Pull => return self.pull().await,
            Step::Mount => self.mount().await?,
            Step::Create => return self.create().await,
            Step::Prepare => return self.prepare().await,
            Step::Attach { pid } => self.attach(*pid).await?,
            Step::Start { pid } => return self.start(*pid).await,
            Step::Pause { pid } => return self.pause(*pid).await,
            Step::Resume { pid } => return self.resume(*pid).await,
            Step::Signal { pid } => return self.signal(*pid).await,
            Step::Kill { pid } => return self.kill(*pid).await,
            Step::Record(exit) => return self.keep_exit(exit).await,
            Step::DeleteTask => return self.delete_task().await,
            Step::Detach => self.detach().await?,
            Step::Unmount => self.unmount().await?,
            Step::Remove => self.remove().await?,
            Step::Forget => {}
        }
        self.observed.expect(&self.desired, &mut self.volatile, step, Instant::now());
        Ok(())
    }

    /// Before a permit is taken, which others need: this can take seconds. False as soon as something
    /// else is wanted.
    async fn settled(&self) -> bool {
        let (revision, mut wishes) = (self.desired.revision, self.handle.watch_desired());
        tokio::select! {
            () = self.parts.runtime.settled(&self.handle.name) => true,
            _ = wishes.wait_for(|wish| wish.revision != revision) => false,
        }
    }

    async fn take_permit(&mut self) {
        if self.permit.is_none() {
            self.permit = self.parts.starts.clone().acquire_owned().await.ok();
        }
    }

    /// Given up as soon as something else is wanted.
    async fn pull(&mut self) -> Result<(), WorkloadError> {
        let images = self.parts.images.clone();
        let reference = self.desired.spec.image.clone();
        let mut image = images.get(&reference).await?;
        if image.is_none() {
            self.record.doing = Some(v1::Phase::Pulling);
            self.publish();
            self.tell("Pulling", format!("pulling image {reference}"));
            let began = Instant::now();
            let mut wishes = self.handle.watch_desired();
            let revision = self.desired.revision;
            let pulled = tokio::select! {
                pulled = async {
                    let _permit = self.parts.pulls.acquire().await;
                    images.ensure(&reference).await
                } => pulled?,
                _ = wishes.wait_for(|wish| wish.revision != revision) => return Ok(()),
            };
            self.tell(
                "Pulled",
                format!("pulled image {reference} in {:.1} s", began.elapsed().as_secs_f64()),
            );
            image = Some(pulled);
        }
        self.image = image;
        self.volatile.image_ready = self.image.is_some();
        self.record.doing = Some(v1::Phase::Starting);
        Ok(())
    }

    async fn mount(&mut self) -> Result<(), WorkloadError> {
        let volumes = self.parts.need_volumes()?;
        for volume in spec::volumes(&self.desired.spec) {
            let at = volumes.mount(&volume, &self.handle.name).await?;
            self.mounts.insert(volume, at);
        }
        Ok(())
    }

    async fn create(&mut self) -> Result<(), WorkloadError> {
        let Some(image) = self.image.clone() else {
            self.volatile.image_ready = false;
            return Ok(());
        };
        let setup = Setup {
            name: self.handle.name.clone(),
            spec_hash: self.desired.spec_hash.clone(),
            spec: self.desired.spec.clone(),
            mounts: self.binds()?,
            image,
            reach: Reach::Spec,
        };
        self.volatile.cleared = false;
        // Should the content be gone (an image removed behind our back), the next try pulls.
        self.parts.runtime.create(&setup).await.inspect_err(|_| self.volatile.image_ready = false)?;
        self.observed.expect(&self.desired, &mut self.volatile, &Step::Create, Instant::now());
        if let Some(sandbox) = &mut self.observed.sandbox {
            sandbox.image_digest = setup.image.digest;
        }
        Ok(())
    }

    /// Volumes, host paths and the files of name resolution.
    fn binds(&self) -> Result<Vec<BindMount>, WorkloadError> {
        let spec = &self.desired.spec;
        let access = |read_only| if read_only { Access::ReadOnly } else { Access::ReadWrite };
        let mut binds = Vec::new();
        if let Some(network) =
            self.parts.network.as_ref().filter(|_| spec.network_mode() != v1::NetworkMode::None)
        {
            binds.extend(network.resolver_files(&self.handle.name, self.desired.address.as_ref())?);
        }
        for mount in &spec.mounts {
            let volume: Name = mount.volume_name.parse()?;
            let source = self.mounts.get(&volume).cloned().ok_or_else(|| {
                WorkloadError::Conflict(format!("volume {volume} is not mounted; it will be tried again"))
            })?;
            binds.push(BindMount {
                source,
                target: (&mount.mount_path).into(),
                access: access(mount.read_only),
            });
        }
        for bind in &spec.host_bind_paths {
            let source = PathBuf::from(&bind.host_path);
            if !source.exists() {
                return Err(RuntimeError::Invalid(format!(
                    "the host has no {}, which hostBindPaths names",
                    bind.host_path
                ))
                .into());
            }
            binds.push(BindMount {
                source,
                target: (&bind.mount_path).into(),
                access: access(bind.read_only),
            });
        }
        Ok(binds)
    }

    async fn prepare(&mut self) -> Result<(), WorkloadError> {
        let dir = self.parts.log_dir(&self.handle.name);
        std::fs::create_dir_all(&dir)
            .map_err(WorkloadError::io(format!("making the log directory {}", dir.display())))?;
        let handle = self.handle.clone();
        let _root = handle.root.lock().await;
        let pid = self.parts.runtime.prepare_task(&handle.name, &dir).await?;
        self.observed.set_task(Some(Task { pid, state: TaskState::Created }));
        self.volatile.never_ran = Some(pid);
        self.volatile.stopping = None;
        self.volatile.restart_due = None;
        Ok(())
    }

    async fn attach(&mut self, pid: u32) -> Result<(), WorkloadError> {
        if let (Some(network), Some(address)) = (&self.parts.network, &self.desired.address) {
            network.attach(&self.handle.name, pid, address).await?;
        }
        Ok(())
    }

    /// Commits that a run begins, where the next agent must know: a restart is answered by it, or
    /// it is the only one that may be.
    async fn note_begin(&mut self) -> Result<(), WorkloadError> {
        let Desired { epoch, restart, .. } = *self.desired;
        let begun = self.record.begun;
        if begun < restart || (plan::runs_once(&self.desired) && begun != epoch) {
            let name = self.handle.name.clone();
            self.parts.store.write(move |tx| table::begin(tx, &name, epoch)).await?;
            self.record.begun = epoch;
        }
        Ok(())
    }

    async fn start(&mut self, pid: u32) -> Result<(), WorkloadError> {
        self.note_begin().await?;
        self.parts.runtime.start_task(&self.handle.name).await?;
        self.observed.set_task(Some(Task { pid, state: TaskState::Running }));
        self.volatile.never_ran = None;
        self.volatile.next_start = None;
        self.volatile.ended = None;
        self.record.started_at = Some(SystemTime::now());
        self.tell("Started", format!("it runs as PID {pid}"));
        Ok(())
    }

    async fn pause(&mut self, pid: u32) -> Result<(), WorkloadError> {
        let paused = self.parts.runtime.pause(&self.handle.name).await;
        self.gone_is_fine(paused)?;
        self.observed.set_task(Some(Task { pid, state: TaskState::Paused }));
        let why = self.volatile.hold.clone().unwrap_or_default();
        self.warn("Paused", format!("PID {pid} is paused: {why}"));
        Ok(())
    }

    async fn resume(&mut self, pid: u32) -> Result<(), WorkloadError> {
        let resumed = self.parts.runtime.resume(&self.handle.name).await;
        self.gone_is_fine(resumed)?;
        self.observed.set_task(Some(Task { pid, state: TaskState::Running }));
        self.tell("Resumed", format!("PID {pid} goes on"));
        Ok(())
    }

    async fn signal(&mut self, pid: u32) -> Result<(), WorkloadError> {
        if self.image.is_none() {
            self.image = self.parts.images.get(&self.desired.spec.image).await.ok().flatten();
        }
        let named =
            self.image.as_ref().and_then(|image| image.config.config().as_ref()?.stop_signal().clone());
        let signal = named.and_then(|text| parse_signal(&text)).unwrap_or(Signal::SIGTERM as i32);
        self.volatile.stopping = Some(Stopping { pid, since: Instant::now(), killed: false });
        self.tell("Stopping", format!("PID {pid} has {} s to end", self.desired.grace().as_secs()));
        self.publish();
        let sent = self.parts.runtime.signal(&self.handle.name, signal, Whom::Init).await;
        self.gone_is_fine(sent)
    }

    async fn kill(&mut self, pid: u32) -> Result<(), WorkloadError> {
        let since = self.volatile.stopping.map_or_else(Instant::now, |stopping| stopping.since);
        if self.observed.runs() {
            self.warn("Killed", format!("PID {pid} did not end within {} s", self.desired.grace().as_secs()));
        }
        let sent = self.parts.runtime.signal(&self.handle.name, Signal::SIGKILL as i32, Whom::All).await;
        self.gone_is_fine(sent)?;
        self.volatile.stopping = Some(Stopping { pid, since, killed: true });
        Ok(())
    }

    fn gone_is_fine(&self, sent: Result<(), RuntimeError>) -> Result<(), WorkloadError> {
        match sent {
            Err(RuntimeError::NotFound(..)) => {
                self.handle.look_soon();
                Ok(())
            }
            other => Ok(other?),
        }
    }

    async fn delete_task(&mut self) -> Result<(), WorkloadError> {
        let exit = self.parts.runtime.delete_task(&self.handle.name).await?;
        // Some engines learn of the OOM killer only here.
        if let (Some(exit), Some(kept)) = (exit, &self.volatile.recorded)
            && exit.oom_killed
            && !kept.oom_killed
        {
            let quick_ends = self.record.quick_ends;
            let status = v1::ExitStatus { quick_ends, ..status::exit_status(&exit) };
            let (name, ends, row) = (self.handle.name.clone(), self.record.ends, status.clone());
            let epoch = self.desired.epoch;
            self.parts.store.write(move |tx| table::record(tx, &name, epoch, ends, &row)).await?;
            self.record.last_exit = Some(status);
        }
        self.observed.set_task(None);
        if self.volatile.stopping.take().is_some() && !self.desired.wants_run() {
            self.tell("Stopped", "it stands still");
        }
        self.volatile.restart_due = None;
        self.record.started_at = None;
        Ok(())
    }

    async fn detach(&mut self) -> Result<(), WorkloadError> {
        if let Some(network) = &self.parts.network {
            network.detach(&self.handle.name).await?;
        }
        Ok(())
    }

    async fn unmount(&mut self) -> Result<(), WorkloadError> {
        if let Some(volumes) = &self.parts.volumes {
            volumes.unmount_all_of(&self.handle.name).await?;
        }
        self.mounts.clear();
        Ok(())
    }

    pub(super) async fn remove(&mut self) -> Result<(), WorkloadError> {
        let handle = self.handle.clone();
        let _root = handle.root.lock().await;
        Ok(self.parts.runtime.remove(&handle.name).await?)
    }
}

/// `SIGQUIT`, `QUIT` or `3`, as images write it.
fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    if let Some(offset) = name.strip_prefix("SIGRTMIN+").and_then(|offset| offset.parse::<i32>().ok()) {
        return Some(libc::SIGRTMIN() + offset);
    }
    name.parse::<Signal>().ok().map(|signal| signal as i32)
}
