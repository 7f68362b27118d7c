//! `fleetctl update push`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use capsule_client::{
    CallError, Capsule, Connector, Target, fan_out,
    update::{PushError, PushOptions, Seen, UpdateFile, push},
};
use capsule_proto::{
    manifest::shown,
    parse_duration,
    v1::{PushPhase, Update, UpdateState},
};
use clap::{Args, ValueHint};
use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    rollout::Rollout,
    settle::{Wanted, look, settle},
};
use crate::{
    exit::{Exit, Tally},
    failure::{Failure, causes, usage},
    output::{
        Out,
        answer::{Answer, Layout, Printer},
        human,
        progress::{self, Bar},
    },
    session::Session,
};

/// Between attempts to go on after a broken connection: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A capsule that cannot be reached for so long is given up.
const PATIENCE: Duration = Duration::from_mins(5);
/// Two reboots take no longer than this.
const REBOOTS: Duration = Duration::from_mins(10);

/// Install a bundle on appliances: each reboots into it, on trial
///
/// Only the chunks that a capsule has in neither slot are sent; after a broken connection it goes
/// on where it was. The slot that does not run is written, read back and given one try. A capsule
/// whose new system does not come up, or is not confirmed in time, goes back by itself. With
/// --canary and --batch, capsules follow only when those before them are through.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl -c nuc-1 update push capsule-0.2.0.update\n  \
                        fleetctl --all update push capsule-0.2.0.update --canary 1 --batch 5 --auto-confirm 60s")]
pub struct Push {
    /// The bundle
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// This many capsules first
    #[arg(long, value_name = "N", default_value_t = 0)]
    canary: u16,
    /// This many at once after them; all where 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    batch: u16,
    /// Begin no further capsules after this many failures
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    stop_after_failures: u16,
    /// Keep the new system once all has been well for so long: API, storage, network, containerd, and
    /// every workload that ran before; without, `update confirm` keeps it
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    auto_confirm: Option<Duration>,
    /// Go back where nothing has kept the new system for so long
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "15m")]
    confirm_within: Duration,
    /// Also a version before the one that runs
    #[arg(long)]
    allow_downgrade: bool,
    /// Also a version that was rolled back, or that runs already
    #[arg(long)]
    force: bool,
}

/// What `-o json` shows of a capsule.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Installed {
    version: String,
    from_version: String,
    slot: String,
    /// `confirmed`, `tentative`, or `runs-already`.
    state: String,
    /// Whether nobody has kept it yet.
    on_trial: bool,
    sent_bytes: u64,
    bundle_bytes: u64,
}

/// A capsule that was lost and is reached again.
enum Back {
    /// And waits for the rest.
    Reached(Capsule),
    /// And had all that it needs.
    Armed(Update),
}

/// What every capsule's push needs.
struct Job {
    out: Out,
    connector: Connector,
    file: UpdateFile,
    options: PushOptions,
}

impl Push {
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let targets = session.targets()?;
        let file = read(&session.out, &self.file).await?;
        let manifest = file.manifest();
        session.out.note(&format!(
            "{} for {}, {}",
            manifest.version,
            manifest.architecture,
            human::bytes(file.bytes())
        ));
        let options = PushOptions {
            allow_downgrade: self.allow_downgrade,
            force: self.force,
            auto_confirm: self.auto_confirm,
            confirm_within: Some(self.confirm_within),
        };
        let job = Arc::new(Job { out: session.out, connector: session.connector()?, file, options });
        let rollout = Rollout {
            canary: self.canary.into(),
            batch: self.batch.into(),
            stop_after: self.stop_after_failures.into(),
        };
        Ok(roll_out(session, &job, targets, rollout).await)
    }
}

