//! `capsuled`: the agent of one capsule.
//!
//! Feature first: each capability is a folder with the same rooms (`mod.rs` types and verbs,
//! `table.rs` its rows, `rpc.rs` its gRPC service). [`agent`] is the only wiring.
//!
//! - [`store`]: SQLite; [`event`]: what happened; [`clock`], [`status`]: time and errors;
//! - [`identity`]: capsule id, TLS, operator keys, claim window, tokens, roles;
//! - [`node`]: the machine and the agent's own log;
//! - [`runtime`]: the seam to containerd; [`image`]: what it runs;
//! - [`network`]: bridge, addresses, ports, names; [`volume`]: block devices with a file system;
//! - [`fabric`]: the capsule among others: its key, the member map, the link to its peers;
//! - [`discovery`]: the capsule announced in its network;
//! - [`workload`]: the actors that make desired workloads real;
//! - [`debug`]: privileged shells on the machine itself;
//! - [`boot`]: the appliance: PID 1, and what it and the agent tell each other;
//! - [`update`]: the appliance's system in its two slots;
//! - [`install`]: a capsule put on a disk, from a removable medium;
//! - [`sys`]: one file per external tool or kernel interface.

pub mod agent;
pub mod boot;
pub mod clock;
pub mod config;
pub mod debug;
pub mod discovery;
pub mod event;
pub mod fabric;
pub mod identity;
pub mod image;
pub mod install;
pub mod logging;
pub mod network;
pub mod node;
pub mod runtime;
pub mod status;
pub mod store;
pub mod sys;
pub mod update;
pub mod volume;
pub mod workload;
