//! Whether a running workload is ready: asked over TCP, HTTP or by a command inside it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use capsule_proto::v1::{self, readiness};
use futures_util::future::{self, Either};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time,
};

use super::{handle::Handle, registry::Parts, spec::Desired};
use crate::runtime::ExecSpec;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_THRESHOLD: u32 = 3;
/// No probe comes sooner after the one before, whatever the spec says.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// Of what a failing command says, quoted; bytes.
const QUOTE: u64 = 200;
/// From its end to the end of its streams.
const LINGER: Duration = Duration::from_millis(100);

/// What the last probes said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub ready: bool,
    /// As many failures in a row as the threshold asks for.
    pub failing: bool,
    /// Why the last one failed; empty where it succeeded.
    pub why: String,
}

/// Probes one run until dropped.
pub(super) struct Probe {
    pid: u32,
    answer: watch::Receiver<Answer>,
    task: JoinHandle<()>,
}

struct Target {
    parts: Arc<Parts>,
    handle: Arc<Handle>,
    host: IpAddr,
    readiness: v1::Readiness,
}

impl Probe {
    pub fn start(
        parts: &Arc<Parts>,
        handle: &Arc<Handle>,
        desired: &Desired,
        readiness: &v1::Readiness,
        pid: u32,
    ) -> Self {
        let host = desired.address.as_ref().map_or(Ipv4Addr::LOCALHOST, |address| address.ipv4);
        let target = Target {
            parts: parts.clone(),
            handle: handle.clone(),
            host: host.into(),
            readiness: readiness.clone(),
        };
        let (say, answer) = watch::channel(Answer::default());
        let task = tokio::spawn(watch(target, say));
        Self { pid, answer, task }
    }

    /// Of the run that is probed.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn answer(&self) -> Answer {
        self.answer.borrow().clone()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(target: Target, say: watch::Sender<Answer>) {
    let duration = |given: &Option<pbjson_types::Duration>, default| {
        given.and_then(|given| Duration::try_from(given).ok()).unwrap_or(default)
    };
    let interval = duration(&target.readiness.interval, DEFAULT_INTERVAL).max(MIN_INTERVAL);
    let timeout = duration(&target.readiness.timeout, DEFAULT_TIMEOUT);
    let threshold = match target.readiness.threshold {
        0 => DEFAULT_THRESHOLD,
        given => given,
    };
    let mut failures = 0_u32;
    loop {
        let outcome = time::timeout(timeout, target.ask()).await.unwrap_or_else(|_| {
            let limit = capsule_proto::format_duration(timeout);
            Err(format!("{} gave no answer within {limit}", target.describe()))
        });
        failures = if outcome.is_ok() { 0 } else { failures.saturating_add(1) };
        let was = say.borrow().ready;
        let now = Answer {
            ready: outcome.is_ok() || (was && failures < threshold),
            failing: failures >= threshold,
            why: outcome.err().unwrap_or_default(),
        };
        let news = say.send_if_modified(|last| {
            let news = *last != now;
            *last = now;
            news
        });
        if news {
            target.handle.poke();
        }
        time::sleep(interval).await;
    }
}

impl Target {
    async fn ask(&self) -> Result<(), String> {
        match &self.readiness.probe {
            Some(readiness::Probe::Tcp(probe)) => self.connect(probe.port).await.map(drop),
            Some(readiness::Probe::Http(probe)) => self.get(probe).await,
            Some(readiness::Probe::Exec(probe)) => self.run(probe).await,
            None => Err("it names no probe; write tcp, http or exec".into()),
        }
    }

    /// `GET http://10.1.2.3:8080/healthz`
    fn describe(&self) -> String {
        match &self.readiness.probe {
            Some(readiness::Probe::Tcp(probe)) => format!("TCP port {}", probe.port),
            Some(readiness::Probe::Http(probe)) => {
                format!("GET http://{}:{}{}", self.host, probe.port, path(probe))
            }
            Some(readiness::Probe::Exec(probe)) => format!("`{}`", probe.command.join(" ")),
            None => String::new(),
        }
    }

    fn failed(&self, error: impl std::fmt::Display) -> String {
        format!("{}: {error}", self.describe())
    }

    async fn connect(&self, port: u32) -> Result<TcpStream, String> {
        let port = u16::try_from(port).map_err(|error| self.failed(error))?;
        TcpStream::connect((self.host, port)).await.map_err(|error| self.failed(plain(&error)))
    }

    async fn get(&self, probe: &v1::HttpProbe) -> Result<(), String> {
        let stream = self.connect(probe.port).await?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.failed(error))?;
        let request = hyper::Request::get(path(probe))
            .header(hyper::header::HOST, format!("{}:{}", self.host, probe.port))
            .header(hyper::header::USER_AGENT, "capsule-readiness")
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.failed(error))?;
        // The connection is driven only for as long as the answer's head takes. Where it ends first (a
        // server that closes after its answer), the answer may already be on its way to us.
        let mut asked = std::pin::pin!(sender.send_request(request));
        let answer = tokio::select! {
            answer = &mut asked => answer,
            _ = connection => asked.await,
        };
        let status = answer.map_err(|error| self.failed(error))?.status();
        if (200..400).contains(&status.as_u16()) {
            return Ok(());
        }
        Err(format!("{} answered status {}", self.describe(), status.as_u16()))
    }

    async fn run(&self, probe: &v1::ExecProbe) -> Result<(), String> {
        let spec = ExecSpec { command: probe.command.clone(), ..ExecSpec::default() };
        let started = self.parts.runtime.exec(&self.handle.name, spec).await;
        let mut process = started.map_err(|error| self.failed(crate::status::chain(&error)))?;
        let (out, err) = (process.take_stdout(), process.take_stderr());
        let words = std::pin::pin!(future::join(quote(out), quote(err)));
        let (exit, (out, err)) = match future::select(process.wait(), words).await {
            Either::Right((said, wait)) => (wait.await, said),
            // A child of the command may hold the streams open for as long as it likes.
            Either::Left((exit, words)) => (exit, time::timeout(LINGER, words).await.unwrap_or_default()),
        };
        let code = exit.map_err(|error| self.failed(crate::status::chain(&error)))?.code;
        if code == 0 {
            return Ok(());
        }
        let said = if err.is_empty() { out } else { err };
        let said = if said.is_empty() { said } else { format!(": {said}") };
        Err(format!("{} ended with exit code {code}{said}", self.describe()))
    }
}

fn path(probe: &v1::HttpProbe) -> &str {
    if probe.path.is_empty() { "/" } else { &probe.path }
}

/// Without the number that the system's texts carry: `connection refused`.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::TimedOut => "no answer".into(),
        io::ErrorKind::HostUnreachable => "host unreachable".into(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".into(),
        _ => error.to_string(),
    }
}

/// The first line of a stream, which is read to its end.
async fn quote(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut head = Vec::new();
    // What a probe prints is a remark: without it the exit code still tells.
    let _ = (&mut stream).take(QUOTE).read_to_end(&mut head).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&head).lines().next().unwrap_or_default().trim().to_owned()
}
