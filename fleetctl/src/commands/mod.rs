//! One file for each command: its arguments and what it does with them.

pub mod adopt;
pub mod apply;
pub mod capsule;
pub mod completions;
pub mod context;
pub mod cp;
pub mod debug;
pub mod diff;
pub mod discover;
pub mod events;
pub mod fabric;
pub mod image;
pub mod install;
pub mod key;
pub mod man;
pub mod update;
pub mod version;
pub mod volume;
pub mod whoami;
pub mod workload;

use anyhow::Result;

use crate::{
    cli::{Cli, Command},
    exit::Exit,
    session::Session,
};

/// Runs what the command line asks for.
pub async fn run(cli: Cli) -> Result<Exit> {
    let Cli { global, command } = cli;
    match command {
        // These need no configuration, and work where it is damaged.
        Command::Completions(command) => return command.run(),
        Command::Man(command) => return command.run(),
        _ => {}
    }
    let mut session = Session::open(global)?;
    match command {
        Command::Adopt(command) => command.run(&mut session).await,
        Command::Install(command) => command.run(&mut session).await,
        Command::Discover(command) => command.run(&mut session).await,
        Command::Context(command) => command.run(&mut session).await,
        Command::Whoami(command) => command.run(&session).await,
        Command::Capsule(command) => command.run(&session).await,
        Command::Apply(command) => command.run(&session).await,
        Command::Diff(command) => command.run(&session).await,
        Command::Workload(command) => command.run(&session).await,
        Command::Ps(command) => command.run(&session).await,
        Command::Logs(command) => command.run(&session).await,
        Command::Exec(command) => command.run(&session).await,
        Command::Cp(command) => command.run(&session).await,
        Command::Debug(command) => command.run(&session).await,
        Command::Image(command) => command.run(&session).await,
        Command::Volume(command) => command.run(&session).await,
        Command::Fabric(command) => command.run(&session).await,
        Command::Update(command) => command.run(&session).await,
        Command::Key(command) => command.run(&session).await,
        Command::Events(command) => command.run(&session).await,
        Command::Version(command) => command.run(&session).await,
        Command::Completions(_) | Command::Man(_) => Ok(Exit::ALL),
    }
}
