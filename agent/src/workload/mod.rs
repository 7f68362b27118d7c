//! Workloads: from a manifest to a process that keeps running.
//!
//! - [`Workloads`] (`registry.rs`) holds one [`handle::Handle`] and one actor task for each
//!   workload; the verbs (`apply.rs`, `verbs.rs`) commit to the store and then hand the new
//!   desired state to the actor.
//! - `plan.rs` is pure: desired + observed + volatile → the next [`plan::Step`]. `actor.rs` asks
//!   it, executes that one step and asks again.
//! - `rpc.rs` is the gRPC service; `logs/`, `exec.rs` and `copy/` serve its streams; `probe.rs`
//!   asks a running workload whether it is ready.
//! - `needs.rs` names what the actors want of images, network and volumes; `adapters.rs` says how
//!   the capabilities give it.
//!
//! Tasks: one actor a workload, one probe a running workload that asks for it, one that listens
//! to the runtime's events, one slow sweep. All of them sleep until something happens.
//!
//! ```text
//!            apply                    image there           task started
//!   (none) ────────▶ Pending ─▶ Pulling ─▶ Starting ──────────────────▶ Running
//!                       ▲                     ▲   │ step failed             │ process ended
//!                       │ spec changed        │   ▼                         ▼
//!                       │            BackOff / CrashLoop ◀──── policy restarts it
//!                       │                                                   │ policy does not
//!        start          │          task gone               ┌────────────────┴─────┐
//!   Stopped ────────────┘   Stopped ◀─── Stopping ◀─ stop  Completed (0)     Failed (else)
//!
//!   any ── delete ─▶ Deleting ─▶ (none)
//! ```
//!
//! What survives what:
//!
//! - The row (manifest, desired state, how often and how runs ended) is committed before anything is done,
//!   and an exit is committed before its task is deleted: `kill -9` at any instant leaves either
//!   the intent or the evidence, and the next agent goes on from there.
//! - A running task whose sandbox carries the desired hash is never touched by a start of the
//!   agent. Sandboxes without a row are removed.
//! - Apply changes what a workload is, not whether it runs: one that an operator stopped stays
//!   stopped, with its new spec, until `start`.
//! - A `restart` is part of the row: an agent that dies right after it leaves the intent.
//! - A wait between runs goes on under the next agent, and so does the count that makes a crash loop.
//! - A task that vanished without a trace (the host or its engine went down) is started again,
//!   unless its workload is to stand still or to run once: a run of policy `never` that had begun
//!   is over, and counts as failed.

mod actor;
mod adapters;
mod apply;
pub mod backoff;
mod copy;
mod diff;
mod error;
pub mod exec;
#[cfg(test)]
mod fake;
mod handle;
pub mod logs;
pub mod needs;
mod plan;
mod probe;
mod procfs;
mod registry;
mod rpc;
mod spec;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod validate;
mod verbs;
mod wait;

pub use error::WorkloadError;
pub use registry::{WorkloadParts, Workloads};
