//! Image archives: what `docker save`, `podman save`, `skopeo`, `buildx` and the like write.
//!
//! An archive is a tar, plain or compressed, whose entries may come in any order. [`receive`]
//! writes its blobs into the content store as they arrive; [`plan`] then says, from the small
//! documents that were kept, which images the archive holds.

mod compression;
mod plan;
mod receive;

pub use compression::decompress;
pub use plan::{Found, Source, annotated_name, plan};
pub use receive::{Received, Stored, receive};
