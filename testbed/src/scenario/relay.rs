//! A relay in front of a server, which counts and slows what comes back from it.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;

use super::Listener;

/// What passes between two pauses.
const PIECE_BYTES: usize = 64 * 1024;

/// Relays until it is dropped.
pub struct Relay {
    listener: Listener,
    passed: Arc<AtomicU64>,
}

impl Relay {
    /// Passes connections to `address` on to `server`; each gets at most `bytes_per_second` back.
    pub(super) fn start(address: Ipv4Addr, server: SocketAddr, bytes_per_second: u64) -> Result<Self> {
        let passed: Arc<AtomicU64> = Arc::default();
        let counted = passed.clone();
        let listener = Listener::start(address, move |client| {
            let _ = pass(&client, server, &counted, bytes_per_second);
        })?;
        Ok(Self { listener, passed })
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.listener.host()
    }

    /// Bytes that came back from the server and were passed on, all connections together.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

fn pass(client: &TcpStream, server: SocketAddr, passed: &AtomicU64, bytes_per_second: u64) -> Option<()> {
    let server = TcpStream::connect(server).ok()?;
    let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let (mut buffer, mut from, mut to) = (vec![0; PIECE_BYTES], &server, client);
    loop {
        let read = from.read(&mut buffer).ok().filter(|read| *read > 0);
        let Some(read) = read else { break };
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
        passed.fetch_add(read as u64, Ordering::Relaxed);
        thread::sleep(Duration::from_micros(read as u64 * 1_000_000 / bytes_per_second));
    }
    let _ = server.shutdown(Shutdown::Both);
    client.shutdown(Shutdown::Both).ok()
}
