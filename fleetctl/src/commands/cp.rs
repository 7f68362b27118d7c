//! `fleetctl cp`.

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    path::Path,
};

use anyhow::Result;
use capsule_client::Capsule;
use capsule_proto::v1::{CopyInRequest, CopyInResponse};
use clap::{Args, ValueHint};
use clap_complete::ArgValueCompleter;
use futures_util::StreamExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    complete,
    copy::{feed::Feed, place::Place, unpack},
    exit::Exit,
    failure::{Failure, usage},
    gather::gather,
    named,
    output::{Out, answer::Layout, human, progress},
    reference::WorkloadRef,
    session::Session,
};

/// Copy files, directories and links to, from and between workloads
///
/// A directory that exists is copied into; any other target becomes the copy, as with `cp -a`.
/// DIR/. means what is in a directory. Links stay links, modes and times are kept; what is copied
/// into a workload belongs to its root user. The workload needs neither a shell nor tar, and need
/// not run, but its volumes are there only while it does. A copy that is interrupted leaves whole
/// files in a workload, and nothing at a new local target.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl cp site/. web:/srv/www\n  fleetctl cp web:/etc/nginx ./nginx\n  \
                        fleetctl cp web@nuc-1:/data web@nuc-2:/data\n  fleetctl cp web:/var/log - | tar t"
)]
pub struct Cp {
    /// WORKLOAD[@CAPSULE]:PATH, a local path, or - for a tar stream on stdin
    #[arg(value_hint = ValueHint::AnyPath, add = ArgValueCompleter::new(complete::places))]
    source: OsString,
    /// The same; - writes a tar stream to stdout
    #[arg(value_hint = ValueHint::AnyPath, add = ArgValueCompleter::new(complete::places))]
    target: OsString,
    /// Make the copy exactly TARGET, also where that is a directory
    #[arg(short = 'T', long)]
    no_target_directory: bool,
}

impl Cp {
    /// Copies.
    pub async fn run(self, session: &Session) -> Result<Exit> {
        let source = Place::parse(&self.source).map_err(usage)?;
        let target = Place::parse(&self.target).map_err(usage)?;
        match (source, target) {
            (Place::Local(_) | Place::Stream, Place::Local(_) | Place::Stream) => {
                Err(usage("one side must be in a workload: write WORKLOAD:PATH"))
            }
            (source, Place::Remote(reference, path)) => self.upload(session, source, &reference, &path).await,
            (Place::Remote(reference, path), target) => download(session, &reference, &path, &target).await,
        }
    }

    async fn upload(
        &self,
        session: &Session,
        source: Place,
        reference: &WorkloadRef,
        path: &str,
    ) -> Result<Exit> {
        let work = session.workloads(std::slice::from_ref(reference))?;
        let targets: Vec<_> = work.into_iter().map(|(target, _)| target).collect();
        if targets.len() > 1 && !matches!(source, Place::Local(_)) {
            return Err(usage("only local files can be copied to several capsules at once"));
        }
        if let Place::Local(path) = &source {
            std::fs::symlink_metadata(path)
                .map_err(|e| usage(format!("cannot read {}: {e}", path.display())))?;
        }
        let origin = match &source {
            Place::Remote(reference, path) => {
                Some((connect(session, reference).await?, reference.name.to_string(), path.clone()))
            }
            _ => None,
        };
        let first = CopyInRequest {
            name: reference.name.to_string(),
            path: path.to_owned(),
            no_target_directory: self.no_target_directory,
            data: Vec::new(),
        };
        let out = session.out;
        gather(session, targets, session.asked_timeout(), layout(path.to_owned()), async |capsule| {
            let feed = match (&source, &origin) {
                (_, Some((capsule, name, path))) => Feed::remote(capsule, name, path).await?,
                (Place::Local(path), None) => Feed::local(path),
                _ => Feed::stdin(),
            };
            send(&out, &capsule, first.clone(), feed).await
        })
        .await
    }
}

async fn connect(session: &Session, reference: &WorkloadRef) -> Result<Capsule> {
    let target = session.only_workload(reference, "copying from a workload")?;
    Ok(session.connector()?.connect(&target).await.map_err(Failure::from)?)
}

