//! One call on many capsules, in two stages:
//!
//! ```text
//!   targets ──▶ connecting: [`MAX_CONNECTING`] at once, a task each ──▶ calling: `limit` at once
//! ```
//!
//! Waiting for a dead capsule is no work, so it takes no place of a live one; and handshakes,
//! which are, run on every thread of the runtime.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::{CallError, Capsule, Connector, Target};

/// Capsules called at once where the caller sets no other number.
pub const DEFAULT_LIMIT: usize = 64;
/// Connections that are being made or wait for their call: with those in use, fewer than the
/// usual limit of 1024 open files.
const MAX_CONNECTING: usize = 512;
/// A connection that waited longer than this for its call is made anew: capsules hang up on
/// those who stay silent.
const FRESH: Duration = Duration::from_secs(10);

/// How a fan-out runs.
#[derive(Clone, Copy, Debug)]
pub struct FanOut {
    /// Capsules called at once.
    pub limit: usize,
    /// For connecting and the call together; `None` for calls that stream.
    pub timeout: Option<Duration>,
}

impl Default for FanOut {
    fn default() -> Self {
        Self { limit: DEFAULT_LIMIT, timeout: None }
    }
}

/// A connection, and when it was ready.
struct Connected {
    capsule: Capsule,
    since: Instant,
    /// Time that connecting took away from the call.
    took: Duration,
}

/// Connects to every target and calls it; yields results as they come. A dead capsule is a
/// result of its own and keeps nobody else waiting. To be polled within a tokio runtime.
pub fn fan_out<T, F, Fut>(
    connector: &Connector,
    targets: Vec<Target>,
    options: FanOut,
    call: F,
) -> impl Stream<Item = (Target, Result<T, CallError>)> + Unpin
where
    F: Fn(Capsule) -> Fut,
    Fut: Future<Output = Result<T, CallError>>,
{
    let (connector, call) = (connector.clone(), Arc::new(call));
    let again = connector.clone();
    let connections = stream::iter(targets)
        .map(move |target| connect(connector.clone(), target, options.timeout))
        .buffer_unordered(MAX_CONNECTING);
    let calls = connections.map(move |(target, connected)| {
        let (connector, call) = (again.clone(), call.clone());
        async move {
            let result = match connected {
                Ok(connected) => {
                    let took = connected.took;
                    let work = async { call(fresh(&connector, connected).await?).await };
                    within(options.timeout, took, work).await
                }
                Err(error) => Err(error),
            };
            (target, result)
        }
    });
    Box::pin(calls.buffer_unordered(options.limit.max(1)))
}

async fn connect(
    connector: Connector,
    target: Target,
    timeout: Option<Duration>,
) -> (Target, Result<Connected, CallError>) {
    let meant = target.clone();
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let start = Instant::now();
        let capsule = within(timeout, Duration::ZERO, connector.connect(&meant)).await?;
        Ok(Connected { capsule, since: Instant::now(), took: start.elapsed() })
    }));
    let connected = task.await.unwrap_or_else(|error| Err(CallError::Broken(error.to_string())));
    (target, connected)
}

async fn fresh(connector: &Connector, connected: Connected) -> Result<Capsule, CallError> {
    match connected.since.elapsed() {
        waited if waited > FRESH => connector.connect(connected.capsule.target()).await,
        _ => Ok(connected.capsule),
    }
}

/// `work` within what is left of `limit` after `spent`.
async fn within<T>(
    limit: Option<Duration>,
    spent: Duration,
    work: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let Some(limit) = limit else { return work.await };
    let end = Instant::now() + limit.saturating_sub(spent);
    timeout_at(end, work).await.unwrap_or(Err(CallError::TimedOut(limit)))
}
