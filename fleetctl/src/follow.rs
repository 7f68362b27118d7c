//! Streams of many capsules, merged as they come: logs and events.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Result;
use capsule_client::{CallError, Capsule, FanOut, Target, fan_out};
use capsule_proto::LOG_CURSOR_KEY;
use futures_util::StreamExt as _;
use serde::Serialize;
use tokio::sync::mpsc;
use tonic::{Streaming, metadata::MetadataMap};

use crate::{
    exit::{Exit, Tally},
    failure::{Failure, usage},
    output::{
        Format, Out,
        answer::{Answer, envelope},
        lines::Prefixes,
        yaml,
    },
    print_failure,
    session::Session,
};

/// Between attempts to get a broken stream back: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Messages that may wait to be printed; past that the capsules wait.
const BACKLOG: usize = 256;

/// Where a log began on its capsule, for a stream that breaks before its first line has come.
#[derive(Clone, Debug, Default)]
pub struct Begin(Arc<OnceLock<String>>);

impl Begin {
    /// The cursor to go on from: behind the last line, else where the log began, else none.
    pub fn cursor(&self, last: Option<String>) -> String {
        last.or_else(|| self.0.get().cloned()).unwrap_or_default()
    }

    /// Keeps what the first answer says.
    pub fn note(&self, answer: &MetadataMap) {
        if let Some(cursor) = answer.get(LOG_CURSOR_KEY).and_then(|value| value.to_str().ok()) {
            self.0.get_or_init(|| cursor.to_owned());
        }
    }
}

/// What becomes of a stream whose connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It has ended, with an error.
    End,
    /// It goes on once the capsule is back: behind the last message, so that none is lost or doubled.
    Resume,
}

impl Lost {
    /// Of a stream that goes on for ever, or ends by itself.
    pub fn when(follow: bool) -> Self {
        if follow { Self::Resume } else { Self::End }
    }
}

/// Opens a stream for each argument on each capsule and prints every message: as JSON or YAML
/// where that is asked for, else through `show`, which gets the prefix of the line.
///
/// `open` gets the last message that came, where a stream that once was open is to be
/// [resumed](Lost::Resume) behind it.
pub async fn follow<A, M, F, Fut>(
    session: &Session,
    work: Vec<(Target, Vec<A>)>,
    label: impl Fn(&A) -> String,
    lost: Lost,
    open: F,
    mut show: impl FnMut(&Out, &str, M),
) -> Result<Exit>
where
    A: Clone,
    M: Serialize + Clone,
    F: Fn(Capsule, A, Option<M>) -> Fut,
    Fut: Future<Output = Result<Streaming<M>, Failure>>,
{
    let out = session.out;
    if out.format == Format::Name {
        return Err(usage("what is streamed has no names for -o name; leave it out, or use -o json"));
    }
    let prefixes = Prefixes::new(&labels(&work, label), out.colour);
    let targets: Vec<Target> = work.iter().map(|(target, _)| target.clone()).collect();
    let arguments = Arc::new(numbered(work));
    let (sender, mut messages) = mpsc::channel(BACKLOG);
    let open = Arc::new(open);
    // A stream may last for ever: one that waited for another's end would never be opened.
    let options = FanOut { limit: targets.len(), timeout: None };
    let connector = session.connector()?;
    let mut ends = fan_out(&connector, targets, options, move |capsule: Capsule| {
        let (open, arguments, sender) = (open.clone(), arguments.clone(), sender.clone());
        async move {
            let mine = arguments.get(&capsule.target().name).into_iter().flatten();
            let streams = mine.map(|(at, argument)| {
                let open = |last| open(capsule.clone(), argument.clone(), last);
                let to = Channel { at: *at, capsule: capsule.target().name.clone(), sender: sender.clone() };
                pump(out, lost, open, to)
            });
            Ok::<_, CallError>(futures_util::future::join_all(streams).await)
        }
    });
    let mut tally = Tally::default();
    let mut are_open = true;
    loop {
        tokio::select! {
            biased;
            Some((at, capsule, message)) = messages.recv() => print(&out, prefixes.of(at), capsule, message, &mut show),
            end = ends.next(), if are_open => match end {
                Some((target, outcome)) => end_of(&out, &target, outcome, &mut tally),
                None => are_open = false,
            },
            else => break,
        }
        if !are_open && messages.is_empty() {
            break;
        }
    }
    Ok(tally.exit())
}

