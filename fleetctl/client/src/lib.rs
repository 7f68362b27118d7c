//! How an operator's program talks to capsules.
//!
//! - [`Fleet`]: the operator's configuration directory: contexts and the key; [`Selection`] picks
//!   [`Target`]s from it;
//! - [`Connector`] makes a [`Capsule`] of a target: TLS 1.3 pinned by fingerprint, mutual, with a
//!   token signed for every call;
//! - [`fan_out`] runs one call on many capsules and yields results as they come;
//! - [`update`] brings a new system to a capsule;
//! - [`adopt`] meets a capsule for the first time;
//! - [`browse`] hears of capsules that announce themselves in the network.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use capsule_client::{FanOut, Fleet, Selection, fan_out};
//! use futures_util::StreamExt as _;
//!
//! let fleet = Fleet::open()?;
//! let targets = fleet.resolve(&Selection { all: true, ..Selection::default() })?;
//! let mut results = fan_out(&fleet.connector()?, targets, FanOut::default(), async |capsule| {
//!     Ok(capsule.node().get_info(capsule_proto::v1::GetInfoRequest {}).await?.into_inner())
//! });
//! while let Some((target, result)) = results.next().await {
//!     println!("{}: {}", target.name, result.map_or_else(|error| error.to_string(), |info| info.version));
//! }
//! # Ok(()) }
//! ```

mod address;
pub mod adopt;
pub mod browse;
mod capsule;
mod connector;
mod context;
mod error;
mod fabric;
mod fan_out;
mod fleet;
mod home;
mod key;
mod rotation;
mod target;
mod tls;
pub mod update;

pub use address::{Address, AddressError};
pub use capsule::{Capsule, Link, MAX_MESSAGE_BYTES};
pub use connector::{CONNECT_TIMEOUT, Connector};
pub use context::{Context, ContextError, Contexts};
pub use error::{CallError, ErrorKind};
pub use fabric::signed_by;
pub use fan_out::{DEFAULT_LIMIT, FanOut, fan_out};
pub use fleet::Fleet;
pub use home::{ConfigError, Home};
pub use key::{KeyError, OperatorKey, TOKEN_LIFETIME};
pub use target::{ENVIRONMENT, Selection, Target, TargetError};
