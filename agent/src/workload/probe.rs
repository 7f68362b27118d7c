//! Whether a running workload is ready: asked over TCP, HTTP or by a command inside it.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use capsule_proto::v1::{self, readiness};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle, time};

use super::{handle::Handle, registry::Parts, spec::Desired};
use crate::runtime::ExecSpec;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_THRESHOLD: u32 = 3;
/// No probe comes sooner after the one before, whatever the spec says.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Probes one run until dropped.
pub(super) struct Probe {
    pid: u32,
    ready: Arc<AtomicBool>,
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
        let ready = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(watch(target, ready.clone()));
        Self { pid, ready, task }
    }

    /// Of the run that is probed.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(target: Target, ready: Arc<AtomicBool>) {
    let duration = |given: &Option<pbjson_types::Duration>, default| {
        given.and_then(|given| Duration::try_from(given).ok()).unwrap_or(default)
    };
    let interval = duration(&target.readiness.interval, DEFAULT_INTERVAL).max(MIN_INTERVAL);
    let timeout = duration(&target.readiness.timeout, DEFAULT_TIMEOUT);
    let threshold = match target.readiness.threshold {
        0 => DEFAULT_THRESHOLD,
        given => given,
    };
    let mut failures = 0;
    loop {
        let succeeded = time::timeout(timeout, target.ask()).await.is_ok_and(|answer| answer.is_some());
        failures = if succeeded { 0 } else { failures + 1 };
        let was = ready.load(Ordering::Acquire);
        let is = succeeded || (was && failures < threshold);
        if is != was {
            ready.store(is, Ordering::Release);
            target.handle.poke();
        }
        time::sleep(interval).await;
    }
}

impl Target {
    async fn ask(&self) -> Option<()> {
        match self.readiness.probe.as_ref()? {
            readiness::Probe::Tcp(probe) => self.connect(probe.port).await.map(drop),
            readiness::Probe::Http(probe) => self.get(probe).await,
            readiness::Probe::Exec(probe) => self.run(probe).await,
        }
    }

    async fn connect(&self, port: u32) -> Option<TcpStream> {
        TcpStream::connect((self.host, u16::try_from(port).ok()?)).await.ok()
    }

    async fn get(&self, probe: &v1::HttpProbe) -> Option<()> {
        let stream = self.connect(probe.port).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let path = if probe.path.is_empty() { "/" } else { &probe.path };
        let request = hyper::Request::get(path)
            .header(hyper::header::HOST, format!("{}:{}", self.host, probe.port))
            .header(hyper::header::USER_AGENT, "capsule-readiness")
            .body(Empty::<Bytes>::new())
            .ok()?;
        // The connection is driven only for as long as the answer's head takes. Where it ends first (a
        // server that closes after its answer), the answer may already be on its way to us.
        let mut asked = std::pin::pin!(sender.send_request(request));
        let answer = tokio::select! {
            answer = &mut asked => answer,
            _ = connection => asked.await,
        };
        let answer = answer.ok()?;
        (200..400).contains(&answer.status().as_u16()).then_some(())
    }

    async fn run(&self, probe: &v1::ExecProbe) -> Option<()> {
        let spec = ExecSpec { command: probe.command.clone(), ..ExecSpec::default() };
        let mut process = self.parts.runtime.exec(&self.handle.name, spec).await.ok()?;
        let streams = (process.take_stdout(), process.take_stderr());
        let drains = [streams.0, streams.1].into_iter().flatten().map(|mut stream| async move {
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
        });
        let exit = tokio::select! {
            exit = process.wait() => exit,
            () = async { futures_util::future::join_all(drains).await; std::future::pending().await } => return None,
        };
        (exit.ok()?.code == 0).then_some(())
    }
}
