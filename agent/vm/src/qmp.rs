//! QEMU's control protocol: commands one after the other, and events (QEMU's "QMP Reference Manual").

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::timeout,
};

use crate::{Error, Result};

#[derive(Debug)]
pub(crate) struct Qmp {
    writer: OwnedWriteHalf,
    replies: UnboundedReceiver<Value>,
    events: Arc<Mutex<Events>>,
    reader: JoinHandle<()>,
    commands: u64,
}

/// What happened so far that says why a machine ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    /// QEMU's word for why it shuts down.
    pub shutdown: Option<String>,
    pub panicked: bool,
    pub watchdog: bool,
}

impl Qmp {
    /// QEMU greets first, and sends events from the first command on.
    pub(crate) async fn connect(socket: UnixStream, limit: Duration) -> Result<Self> {
        let (reader, writer) = socket.into_split();
        let (reply, replies) = unbounded_channel();
        let events = Arc::<Mutex<Events>>::default();
        let reader = tokio::spawn(read(BufReader::new(reader), reply, events.clone()));
        let mut qmp = Self { writer, replies, events, reader, commands: 0 };
        qmp.execute("qmp_capabilities", json!({}), limit).await?;
        Ok(qmp)
    }

    pub(crate) async fn execute(
        &mut self,
        command: &str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value> {
        self.commands += 1;
        let id = self.commands;
        let request = json!({"execute": command, "arguments": arguments, "id": id}).to_string() + "\n";
        let broken = |source| Error::Control { command: command.to_owned(), source };
        let answer = async {
            self.writer.write_all(request.as_bytes()).await.map_err(broken)?;
            loop {
                let reply = self.replies.recv().await;
                let reply = reply.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))?;
                // Others answer what was given up earlier.
                if reply["id"] == id {
                    return Ok(reply);
                }
            }
        };
        let what = || format!("QEMU's answer to {command}");
        let late = |_| Error::TimedOut { what: what(), limit, tail: String::new() };
        let mut reply = timeout(limit, answer).await.map_err(late)??;
        if let Some(error) = reply.get("error") {
            let description = error["desc"].as_str().unwrap_or("it does not say why").to_owned();
            return Err(Error::Command { command: command.to_owned(), description });
        }
        Ok(reply["return"].take())
    }

    /// Everything that QEMU told before it ended; waits for the end.
    pub(crate) async fn last_events(&mut self, limit: Duration) -> Events {
        // It ends with the socket. One that does not has told what it can.
        if !self.reader.is_finished() {
            let _ = timeout(limit, &mut self.reader).await;
        }
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn read(reader: BufReader<OwnedReadHalf>, reply: UnboundedSender<Value>, events: Arc<Mutex<Events>>) {
    let mut lines = reader.lines();
    // QEMU writes nothing else than objects, and the end of the socket is QEMU's end.
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if message.get("event").is_some() {
            events.lock().unwrap_or_else(PoisonError::into_inner).note(&message);
        } else if message.get("id").is_some() {
            // The machine may be given up by now.
            let _ = reply.send(message);
        }
    }
}

impl Events {
    fn note(&mut self, message: &Value) {
        match message["event"].as_str() {
            Some("SHUTDOWN") => self.shutdown = message["data"]["reason"].as_str().map(str::to_owned),
            Some("GUEST_PANICKED") => self.panicked = true,
            Some("WATCHDOG") => self.watchdog = true,
            _ => {}
        }
    }
}
