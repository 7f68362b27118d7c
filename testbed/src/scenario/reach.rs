//! Whether a workload can be reached, and what it says.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Capsule, Fleet, POLL, eventually};
use crate::sys::netns;

/// For one connection and one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// For a port to be there.
const REACH_LIMIT: Duration = Duration::from_secs(10);

impl Fleet {
    /// Waits until the operator's host gets an HTTP answer from the published port `port` of a
    /// workload (`web@a`) or of the capsule alone (`a`); the answer's body.
    pub async fn expect_reachable(&self, target: &str, port: u16) -> Result<String> {
        let address = self.address(target, port)?;
        eventually(self.patiently(REACH_LIMIT), async || blocking(move || http_get(address, "/")).await)
            .await
            .with_context(|| format!("{target} is not reachable on port {port}"))
    }

    /// Holds that nothing answers there, now.
    pub async fn expect_unreachable(&self, target: &str, port: u16) -> Result<()> {
        let address = self.address(target, port)?;
        match blocking(move || get(connect(address)?, address, "/")).await {
            Ok(answer) => bail!("{target} is reachable on port {port}: {answer}"),
            Err(_) => Ok(()),
        }
    }

    /// Calls `work` on a thread inside the network namespace of a capsule.
    pub async fn from_capsule<T: Send + 'static>(
        &self,
        capsule: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let namespace = self.testbed().plan().namespace(capsule);
        blocking(move || netns::inside(&namespace, work)?).await
    }

    /// Where a capsule's port is, for `a` as for `web@a`.
    pub fn address(&self, target: &str, port: u16) -> Result<SocketAddr> {
        let capsule = target.rsplit_once('@').map_or(target, |(_, capsule)| capsule);
        let mut address = self.capsule(capsule).api()?;
        address.set_port(port);
        Ok(address)
    }
}

impl Capsule<'_> {
    /// Calls `work` on a thread inside the network namespace of a workload.
    pub async fn inside<T: Send + 'static>(
        &self,
        workload: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let pid = self.pid(workload).await?;
        blocking(move || netns::inside_of(pid, work)?).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("the call panicked")?
}

/// The body of a successful GET. Waits for the port: a program that runs may not listen yet.
pub fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    get(patiently(|| connect(address))?, address, path)
}

fn get(mut stream: TcpStream, address: SocketAddr, path: &str) -> Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("no answer from {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    ensure!(head.starts_with("HTTP/1.1 200"), "{address}{path} answers: {answer}");
    Ok(body.to_owned())
}

/// Whether what is sent comes back over TCP, once the port is there.
pub fn tcp_echo(address: SocketAddr, message: &[u8]) -> Result<()> {
    let mut stream = patiently(|| connect(address))?;
    let mut back = vec![0; message.len()];
    stream.write_all(message)?;
    stream.read_exact(&mut back).with_context(|| format!("{address} does not echo"))?;
    ensure!(back == message, "{address} answers something else");
    Ok(())
}

/// The same over UDP, one datagram.
pub fn udp_echo(address: SocketAddr, message: &[u8]) -> Result<()> {
    patiently(|| udp_echo_once(address, message))
}

fn udp_echo_once(address: SocketAddr, message: &[u8]) -> Result<()> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.connect(address)?;
    socket.send(message)?;
    let mut back = vec![0; message.len() + 1];
    let read = socket.recv(&mut back).with_context(|| format!("{address} does not echo"))?;
    ensure!(&back[..read] == message, "{address} answers something else");
    Ok(())
}

/// Tries again while the port is closed.
fn patiently<T>(attempt: impl Fn() -> Result<T>) -> Result<T> {
    let end = Instant::now() + REACH_LIMIT;
    loop {
        match attempt() {
            Err(error) if is_refused(&error) && Instant::now() < end => thread::sleep(POLL),
            outcome => return outcome,
        }
    }
}

fn is_refused(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT);
    let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    Ok(stream)
}
