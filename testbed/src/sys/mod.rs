//! Thin wrappers over the kernel and its tools: [`run`] is the one place that runs commands.

pub mod cgroup;
pub mod disk;
pub mod link;
pub mod netns;
pub mod process;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end and returns its stdout; anything but success is an error that says
/// what ran, how it ended and what it wrote to stderr.
pub fn run(command: &mut Command, stdin: &str) -> Result<String> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{shown}`"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command that ends without reading says why on stderr.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for `{shown}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` ended with {}: {}", output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command line as a person would type it.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// The program of this workspace called `name`: beside the running executable (or its parent, for
/// tests), unless the upper-case environment variable of that name says where.
pub fn program(name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(name.to_uppercase()) {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    beside.with_context(|| {
        format!(
            "there is no {name} beside {}: build the whole workspace first (`cargo build`), or set {}",
            own.display(),
            name.to_uppercase()
        )
    })
}

/// Where this workspace is built, and `scripts/setup` puts what it fetches.
pub fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target")
}

/// Writes a file as a whole or not at all.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    let dir = path.parent().with_context(|| format!("{} has no directory", path.display()))?;
    let mut file =
        tempfile::NamedTempFile::new_in(dir).with_context(|| format!("cannot write in {}", dir.display()))?;
    file.write_all(content)?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}
