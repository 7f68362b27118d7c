//! Blocking readers and writers on the ends of async channels. An empty piece says that the stream
//! is whole: a channel that closes without one was cut off.

use std::io::{self, Read, Write};

use tokio::sync::mpsc;

/// Bytes of one piece of a stream.
pub const PIECE_BYTES: usize = 256 << 10;
/// Pieces between the two sides.
pub const AHEAD: usize = 8;

/// Writes what a blocking thread makes into a channel, in pieces of [`PIECE_BYTES`].
pub struct ChannelWriter {
    sender: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl ChannelWriter {
    /// A writer to this channel.
    pub fn new(sender: mpsc::Sender<Vec<u8>>) -> Self {
        Self { sender, buffer: Vec::with_capacity(PIECE_BYTES) }
    }

    /// Lets out the rest and says that this is all.
    pub fn finish(mut self) -> io::Result<()> {
        self.send()?;
        self.sender.blocking_send(Vec::new()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Reads on a blocking thread what async code puts into a channel.
pub struct ChannelReader {
    receiver: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    is_whole: bool,
}

impl ChannelReader {
    /// A reader of this channel.
    pub fn new(receiver: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { receiver, piece: Vec::new(), at: 0, is_whole: false }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.is_whole {
                return Ok(0);
            }
            match self.receiver.blocking_recv() {
                Some(piece) => (self.is_whole, self.piece, self.at) = (piece.is_empty(), piece, 0),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the copy was cut off")),
            }
        }
        let taken = buffer.len().min(self.piece.len() - self.at);
        buffer[..taken].copy_from_slice(&self.piece[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}
