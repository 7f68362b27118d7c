//! The `testbed` command; one file per subcommand.

mod bench;
mod down;
mod env;
mod image;
mod keep;
mod status;
mod steps;
mod up;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use steps::Unread;

/// Fleets of capsules on one machine.
#[derive(Debug, Parser)]
#[command(name = "testbed", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a fleet, adopt its capsules and apply manifests to them; resumes what is there
    Up(up::Up),
    /// Stop it and remove every trace of it, also after a crash
    Down(down::Down),
    /// Print what a shell needs to be its operator: eval "$(testbed env)"
    Env(env::Env),
    /// Which fleets are there, and what runs of them
    Status(status::Status),
    /// Measure against peers, in one interleaved run
    Bench(bench::BenchArgs),
    /// What the bench mesh-kernel runs in a guest
    #[command(hide = true)]
    KernelFigures { rounds: usize },
    /// What starts the machine of a capsule and has it, for as long as the fleet is there
    #[command(hide = true)]
    Keep(keep::Keep),
    /// Write a fixture image as an archive
    Image(image::ImageArgs),
}

/// Where capsules run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A network namespace each, on this host
    Netns,
    /// A virtual machine each, booted from the appliance's image
    Qemu,
}

/// Which it is unless somebody says.
const FLEET: &str = "fleet";

/// Which fleet a command is about.
#[derive(Args, Clone, Debug)]
struct Which {
    /// Name of the fleet; namespaces and interfaces are called after it
    #[arg(long, env = "TESTBED_FLEET", default_value = FLEET)]
    name: String,
    /// Holds everything its capsules write [default: a directory of its own below /var/lib]
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Which {
    /// As another command is told of it.
    fn option(&self) -> String {
        if self.name == FLEET { String::new() } else { format!(" --name {}", self.name) }
    }

    fn dir(&self) -> Result<PathBuf> {
        let dir = self.dir.clone().unwrap_or_else(|| PathBuf::from(crate::scenario::DIR).join(&self.name));
        std::path::absolute(&dir).with_context(|| format!("cannot tell where {} is", dir.display()))
    }
}

impl Cli {
    /// Does what the command line says.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Up(up) => runtime()?.block_on(up.run()),
            Command::Down(down) => down.run(),
            Command::Status(status::Status {}) => runtime()?.block_on(status::Status::run()),
            Command::Bench(bench) => runtime()?.block_on(bench.run()),
            Command::KernelFigures { rounds } => runtime()?.block_on(bench::kernel_figures(rounds)),
            Command::Env(env) => env.run(),
            Command::Keep(keep) => runtime()?.block_on(keep.run()),
            Command::Image(image) => image.run(),
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new().context("cannot start the async runtime")
}
