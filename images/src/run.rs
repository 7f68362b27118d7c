//! External programs: one way to run them, and a full report of what went wrong.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use crate::{EPOCH, Error, Result, elf::LIBRARIES};

/// A program with its arguments.
pub struct Program(Command);

impl Program {
    /// One of this system.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("TZ", "UTC").env("SOURCE_DATE_EPOCH", EPOCH.to_string());
        Self(command)
    }

    /// One of a tree, with its own loader and libraries: this system's may be older.
    pub fn inside(tree: &Path, name: &str) -> Self {
        Self::new(tree.join("usr/lib64/ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(tree.join(LIBRARIES[0]))
            .arg(tree.join(name))
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.0.arg(argument);
        self
    }

    /// More arguments.
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.0.args(arguments);
        self
    }

    /// With a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it and returns what it wrote to standard output.
    pub fn run(self) -> Result<Vec<u8>> {
        self.run_with(b"")
    }

    /// The same, feeding it `input`, which it reads before it writes much.
    pub fn run_with(mut self, input: &[u8]) -> Result<Vec<u8>> {
        let program = self.0.get_program().to_string_lossy().into_owned();
        let failed = |source| Error::Spawn { program: program.clone(), source };
        self.0.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.0.spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read its input says why in its own words.
            let _ = stdin.write_all(input);
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        let words = std::iter::once(self.0.get_program()).chain(self.0.get_args());
        let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        Err(Error::Failed {
            command: words.join(" "),
            status: output.status.to_string(),
            said: String::from_utf8_lossy(said).into_owned(),
        })
    }

    /// Runs it and returns the text that it wrote.
    pub fn text(self) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.run()?).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_is_quoted_with_its_words() {
        let error = Program::new("sh").args(["-c", "echo no such luck >&2; exit 3"]).run().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c echo no such luck >&2; exit 3` failed (exit status: 3):\nno such luck"
        );
    }

    #[test]
    fn a_program_that_is_missing_is_told_with_what_installs_it() {
        let error = Program::new("no-such-program").run().unwrap_err();
        assert_eq!(error.to_string(), "cannot run no-such-program; `scripts/setup` installs it");
    }

    #[test]
    fn a_program_reads_its_input() {
        assert_eq!(Program::new("cat").run_with(b"words").unwrap(), b"words");
    }
}
