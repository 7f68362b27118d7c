//! `fleetctl debug`.

use std::io::{self, IsTerminal as _};

use anyhow::Result;
use capsule_client::Target;
use capsule_proto::{
    Name,
    v1::{
        DebugInput, DebugShell, DebugShellStatus, ExecInput, ExecStart, ListDebugShellsRequest,
        RemoveDebugShellRequest,
    },
};
use clap::Args;
use clap_complete::ArgValueCompleter;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::image::short;
use crate::{
    complete, conversation,
    exit::Exit,
    failure::{Failure, usage},
    gather::gather,
    output::{
        Format,
        answer::Layout,
        table::{Cell, Column, column},
    },
    session::{PATIENT, QUICK, Session},
};

/// Open a privileged shell on the machine itself
///
/// It is a container with every capability that sees the machine as it is: all processes, the host's network,
/// /dev, /sys and /run, an appliance's /perm for writing, and the whole root for reading at /host. An appliance
/// has the image on board, so that nothing is downloaded; on another host --image names one, with `sh` and
/// `sleep` in it. The container is removed when the command ends or the connection breaks, unless --keep is
/// given. Only admins may, and who opened one is an event.
///
/// Without a command it is a shell on a terminal; a command runs without one, with stdin where that is a
/// file or a pipe, and its exit code becomes fleetctl's.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  fleetctl -c nuc-1 debug\n  fleetctl -c nuc-1 debug -- lvs -a\n  \
                        fleetctl -c nuc-1 debug --keep -- tcpdump -i eth0 -w /tmp/wire.pcap\n  \
                        fleetctl -c nuc-1 debug --enter debug-3f2a")]
pub struct Debug {
    /// Image to make it from, which the capsule has or pulls [default: the one on board]
    #[arg(long, add = ArgValueCompleter::new(complete::images))]
    image: Option<String>,
    /// Leave the container, and what runs in it, when the command ends
    #[arg(long)]
    keep: bool,
    /// Go into one that was kept
    #[arg(long, value_name = "SHELL", conflicts_with_all = ["image", "keep"])]
    #[arg(add = ArgValueCompleter::new(complete::debug_shells))]
    enter: Option<Name>,
    /// List those that there are
    #[arg(long, conflicts_with_all = ["image", "keep", "enter", "remove", "command"])]
    list: bool,
    /// Remove one that was kept, with all that runs in it
    #[arg(long, value_name = "SHELL", conflicts_with_all = ["image", "keep", "enter", "command"])]
    #[arg(add = ArgValueCompleter::new(complete::debug_shells))]
    remove: Option<Name>,
    /// With a terminal also for a command
    #[arg(short, long)]
    tty: bool,
    /// What to run instead of a shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What `-o json` shows of a removal.
#[derive(Serialize)]
struct Removed {
    removed: String,
}

impl Debug {
    /// Runs it.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        match &self.remove {
            _ if self.list => list(session).await,
            Some(name) => remove(session, name).await,
            None => self.open(session).await,
        }
    }

    async fn open(self, session: &Session) -> Result<Exit> {
        if session.out.format != Format::Table {
            return Err(usage("debug prints what the command prints, which -o cannot shape; leave it out"));
        }
        let target = session.only_target("debug")?;
        let start = self.start()?;
        let name = self.enter.as_ref().map_or_else(new_name, Name::to_string);
        let shell = DebugShell {
            name: name.clone(),
            image: self.image.clone().unwrap_or_default(),
            keep: self.keep,
            enter: self.enter.is_some(),
        };
        let ended = run(session, &target, shell, start).await;
        if self.keep && ended.is_ok() {
            session.out.note(&format!(
                "{name} is kept on {at}: `fleetctl -c {at} debug --enter {name}` goes in again, `--remove {name}` \
                 removes it",
                at = target.name
            ));
        }
        Ok(ended?)
    }

    fn start(&self) -> Result<ExecStart> {
        let is_shell = self.command.is_empty();
        let is_piped = !io::stdin().is_terminal();
        let mut start = ExecStart {
            command: self.command.clone(),
            tty: self.tty || (is_shell && !is_piped),
            stdin: self.tty || is_shell || is_piped,
            ..ExecStart::default()
        };
        if start.tty {
            conversation::on_terminal(&mut start)?;
        }
        Ok(start)
    }
}

async fn run(
    session: &Session,
    target: &Target,
    shell: DebugShell,
    start: ExecStart,
) -> Result<Exit, Failure> {
    let connector = session.connector().map_err(|error| Failure::local(error.to_string()))?;
    let capsule = connector.connect(target).await.map_err(Failure::from)?;
    let place = format!("{} on {}", shell.name, target.name);
    conversation::hold(session, &place, start, async |input| {
        capsule.debug().open(messages(shell, input)).await
    })
    .await
}

/// The first message also says which shell is meant.
fn messages(
    shell: DebugShell,
    input: mpsc::Receiver<ExecInput>,
) -> impl futures_util::Stream<Item = DebugInput> {
    let shells = stream::once(async { Some(shell) }).chain(stream::repeat(None));
    shells.zip(ReceiverStream::new(input)).map(|(shell, exec)| DebugInput { shell, exec: Some(exec) })
}

/// Four hex digits are enough for the few that a capsule has at a time; it refuses one that is taken.
fn new_name() -> String {
    format!("debug-{}", &uuid::Uuid::new_v4().simple().to_string()[..4])
}

async fn list(session: &Session) -> Result<Exit> {
    let layout = Layout::table(columns(), |shells: &Vec<_>| shells.iter().map(row).collect())
        .named(|shells| shells.iter().map(|shell: &DebugShellStatus| shell.name.clone()).collect());
    gather(session, session.targets()?, session.timeout(QUICK), layout, async |capsule| {
        Ok(capsule.debug().list(ListDebugShellsRequest {}).await?.into_inner().shells)
    })
    .await
}

fn columns() -> Vec<Column> {
    vec![column("NAME"), column("STATE"), column("KEPT"), column("IMAGE")]
}

fn row(shell: &DebugShellStatus) -> Vec<Cell> {
    let state = if shell.running { "running" } else { "ended" };
    let kept = if shell.kept { "yes" } else { "no" };
    vec![shell.name.as_str().into(), state.into(), kept.into(), short(&shell.image_digest).into()]
}

async fn remove(session: &Session, name: &Name) -> Result<Exit> {
    let layout = Layout::lines(|removed: &Removed, _| vec![format!("{} is removed", removed.removed)])
        .named(|removed| vec![removed.removed.clone()]);
    gather(session, session.targets()?, session.timeout(PATIENT), layout, async |capsule| {
        capsule.debug().remove(RemoveDebugShellRequest { name: name.to_string() }).await?;
        Ok(Removed { removed: name.to_string() })
    })
    .await
}
