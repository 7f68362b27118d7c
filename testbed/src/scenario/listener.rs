//! A server of the test's own, where every capsule of a fleet reaches it.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};

/// Listens until it is dropped.
pub(crate) struct Listener {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Listener {
    /// Gives every connection to `serve`, each on a thread of its own.
    pub fn start(address: Ipv4Addr, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<Self> {
        let listener =
            TcpListener::bind((address, 0)).with_context(|| format!("cannot listen on {address}"))?;
        let this = Self { address: listener.local_addr()?, ended: Arc::default() };
        let (serve, ended) = (Arc::new(serve), this.ended.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let serve = serve.clone();
                thread::spawn(move || serve(client));
            }
        });
        Ok(this)
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the listener; if it cannot be reached it is gone already.
        let _ = TcpStream::connect(self.address);
    }
}
