//! Opened packets on their way to the TUN.

use std::io::IoSlice;

use super::{tun::Tun, vnet::Header};

/// Packets behind each other in one buffer.
pub struct ToTun {
    buffer: Box<[u8]>,
    used: usize,
    packets: Vec<(usize, usize)>,
}

impl ToTun {
    /// Room for `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self { buffer: vec![0; bytes].into_boxed_slice(), used: 0, packets: Vec::new() }
    }

    /// Where the next packet is written, before [`ToTun::push`].
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..]
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.used
    }

    /// Takes the packet of `bytes` that was just written to [`ToTun::room`].
    pub fn push(&mut self, bytes: usize) {
        self.packets.push((self.used, bytes));
        self.used += bytes;
    }

    /// Writes them. What the kernel does not take, as while the link is down, is dropped.
    pub fn write(&mut self, tun: &Tun) {
        let header = Header::default().to_bytes();
        for (start, bytes) in self.packets.drain(..) {
            let parts = [IoSlice::new(&header), IoSlice::new(&self.buffer[start..start + bytes])];
            if let Err(error) = tun.write(&parts) {
                tracing::trace!(%error, "the TUN did not take a packet");
            }
        }
        self.used = 0;
    }
}
