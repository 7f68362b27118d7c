//! A command on one capsule: this process stands in for it, with its streams, signals, window and
//! exit code.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::Result;
use capsule_proto::v1::{ExecInput, ExecOutput, ExecStart, exec_input::Input, exec_output::Output};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tonic::{Response, Status, Streaming};

use crate::{
    exit::Exit,
    failure::{Failure, usage},
    output::{Out, clean, lost_output, print_error},
    session::Session,
    terminal::{self, RawMode},
};

/// For a capsule to start the command that a signal is meant for.
const SIGNAL_GRACE: Duration = Duration::from_secs(2);
/// Input that may be on its way; past that this side stops to read.
const BACKLOG: usize = 16;

/// Where a terminal is asked for: that there is one, what it is, and how large.
pub fn on_terminal(start: &mut ExecStart) -> Result<()> {
    if !io::stdin().is_terminal() {
        return Err(usage(
            "-t needs a terminal on stdin; a file or a pipe is sent without -t (and with -i by `exec`)",
        ));
    }
    start.window = terminal::window_of(&io::stdin());
    start.env.extend(terminal_kind(start));
    Ok(())
}

/// The remote side draws for this terminal, unless the operator says otherwise.
fn terminal_kind(start: &ExecStart) -> Option<capsule_proto::v1::EnvVar> {
    let value = std::env::var("TERM").ok()?;
    let is_set = start.env.iter().any(|variable| variable.name == "TERM");
    (!is_set).then(|| capsule_proto::v1::EnvVar { name: "TERM".into(), value })
}

/// Runs the command by `call`, which takes this side's messages, from the first on, and opens the stream of
/// the other's. `place` says where it runs, for messages.
pub async fn hold(
    session: &Session,
    place: &str,
    start: ExecStart,
    call: impl AsyncFnOnce(mpsc::Receiver<ExecInput>) -> Result<Response<Streaming<ExecOutput>>, Status>,
) -> Result<Exit, Failure> {
    let local = |error: io::Error| Failure::local(format!("this side of the terminal failed: {error}"));
    let (tty, stdin) = (start.tty, start.stdin);
    // From here on: a signal that comes before the command runs is passed on to it, too.
    let mut signals = Signals::new().map_err(local)?;
    let (sender, receiver) = mpsc::channel(BACKLOG);
    send(&sender, Input::Start(start)).await;
    let answer = tokio::select! {
        answer = call(receiver) => answer,
        number = unstarted(&mut signals, &sender) => return Ok(Exit(128 + number as u8)),
        () = overdue(session.asked_timeout()) => {
            return Err(Failure::local(format!("the command was not started in {place} within --timeout")));
        }
    };
    let output = answer?.into_inner();
    let _raw = if tty { Some(RawMode::enter().map_err(local)?) } else { None };
    if stdin {
        tokio::spawn(pump_stdin(sender.clone()));
    }
    relay(&session.out, output, &sender, signals, tty).await
}

/// Passes on what arrives before the command runs. Where it does not come to run, one signal ends
/// the call nevertheless: resolves with its number.
async fn unstarted(signals: &mut Signals, sender: &mpsc::Sender<ExecInput>) -> u32 {
    loop {
        if let Event::Signalled(number) = signals.next().await {
            send_beside(sender, Input::Signal(number));
            tokio::time::sleep(SIGNAL_GRACE).await;
            return number;
        }
    }
}

async fn overdue(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

async fn relay(
    out: &Out,
    mut output: Streaming<ExecOutput>,
    sender: &mpsc::Sender<ExecInput>,
    mut signals: Signals,
    tty: bool,
) -> Result<Exit, Failure> {
    let mut signalled = false;
    loop {
        tokio::select! {
            message = output.message() => match message?.map(|message| message.output) {
                Some(Some(Output::Exit(exit))) => return Ok(Exit(exit.code as u8)),
                Some(Some(Output::Stdout(bytes))) => {
                    if let Err(error) = out.try_bytes(&bytes) {
                        return Ok(lost_output(&error));
                    }
                }
                Some(Some(Output::Stderr(bytes))) => out.error_bytes(&bytes),
                Some(Some(Output::NotStarted(why))) => print_error(&clean::one_line(&why)),
                Some(_) => {}
                None => return Err(Failure::local("the capsule ended the stream and told no exit code")),
            },
            event = signals.next() => match event {
                Event::Resized => {
                    if let Some(window) = terminal::window_of(&io::stdin()).filter(|_| tty) {
                        send_beside(sender, Input::Resize(window));
                    }
                }
                // A command that ignores the first signal, or gets it late behind input that it does
                // not read, does not hold the operator: it is killed with the call.
                Event::Signalled(number) if signalled => return Ok(Exit(128 + number as u8)),
                Event::Signalled(number) => {
                    signalled = true;
                    send_beside(sender, Input::Signal(number));
                }
            },
        }
    }
}

/// Without waiting for room: output must flow while input is stuck, or neither would ever move.
fn send_beside(sender: &mpsc::Sender<ExecInput>, input: Input) {
    let sender = sender.clone();
    tokio::spawn(async move { send(&sender, input).await });
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

/// What is passed on, with its number on Linux, which every capsule runs.
const PASSED_ON: [(fn() -> SignalKind, u32); 6] = [
    (SignalKind::hangup, 1),
    (SignalKind::interrupt, 2),
    (SignalKind::quit, 3),
    (SignalKind::user_defined1, 10),
    (SignalKind::user_defined2, 12),
    (SignalKind::terminate, 15),
];

enum Event {
    Resized,
    /// By this number.
    Signalled(u32),
}

struct Signals {
    window: Signal,
    passed_on: Vec<(Signal, u32)>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let listen = |(kind, number): (fn() -> SignalKind, u32)| Ok((signal(kind())?, number));
        Ok(Self {
            window: signal(SignalKind::window_change())?,
            passed_on: PASSED_ON.into_iter().map(listen).collect::<io::Result<_>>()?,
        })
    }

    async fn next(&mut self) -> Event {
        let each = self.passed_on.iter_mut().map(|(signal, number)| {
            Box::pin(async move {
                signal.recv().await;
                *number
            })
        });
        tokio::select! {
            _ = self.window.recv() => Event::Resized,
            (number, ..) = futures_util::future::select_all(each) => Event::Signalled(number),
        }
    }
}
