//! Fleets of capsules on one machine.
//!
//! - [`substrate`]: namespaces, addresses and agents, made and removed; `testbed up` and `down`;
//! - [`fixtures`]: images made on the spot; [`registry`]: a real registry that serves them;
//! - [`scenario`]: what tests are written with: `fleet.capsule("a").apply(…)`, faults, and a report
//!   of logs, events and network state where one fails;
//! - [`bench`]: what is measured, beside which peers;
//! - [`cli`]: the `testbed` command;
//! - [`guest`]: another kernel, for what this host's lacks;
//! - [`wireguard`]: WireGuard devices of ours and of others, joined to meshes;
//! - [`sys`]: the kernel and its tools.

pub mod bench;
pub mod cli;
pub mod fixtures;
pub mod guest;
pub mod registry;
pub mod scenario;
pub mod substrate;
pub mod sys;
pub mod wireguard;
