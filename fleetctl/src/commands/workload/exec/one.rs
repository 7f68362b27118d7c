//! A command on one capsule: this process stands in for it, with its streams, signals, window and
//! exit code.

use std::io::{self, IsTerminal as _};

use anyhow::Result;
use capsule_client::{Capsule, Target};
use capsule_proto::v1::{ExecInput, ExecOutput, ExecStart, exec_input::Input, exec_output::Output};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    exit::Exit,
    failure::{Failure, usage},
    named,
    output::Out,
    session::Session,
    terminal::{self, RawMode},
};

/// Input that may be on its way; past that this side stops to read.
const BACKLOG: usize = 16;

pub(super) async fn run(session: &Session, target: &Target, mut start: ExecStart) -> Result<Exit> {
    if start.tty {
        if !io::stdin().is_terminal() {
            return Err(usage("-t needs a terminal on stdin; use -i to send a file or a pipe"));
        }
        start.window = terminal::window_of(&io::stdin());
        start.env.extend(terminal_kind(&start));
    }
    let capsule = session.connector()?.connect(target).await.map_err(Failure::from)?;
    Ok(converse(&session.out, &capsule, start).await?)
}

/// The remote side draws for this terminal, unless the operator says otherwise.
fn terminal_kind(start: &ExecStart) -> Option<capsule_proto::v1::EnvVar> {
    let value = std::env::var("TERM").ok()?;
    let is_set = start.env.iter().any(|variable| variable.name == "TERM");
    (!is_set).then(|| capsule_proto::v1::EnvVar { name: "TERM".into(), value })
}

async fn converse(out: &Out, capsule: &Capsule, start: ExecStart) -> Result<Exit, Failure> {
    let local = |error: io::Error| Failure::local(format!("this side of the terminal failed: {error}"));
    let (tty, stdin, name) = (start.tty, start.stdin, start.name.clone());
    let (sender, receiver) = mpsc::channel(BACKLOG);
    send(&sender, Input::Start(start)).await;
    let answer = capsule.workloads().exec(ReceiverStream::new(receiver)).await;
    let output = named::workload(capsule, &name, answer).await?.into_inner();
    let signals = Signals::new().map_err(local)?;
    let _raw = if tty { Some(RawMode::enter().map_err(local)?) } else { None };
    if stdin {
        tokio::spawn(pump_stdin(sender.clone()));
    }
    relay(out, output, &sender, signals, tty).await
}

async fn relay(
    out: &Out,
    mut output: Streaming<ExecOutput>,
    sender: &mpsc::Sender<ExecInput>,
    mut signals: Signals,
    tty: bool,
) -> Result<Exit, Failure> {
    let mut interrupted = false;
    loop {
        tokio::select! {
            message = output.message() => match message?.map(|message| message.output) {
                Some(Some(Output::Exit(exit))) => return Ok(Exit(exit.code as u8)),
                Some(Some(Output::Stdout(bytes))) if out.try_bytes(&bytes).is_err() => return Ok(Exit::PIPE),
                Some(Some(Output::Stderr(bytes))) => out.error_bytes(&bytes),
                Some(_) => {}
                None => return Err(Failure::local("the capsule ended the stream and told no exit code")),
            },
            event = signals.next() => match event {
                Event::Resized => {
                    if let Some(window) = terminal::window_of(&io::stdin()).filter(|_| tty) {
                        send(sender, Input::Resize(window)).await;
                    }
                }
                // A command that ignores the first interrupt does not hold the operator.
                Event::Interrupted if interrupted => return Ok(Exit(128 + INTERRUPT as u8)),
                Event::Interrupted => {
                    interrupted = true;
                    send(sender, Input::Signal(INTERRUPT)).await;
                }
                Event::Ended(number) => {
                    send(sender, Input::Signal(number)).await;
                    return Ok(Exit(128 + number as u8));
                }
            },
        }
    }
}

/// The receiving side is gone only when the call has ended, and then its outcome says why.
async fn send(sender: &mpsc::Sender<ExecInput>, input: Input) {
    let _ = sender.send(ExecInput { input: Some(input) }).await;
}

async fn pump_stdin(sender: mpsc::Sender<ExecInput>) {
    let mut pieces = terminal::pieces();
    while let Some(Ok(piece)) = pieces.recv().await {
        send(&sender, Input::Stdin(piece)).await;
    }
    send(&sender, Input::StdinClosed(true)).await;
}

/// SIGINT, SIGHUP, SIGQUIT and SIGTERM as numbers of Linux, which every capsule runs.
const INTERRUPT: u32 = 2;
const HANGUP: u32 = 1;
const QUIT: u32 = 3;
const TERMINATE: u32 = 15;

enum Event {
    Resized,
    Interrupted,
    /// By this signal; the terminal is restored on the way out.
    Ended(u32),
}

struct Signals {
    window: Signal,
    interrupt: Signal,
    hangup: Signal,
    quit: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            window: signal(SignalKind::window_change())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.window.recv() => Event::Resized,
            _ = self.interrupt.recv() => Event::Interrupted,
            _ = self.hangup.recv() => Event::Ended(HANGUP),
            _ = self.quit.recv() => Event::Ended(QUIT),
            _ = self.terminate.recv() => Event::Ended(TERMINATE),
        }
    }
}
