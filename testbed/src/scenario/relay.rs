//! A relay in front of a server, which counts and slows what comes back from it.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// What passes between two pauses.
const PIECE_BYTES: usize = 64 * 1024;

/// Listens where every capsule of a fleet reaches it, until it is dropped.
pub struct Relay {
    address: SocketAddr,
    passed: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Relay {
    /// Passes connections to `address` on to `server`; each gets at most `bytes_per_second` back.
    pub(super) fn start(address: Ipv4Addr, server: SocketAddr, bytes_per_second: u64) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).context("cannot listen for a relay")?;
        let relay = Self { address: listener.local_addr()?, passed: Arc::default(), ended: Arc::default() };
        let (passed, ended) = (relay.passed.clone(), relay.ended.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let passed = passed.clone();
                thread::spawn(move || pass(&client, server, &passed, bytes_per_second));
            }
        });
        Ok(relay)
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Bytes that came back from the server and were passed on, all connections together.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the listener; if it cannot be reached it is gone already.
        let _ = TcpStream::connect(self.address);
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
