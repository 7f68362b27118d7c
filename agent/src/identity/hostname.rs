//! What the capsule is called: what an operator has set, else what it was started with.
//!
//! The name is a file of its own, so that what boots the machine can read it before there is a
//! database.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use capsule_proto::Name;
use tokio::sync::watch;

use crate::sys::file;

/// File in the state directory that holds the name, where one was set.
pub const HOSTNAME_FILE: &str = "hostname";

/// The name, now and as it changes.
pub(super) struct Hostname {
    path: PathBuf,
    /// Two writers of the file must not run at once.
    writing: tokio::sync::Mutex<()>,
    current: watch::Sender<String>,
}

impl Hostname {
    /// What was set; `usual` where nothing was, or where the file holds no name.
    pub(super) fn load(state_dir: &Path, usual: String) -> Self {
        let path = state_dir.join(HOSTNAME_FILE);
        let set = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse::<Name>().map_err(|error| error.to_string()).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        let set = set.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), error, "the host name that was set is not known");
            None
        });
        let current = watch::Sender::new(set.map_or(usual, |name| name.to_string()));
        Self { path, writing: tokio::sync::Mutex::default(), current }
    }

    pub(super) fn get(&self) -> String {
        self.current.borrow().clone()
    }

    /// Tells of every change from now on.
    pub(super) fn changes(&self) -> watch::Receiver<String> {
        self.current.subscribe()
    }

    /// Sets it for good; what it was before. On the disk when it returns.
    pub(super) async fn set(&self, name: &Name) -> io::Result<String> {
        let _turn = self.writing.lock().await;
        let (path, line) = (self.path.clone(), format!("{name}\n"));
        let write = move || file::write_atomic(&path, line.as_bytes(), 0o644);
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)??;
        Ok(self.current.send_replace(name.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_was_set_outlives_the_agent_and_a_damaged_file_does_not_stop_it() {
        let dir = tempfile::tempdir().unwrap();
        let load = || Hostname::load(dir.path(), "usual".into());
        let hostname = load();
        let changes = hostname.changes();
        assert_eq!(hostname.get(), "usual");
        assert_eq!(hostname.set(&"nuc-1".parse().unwrap()).await.unwrap(), "usual");
        assert!(changes.has_changed().unwrap());
        assert_eq!(load().get(), "nuc-1");
        assert_eq!(fs::read_to_string(dir.path().join(HOSTNAME_FILE)).unwrap(), "nuc-1\n");
        for damage in [&b"no name\n"[..], b"\xff", b""] {
            fs::write(dir.path().join(HOSTNAME_FILE), damage).unwrap();
            assert_eq!(load().get(), "usual");
        }
    }
}
