//! QEMU's control protocol: commands one after the other, and events (QEMU's "QMP Reference Manual").

use std::{io, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
    task::JoinHandle,
    time::timeout,
};

use crate::{Error, Reset, Result};

/// No guest boots and resets in less.
const SAME_RESET: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Qmp {
    writer: OwnedWriteHalf,
    replies: UnboundedReceiver<Value>,
    /// Closed at the end.
    events: watch::Receiver<Events>,
    reader: JoinHandle<()>,
    commands: u64,
}

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    /// QEMU's word for why it shuts down.
    pub shutdown: Option<String>,
    /// Since the last reset, as the next.
    pub panicked: bool,
    pub watchdog: bool,
    /// All of them.
    pub resets: Vec<Reset>,
    reset_at: Option<Duration>,
    /// Devices that the guest let go, by name, each time.
    pub unplugged: Vec<String>,
}

impl Qmp {
    /// QEMU greets first, and sends events from the first command on.
    pub(crate) async fn connect(socket: UnixStream, limit: Duration) -> Result<Self> {
        let (reader, writer) = socket.into_split();
        let (reply, replies) = unbounded_channel();
        let (note, events) = watch::channel(Events::default());
        let reader = tokio::spawn(read(BufReader::new(reader), reply, note));
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
        self.events()
    }

    /// What QEMU has told by now.
    pub(crate) fn events(&self) -> Events {
        self.events.borrow().clone()
    }

    /// Waits until QEMU has told this; whether it did before it ended.
    pub(crate) async fn wait_until(&self, told: impl FnMut(&Events) -> bool) -> bool {
        self.events.clone().wait_for(told).await.is_ok()
    }
}

async fn read(
    reader: BufReader<OwnedReadHalf>,
    reply: UnboundedSender<Value>,
    events: watch::Sender<Events>,
) {
    let mut lines = reader.lines();
    // QEMU writes nothing else than objects, and the end of the socket is QEMU's end.
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if message.get("event").is_some() {
            events.send_modify(|events| events.note(&message));
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
            Some("RESET") if self.is_another(message) => {
                let reset = match (self.panicked, self.watchdog, &message["data"]["guest"]) {
                    (true, ..) => Reset::Panicked,
                    (_, true, _) => Reset::Watchdog,
                    (.., Value::Bool(true)) => Reset::Guest,
                    _ => Reset::Button,
                };
                self.resets.push(reset);
                (self.panicked, self.watchdog) = (false, false);
            }
            Some("DEVICE_DELETED") => {
                // Its parts have paths alone.
                self.unplugged.extend(message["data"]["device"].as_str().map(str::to_owned));
            }
            _ => {}
        }
    }

    /// A kernel goes on asking until its CPU stops.
    fn is_another(&mut self, reset: &Value) -> bool {
        let part = |name| reset["timestamp"][name].as_u64();
        let at = part("seconds").map(Duration::from_secs);
        let at = at.zip(part("microseconds")).map(|(whole, rest)| whole + Duration::from_micros(rest));
        let before = std::mem::replace(&mut self.reset_at, at);
        before.zip(at).is_none_or(|(before, at)| at.saturating_sub(before) > SAME_RESET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_told_by_what_came_before_it() {
        let mut events = Events::default();
        let reset = json!({"event": "RESET", "data": {"guest": true, "reason": "guest-reset"}});
        events.note(&json!({"event": "WATCHDOG", "data": {"action": "reset"}}));
        events.note(&reset);
        events.note(&json!({"event": "GUEST_PANICKED", "data": {"action": "run"}}));
        events.note(&reset);
        events.note(&reset);
        events.note(&json!({"event": "RESET", "data": {"guest": false, "reason": "host-qmp-system-reset"}}));
        assert_eq!(events.resets, [Reset::Watchdog, Reset::Panicked, Reset::Guest, Reset::Button]);
        assert!(!events.panicked && !events.watchdog);
    }

    #[test]
    fn a_guest_that_asks_twice_is_reset_once() {
        let mut events = Events::default();
        for (seconds, microseconds) in [(1, 900_000), (2, 100_000), (3, 0)] {
            let timestamp = json!({"seconds": seconds, "microseconds": microseconds});
            events.note(&json!({"event": "RESET", "data": {"guest": true}, "timestamp": timestamp}));
        }
        assert_eq!(events.resets.len(), 2);
    }
}
