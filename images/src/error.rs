//! What can go wrong with an image.

use std::{io, path::PathBuf};

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Each says what was attempted, on what, why it failed, and what would make it work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program of this system is missing.
    #[error("cannot run {program}; `scripts/setup` installs it")]
    Spawn {
        /// What was to run.
        program: String,
        /// Why it did not.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed ({status}):\n{}", said.trim_end())]
    Failed {
        /// With its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote.
        said: String,
    },
    /// A file of this system.
    #[error("cannot {what} {}", path.display())]
    File {
        /// As a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is not what it should be: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No mirror of Debian is configured.
    #[error("this system's apt knows no mirror of Debian; name one with --mirror URL")]
    NoMirror,
    /// A package does not have a file that the image takes from it.
    #[error("package {package} has no {pattern}; correct {}", list.display())]
    NotInPackage {
        /// The package.
        package: String,
        /// What was asked for.
        pattern: String,
        /// Where it was asked for.
        list: PathBuf,
    },
    /// A program needs a library that no package brought.
    #[error("{} needs {library}, which no package here has; add its package to the list", program.display())]
    NoLibrary {
        /// The program, within the tree.
        program: PathBuf,
        /// The library.
        library: String,
    },
    /// The kernel lacks a module that was asked for.
    #[error("the kernel has no module {0}; correct modules.toml")]
    NoModule(String),
    /// A key or a bundle.
    #[error(transparent)]
    Bundle(#[from] capsule_bundle::write::WriteError),
    /// Something is larger than its place.
    #[error("{what} has {} MiB and must not exceed {} MiB; take something out", bytes >> 20, limit >> 20)]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
}

impl Error {
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    pub(crate) fn malformed(path: impl Into<PathBuf>, why: impl ToString) -> Self {
        Self::Malformed { path: path.into(), why: why.to_string() }
    }
}
