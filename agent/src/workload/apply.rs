//! `Apply`: validate everything, commit all or none, then tell the actors.

use std::{collections::HashSet, sync::Arc, time::SystemTime};

use capsule_proto::{Name, Selector, v1};
use rusqlite::Transaction;

use super::{
    WorkloadError, Workloads, diff,
    needs::{Address, HeldPort, NeedKind},
    plan::{self, Link, Observed, Volatile},
    registry::Parts,
    spec::{self, Desired},
    table::{self, Kept},
    validate::{self, Wanted},
};
use crate::{event::NewEvent, store::StoreError};

/// A row that this apply wrote.
struct Written {
    kept: Kept,
    address: Option<Address>,
    revision: u64,
    action: v1::ApplyAction,
}

#[derive(Default)]
struct Outcome {
    results: Vec<v1::ApplyResult>,
    written: Vec<Written>,
    volumes: Vec<Name>,
}

/// Leaves the transaction without a commit.
enum Abort {
    OnlyAsked(Outcome),
    Refused(WorkloadError),
}

impl From<StoreError> for Abort {
    fn from(error: StoreError) -> Self {
        Self::Refused(error.into())
    }
}

impl Workloads {
    pub(super) async fn apply(&self, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, WorkloadError> {
        let names: Vec<String> = request.manifests.iter().map(|manifest| manifest.name.clone()).collect();
        let answer = self.try_apply(request).await;
        if let Err(error) = &answer {
            let text = format!("apply was refused: {}", crate::status::chain(error));
            for name in names {
                let event = NewEvent::new("workload", name, "ApplyRefused", text.clone());
                self.parts.events.emit(event.warning());
            }
        }
        answer
    }

    async fn try_apply(&self, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, WorkloadError> {
        let (wanted, prune) = self.check(request).await?;
        let parts = self.parts.clone();
        let done = self.parts.store.write(move |tx| commit(&parts, tx, &wanted, prune.as_ref())).await?;
        self.take_up(done).await
    }

    /// What an apply of the same would answer: it goes all the way but for the commit.
    pub(super) async fn foretell(
        &self,
        request: v1::ApplyRequest,
    ) -> Result<v1::ApplyResponse, WorkloadError> {
        let (wanted, prune) = self.check(request).await?;
        let parts = self.parts.clone();
        let undone: Result<(), Abort> = self
            .parts
            .store
            .write(move |tx| match commit(&parts, tx, &wanted, prune.as_ref()) {
                Ok(outcome) => Err(Abort::OnlyAsked(outcome)),
                Err(error) => Err(Abort::Refused(error)),
            })
            .await;
        match undone {
            Err(Abort::OnlyAsked(outcome)) => self.foresee(outcome).await,
            Err(Abort::Refused(error)) => Err(error),
            Ok(()) => Ok(v1::ApplyResponse::default()),
        }
    }

    /// Refuses what no transaction is needed for.
    async fn check(
        &self,
        request: v1::ApplyRequest,
    ) -> Result<(Vec<Wanted>, Option<Selector>), WorkloadError> {
        let prune: Option<Selector> = match request.prune_selector.trim() {
            "" => None,
            text => Some(text.parse()?),
        };
        let wanted = validate::check(request.manifests, self.parts.images.as_ref())?;
        self.check_host_ports(&wanted).await?;
        Ok((wanted, prune))
    }

    /// Ports that a foreign process has; those that this capsule holds are the store's concern.
    async fn check_host_ports(&self, wanted: &[Wanted]) -> Result<(), WorkloadError> {
        let Some(network) = &self.parts.network else { return Ok(()) };
        let held: HashSet<HeldPort> = self
            .registry
            .all()
            .iter()
            .filter_map(|handle| handle.desired().address.clone())
            .flat_map(|address| address.ports)
            .filter_map(|port| Some((port.protocol(), u16::try_from(port.host_port?).ok()?)))
            .collect();
        for ports in
            wanted.iter().filter_map(|wanted| spec::container(&wanted.manifest)).map(|spec| &spec.ports)
        {
            let named: Vec<v1::Port> =
                ports.iter().filter(|port| port.host_port.is_some_and(|port| port != 0)).cloned().collect();
            if !named.is_empty() {
                network.check_host_ports(&named, &held).await?;
            }
        }
        Ok(())
    }

    async fn take_up(&self, outcome: Outcome) -> Result<v1::ApplyResponse, WorkloadError> {
        let is_of_fabric = |written: &Written| spec::fabric(&written.kept.manifest).is_some();
        if outcome
            .written
            .iter()
            .any(|written| is_of_fabric(written) || written.action == v1::ApplyAction::Updated)
        {
            self.parts.refresh_fabric().await;
        }
        for Written { kept, address, revision, action } in outcome.written {
            let (reason, text) = match action {
                v1::ApplyAction::Created => ("Created", "it was applied for the first time".to_owned()),
                v1::ApplyAction::Recreated => {
                    ("Recreated", format!("its spec changed: generation {}", kept.generation))
                }
                v1::ApplyAction::Deleted => ("Pruned", "it is no longer among what was applied".to_owned()),
                _ => ("Updated", "its labels or its part in the fabric changed".to_owned()),
            };
            self.parts.events.emit(NewEvent::new("workload", &kept.name, reason, text));
            self.set_kept(&kept, address, revision);
        }
        for result in outcome.results.iter().filter(|result| result.action() == v1::ApplyAction::Unchanged) {
            self.nudge(&result.name);
        }
        if let Some(volumes) = &self.parts.volumes {
            for name in &outcome.volumes {
                volumes.ensure_ready(name).await?;
            }
        }
        Ok(v1::ApplyResponse { results: outcome.results })
    }

    /// An apply that changes nothing still asks to try again what failed.
    fn nudge(&self, name: &str) {
        let Ok(handle) = self.handle(name) else { return };
        let phase = handle.workload().and_then(|workload| Some(workload.status.as_ref()?.phase()));
        if matches!(phase, Some(v1::Phase::BackOff | v1::Phase::Failed)) {
            let mut desired = (*handle.desired()).clone();
            desired.nudge += 1;
            desired.revision = self.parts.next_revision();
            handle.set_desired(desired);
            handle.poke();
        }
    }

    /// The steps that each actor would take, were this committed.
    async fn foresee(&self, outcome: Outcome) -> Result<v1::ApplyResponse, WorkloadError> {
        let mut results = outcome.results;
        for Written { kept, address, revision, .. } in outcome.written {
            let desired = Desired::of(&kept, address, revision);
            let sandbox = self.parts.runtime.get(&kept.name).await?;
            let running = sandbox
                .as_ref()
                .and_then(|sandbox| sandbox.task.as_ref())
                .filter(|task| task.is_up())
                .map(|task| task.pid);
            let volumes =
                if running.is_some() && !desired.spec.mounts.is_empty() { Link::Up(0) } else { Link::Down };
            let observed = Observed { sandbox, network: running.map_or(Link::Down, Link::Up), volumes };
            let image_ready = self.parts.images.get(&desired.spec.image).await?.is_some();
            let steps = plan::preview(
                &desired,
                observed,
                Volatile { image_ready, hold: self.parts.hold(&desired), ..Volatile::default() },
            );
            if let Some(result) = results
                .iter_mut()
                .find(|result| result.name == kept.name.as_str() && result.kind() != v1::Kind::Volume)
            {
                result.steps = steps.iter().map(|step| step.describe(&desired)).collect();
            }
        }
        Ok(v1::ApplyResponse { results })
    }
}

/// Everything inside the one transaction. Volumes first, so that what mounts them finds them.
/// A conflict may dissolve once another manifest of the same apply has let go, so refused ones
/// are tried again for as long as that helps; where several wait for each other (two that swap a
/// port), all of them let go first.
fn commit(
    parts: &Arc<Parts>,
    tx: &Transaction<'_>,
    wanted: &[Wanted],
    prune: Option<&Selector>,
) -> Result<Outcome, WorkloadError> {
    let mut outcome = Outcome::default();
    let mut results: Vec<Option<v1::ApplyResult>> = vec![None; wanted.len()];
    let (volumes, mut pending): (Vec<usize>, Vec<usize>) =
        (0..wanted.len()).partition(|at| wanted[*at].is_volume());
    for at in volumes {
        results[at] = Some(commit_volume(parts, tx, &wanted[at], &mut outcome)?);
    }
    let mut let_go = false;
    while !pending.is_empty() {
        let (before, mut refusal) = (pending.len(), None);
        let mut left = Vec::new();
        for at in pending {
            match in_savepoint(tx, || commit_container(parts, tx, &wanted[at])) {
                Ok((result, written)) => {
                    results[at] = Some(result);
                    outcome.written.extend(written);
                }
                Err(error) if dissolves(&error) => {
                    refusal.get_or_insert(error);
                    left.push(at);
                }
                Err(error) => return Err(error),
            }
        }
        pending = left;
        match refusal.filter(|_| pending.len() == before) {
            Some(error) if let_go || pending.len() == 1 => return Err(error),
            Some(_) => {
                pending.iter().try_for_each(|at| release_conflicts(parts, tx, &wanted[*at]))?;
                let_go = true;
            }
            None => {}
        }
    }
    outcome.results = results.into_iter().flatten().collect();
    if let Some(selector) = prune {
        commit_prune(parts, tx, wanted, selector, &mut outcome)?;
    }
    Ok(outcome)
}

/// Gives back what another may wait for: volumes and the ports named by number. Address and picked
/// ports stay.
fn release_conflicts(parts: &Parts, tx: &Transaction<'_>, wanted: &Wanted) -> Result<(), WorkloadError> {
    let Some(spec) = spec::container(&wanted.manifest) else { return Ok(()) };
    if let Some(network) = &parts.network
        && network.reservation(tx, &wanted.name)?.is_some()
    {
        let picked: Vec<v1::Port> =
            spec.ports.iter().filter(|port| port.host_port == Some(0)).cloned().collect();
        network.reserve(tx, &wanted.name, &picked, spec.network_mode(), spec.fabric.as_ref())?;
    }
    if let Some(volumes) = &parts.volumes {
        volumes.unclaim(tx, &wanted.name)?;
    }
    Ok(())
}

fn dissolves(error: &WorkloadError) -> bool {
    matches!(error, WorkloadError::Need(need) if need.kind == NeedKind::Conflict)
}

fn in_savepoint<T>(
    tx: &Transaction<'_>,
    work: impl FnOnce() -> Result<T, WorkloadError>,
) -> Result<T, WorkloadError> {
    let sqlite = |error| WorkloadError::Store(StoreError::Sqlite(error));
    tx.execute_batch("SAVEPOINT manifest").map_err(sqlite)?;
    let done = work();
    let end = if done.is_ok() { "RELEASE manifest" } else { "ROLLBACK TO manifest; RELEASE manifest" };
    tx.execute_batch(end).map_err(sqlite)?;
    done
}

fn commit_volume(
    parts: &Parts,
    tx: &Transaction<'_>,
    wanted: &Wanted,
    outcome: &mut Outcome,
) -> Result<v1::ApplyResult, WorkloadError> {
    let Some(v1::manifest::Spec::Volume(spec)) = &wanted.manifest.spec else {
        return Err(WorkloadError::Invalid(format!("Volume {}: it has no size", wanted.name)));
    };
    let action = parts.need_volumes()?.declare(tx, &wanted.name, spec.size, &wanted.manifest.labels)?;
    let changes = match action {
        v1::ApplyAction::Created => diff::changes(None, &wanted.manifest),
        v1::ApplyAction::Unchanged => Vec::new(),
        _ => vec![v1::FieldChange { path: "size".into(), old: String::new(), new: spec.size.to_string() }],
    };
    outcome.volumes.push(wanted.name.clone());
    Ok(result(v1::Kind::Volume, &wanted.name, action, changes))
}

fn commit_container(
    parts: &Parts,
    tx: &Transaction<'_>,
    wanted: &Wanted,
) -> Result<(v1::ApplyResult, Option<Written>), WorkloadError> {
    let name = &wanted.name;
    let Some(spec) = spec::container(&wanted.manifest) else {
        return Err(WorkloadError::Invalid(format!("Container {name}: it has no container")));
    };
    let old = table::get(tx, name)?;
    if old.as_ref().is_some_and(|old| old.state == v1::DesiredState::Deleted) {
        return Err(WorkloadError::Conflict(format!(
            "workload {name} is being deleted; apply it again once it is gone (`fleetctl workload wait {name} \
             --for deleted`)"
        )));
    }
    let hash = spec::hash(spec);
    let action = match &old {
        None => v1::ApplyAction::Created,
        Some(old) if old.spec_hash != hash => v1::ApplyAction::Recreated,
        Some(old) if old.manifest.labels != wanted.manifest.labels => v1::ApplyAction::Updated,
        Some(old) if spec::fabric(&old.manifest) != spec.fabric.as_ref() => v1::ApplyAction::Updated,
        Some(_) => v1::ApplyAction::Unchanged,
    };
    let changes = diff::changes(old.as_ref().map(|old| &old.manifest), &wanted.manifest);
    let mut answer = result(v1::Kind::Container, name, action, changes);
    answer.set_desired_state(old.as_ref().map_or(v1::DesiredState::Running, |old| old.state));
    if action == v1::ApplyAction::Unchanged {
        return Ok((answer, None));
    }
    let address = match &parts.network {
        Some(network) => network.reserve(tx, name, &spec.ports, spec.network_mode(), spec.fabric.as_ref())?,
        None => None,
    };
    match &parts.volumes {
        Some(volumes) => volumes.claim(tx, name, &spec.mounts)?,
        None if spec.mounts.is_empty() => {}
        None => drop(parts.need_volumes()?),
    }
    let kept = renewed(old, wanted, hash, action);
    table::put(tx, &kept)?;
    Ok((answer, Some(Written { kept, address, revision: parts.next_revision(), action })))
}

/// The new row: counting begins anew with a changed spec; whether it is to run stays as it was.
fn renewed(old: Option<Kept>, wanted: &Wanted, spec_hash: String, action: v1::ApplyAction) -> Kept {
    let now = SystemTime::now();
    let fresh = Kept {
        name: wanted.name.clone(),
        manifest: wanted.manifest.clone(),
        spec_hash,
        state: v1::DesiredState::Running,
        generation: 1,
        created_at: now,
        updated_at: now,
        ends: 0,
        last_exit: None,
        stop_grace: None,
        epoch: 1,
        restart: 0,
        begun: 0,
    };
    match old {
        None => fresh,
        Some(old) if action == v1::ApplyAction::Recreated => Kept {
            state: old.state,
            generation: old.generation + 1,
            created_at: old.created_at,
            epoch: old.epoch + 1,
            restart: old.restart,
            begun: old.begun,
            ..fresh
        },
        Some(old) => Kept { manifest: fresh.manifest, updated_at: now, ..old },
    }
}

fn commit_prune(
    parts: &Parts,
    tx: &Transaction<'_>,
    wanted: &[Wanted],
    selector: &Selector,
    outcome: &mut Outcome,
) -> Result<(), WorkloadError> {
    let named: HashSet<&Name> =
        wanted.iter().filter(|wanted| !wanted.is_volume()).map(|wanted| &wanted.name).collect();
    for mut kept in table::all(tx)? {
        let stays = named.contains(&kept.name) || !selector.matches(&kept.manifest.labels);
        if stays || kept.state == v1::DesiredState::Deleted {
            continue;
        }
        kept.state = v1::DesiredState::Deleted;
        kept.updated_at = SystemTime::now();
        table::put(tx, &kept)?;
        let address = match &parts.network {
            Some(network) => network.reservation(tx, &kept.name)?,
            None => None,
        };
        let action = v1::ApplyAction::Deleted;
        let mut answer = result(kept.manifest.kind(), &kept.name, action, Vec::new());
        answer.set_desired_state(kept.state);
        outcome.results.push(answer);
        outcome.written.push(Written { kept, address, revision: parts.next_revision(), action });
    }
    Ok(())
}

fn result(
    kind: v1::Kind,
    name: &Name,
    action: v1::ApplyAction,
    changes: Vec<v1::FieldChange>,
) -> v1::ApplyResult {
    v1::ApplyResult {
        kind: kind as i32,
        name: name.to_string(),
        action: action as i32,
        changes,
        steps: Vec::new(),
        desired_state: v1::DesiredState::Unspecified as i32,
    }
}
