//! The SQLite database: what the capsule has promised.
//!
//! One thread owns the only writing connection and one other the reading one; capabilities send
//! closures to them. Writes that wait together share one commit (each in its own savepoint), so
//! that fifty applies at once cost a few syncs, not fifty. A write has happened when its future
//! resolves, not before.
//!
//! Capabilities own their tables: SQL stands in their `table.rs`, the schema's history in
//! `migrations/`.

mod migrate;
#[cfg(test)]
mod tests;
mod wal;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, Transaction};
use tokio::sync::{mpsc, oneshot};

pub use migrate::SCHEMA_VERSION;

/// File name of the database in the state directory.
pub const FILE_NAME: &str = "state.db";

/// How long SQLite waits for a lock that another process holds (a backup tool, say).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Writes that share one commit at most.
const MAX_BATCH: usize = 64;
/// Writes that may wait for the writer; more make their callers wait.
const QUEUE: usize = 256;

/// Why the database could not be opened. The agent refuses to start on any of them.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is not a sound SQLite database.
    #[error(
        "the database {path} is damaged ({detail}); nothing was changed. Restore it from a backup, or move the \
         whole state directory away to start as a new capsule, which must be adopted anew"
    )]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What SQLite said.
        detail: String,
    },
    /// There was one.
    #[error(
        "the database {path} is gone, but {trace} is there; nothing was changed. Restore it from a backup, or move \
         the whole state directory away to start as a new capsule, which must be adopted anew"
    )]
    Gone {
        /// Which file.
        path: PathBuf,
        /// What tells that it was there.
        trace: PathBuf,
    },
    /// A later capsuled wrote it.
    #[error(
        "the database {path} has schema {found}, this capsuled knows up to {known}; nothing was changed. Start a \
         capsuled at least as new as the one that wrote it"
    )]
    TooNew {
        /// Which file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The file system refused.
    #[error("the database {path} cannot be made")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Anything else.
    #[error("the database {path} cannot be opened")]
    Sqlite {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}

/// Why a read or write did not happen. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("the capsule's database refused: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Closed,
}

type Job = Box<dyn FnOnce(&mut Transaction<'_>) -> Done + Send>;
/// Called after the commit, with its outcome.
type Done = Box<dyn FnOnce(Result<(), &rusqlite::Error>) + Send>;
type ReadJob = Box<dyn FnOnce(&Connection) + Send>;

/// A handle to the database; cheap to clone.
#[derive(Clone)]
pub struct Store {
    writer: mpsc::Sender<Job>,
    reader: mpsc::Sender<ReadJob>,
    path: Arc<Path>,
    /// Ends when both threads have closed their connections.
    ended: Arc<tokio::sync::Mutex<mpsc::Receiver<()>>>,
}

impl Store {
    /// Opens or creates `FILE_NAME` in `dir`, checks it and migrates it.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE_NAME);
        let connection = migrate::open(&path)?;
        let reading =
            open_connection(&path).map_err(|source| OpenError::Sqlite { path: path.clone(), source })?;
        let (writer, jobs) = mpsc::channel(QUEUE);
        let (reader, reads) = mpsc::channel(QUEUE);
        let (alive, ended) = mpsc::channel(1);
        let also_alive = alive.clone();
        spawn("store-write", move || {
            write_loop(connection, jobs);
            drop(alive);
        });
        spawn("store-read", move || {
            read_loop(reading, reads);
            drop(also_alive);
        });
        Ok(Self { writer, reader, path: path.into(), ended: Arc::new(tokio::sync::Mutex::new(ended)) })
    }

    /// Waits until the file is closed; this must be the last handle to it.
    pub async fn close(self) {
        let Self { writer, reader, ended, .. } = self;
        drop((writer, reader));
        // Nothing is ever sent there.
        let _ = ended.lock().await.recv().await;
    }

    /// The database's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in a transaction; an `Err` of it rolls back all it did. Resolves after the
    /// commit is on the disk.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (answer, result) = oneshot::channel::<Result<T, E>>();
        let job: Job = Box::new(move |transaction| match in_savepoint(transaction, work) {
            Ok(value) => Box::new(move |commit| {
                let outcome = match commit {
                    Ok(()) => Ok(value),
                    Err(error) => Err(StoreError::Sqlite(describe(error)).into()),
                };
                let _ = answer.send(outcome);
            }),
            Err(error) => Box::new(move |_| drop(answer.send(Err(error)))),
        });
        self.writer.send(job).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `work` on what was last committed.
    pub async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job: ReadJob = Box::new(move |connection| drop(answer.send(work(connection))));
        self.reader.send(job).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).expect("the process may start a thread");
}

fn in_savepoint<T, E: From<StoreError>>(
    transaction: &mut Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let sqlite = |error| E::from(StoreError::Sqlite(error));
    transaction.execute_batch("SAVEPOINT job").map_err(sqlite)?;
    match work(transaction) {
        Ok(value) => transaction.execute_batch("RELEASE job").map_err(sqlite).map(|()| value),
        Err(error) => {
            transaction.execute_batch("ROLLBACK TO job; RELEASE job").map_err(sqlite)?;
            Err(error)
        }
    }
}

fn write_loop(mut connection: Connection, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.blocking_recv() {
        let mut done = Vec::new();
        let outcome = connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .and_then(|mut transaction| {
                done.push(first(&mut transaction));
                while done.len() < MAX_BATCH {
                    let Ok(job) = jobs.try_recv() else { break };
                    done.push(job(&mut transaction));
                }
                transaction.commit()
            });
        if let Err(error) = &outcome {
            tracing::error!(%error, "the database did not take a commit");
        }
        for answer in done {
            answer(outcome.as_ref().copied());
        }
    }
}

fn read_loop(connection: Connection, mut jobs: mpsc::Receiver<ReadJob>) {
    while let Some(job) = jobs.blocking_recv() {
        job(&connection);
    }
}

/// A commit's error belongs to every write in it, and `rusqlite::Error` cannot be cloned.
fn describe(error: &rusqlite::Error) -> rusqlite::Error {
    let code =
        error.sqlite_error().copied().unwrap_or(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR));
    rusqlite::Error::SqliteFailure(code, Some(error.to_string()))
}

fn open_connection(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Pages kept in memory: 512 KiB for each of the two connections.
    connection.pragma_update(None, "cache_size", -512)?;
    Ok(connection)
}
