//! What an image is made of, as `images/contents` says: files of packages, and why.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

use crate::{Error, Result};

/// One of the lists.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The file it was read from.
    pub list: PathBuf,
    /// By name.
    pub packages: BTreeMap<String, Files>,
}

/// What is taken of a package.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// What it is there for.
    pub why: String,
    /// Paths without the leading `/`, with `*` within a name; of a directory all that is in it.
    pub keep: Vec<String>,
    /// Symbolic links that the package's scripts would have made, with what they point to.
    #[serde(default)]
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// Which of the kernel's modules are taken.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modules {
    /// Folders below `kernel/` that the root does without.
    pub drop: Vec<String>,
    /// What the initramfs has.
    pub initramfs: Early,
}

/// Modules of the initramfs, by name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Early {
    /// Loaded on every machine, in this order.
    pub always: Vec<String>,
    /// Loaded where a device asks for it.
    pub drivers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    packages: BTreeMap<String, Files>,
}

impl Contents {
    /// Reads the list of that name.
    pub fn read(contents: &Path, name: &str) -> Result<Self> {
        let (list, List { packages }) = read(contents, name)?;
        Ok(Self { list, packages })
    }
}

impl Modules {
    /// Reads `modules.toml`.
    pub fn read(contents: &Path) -> Result<Self> {
        Ok(read(contents, "modules")?.1)
    }
}

fn read<T: DeserializeOwned>(contents: &Path, name: &str) -> Result<(PathBuf, T)> {
    let path = contents.join(format!("{name}.toml"));
    let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let list = toml::from_str(&text).map_err(|error| Error::malformed(&path, error))?;
    Ok((path, list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_this_repository_are_read() {
        let contents = Path::new(env!("CARGO_MANIFEST_DIR")).join("contents");
        for name in ["root", "debug", "edge", "tools"] {
            assert!(!Contents::read(&contents, name).unwrap().packages.is_empty());
        }
        assert!(Modules::read(&contents).unwrap().initramfs.always.contains(&"erofs".to_owned()));
    }

    #[test]
    fn a_field_that_nobody_knows_is_refused_with_the_file_that_has_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("root.toml"), "[packages.a]\nwhy = 'b'\nkeep = []\nkept = []\n").unwrap();
        let error = Contents::read(dir.path(), "root").unwrap_err().to_string();
        assert!(error.contains("root.toml") && error.contains("kept"), "{error}");
    }
}
