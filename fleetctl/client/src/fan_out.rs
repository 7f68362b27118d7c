//! One call on many capsules.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};

use crate::{CallError, Capsule, Connector, Target};

/// Capsules called at once where the caller sets no other number.
pub const DEFAULT_LIMIT: usize = 64;

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

/// Connects to every target and calls it; yields results as they come. A dead capsule is a
/// result of its own and keeps nobody else waiting.
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
    let calls = stream::iter(targets).map(move |target| {
        let (connector, call) = (connector.clone(), call.clone());
        async move {
            let work = async { call(connector.connect(&target).await?).await };
            let result = match options.timeout {
                Some(limit) => {
                    tokio::time::timeout(limit, work).await.unwrap_or(Err(CallError::TimedOut(limit)))
                }
                None => work.await,
            };
            (target, result)
        }
    });
    Box::pin(calls.buffer_unordered(options.limit.max(1)))
}
