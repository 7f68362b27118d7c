//! `capsuled`, the program.

use std::process::ExitCode;

use anyhow::Context as _;
use capsuled::{
    agent::{Agent, down},
    boot::{dhcp_event, init, pid1},
    config::Config,
    logging::{self, LogRing},
    sys::{file, limits, memory},
    workload::logs::pump,
};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

mod wg;

use wg::WgArgs;

/// Threads that run the agent.
const WORKERS: usize = 2;
/// Threads that wait for files and the kernel, at most.
const BLOCKING_THREADS: usize = 16;

/// The agent of a capsule.
///
/// Exit codes: 0 stopped as asked, 1 could not start or go on, 2 wrong usage.
#[derive(Parser)]
#[command(name = "capsuled", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Option<Config>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the agent; the same as no command at all
    Agent(Config),
    /// Stops the agent of a state directory and all it has started: workloads, containerd, network
    Down(Config),
    /// Runs a WireGuard device in userspace until it is told to end; keys and peers come over its API
    /// socket, /var/run/wireguard/NAME.sock
    Wg(WgArgs),
    /// Runs an appliance: the first process there, which starts the agent
    #[command(hide = true)]
    Init,
}

fn main() -> ExitCode {
    if let Some(dir) = pump::asked_for(std::env::args_os()) {
        return outcome(pump::run(&dir).with_context(|| format!("cannot write the log {}", dir.display())));
    }
    if dhcp_event::is_asked_for(std::env::args_os().next().as_deref()) {
        return outcome(dhcp_event::run().context("cannot write down who resolves names"));
    }
    let arguments = Arguments::parse();
    outcome(match (arguments.command, arguments.config) {
        (Some(Command::Agent(config)), _) | (None, Some(config)) => run(run_agent(config)),
        (Some(Command::Down(config)), _) => run(take_down(config)),
        (Some(Command::Wg(wg)), _) => wg.run(),
        (Some(Command::Init), _) => run_init(),
        (None, None) => {
            eprintln!("capsuled: --state-dir is missing; `capsuled --help` tells more");
            return ExitCode::from(2);
        }
    })
}

fn outcome(of: anyhow::Result<()>) -> ExitCode {
    match of {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capsuled: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    memory::bound_malloc();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(work)
}

/// It splits before there are threads, and needs only one.
fn run_init() -> anyhow::Result<()> {
    pid1::split()?;
    memory::bound_malloc();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(init::run()).map(|never| match never {})
}

async fn run_agent(config: Config) -> anyhow::Result<()> {
    let dir = &config.state_dir;
    file::ensure_dir(dir, 0o700)
        .with_context(|| format!("cannot make the state directory {}", dir.display()))?;
    let log = LogRing::open(dir).with_context(|| format!("cannot write the log in {}", dir.display()))?;
    logging::init(log.clone());
    match limits::raise_open_files() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let agent = Agent::builder(config).log(log).start().await?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
        () = stay_small() => {}
    }
    tracing::info!("stopping; workloads go on");
    agent.stop().await;
    Ok(())
}

/// Starting, a pull or fifty applies at once need memory that an idle agent does not. Never ends.
async fn stay_small() {
    loop {
        tokio::time::sleep(memory::INTERVAL).await;
        memory::give_back();
    }
}

async fn take_down(config: Config) -> anyhow::Result<()> {
    Ok(down::down(&config).await?)
}