async fn send(
    out: &Out,
    capsule: &Capsule,
    first: CopyInRequest,
    feed: Feed,
) -> Result<CopyInResponse, Failure> {
    let bar = progress::bytes(out, &format!("to {}", capsule.target().name), feed.total_bytes);
    let name = first.name.clone();
    let (pieces, failed) = feed.into_stream();
    let data = pieces.map(move |data| {
        bar.advance(data.len() as u64);
        CopyInRequest { data, ..Default::default() }
    });
    let requests = futures_util::stream::iter([first]).chain(data);
    let mut workloads = capsule.workloads();
    let answer = tokio::select! {
        // Dropping the call tells the capsule that the copy is not whole.
        Ok(error) = failed => return Err(Failure::local(format!("reading the source failed: {error}"))),
        answer = workloads.copy_in(requests) => answer,
    };
    Ok(named::workload(capsule, &name, answer).await?.into_inner())
}

async fn download(session: &Session, reference: &WorkloadRef, path: &str, target: &Place) -> Result<Exit> {
    let out = session.out;
    if matches!(target, Place::Stream) && io::stdout().is_terminal() {
        return Err(usage("a tar stream does not belong on a terminal; redirect stdout, or name a path"));
    }
    let capsule = connect(session, reference).await?;
    let feed = Feed::remote(&capsule, reference.name.as_str(), path).await?;
    let bar = progress::bytes(&out, &format!("from {}", capsule.target().name), feed.total_bytes);
    match target {
        Place::Local(to) => {
            let Some(bytes) = unpack_feed(feed, to, &bar).await? else { return Ok(Exit::INTERRUPTED) };
            drop(bar);
            out.note(&format!("copied {reference}:{path} to {} ({})", to.display(), human::bytes(bytes)));
        }
        _ => print_feed(&out, feed, &bar).await?,
    }
    Ok(Exit::ALL)
}

/// `None` where it was interrupted: then it goes only after what is unfinished has been removed.
async fn unpack_feed(mut feed: Feed, to: &Path, bar: &progress::Bar) -> Result<Option<u64>, Failure> {
    let (sender, receiver) = tokio::sync::mpsc::channel(crate::copy::pipe::AHEAD);
    let unpacking = unpack::start(receiver, to.to_path_buf());
    let mut bytes = 0;
    let mut interrupted = std::pin::pin!(interrupted());
    let mut is_interrupted = false;
    loop {
        let piece = tokio::select! {
            piece = feed.pieces.recv() => piece,
            () = &mut interrupted => { is_interrupted = true; None }
        };
        let Some(piece) = piece else { break };
        bytes += piece.len() as u64;
        bar.advance(piece.len() as u64);
        if sender.send(piece).await.is_err() {
            break;
        }
    }
    drop(sender);
    let unpacked = unpacking.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    if is_interrupted {
        return Ok(None);
    }
    // A capsule's own error explains a cut archive better than the archive does.
    feed.finish().await?;
    unpacked.map_err(|error| {
        Failure::local(format!("cannot write {}: {}", to.display(), crate::failure::causes(&error)))
    })?;
    Ok(Some(bytes))
}

/// Returns on SIGINT, SIGTERM or SIGHUP; where they cannot be caught they end the process as ever.
async fn interrupted() {
    let listen = |kind| signal(kind).ok();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut signals: Vec<_> = kinds.into_iter().filter_map(listen).collect();
    if signals.is_empty() {
        std::future::pending::<()>().await;
    }
    let each = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(each).await;
}

async fn print_feed(out: &Out, mut feed: Feed, bar: &progress::Bar) -> Result<(), Failure> {
    while let Some(piece) = feed.pieces.recv().await {
        bar.advance(piece.len() as u64);
        out.bytes(&piece);
    }
    feed.finish().await
}

fn layout(path: String) -> Layout<CopyInResponse> {
    Layout::lines(move |answer: &CopyInResponse, _| {
        let plural = if answer.files == 1 { "" } else { "s" };
        vec![format!("copied {} file{plural} ({}) to {path}", answer.files, human::bytes(answer.bytes))]
    })
}
