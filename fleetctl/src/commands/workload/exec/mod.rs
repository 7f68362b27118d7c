//! `fleetctl workload exec` and `fleetctl exec`.

mod many;

use anyhow::Result;
use capsule_client::Target;
use capsule_proto::v1::{EnvVar, ExecStart};
use clap::Args;
use clap_complete::ArgValueCompleter;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    complete, conversation,
    exit::Exit,
    failure::{Failure, usage},
    named,
    output::Format,
    reference::WorkloadRef,
    session::Session,
};

/// Run a command in a workload
///
/// The streams of the command stay apart and its exit code becomes fleetctl's: 128 + N where signal N
/// ended it, 127 where there is no such command, 126 where it cannot be executed. Signals are passed
/// on; a second one ends fleetctl, and the command ends with fleetctl. On several capsules at once each line is prefixed with its capsule, stdin is not
/// sent, and the exit code says whether all (0), none (1) or some (3) exited with 0.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl exec -t web -- sh\n  fleetctl exec -i db -- psql < dump.sql\n  \
                        fleetctl --all exec web -- uptime"
)]
pub struct Exec {
    #[arg(value_name = "WORKLOAD", add = ArgValueCompleter::new(complete::workloads))]
    workload: WorkloadRef,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// Send stdin
    #[arg(short = 'i', long = "stdin")]
    stdin: bool,
    /// With a terminal; sends stdin, signals and the window's size
    #[arg(short, long)]
    tty: bool,
    /// Variable for the command; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Directory to run in
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// User, or user:group, by name or number
    #[arg(short, long)]
    user: Option<String>,
}

impl Exec {
    /// Runs the command on every capsule that is meant.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        if session.out.format != Format::Table {
            return Err(usage("exec prints what the command prints, which -o cannot shape; leave it out"));
        }
        let work = session.workloads(std::slice::from_ref(&self.workload))?;
        let targets: Vec<_> = work.into_iter().map(|(target, _)| target).collect();
        let start = self.start()?;
        match targets.len() {
            1 => one(session, &targets[0], start).await,
            _ if self.tty || self.stdin => {
                Err(usage("-t and -i work with one capsule; name one with -c, or leave them out"))
            }
            _ => many::run(session, targets, start).await,
        }
    }

    fn start(&self) -> Result<ExecStart> {
        let env = self.env.iter().map(|text| variable(text)).collect::<Result<_>>()?;
        Ok(ExecStart {
            name: self.workload.name.to_string(),
            command: self.command.clone(),
            tty: self.tty,
            stdin: self.stdin || self.tty,
            env,
            working_dir: self.workdir.clone().unwrap_or_default(),
            user: self.user.clone().unwrap_or_default(),
            window: None,
        })
    }
}

async fn one(session: &Session, target: &Target, mut start: ExecStart) -> Result<Exit> {
    if start.tty {
        conversation::on_terminal(&mut start)?;
    }
    let capsule = session.connector()?.connect(target).await.map_err(Failure::from)?;
    let name = start.name.clone();
    let place = format!("{name} on {}", target.name);
    let ended = conversation::hold(session, &place, start, async |input| {
        capsule.workloads().exec(ReceiverStream::new(input)).await
    })
    .await;
    Ok(named::workload(&capsule, &name, ended).await?)
}

fn variable(text: &str) -> Result<EnvVar> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(EnvVar { name: name.into(), value: value.into() }),
        _ => Err(usage(format!("{text:?} sets no variable: write NAME=VALUE"))),
    }
}
