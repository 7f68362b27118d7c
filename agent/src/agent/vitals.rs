//! How the capsule is, for an update on trial, from those who know.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use capsule_proto::{Name, v1::Phase};

use crate::{
    identity::Identity,
    runtime::SharedRuntime,
    sys::{file, uplink},
    update::{Vital, Vitals},
    workload::Workloads,
};

/// How long the engine may take to answer.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(5);
/// Written and removed at every look.
const PROBE_FILE: &str = "probe";

struct All {
    identity: Identity,
    runtime: SharedRuntime,
    workloads: Workloads,
    state_dir: PathBuf,
}

pub(super) fn of(
    identity: &Identity,
    runtime: &SharedRuntime,
    workloads: &Workloads,
    state_dir: &Path,
) -> Arc<dyn Vitals> {
    Arc::new(All {
        identity: identity.clone(),
        runtime: runtime.clone(),
        workloads: workloads.clone(),
        state_dir: state_dir.to_owned(),
    })
}

#[async_trait]
impl Vitals for All {
    async fn look(&self, workloads: &[String]) -> Vec<Vital> {
        vec![
            Vital { name: "api", problem: self.api() },
            Vital { name: "storage", problem: self.storage().await },
            Vital { name: "network", problem: network() },
            Vital { name: "containerd", problem: self.engine().await },
            Vital { name: "workloads", problem: self.missing(workloads) },
        ]
    }

    fn running(&self) -> Vec<String> {
        self.workloads
            .names()
            .into_iter()
            .filter(|name| self.runs(name))
            .map(|name| name.to_string())
            .collect()
    }
}

impl All {
    fn api(&self) -> Option<String> {
        (self.identity.admitted_calls() == 0)
            .then(|| "no operator has reached the agent since it started".to_owned())
    }

    async fn storage(&self) -> Option<String> {
        let path = self.state_dir.join(PROBE_FILE);
        let written = tokio::task::spawn_blocking(move || {
            file::write_atomic(&path, b"", 0o600).and_then(|()| std::fs::remove_file(&path))
        });
        let written = written.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        written.err().map(|error| format!("the state directory takes no file: {error}"))
    }

    async fn engine(&self) -> Option<String> {
        match tokio::time::timeout(ENGINE_TIMEOUT, self.runtime.version()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("containerd has not answered for {} s", ENGINE_TIMEOUT.as_secs())),
        }
    }

    fn missing(&self, workloads: &[String]) -> Option<String> {
        let runs = |name: &&String| name.parse::<Name>().is_ok_and(|name| self.runs(&name));
        let missing: Vec<&str> = workloads.iter().filter(|name| !runs(name)).map(String::as_str).collect();
        (!missing.is_empty()).then(|| format!("{} ran before and does not run", missing.join(", ")))
    }

    fn runs(&self, name: &Name) -> bool {
        let workload = self.workloads.find(name);
        let status = workload.as_ref().and_then(|workload| workload.status.as_ref());
        status.is_some_and(|status| matches!(status.phase(), Phase::Running | Phase::Paused))
    }
}

fn network() -> Option<String> {
    uplink::links().is_empty().then(|| "no wired link has both carrier and an address".to_owned())
}