/// Checks the bundle before any capsule is asked.
async fn read(out: &Out, path: &Path) -> Result<UpdateFile> {
    if path == Path::new("-") {
        return Err(usage("a bundle is read in many places at once: write it to a file first"));
    }
    let unreadable = |error: std::io::Error| usage(format!("cannot read {}: {error}", shown(path)));
    let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    let bar = progress::bytes(out, "checking", UpdateFile::work_bytes(bytes));
    let owned = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || UpdateFile::open(&owned, |bytes| bar.advance(bytes)));
    opened.await?.map_err(|error| usage(format!("{}: {}", shown(path), causes(&error))))
}

async fn roll_out(session: &Session, job: &Arc<Job>, targets: Vec<Target>, rollout: Rollout) -> Exit {
    let mut printer = Printer::new(session.out, layout(), targets.len());
    let mut tally = Tally::default();
    let (mut done, mut failed) = (0, 0);
    let mut left = targets.into_iter().enumerate().collect::<Vec<_>>();
    while !left.is_empty() {
        if !rollout.goes_on(failed) {
            for (at, target) in left.drain(..) {
                take(
                    &mut printer,
                    &mut tally,
                    Answer { at, capsule: target.name, result: Err(skipped(failed)) },
                );
            }
            break;
        }
        let wave: Vec<_> = left.drain(..rollout.next_wave(done, left.len())).collect();
        done += wave.len();
        let places: Vec<(usize, String)> =
            wave.iter().map(|(at, target)| (*at, target.name.clone())).collect();
        let targets = wave.into_iter().map(|(_, target)| target).collect();
        let options = session.fan_out(session.asked_timeout());
        let mut answers = fan_out(&job.connector, targets, options, |capsule| {
            let job = job.clone();
            async move { Ok::<_, CallError>(job.install(capsule).await) }
        });
        while let Some((target, result)) = answers.next().await {
            let at = places.iter().find(|(_, name)| *name == target.name).map_or(0, |(at, _)| *at);
            let result = result.unwrap_or_else(|error| Err(error.into()));
            failed += usize::from(result.is_err());
            take(&mut printer, &mut tally, Answer { at, capsule: target.name, result });
        }
    }
    tally.exit()
}

fn take(printer: &mut Printer<Installed>, tally: &mut Tally, answer: Answer<Installed>) {
    tally.count(&printer.outcome(&answer));
    printer.take(&[answer]);
}

fn skipped(failed: usize) -> Failure {
    let capsules = if failed == 1 { "1 capsule" } else { &format!("{failed} capsules") };
    Failure {
        code: "not-attempted",
        message: format!("not attempted, because {capsules} failed (--stop-after-failures)"),
    }
}

fn layout() -> Layout<Installed> {
    Layout::lines(|installed: &Installed, _| {
        let Installed { version, from_version, slot, state, on_trial, sent_bytes, bundle_bytes } = installed;
        if state == "runs-already" {
            let trial = ", on trial, which goes on as it was begun; `fleetctl update confirm` keeps it";
            return vec![format!("{version} runs already{}", if *on_trial { trial } else { "" })];
        }
        let sent = format!("{} of {} sent", human::bytes(*sent_bytes), human::bytes(*bundle_bytes));
        let then = match state.as_str() {
            "tentative" => "runs on trial; `fleetctl update confirm` keeps it",
            _ => "runs and is kept",
        };
        vec![format!("{version} (slot {slot}, after {from_version}) {then}; {sent}")]
    })
    .named(|installed| vec![installed.version.clone()])
}

impl Job {
    /// Pushes to one capsule and waits until it is back.
    async fn install(&self, capsule: Capsule) -> Result<Installed, Failure> {
        let target = capsule.target().clone();
        let version = self.file.manifest().version.to_string();
        let (update, sent_bytes) = self.push(capsule).await?;
        let bundle_bytes = self.file.bytes();
        let Some(update) = update else {
            return Ok(Installed {
                from_version: version.clone(),
                version,
                slot: String::new(),
                state: "runs-already".into(),
                on_trial: look(&self.connector, &target).await?.is_tentative,
                sent_bytes,
                bundle_bytes,
            });
        };
        let bar = progress::spinner(&self.out, &target.name);
        let (soak, within) = (self.options.auto_confirm, self.options.confirm_within);
        let wanted = Wanted {
            id: update.id,
            confirmed: soak.is_some(),
            within: within.unwrap_or_default() + soak.unwrap_or_default() + REBOOTS,
        };
        let update = settle(&self.connector, &target, &wanted, &bar).await?;
        let (state, on_trial) = (update.state().to_string(), update.state() == UpdateState::Tentative);
        let Update { version, from_version, slot, .. } = update;
        Ok(Installed { version, from_version, slot, state, on_trial, sent_bytes, bundle_bytes })
    }

