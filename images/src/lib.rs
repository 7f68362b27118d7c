//! The appliance's image: from Debian's packages and our own programs to a disk that boots.
//!
//! ```text
//!   packages ──▶ tree ──▶ erofs ──▶ verity ──▶ root.img ─┬─▶ disk  capsule.img
//!      │          ▲                    │ root hash        │
//!      │          ├ capsuled           ▼                  └─▶ capsule-VERSION.update
//!      │          └ oci: debug, edge   uki ──▶ kernel.efi ─┘
//!      └─────────▶ initramfs ──────────▲
//! ```
//!
//! - [`contents`]: what an image has of which package, read from `images/contents`; plain values.
//! - [`packages`]: fetches and unpacks them, and knows what they are.
//! - [`tree`]: a directory with the files that were asked for; [`elf`] adds the libraries they need.
//! - [`modules`], [`dress`]: what a package's scripts would have done, and our own files.
//! - [`oci`]: a tree as an OCI image.
//! - [`root`]: a tree as erofs with dm-verity behind it.
//! - [`initramfs`], [`uki`]: what the firmware starts.
//! - [`esp`], [`disk`]: partitions.
//! - [`keys`]: who signs updates.
//! - [`sbom`]: what is in it.
//! - [`materials`], [`pipeline`]: all of these in order; the only wiring.
//!
//! Each step is a function of files to files, blocks, and is the same whenever its inputs are: times are
//! those of [`EPOCH`], and ids come from what they name.

pub mod contents;
pub mod disk;
pub mod dress;
pub mod elf;
mod error;
pub mod esp;
pub mod initramfs;
pub mod keys;
mod lock;
pub mod materials;
pub mod modules;
pub mod oci;
pub mod packages;
pub mod pipeline;
pub mod root;
mod run;
pub mod sbom;
pub mod steps;
pub mod tree;
pub mod uki;

pub use error::{Error, Result};

/// The time of every file, in seconds since 1970: the day of the first commit.
pub const EPOCH: u64 = 1_795_219_200;
