//! What can go wrong with a machine.

use std::{io, path::PathBuf, time::Duration};

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Each says what was attempted, on what, why it failed, and what would make it work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot be run.
    #[error("cannot run {}; it must be installed and executable", program.display())]
    Spawn {
        /// What was to run.
        program: PathBuf,
        /// Why it did not.
        #[source]
        source: io::Error,
    },
    /// QEMU ended before the guest ran.
    #[error("{} refused the machine ({status}); correct what it names:\n{}", program.display(), said.trim_end())]
    Refused {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: String,
        /// What it wrote.
        said: String,
    },
    /// A helper program failed.
    #[error("`{command}` failed ({status}):\n{}", said.trim_end())]
    Failed {
        /// With its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote.
        said: String,
    },
    /// The machine's description contradicts itself or QEMU's limits.
    #[error("the machine cannot be built: {0}")]
    Invalid(String),
    /// Something did not happen in time. The machine goes on as it is.
    #[error("{what} took longer than {} s{}", limit.as_secs_f32(), after(tail))]
    TimedOut {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
        /// The end of what the console had then.
        tail: String,
    },
    /// The machine ended while something was expected of it.
    #[error("the machine ended before {what}{}", after(tail))]
    Ended {
        /// What was waited for.
        what: String,
        /// The end of what the console had then.
        tail: String,
    },
    /// The guest's console refused a user.
    #[error("the guest did not let {user} log in{}", after(tail))]
    Login {
        /// Who.
        user: String,
        /// The end of what the console had then.
        tail: String,
    },
    /// A shell's answer is no exit code: something else writes to the console.
    #[error(
        "the shell told {found:?} where an exit code was due; keep others off the console{}",
        after(tail)
    )]
    Garbled {
        /// What it told.
        found: String,
        /// The end of what the console had then.
        tail: String,
    },
    /// QEMU answered a command with an error.
    #[error("QEMU refuses {command}: {description}")]
    Command {
        /// QMP's name of it.
        command: String,
        /// QEMU's words.
        description: String,
    },
    /// The connection to QEMU's control socket broke.
    #[error("QEMU's control socket failed at {command}; the machine has ended or is ending")]
    Control {
        /// QMP's name of what was attempted.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of this host.
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
    /// The kernel lacks a module that was asked for.
    #[error("{} names no module {name}; the kernel's package has others", file.display())]
    NoModule {
        /// The list of modules.
        file: PathBuf,
        /// The module.
        name: String,
    },
}

impl Error {
    /// A time-out of a part as one of the whole.
    pub(crate) fn named(self, whole: &str, limit: Duration) -> Self {
        match self {
            Self::TimedOut { tail, .. } => Self::TimedOut { what: whole.to_owned(), limit, tail },
            other => other,
        }
    }

    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}

fn after(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!("; its console ends with:\n{tail}") }
}