fn labels<A>(work: &[(Target, Vec<A>)], label: impl Fn(&A) -> String) -> Vec<String> {
    let many_capsules = work.len() > 1;
    let of = |(target, arguments): &(Target, Vec<A>)| {
        let name = target.name.clone();
        let many = arguments.len() > 1;
        let labels = arguments.iter().map(|argument| match (many_capsules, many) {
            (true, true) => format!("{name}/{}", label(argument)),
            (true, false) => name.clone(),
            (false, _) => label(argument),
        });
        labels.collect::<Vec<_>>()
    };
    work.iter().flat_map(of).collect()
}

fn numbered<A>(work: Vec<(Target, Vec<A>)>) -> HashMap<String, Vec<(usize, A)>> {
    let mut next = 0;
    let mut number = |argument| {
        next += 1;
        (next - 1, argument)
    };
    work.into_iter().map(|(target, all)| (target.name, all.into_iter().map(&mut number).collect())).collect()
}

/// Where the messages of one stream go.
struct Channel<M> {
    at: usize,
    capsule: String,
    sender: mpsc::Sender<(usize, String, M)>,
}

/// Passes on one stream to its end, with as many connections as it takes.
async fn pump<M: Clone, Fut>(
    out: Out,
    lost: Lost,
    open: impl Fn(Option<M>) -> Fut,
    to: Channel<M>,
) -> Result<(), Failure>
where
    Fut: Future<Output = Result<Streaming<M>, Failure>>,
{
    let mut last = None;
    let mut stream = open(None).await?;
    loop {
        let Err(failure) = pass_on(&mut stream, &to, &mut last).await else { return Ok(()) };
        if lost == Lost::End || !failure.is_lost_connection() {
            return Err(failure);
        }
        out.note(&format!("{}: {failure}. Going on as soon as it is back …", to.capsule));
        stream = reopen(&open, last.as_ref()).await?;
        out.note(&format!("{}: going on", to.capsule));
    }
}

/// Until the stream ends, fails, or nobody prints any more.
async fn pass_on<M: Clone>(
    stream: &mut Streaming<M>,
    to: &Channel<M>,
    last: &mut Option<M>,
) -> Result<(), Failure> {
    while let Some(message) = stream.message().await? {
        *last = Some(message.clone());
        if to.sender.send((to.at, to.capsule.clone(), message)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Tries until the capsule answers, be it with a refusal.
async fn reopen<M: Clone, Fut>(
    open: &impl Fn(Option<M>) -> Fut,
    last: Option<&M>,
) -> Result<Streaming<M>, Failure>
where
    Fut: Future<Output = Result<Streaming<M>, Failure>>,
{
    let (mut pause, most) = RETRY;
    loop {
        tokio::time::sleep(pause).await;
        match open(last.cloned()).await {
            Err(failure) if failure.is_lost_connection() => pause = (pause * 2).min(most),
            answer => return answer,
        }
    }
}

fn print<M: Serialize>(
    out: &Out,
    prefix: &str,
    capsule: String,
    message: M,
    show: &mut impl FnMut(&Out, &str, M),
) {
    match out.format {
        Format::Json => out.line(&envelope(&Answer { at: 0, capsule, result: Ok(message) }).to_string()),
        Format::Yaml => {
            let envelope = envelope(&Answer { at: 0, capsule, result: Ok(message) });
            out.text(&format!("---\n{}", yaml::document(&envelope)));
        }
        _ => show(out, prefix, message),
    }
}

fn end_of(
    out: &Out,
    target: &Target,
    outcome: Result<Vec<Result<(), Failure>>, CallError>,
    tally: &mut Tally,
) {
    for end in outcome.unwrap_or_else(|error| vec![Err(error.into())]) {
        tally.count(&end);
        if let Err(failure) = end {
            print_failure(out, &target.name, failure);
        }
    }
}
