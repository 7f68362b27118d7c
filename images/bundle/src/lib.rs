//! Update bundles, `capsule-VERSION.update`: what an operator pushes to capsules.
//!
//! ```text
//!   ustar, uncompressed, exactly these entries in this order
//!   ├─ manifest.json            version, sizes, hashes ([`Manifest`])
//!   ├─ manifest.json.minisig    minisign's signature of it ([`Signed`], [`ReleaseKey`])
//!   ├─ kernel.efi               the unified kernel image of the slot
//!   └─ root.img                 the slot's erofs image with its verity tree
//! ```
//!
//! - [`Bundle`] reads one, refusing whatever is not exactly this; nothing of it is trusted before
//!   [`Signed::verify`] and [`Bundle::check_content`] agree;
//! - [`chunk`] cuts content into pieces that survive insertions, so that only new ones travel;
//! - `write` (feature) makes and signs bundles.
//!
//! Knows nothing of capsules, gRPC or disks.

mod bundle;
pub mod chunk;
mod digest;
mod error;
mod key;
mod manifest;
mod signed;
#[cfg(feature = "write")]
pub mod write;

pub use bundle::{Bundle, Part};
pub use digest::{Digest, DigestError};
pub use error::{BundleError, ManifestError, SignatureError};
pub use key::{KeyNumber, ReleaseKey, ReleaseKeyError};
pub use manifest::{FORMAT, Kernel, MAX_KERNEL_BYTES, MAX_MANIFEST_BYTES, MAX_ROOT_BYTES, Manifest, Root};
pub use semver::Version;
pub use signed::{MAX_SIGNATURE_BYTES, Signed};
