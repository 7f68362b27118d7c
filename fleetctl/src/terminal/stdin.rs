//! stdin as a stream of pieces. A thread of its own reads it: a read that never returns must keep
//! neither the runtime nor the process alive.

use std::{
    io::{self, Read as _},
    thread,
};

use tokio::sync::mpsc;

/// Bytes of one piece.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces read ahead; past that the writer on the other side of the pipe waits.
const AHEAD: usize = 8;

/// Starts to read; the channel closes at the end of the input.
pub fn pieces() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let piece = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => Ok(buffer[..read].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let ends = piece.is_err();
            if sender.blocking_send(piece).is_err() || ends {
                return;
            }
        }
    });
    receiver
}
