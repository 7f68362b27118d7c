//! `fleetctl image push`.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use capsule_proto::{manifest::shown, v1::PushImageRequest};
use clap::{Args, ValueHint};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::{fs::File, io::AsyncReadExt as _};

use super::show;
use crate::{
    exit::Exit,
    failure::{Failure, usage},
    gather::gather,
    output::progress::{self, Bar},
    session::Session,
    terminal,
};

/// Bytes of one message: large enough that the cost of a message does not count, and well below
/// what a capsule accepts.
const PIECE_BYTES: usize = 1 << 20;

/// Send a docker-save or OCI archive to capsules; no registry is needed
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  fleetctl --all image push app.tar\n  docker save app:2 | fleetctl image push - --name app:2"
)]
pub struct Push {
    /// The archive, plain, gzip or zstd, or - for stdin
    #[arg(value_name = "FILE|-", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Reference to give the image, instead of the one in the archive
    #[arg(long, value_name = "REFERENCE")]
    name: Option<String>,
}

impl Push {
    /// Sends it to every capsule.
    pub(super) async fn run(self, session: &Session) -> Result<Exit> {
        let targets = session.targets()?;
        let is_stdin = self.file.as_os_str() == "-";
        if is_stdin && targets.len() > 1 {
            return Err(usage(
                "stdin can be sent to one capsule only; write the archive to a file for several",
            ));
        }
        let size = if is_stdin { 0 } else { self.size()? };
        let (out, is_alone) = (session.out, targets.len() == 1);
        gather(session, targets, session.asked_timeout(), show::layout("pushed"), async |capsule| {
            let label =
                if is_alone { "sending".to_owned() } else { format!("sending to {}", capsule.target().name) };
            let bar = progress::bytes(&out, &label, size);
            let pieces = if is_stdin { from_stdin().boxed() } else { from_file(&self.file).await?.boxed() };
            let (requests, problem) = requests(pieces, self.name.clone().unwrap_or_default(), bar);
            let answer = capsule.images().push(requests).await;
            let result = match answer {
                Ok(stream) => show::finish(&out, capsule.target(), is_alone, stream.into_inner()).await,
                Err(status) => Err(status.into()),
            };
            // Where reading failed here, the capsule only knows that the stream ended early.
            match problem.lock().ok().and_then(|mut problem| problem.take()) {
                Some(error) => Err(Failure::local(format!("cannot read {}: {error}", shown(&self.file)))),
                None => result,
            }
        })
        .await
    }

    fn size(&self) -> Result<u64> {
        let about = || format!("cannot read the archive {}", self.file.display());
        let metadata = std::fs::metadata(&self.file).with_context(about)?;
        if metadata.is_dir() {
            return Err(usage(format!("{} is a directory; give an archive file", self.file.display())));
        }
        Ok(metadata.len())
    }
}

type Piece = std::io::Result<Vec<u8>>;
type Problem = Arc<std::sync::Mutex<Option<std::io::Error>>>;

async fn from_file(path: &std::path::Path) -> Result<impl Stream<Item = Piece> + Send + 'static, Failure> {
    let file = File::open(path)
        .await
        .map_err(|error| Failure::local(format!("cannot read {}: {error}", path.display())))?;
    Ok(stream::unfold(Some(file), |file| async {
        let mut file = file?;
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        match (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(piece), Some(file))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

fn from_stdin() -> impl Stream<Item = Piece> + Send + 'static {
    stream::unfold(terminal::pieces(), |mut pieces| async {
        pieces.recv().await.map(|piece| (piece, pieces))
    })
}

/// The messages of one push; the stream ends at a piece that cannot be read, which is kept aside.
fn requests(
    pieces: impl Stream<Item = Piece> + Send + 'static,
    reference: String,
    bar: Bar,
) -> (impl Stream<Item = PushImageRequest> + Send + 'static, Problem) {
    let problem = Problem::default();
    let kept = problem.clone();
    let pieces = pieces.scan((), move |(), piece| {
        let piece = piece.map_err(|error| kept.lock().map(|mut kept| *kept = Some(error)));
        futures_util::future::ready(piece.ok())
    });
    let mut name = Some(reference);
    let requests = pieces.map(move |chunk| {
        bar.advance(chunk.len() as u64);
        PushImageRequest { reference: name.take().unwrap_or_default(), chunk }
    });
    (requests, problem)
}
