//! Manifests from files, directories and standard input.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    ManifestErrors,
    document::Document,
    error::{Place, Problem},
    source::{self, MAX_BYTES},
};
use crate::v1;

/// Endings of the files that are read from a directory.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Why manifests cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file or directory cannot be read.
    #[error("cannot read manifests from {}", shown(path))]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// Why it could not be.
        source: io::Error,
    },
    /// The directory has nothing to read.
    #[error("{} has no *.yaml, *.yml or *.json file in it; directories below it are not read", path.display())]
    NoFiles {
        /// The directory.
        path: PathBuf,
    },
    /// Files were read, and something is wrong in them.
    #[error(transparent)]
    Invalid(#[from] ManifestErrors),
}

/// Reads every manifest of a file, of a directory's `*.yaml`, `*.yml` and `*.json` files in the
/// order of their names, or of standard input where `path` is `-`.
pub fn load(path: &Path) -> Result<Vec<v1::Manifest>, LoadError> {
    load_all(&[path])
}

/// As [`load`], of several at once: no two may describe the same thing.
pub fn load_all<P: AsRef<Path>>(paths: &[P]) -> Result<Vec<v1::Manifest>, LoadError> {
    let mut loaded = Loaded::default();
    for path in paths {
        for file in files(path.as_ref())? {
            loaded.read(&file)?;
        }
    }
    loaded.finish()
}

/// A path for people: `-` is standard input.
pub fn shown(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() }
}

fn cannot_read(path: &Path) -> impl FnOnce(io::Error) -> LoadError {
    move |source| LoadError::Read { path: path.to_owned(), source }
}

/// The file itself, or the files of a directory.
fn files(path: &Path) -> Result<Vec<PathBuf>, LoadError> {
    if path.as_os_str() == "-" || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(cannot_read(path))? {
        let file = entry.map_err(cannot_read(path))?.path();
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if ENDINGS.contains(&ending.to_ascii_lowercase().as_str()) && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(LoadError::NoFiles { path: path.to_owned() });
    }
    files.sort();
    Ok(files)
}

/// What has been read so far.
#[derive(Default)]
struct Loaded {
    manifests: Vec<v1::Manifest>,
    errors: Vec<super::ManifestError>,
    /// Where each kind and name is described.
    seen: HashMap<(i32, String), (String, Place)>,
}

impl Loaded {
    fn read(&mut self, path: &Path) -> Result<(), LoadError> {
        let is_stdin = path.as_os_str() == "-";
        let file = if is_stdin { "<stdin>".to_owned() } else { path.display().to_string() };
        let bytes = if is_stdin { read(io::stdin().lock()) } else { File::open(path).and_then(read) };
        let bytes = bytes.map_err(cannot_read(path))?;
        let documents = text(bytes)
            .map_err(|problem| ManifestErrors(vec![problem.in_file(&file)]))
            .and_then(|text| source::documents(&file, &text));
        match documents {
            Ok(documents) => documents.into_iter().for_each(|document| self.take(&file, document)),
            Err(ManifestErrors(errors)) => self.errors.extend(errors),
        }
        Ok(())
    }

    fn take(&mut self, file: &str, document: Document) {
        if let Some((other, at)) = self.seen.get(&document.identity()) {
            let Place { line, column } = at;
            let message = format!("{} is already described at {other}:{line}:{column}", document.title());
            self.errors.push(Problem::of("name", document.at, message).in_file(file));
            return;
        }
        self.seen.insert(document.identity(), (file.to_owned(), document.at));
        self.manifests.push(document.manifest);
    }

    fn finish(self) -> Result<Vec<v1::Manifest>, LoadError> {
        if self.errors.is_empty() { Ok(self.manifests) } else { Err(ManifestErrors(self.errors).into()) }
    }
}

/// At most one byte more than a text of manifests has; who counts them says so.
fn read(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> Result<String, Problem> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Problem::new(Place::START, "the file is in UTF-16; save it as UTF-8"));
    }
    // A character cut at the limit is no mistake of the file's.
    let is_cut = bytes.len() > MAX_BYTES;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        if is_cut && valid + 4 > MAX_BYTES {
            return Problem::new(Place::START, source::too_long());
        }
        let message =
            format!("the byte 0x{:02X} is not UTF-8; save the file as UTF-8", error.as_bytes()[valid]);
        Problem::new(source::place_of(&before, valid), message)
    })
}
