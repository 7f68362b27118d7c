//! Calls that name one workload or volume, and what to say where the name is not known.

use std::time::Duration;

use capsule_client::Capsule;
use capsule_proto::v1::{ListVolumesRequest, ListWorkloadsRequest};

use crate::failure::{Failure, nearest};

/// A suggestion is worth no longer wait than this.
const SUGGESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Adds to "not found" the workload that was most likely meant.
pub async fn workload<T>(
    capsule: &Capsule,
    name: &str,
    outcome: Result<T, impl Into<Failure>>,
) -> Result<T, Failure> {
    suggest(outcome, name, workload_names(capsule)).await
}

/// Adds to "not found" the volume that was most likely meant.
pub async fn volume<T>(
    capsule: &Capsule,
    name: &str,
    outcome: Result<T, impl Into<Failure>>,
) -> Result<T, Failure> {
    suggest(outcome, name, volume_names(capsule)).await
}

async fn suggest<T>(
    outcome: Result<T, impl Into<Failure>>,
    name: &str,
    known: impl Future<Output = Vec<String>>,
) -> Result<T, Failure> {
    let failure = match outcome.map_err(Into::into) {
        Err(failure) if failure.is_not_found() => failure,
        outcome => return outcome,
    };
    let known = tokio::time::timeout(SUGGESTION_TIMEOUT, known).await.unwrap_or_default();
    match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) if meant != name => Err(failure.and(&format!("Did you mean {meant:?}?"))),
        _ => Err(failure),
    }
}

/// Names of all workloads of a capsule; none where it does not answer.
pub async fn workload_names(capsule: &Capsule) -> Vec<String> {
    let listed = capsule.workloads().list(ListWorkloadsRequest::default()).await;
    let workloads = listed.map(|answer| answer.into_inner().workloads).unwrap_or_default();
    workloads.into_iter().filter_map(|workload| Some(workload.manifest?.name)).collect()
}

/// Names of all volumes of a capsule; none where it does not answer.
pub async fn volume_names(capsule: &Capsule) -> Vec<String> {
    let listed = capsule.volumes().list(ListVolumesRequest {}).await;
    listed.map(|answer| answer.into_inner().volumes).unwrap_or_default().into_iter().map(|v| v.name).collect()
}
