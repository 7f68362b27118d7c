//! What scenario tests are written with.
//!
//! ```no_run
//! # use testbed::scenario::Fleet;
//! # async fn story() -> anyhow::Result<()> {
//! let fleet = Fleet::netns(2).await?;
//! fleet.capsule("a").apply("kind: Container\nname: web\ncontainer: {…}").await?;
//! fleet.expect_reachable("web@a", 8080).await?;
//! # Ok(()) }
//! ```
//!
//! A fleet of namespaces is made in a second. One of machines ([`FleetBuilder::qemu`]) boots the
//! appliance's image, takes minutes, and lets one harm hardware: `fleet.vm("a").cut_power().await?`.
//!
//! Tests run the real `capsuled` and `fleetctl`. A fleet is taken down when it is dropped, also by
//! a panic; before that, [`report`] prints what its capsules have to say. A returned error counts
//! as well: a fleet that goes without [`Fleet::passed`] was not meant to.

mod capsule;
mod fault;
mod fleet;
mod forge;
mod listener;
mod machine;
mod manifest;
mod operator;
mod reach;
mod relay;
mod report;

pub(crate) use self::listener::Listener;
pub use self::{
    capsule::Capsule,
    fleet::{DIR, Fleet, FleetBuilder, wait_agent, wait_listens},
    forge::Forger,
    machine::Machine,
    manifest::{FOREVER, echo, labelled, shell},
    operator::{Operator, Output, on_a_terminal},
    reach::{http_get, tcp_echo, udp_echo},
    relay::Relay,
};

use std::time::{Duration, Instant};

use anyhow::Result;

/// Between two looks at something that is awaited.
const POLL: Duration = Duration::from_millis(25);

/// Calls `look` until it succeeds; its last error when `limit` is over.
pub async fn eventually<T>(limit: Duration, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > end => {
                return Err(error.context(format!("not so within {} s", limit.as_secs())));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}
