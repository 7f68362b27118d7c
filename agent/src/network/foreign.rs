//! Packet filters of others that drop what workloads send and get.
//!
//! A packet passes only where every base chain on its way accepts it, so no rule of ours can undo
//! another's `policy drop` (docker sets one on FORWARD), and others' tables are theirs. What is left
//! is to say so, with the rules that would help.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use tokio::task::JoinSet;

use crate::{
    event::{Events, NewEvent},
    sys::{nft, run::RunError},
};

/// Between two looks: docker or a firewall may be started long after the agent.
const INTERVAL: Duration = Duration::from_mins(5);

/// Looks again and again until it is dropped.
pub(super) struct Foreign {
    found: Arc<Mutex<BTreeSet<Chain>>>,
    bridge: String,
    _watch: JoinSet<()>,
}

impl Foreign {
    pub(super) fn watch(bridge: String, events: Events) -> Self {
        let found = Arc::new(Mutex::new(BTreeSet::new()));
        let mut watch = JoinSet::new();
        watch.spawn(look_for_ever(bridge.clone(), found.clone(), events));
        Self { found, bridge, _watch: watch }
    }

    /// One paragraph for every such chain.
    pub(super) fn warnings(&self) -> Vec<String> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.iter().map(|chain| chain.warning(&self.bridge)).collect()
    }
}

async fn look_for_ever(bridge: String, found: Arc<Mutex<BTreeSet<Chain>>>, events: Events) {
    loop {
        match look(&bridge).await {
            Ok(now) => {
                let before = std::mem::replace(
                    &mut *found.lock().unwrap_or_else(PoisonError::into_inner),
                    now.clone(),
                );
                for chain in now.difference(&before) {
                    let event = NewEvent::new("node", "", "ForwardingBlocked", chain.warning(&bridge));
                    events.emit(event.warning());
                }
            }
            Err(error) => tracing::debug!(%error, "the host's packet filters cannot be listed"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Chains that drop; one whose table names our bridge was told to let it pass.
async fn look(bridge: &str) -> Result<BTreeSet<Chain>, RunError> {
    let mut found = BTreeSet::new();
    for chain in dropping(&nft::chains().await?) {
        if !nft::table(&chain.family, &chain.table).await?.contains(&format!("\"{bridge}\"")) {
            found.insert(chain);
        }
    }
    Ok(found)
}

/// A base chain of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Chain {
    family: String,
    table: String,
    name: String,
    #[serde(default)]
    hook: String,
    #[serde(default)]
    policy: String,
}

impl Chain {
    fn warning(&self, bridge: &str) -> String {
        let Self { family, table, name, .. } = self;
        format!(
            "chain {name} of table {family} {table} drops what it does not know, and so all that workloads send \
             and get beyond this host; to let it pass: nft insert rule {family} {table} {name} iifname {bridge} \
             accept; nft insert rule {family} {table} {name} oifname {bridge} accept (what must not reach a \
             workload is still dropped by the capsule's own table)"
        )
    }
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    chain: Option<Chain>,
}

/// Base chains at the forward hook whose policy is to drop; ours accepts.
fn dropping(json: &str) -> BTreeSet<Chain> {
    let listing = serde_json::from_str(json).unwrap_or(Listing { nftables: Vec::new() });
    let chains = listing.nftables.into_iter().filter_map(|object| object.chain);
    let forwards =
        |chain: &Chain| matches!(chain.family.as_str(), "ip" | "ip6" | "inet") && chain.hook == "forward";
    chains.filter(|chain| forwards(chain) && chain.policy == "drop").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_that_drops_what_is_forwarded_is_found_among_others() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"chain": {"family": "ip", "table": "filter", "name": "DOCKER", "handle": 4}},
            {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "handle": 1, "type": "filter",
                       "hook": "input", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 2, "type": "filter",
                       "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "capsule_a3f2", "name": "forward", "handle": 9,
                       "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}}]}"#;
        let found: Vec<_> = dropping(json).into_iter().map(|chain| chain.warning("cap-a3f2")).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("nft insert rule ip filter FORWARD iifname cap-a3f2 accept"), "{found:?}");
        assert!(dropping("not json").is_empty());
    }
}
