//! What is wrong with a manifest, as far as no capsule is needed to know.
//!
//! `fleetctl` asks before it sends anything, the agent asks again because messages reach it over
//! the wire. Everything that is wrong is reported, not only the first. One file per part of a
//! manifest; each takes a [`Report`] that knows where it is.

mod command;
mod fabric;
mod mount;
mod name;
mod network;
mod privilege;
mod readiness;
mod report;
mod resources;
#[cfg(test)]
mod tests;
mod workload;

use std::fmt;

use report::Report;

use crate::{
    Size,
    v1::{self, manifest::Spec},
};

/// Smallest volume: the least in which ext4 has room for its journal.
pub const MIN_VOLUME: Size = Size::from_bytes(16 << 20);

/// Largest volume: what a file on ext4 with 4 KiB blocks may hold, with some room left for its map.
pub const MAX_VOLUME: Size = Size::from_bytes(15 << 40);

/// A size that no volume can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{asked} is too {} for a volume, which has {MIN_VOLUME} to {MAX_VOLUME}",
    if *.asked < MIN_VOLUME { "small" } else { "large" }
)]
pub struct VolumeSizeError {
    /// What was asked for.
    pub asked: Size,
}

/// Whether a volume can have this size.
pub fn check_volume_size(size: Size) -> Result<(), VolumeSizeError> {
    if (MIN_VOLUME..=MAX_VOLUME).contains(&size) { Ok(()) } else { Err(VolumeSizeError { asked: size }) }
}

/// One thing that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, as an operator writes it: `container.ports[0].hostPort`, and `size` for a volume.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.pad(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Everything that is wrong with `manifest`; nothing where a capsule may look at it further.
pub fn validate(manifest: &v1::Manifest) -> Vec<Violation> {
    let mut report = Report::default();
    check_kind(&mut report, manifest);
    report.at("name", |report| name::check_name(report, &manifest.name));
    report.at("labels", |report| name::check_labels(report, &manifest.labels));
    match &manifest.spec {
        Some(Spec::Container(spec)) => {
            report.at("container", |report| workload::check_container(report, &manifest.name, spec));
        }
        Some(Spec::MicroVm(spec)) => {
            report.at("microVm", |report| workload::check_micro_vm(report, &manifest.name, spec));
        }
        Some(Spec::Volume(spec)) => report.at("size", |report| check_volume(report, spec.size)),
        None => {}
    }
    report.done()
}

/// The kind is known and has the body it needs.
fn check_kind(report: &mut Report, manifest: &v1::Manifest) {
    let body = match &manifest.spec {
        Some(Spec::Container(_)) => Some(v1::Kind::Container),
        Some(Spec::MicroVm(_)) => Some(v1::Kind::MicroVm),
        Some(Spec::Volume(_)) => Some(v1::Kind::Volume),
        None => None,
    };
    match (v1::Kind::try_from(manifest.kind), body) {
        (Ok(v1::Kind::Unspecified), Some(body)) => {
            report.add_at("kind", format!("it is missing; write kind: {body}"));
        }
        (Ok(v1::Kind::Unspecified), None) => {
            report.add_at("kind", "it is missing; write Container, MicroVM or Volume");
        }
        (Ok(kind), Some(body)) if kind != body => {
            report.add_at("kind", format!("it is {kind}, but the manifest describes a {body}"));
        }
        (Ok(v1::Kind::Container), None) => report.add("a Container needs a body: container: {image: …}"),
        (Ok(v1::Kind::MicroVm), None) => report.add("a MicroVM needs a body: microVm: {image: …}"),
        (Ok(v1::Kind::Volume), None) => report.add("a Volume needs a size, such as size: 10GiB"),
        (Ok(_), Some(_)) => {}
        (Err(_), _) => report.add_at("kind", "it is of a kind this version does not know"),
    }
}

fn check_volume(report: &mut Report, bytes: u64) {
    match Size::from_bytes(bytes) {
        Size::ZERO => report.add("it is missing; write a size, such as 10GiB"),
        size => check_volume_size(size).unwrap_or_else(|error| report.add(error.to_string())),
    }
}
