//! The agent's own log: to stderr, and into two files of bounded size in the state directory.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use capsule_proto::LOG_CURSOR_KEY;
use tokio::sync::watch;
use tonic::Response;
use tracing_subscriber::{
    EnvFilter, fmt::MakeWriter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

const FILE_NAME: &str = "agent.log";
const OLD_FILE_NAME: &str = "agent.log.1";
/// At this size the file becomes `agent.log.1`, replacing the one before it.
const FILE_BYTES: u64 = 1 << 20;
/// What is logged where `CAPSULED_LOG` does not say otherwise.
const DEFAULT_FILTER: &str = "info,h2=warn,hyper=warn,rustls=warn,tonic=warn,netlink_packet_route=error";

/// Where the log is kept; cheap to clone.
#[derive(Clone, Debug)]
pub struct LogRing {
    dir: Arc<Path>,
    file: Arc<Mutex<Current>>,
    grew: watch::Sender<()>,
}

#[derive(Debug)]
struct Current {
    file: File,
    bytes: u64,
}

impl LogRing {
    /// Opens `agent.log` in `dir` and continues it.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let file = append(&dir.join(FILE_NAME))?;
        let bytes = file.metadata()?.len();
        let file = Arc::new(Mutex::new(Current { file, bytes }));
        Ok(Self { dir: dir.into(), file, grew: watch::Sender::new(()) })
    }

    /// The file that is written now.
    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE_NAME)
    }

    /// The file before it, which may not exist.
    pub fn old_path(&self) -> PathBuf {
        self.dir.join(OLD_FILE_NAME)
    }

    /// Changes whenever a line was added.
    pub fn grew(&self) -> watch::Receiver<()> {
        self.grew.subscribe()
    }

    /// Each line goes to the kernel at once, so that a killed agent's last words are there.
    fn append(&self, lines: &[u8]) -> io::Result<()> {
        let mut current = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if current.bytes > 0 && current.bytes + lines.len() as u64 > FILE_BYTES {
            fs::rename(self.path(), self.old_path())?;
            *current = Current { file: append(&self.path())?, bytes: 0 };
        }
        current.file.write_all(lines)?;
        current.bytes += lines.len() as u64;
        drop(current);
        self.grew.send_replace(());
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// One event of the log; written whole when it is dropped.
#[derive(Debug)]
pub struct LineWriter {
    ring: LogRing,
    line: Vec<u8>,
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        // A full disk must not stop the agent; stderr has the line too.
        let _ = self.ring.append(&self.line);
    }
}

impl<'a> MakeWriter<'a> for LogRing {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter { ring: self.clone(), line: Vec::with_capacity(256) }
    }
}

/// An answer that streams a log, with the cursor of the place where it begins: a follower whose
/// connection breaks before the first line came goes on from there.
pub fn beginning_at<T>(stream: T, cursor: Option<String>) -> Response<T> {
    let mut response = Response::new(stream);
    if let Some(cursor) = cursor.and_then(|cursor| cursor.parse().ok()) {
        response.metadata_mut().insert(LOG_CURSOR_KEY, cursor);
    }
    response
}

/// Sends the whole process's log to stderr and to `ring`. Called once, by `main`.
pub fn init(ring: LogRing) {
    let filter = EnvFilter::try_from_env("CAPSULED_LOG").unwrap_or_else(|_| DEFAULT_FILTER.into());
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    let to_stderr = to_stderr.with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    let to_ring = tracing_subscriber::fmt::layer().with_writer(ring).with_ansi(false).with_target(false);
    tracing_subscriber::registry().with(filter).with(to_stderr).with(to_ring).init();
}

/// Sends the log of a process beside the agent to stderr. Called once, by `main`.
pub fn init_stderr(default_filter: &str) {
    let filter = EnvFilter::try_from_env("CAPSULED_LOG").unwrap_or_else(|_| default_filter.into());
    let to_stderr = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    let to_stderr = to_stderr.with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    tracing_subscriber::registry().with(filter).with(to_stderr).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_two_files_of_bounded_size_and_continues_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let line = vec![b'x'; 1 << 16];
        for _ in 0..3 {
            let ring = LogRing::open(dir.path()).unwrap();
            for _ in 0..20 {
                ring.make_writer().write_all(&line).unwrap();
            }
        }
        let size = |name| fs::metadata(dir.path().join(name)).unwrap().len();
        assert_eq!(size(OLD_FILE_NAME), FILE_BYTES);
        assert!(size(FILE_NAME) <= FILE_BYTES);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