    /// With as many connections as it takes; the update, and how many bytes were sent.
    async fn push(&self, mut capsule: Capsule) -> Result<(Option<Update>, u64), Failure> {
        let target = capsule.target().clone();
        let before = look(&self.connector, &target).await?.update.unwrap_or_default();
        let bar = progress::bytes(&self.out, &target.name, self.file.bytes());
        let (mut pause, most) = RETRY;
        let (mut sent, mut heard) = (0, Instant::now());
        loop {
            let mut now = 0;
            let seen = |seen| {
                heard = Instant::now();
                now = show(&bar, &target.name, &seen).unwrap_or(now);
            };
            let failure = match push(&capsule, &self.file, &self.options, seen).await {
                Ok(pushed) => return Ok((pushed.update, sent + pushed.sent_bytes)),
                Err(PushError::Call(error)) => Failure::from(error),
                Err(error @ PushError::File { .. }) => return Err(Failure::local(causes(&error))),
            };
            sent += now;
            if !failure.is_lost_connection() || heard.elapsed() > PATIENCE {
                return Err(failure);
            }
            bar.label(&format!("{} (connection lost)", target.name));
            capsule = loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(most);
                match self.reconnect(&target, &before).await {
                    Ok(Back::Armed(update)) => return Ok((Some(update), sent)),
                    Ok(Back::Reached(capsule)) => break capsule,
                    Err(error) if !error.is_lost_connection() => return Err(error),
                    Err(_) if heard.elapsed() > PATIENCE => return Err(failure),
                    Err(_) => {}
                }
            };
        }
    }

    /// The last word may be what was lost with a connection.
    async fn reconnect(&self, target: &Target, before: &Update) -> Result<Back, Failure> {
        match self.armed_since(target, before).await? {
            Some(update) => Ok(Back::Armed(update)),
            None => Ok(Back::Reached(self.connector.connect(target).await?)),
        }
    }

    /// The update that this push has armed, if it has.
    async fn armed_since(&self, target: &Target, before: &Update) -> Result<Option<Update>, Failure> {
        let update = look(&self.connector, target).await?.update.unwrap_or_default();
        let is_ours = update.version == self.file.manifest().version.to_string();
        let is_news = (update.id, update.state()) != (before.id, before.state());
        let is_through = !matches!(
            update.state(),
            UpdateState::Unspecified | UpdateState::Receiving | UpdateState::Writing | UpdateState::Failed
        );
        Ok((is_ours && is_news && is_through).then_some(update))
    }
}

/// Draws it; gives the bytes sent so far, where it tells.
fn show(bar: &Bar, capsule: &str, seen: &Seen) -> Option<u64> {
    match seen {
        Seen::Sent { done_bytes, total_bytes, sent_bytes } => {
            bar.label(&format!("{capsule} sending"));
            bar.set(*done_bytes, *total_bytes);
            Some(*sent_bytes)
        }
        Seen::Capsule(progress) => {
            let phase = match progress.phase() {
                PushPhase::Looking => "comparing",
                PushPhase::Checking => "checking",
                PushPhase::Writing => "writing",
                PushPhase::Verifying => "verifying",
                PushPhase::Receiving | PushPhase::Unspecified => "receiving",
            };
            bar.label(&format!("{capsule} {phase}"));
            bar.set(progress.done_bytes, progress.total_bytes);
            None
        }
    }
}
