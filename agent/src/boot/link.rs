//! Between init and the agent: lines of JSON over a Unix socket of init's.
//!
//! ```text
//!   init                                        agent
//!     │ ◀──────────────── connects ───────────────│  again whenever it breaks
//!     │ ───── ping ─────▶ answered when the database does: alive ─▶ the watchdog is fed
//!     │ ◀──── banner: what the console shows ─────│
//!     │ ◀──── stop: reboot or power off, why ─────│
//!     │ ◀──── confirmed: no deadline any more ────│
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

use crate::store::{Store, StoreError};

/// Where init listens.
pub const SOCKET: &str = "/run/capsule/init.sock";

/// Between two tries to reach init.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Messages that wait while init is not there.
const QUEUE: usize = 16;

/// What init says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// Are you there?
    Ping,
}

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToInit {
    /// It is, and its database answers.
    Alive,
    /// For the console.
    Banner(Banner),
    /// The machine is to stop.
    Stop(Stop),
    /// An operator, or health, has confirmed the slot.
    Confirmed,
}

/// What the console shows of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banner {
    /// The hostname.
    pub name: String,
    /// `capsule-a3f2`.
    pub short_id: String,
    /// SHA-256 of the server's certificate.
    pub fingerprint: String,
    /// One line: `adopted, 4 of 4 workloads run`.
    pub health: String,
}

/// How the machine is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// And start again.
    Reboot,
    /// And stay off.
    PowerOff,
}

/// Why a machine stopped; kept for the next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody asked for it: a command, a key, the power button.
    Operator,
    /// To start a new system.
    Update,
    /// Back to the system before.
    Rollback,
    /// The kernel panicked.
    Panic,
    /// What feeds the watchdog hung.
    Watchdog,
    /// Nobody has recorded anything: power was lost, or a reset pressed.
    PowerLoss,
}

/// A stop as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Off or on again.
    pub how: How,
    /// Why.
    pub cause: Cause,
    /// In words: `fleetctl capsule reboot by ada@desk`.
    pub detail: String,
}

/// The agent's end; cheap to clone.
#[derive(Clone, Debug)]
pub struct InitLink(mpsc::Sender<ToInit>);

impl InitLink {
    /// Keeps a connection to init from now on, and answers its pings when the database answers.
    pub fn start(socket: PathBuf, store: Store) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(keep(socket, store, receiver));
        Self(sender)
    }

    /// Tells init. Waits where init has not taken what was told before.
    pub async fn tell(&self, message: ToInit) {
        // The other end lives as long as the process.
        let _ = self.0.send(message).await;
    }
}

async fn keep(socket: PathBuf, store: Store, mut messages: mpsc::Receiver<ToInit>) {
    // What was taken off the queue when a connection broke.
    let mut unsent = None;
    loop {
        if let Err(error) = converse(&socket, &store, &mut messages, &mut unsent).await {
            tracing::debug!(%error, "init does not answer");
        }
        if messages.is_closed() {
            return;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn converse(
    socket: &Path,
    store: &Store,
    messages: &mut mpsc::Receiver<ToInit>,
    unsent: &mut Option<ToInit>,
) -> io::Result<()> {
    let (mut incoming, mut outgoing) = split(UnixStream::connect(socket).await?);
    loop {
        if let Some(message) = unsent {
            write(&mut outgoing, message).await?;
            *unsent = None;
        }
        tokio::select! {
            asked = read::<ToAgent>(&mut incoming) => match asked? {
                Some(ToAgent::Ping) => {
                    if answers(store).await {
                        write(&mut outgoing, &ToInit::Alive).await?;
                    }
                }
                None => return Ok(()),
            },
            message = messages.recv() => match message {
                Some(message) => *unsent = Some(message),
                None => return Ok(()),
            },
        }
    }
}

async fn answers(store: &Store) -> bool {
    let look = |db: &rusqlite::Connection| Ok(db.query_row("SELECT 1", [], |_| Ok(()))?);
    store.read::<_, StoreError, _>(look).await.is_ok()
}

/// Both halves of a connection, reading by lines.
pub fn split(stream: UnixStream) -> (Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf) {
    let (reader, writer) = stream.into_split();
    (BufReader::new(reader).lines(), writer)
}

/// The next message; `None` at the end. May be dropped while it waits.
pub async fn read<T: DeserializeOwned>(lines: &mut Lines<BufReader<OwnedReadHalf>>) -> io::Result<Option<T>> {
    let line = lines.next_line().await?;
    line.map(|line| serde_json::from_str(&line).map_err(io::Error::from)).transpose()
}

/// Sends a message.
pub async fn write<T: Serialize>(writer: &mut OwnedWriteHalf, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn pings_are_answered_and_what_is_told_outlives_a_broken_connection() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("init.sock");
        let link = InitLink::start(socket.clone(), Store::open(dir.path()).unwrap());
        // Nobody listens yet.
        link.tell(ToInit::Confirmed).await;
        let listener = UnixListener::bind(&socket).unwrap();
        let (mut incoming, mut outgoing) = split(listener.accept().await.unwrap().0);
        assert_eq!(read(&mut incoming).await.unwrap(), Some(ToInit::Confirmed));
        write(&mut outgoing, &ToAgent::Ping).await.unwrap();
        assert_eq!(read(&mut incoming).await.unwrap(), Some(ToInit::Alive));
        drop((incoming, outgoing));
        let stop = Stop { how: How::Reboot, cause: Cause::Update, detail: "to 2".into() };
        link.tell(ToInit::Stop(stop.clone())).await;
        let (mut incoming, _outgoing) = split(listener.accept().await.unwrap().0);
        assert_eq!(read(&mut incoming).await.unwrap(), Some(ToInit::Stop(stop)));
    }
}
