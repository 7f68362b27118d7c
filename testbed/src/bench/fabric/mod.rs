//! Capsules as one private network: what policies cost, how soon things are in force, what an agent
//! needs for it.
//!
//! [`pair`]: two workloads that may speak to each other, which the benches of [`super::mesh`] use
//! too; [`rules`], [`ready`], [`enroll`], [`memory`], [`kernel`]: one bench each.

pub mod enroll;
pub mod kernel;
pub mod memory;
pub mod pair;
pub mod ready;
pub mod rules;
