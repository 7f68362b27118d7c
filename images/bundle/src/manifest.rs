//! What stands in `manifest.json`.

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::{Digest, ManifestError};

/// The format that is written and read.
pub const FORMAT: u32 = 1;
/// A manifest has a dozen short fields.
pub const MAX_MANIFEST_BYTES: u64 = 16 << 10;
/// Two of them, and a third for a moment, fit the boot partition of 256 MiB.
pub const MAX_KERNEL_BYTES: u64 = 80 << 20;
/// A slot's size.
pub const MAX_ROOT_BYTES: u64 = 512 << 20;

/// Blocks of erofs and of its verity tree.
const BLOCK_BYTES: u64 = 4096;

/// What a bundle is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Of the system inside. Build metadata counts: `0.2.0+2` is newer than `0.2.0+1`.
    pub version: Version,
    /// The least version that this one may replace.
    pub minimum_version: Version,
    /// As `uname -m` has it.
    pub architecture: String,
    /// `kernel.efi`.
    pub kernel: Kernel,
    /// `root.img`.
    pub root: Root,
}

/// The unified kernel image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Its size.
    pub bytes: u64,
    /// Of all of it.
    pub sha256: Digest,
}

/// The root file system with its verity tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The size of both together.
    pub bytes: u64,
    /// Of both together.
    pub sha256: Digest,
    /// What the kernel verifies the file system with.
    pub roothash: Digest,
    /// The file system's part, where the tree begins.
    pub data_bytes: u64,
}

/// Read before all else: other formats may have other fields.
#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Manifest {
    /// From the bytes of `manifest.json`.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let head: Head = serde_json::from_slice(json)?;
        if head.format != FORMAT {
            return Err(ManifestError::Format(head.format));
        }
        let manifest: Self = serde_json::from_slice(json)?;
        manifest.check()?;
        Ok(manifest)
    }

    pub(crate) fn check(&self) -> Result<(), ManifestError> {
        bounded("kernel.efi", self.kernel.bytes, MAX_KERNEL_BYTES)?;
        bounded("root.img", self.root.bytes, MAX_ROOT_BYTES)?;
        let Root { bytes, data_bytes, .. } = self.root;
        if data_bytes == 0 || data_bytes >= bytes || !data_bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(ManifestError::Data { data_bytes, bytes });
        }
        Ok(())
    }

    /// Bytes of everything that a capsule must have in the end.
    pub fn content_bytes(&self) -> u64 {
        self.kernel.bytes + self.root.bytes
    }
}

fn bounded(entry: &'static str, bytes: u64, limit: u64) -> Result<(), ManifestError> {
    match bytes {
        0 => Err(ManifestError::Empty { entry }),
        _ if bytes > limit => Err(ManifestError::Oversized { entry, bytes, limit }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document() -> Value {
        json!({
            "format": 1,
            "version": "0.2.0+7",
            "minimum_version": "0.1.0",
            "architecture": "x86_64",
            "kernel": { "bytes": 4096, "sha256": "00".repeat(32) },
            "root": {
                "bytes": 12288, "sha256": "11".repeat(32), "roothash": "22".repeat(32), "data_bytes": 8192
            }
        })
    }

    fn refusal(pointer: &str, value: Value) -> String {
        let mut document = document();
        *document.pointer_mut(pointer).unwrap() = value;
        Manifest::parse(document.to_string().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let manifest = Manifest::parse(document().to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&manifest).unwrap(), document());
        assert_eq!(manifest.content_bytes(), 4096 + 12288);
    }

    #[test]
    fn what_no_capsule_could_hold_is_refused_with_the_limit() {
        assert!(refusal("/kernel/bytes", json!(MAX_KERNEL_BYTES + 1)).contains("80 MiB"));
        assert!(refusal("/root/bytes", json!(u64::MAX)).contains("512 MiB"));
        assert!(refusal("/root/bytes", json!(0)).contains("empty"));
        for data_bytes in [0, 100, 12288, 16384] {
            let told = refusal("/root/data_bytes", json!(data_bytes));
            assert!(told.contains("no file system"), "{told}");
        }
    }

    #[test]
    fn a_later_format_is_named_even_where_its_fields_differ() {
        let told = Manifest::parse(br#"{"format":2,"parts":[]}"#).unwrap_err().to_string();
        assert!(told.contains("format 2"), "{told}");
    }

    #[test]
    fn fields_that_nobody_knows_and_versions_that_are_none_are_refused() {
        let mut document = document();
        document["also"] = json!(1);
        assert!(Manifest::parse(document.to_string().as_bytes()).is_err());
        refusal("/version", json!("latest"));
        refusal("/root/roothash", json!("abc"));
    }

    #[test]
    fn builds_of_one_version_have_an_order() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("0.2.0+10") > version("0.2.0+9"));
        assert!(version("0.2.0") < version("0.2.0+1") && version("0.2.0-rc.1") < version("0.2.0"));
    }
}
