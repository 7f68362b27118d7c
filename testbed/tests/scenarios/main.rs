//! Stories about real fleets, one file for each part of what a capsule promises.

mod access;
mod adoption;
mod bridge;
mod cgroups;
mod cli;
mod completion;
mod copy;
mod docs;
mod exec;
mod fleet;
mod images;
mod logs;
mod loss;
mod network;
mod registries;
mod state;
mod substrate;
mod terminal;
mod volumes;
mod wireguard;
mod words;
mod workload_apply;
mod workload_inside;
mod workload_kill;
mod workload_life;
mod workloads;
