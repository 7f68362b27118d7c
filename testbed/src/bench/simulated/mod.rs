//! 500 capsules in this one process: real gRPC, TLS, keys and tokens over loopback, and nothing
//! behind them. Shows what one operator's fan-out costs without what 500 machines would.

mod engine;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use capsule_client::{Address, ConfigError, Connector, Context, ContextError, Home, adopt};
use capsuled::{agent::Agent, config::Config};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::engine::IdleEngine;
use super::{
    Effort,
    race::{Contestant, race},
    report::{Limit, Row},
};
use crate::scenario::Operator;

const ROUNDS: usize = 10;
const CAPSULES: usize = 500;
/// Started and adopted at once.
const AT_ONCE: usize = 16;
/// Names in this file that `fleetctl` prints begin with this.
const PREFIX: &str = "sim-";
const LIMIT_MS: f64 = 2000.0;

/// Why the contexts were not written.
#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Context(#[from] ContextError),
}

pub async fn run(effort: Effort) -> Result<Vec<Row>> {
    raise_file_limit()?;
    let dir = tempfile::tempdir().context("cannot make a directory for the simulated capsules")?;
    let home = Home::at(dir.path().join("operator"));
    let connector = Connector::new(home.ensure_key()?)?;
    let make = |at: usize| one(dir.path(), at, &connector);
    let made: Vec<(Agent, String, Context)> =
        stream::iter((0..CAPSULES).map(make)).buffer_unordered(AT_ONCE).try_collect().await?;
    let (agents, contexts): (Vec<Agent>, Vec<(String, Context)>) =
        made.into_iter().map(|(agent, name, context)| (agent, (name, context))).unzip();
    home.update(|known| {
        contexts.into_iter().try_for_each(|(name, context)| known.insert(&name, context))?;
        Ok::<_, RegisterError>(())
    })?;

    let operator = Operator::at(home.dir());
    let mut contestants = [Contestant::new("ours", |_| info(&operator))];
    let results = race(effort.rounds(ROUNDS), &mut contestants).await?;
    drop(contestants);
    stream::iter(agents).for_each_concurrent(AT_ONCE, Agent::stop).await;
    let what = format!("capsule info on {CAPSULES} simulated, one process");
    Ok(vec![Row::alone(&what, "ms", &results[0].1, Limit::Own(LIMIT_MS))])
}

async fn one(dir: &Path, at: usize, connector: &Connector) -> Result<(Agent, String, Context)> {
    let name = format!("{PREFIX}{at}");
    let config = Config {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        hostname: Some(name.clone()),
        ..Config::new(dir.join(&name))
    };
    let agent = Agent::builder(config).runtime(Arc::new(IdleEngine::default())).start().await?;
    let address: Address = agent.address().to_string().parse()?;
    let probe = adopt::probe(connector, &address).await?;
    let adopted = adopt::adopt(connector, &probe, "bench").await?;
    Ok((agent, name, adopted.context))
}

async fn info(operator: &Operator) -> Result<Duration> {
    let shown = operator.run(&["--all", "capsule", "info"]).await?.ok()?;
    let rows = shown.stdout.lines().filter(|line| line.starts_with(PREFIX)).count();
    ensure!(rows == CAPSULES, "fleetctl showed {rows} of {CAPSULES} capsules");
    Ok(shown.elapsed)
}

/// Each capsule keeps a database, a lock and sockets open: more files than a shell allows by
/// default, fewer than the hard limit.
fn raise_file_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")
}
