//! What is wrong with a manifest, and where.

use std::fmt;

/// A place in a text: both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    /// Where every text begins.
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// One thing that is wrong with a manifest: `web.yaml:7:5: container.ports[0].hostPort: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// Name of the file, as it was given.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The field, as `container.ports[0].hostPort`; empty for the document as a whole.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ManifestError {}

/// Everything that is wrong with some manifests, one line each, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestErrors(pub Vec<ManifestError>);

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(f, "{line_end}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestErrors {}

/// An error whose file is not known yet.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) at: Place,
    pub(super) path: String,
    pub(super) message: String,
    /// The path of the field that was probably meant.
    pub(super) meant: Option<String>,
}

impl Problem {
    /// A problem of the document as a whole.
    pub(super) fn new(at: Place, message: impl Into<String>) -> Self {
        Self::of("", at, message)
    }

    /// A problem of the field `path`.
    pub(super) fn of(path: &str, at: Place, message: impl Into<String>) -> Self {
        Self { at, path: path.to_owned(), message: message.into(), meant: None }
    }

    /// With the file it is in.
    pub(super) fn in_file(self, file: &str) -> ManifestError {
        let Self { at: Place { line, column }, path, message, .. } = self;
        ManifestError { file: file.to_owned(), line, column, path, message }
    }

    /// Whether a complaint about the field `path` would only follow from this problem.
    pub(super) fn explains(&self, path: &str) -> bool {
        related(&self.path, path) || self.meant.as_deref().is_some_and(|meant| related(meant, path))
    }
}

/// Whether one path is the other or lies within it.
fn related(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    let rest = long.strip_prefix(short);
    rest.is_some_and(|rest| rest.is_empty() || short.is_empty() || rest.starts_with(['.', '[']))
}
