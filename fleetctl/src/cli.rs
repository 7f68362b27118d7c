//! The command line: global flags and the tree of commands.

use std::time::Duration;

use capsule_client::DEFAULT_LIMIT;
use capsule_proto::{Selector, parse_duration};
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::ArgValueCompleter;

use crate::{commands as run, complete, output::Format};

const AFTER_HELP: &str = "\
Targets: -c, --group, -l and --all say which capsules are meant; without them the variable
FLEETCTL_CAPSULE, else the current context. HOST:PORT of an adopted capsule works wherever a
context's name does.

Exit codes: 0 all capsules did it, 1 none, 3 some, 2 wrong usage, 4 something would change
(diff --exit-code); `exec` on one capsule passes the command's own code.

Examples:
  fleetctl discover
  fleetctl adopt 192.168.1.20 --name nuc-1
  fleetctl apply -f web.yaml --wait
  fleetctl --all ps
  fleetctl -l zone=attic exec -t web -- sh";

/// Operates one capsule or a whole fleet.
#[derive(Debug, Parser)]
#[command(name = "fleetctl", version, about, after_help = AFTER_HELP, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true, propagate_version = false)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Capsules by context or address: a,b or repeated
    #[arg(short = 'c', long = "capsule", value_name = "NAME", global = true, value_delimiter = ',')]
    #[arg(help_heading = "Targets", add = ArgValueCompleter::new(complete::capsules))]
    pub capsules: Vec<String>,
    /// Every capsule of a group
    #[arg(long = "group", value_name = "GROUP", global = true, value_delimiter = ',')]
    #[arg(help_heading = "Targets", add = ArgValueCompleter::new(complete::groups))]
    pub groups: Vec<String>,
    /// Only capsules whose context carries these labels
    #[arg(short = 'l', long = "selector", value_name = "KEY=VALUE", global = true)]
    #[arg(help_heading = "Targets")]
    pub selector: Option<Selector>,
    /// Every capsule; not together with -c or --group
    #[arg(long, global = true, help_heading = "Targets")]
    pub all: bool,
    /// How long to wait for a capsule's answer: 30s, 2m
    #[arg(long, value_name = "TIME", global = true, value_parser = parse_duration)]
    #[arg(help_heading = "Fan-out")]
    pub timeout: Option<Duration>,
    /// How long to wait for a connection
    #[arg(long, value_name = "TIME", global = true, value_parser = parse_duration, default_value = "5s")]
    #[arg(help_heading = "Fan-out")]
    pub connect_timeout: Duration,
    /// Capsules called at once
    #[arg(long, value_name = "N", global = true, default_value_t = DEFAULT_LIMIT as u16)]
    #[arg(help_heading = "Fan-out", value_parser = clap::value_parser!(u16).range(1..))]
    pub parallel: u16,
    /// Shape of the output
    #[arg(short, long, value_enum, global = true, default_value_t, help_heading = "Output")]
    pub output: Format,
    /// No colours; as the variable NO_COLOR
    #[arg(long = "no-color", global = true, help_heading = "Output")]
    pub no_colour: bool,
    /// No notes and no progress on stderr
    #[arg(short, long, global = true, help_heading = "Output")]
    pub quiet: bool,
}

/// Everything fleetctl does.
#[derive(Debug, Subcommand)]
pub enum Command {
    Adopt(run::adopt::Adopt),
    Install(run::install::Install),
    Discover(run::discover::Discover),
    /// Capsules that this operator knows
    #[command(subcommand)]
    Context(run::context::Context),
    Whoami(run::whoami::Whoami),
    /// The machine itself
    #[command(subcommand)]
    Capsule(run::capsule::Capsule),
    Apply(run::apply::Apply),
    Diff(run::diff::Diff),
    /// Containers and microVMs
    #[command(subcommand, visible_alias = "workloads")]
    Workload(run::workload::Workload),
    /// List workloads (`workload list`)
    Ps(run::workload::list::List),
    /// Print workloads' logs (`workload logs`)
    Logs(run::workload::logs::Logs),
    /// Run a command in a workload (`workload exec`)
    Exec(run::workload::exec::Exec),
    Cp(run::cp::Cp),
    Debug(run::debug::Debug),
    /// Container images on capsules
    #[command(subcommand, visible_alias = "images")]
    Image(run::image::Image),
    /// Volumes on capsules
    #[command(subcommand, visible_alias = "volumes")]
    Volume(run::volume::Volume),
    /// Capsules as one private network
    #[command(subcommand)]
    Fabric(run::fabric::Fabric),
    /// The system of appliances
    #[command(subcommand)]
    Update(run::update::Update),
    /// Operator keys
    #[command(subcommand, visible_alias = "keys")]
    Key(run::key::Key),
    Events(run::events::Events),
    Completions(run::completions::Completions),
    Man(run::man::Man),
    Version(run::version::Version),
}

/// The whole tree, for documentation and completion.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests;
