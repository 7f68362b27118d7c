//! What a machine's keeper is told, and what it answers: a line of JSON each, one order a
//! connection.

use std::{
    io::{BufRead as _, Write as _},
    os::unix::net::UnixStream as BlockingStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

/// For an answer, on a busy host; a guest may have to let go of a disk first.
const ANSWER_LIMIT: Duration = Duration::from_mins(2);

/// Something to do with a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Only say how it is.
    Look,
    /// Also where its processors stand.
    LookInside,
    /// Start it, where it is off.
    PowerOn,
    /// Take its power away.
    CutPower,
    /// Press its power button.
    PressPower,
    /// Press its reset button.
    PressReset,
    /// Make its kernel panic.
    Panic,
    /// Stop its processors, and the clock of its watchdog with them.
    Freeze,
    /// Let them go on.
    Thaw,
    /// Pull the cable of its network card.
    PullCable,
    /// Plug it in again.
    PlugCable,
    /// Take a disk out, running or not; it stays out until it is put back.
    PullDisk(String),
    /// Put it back.
    PlugDisk(String),
    /// Make a disk larger.
    GrowDisk {
        /// Its name.
        disk: String,
        /// Its size then.
        bytes: u64,
    },
}

/// How a machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// Whether it runs.
    pub power: Power,
    /// Why it began anew, each time since it was powered on.
    pub resets: Vec<String>,
    /// QEMU's process, while there is one.
    pub pid: Option<u32>,
    /// Of each processor, where it stands; only where that was asked for.
    #[serde(default)]
    pub processors: Vec<String>,
}

/// Whether a machine runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It does.
    On,
    /// Its processors stand still.
    Frozen,
    /// It does not, for this reason.
    Off(String),
}

/// The keeper's answer.
pub(super) type Answer = Result<Sight, String>;

/// Tells the keeper that listens at `socket`; how the machine is then.
pub async fn tell(socket: &Path, order: &Order) -> Result<Sight> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{}\n", serde_json::to_string(order)?).as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        serde_json::from_str::<Answer>(&line).with_context(|| format!("its answer is {line:?}"))
    };
    let at = || format!("cannot tell {order:?} to the machine's keeper at {}", socket.display());
    let answer = timeout(ANSWER_LIMIT, exchange).await.map_err(anyhow::Error::from).flatten();
    answer.with_context(at)?.map_err(|why| anyhow!("{order:?} failed: {why}"))
}

/// The same for who cannot wait for others meanwhile, such as a fleet that is dropped.
pub fn tell_blocking(socket: &Path, order: &Order) -> Result<Sight> {
    let mut stream = BlockingStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(format!("{}\n", serde_json::to_string(order)?).as_bytes())?;
    let mut line = String::new();
    std::io::BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str::<Answer>(&line)?.map_err(|why| anyhow!("{order:?} failed: {why}"))
}
