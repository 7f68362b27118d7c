//! One client: lines in, answers out, never more memory than a line and an answer.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::Instant,
};

use zeroize::{Zeroize as _, Zeroizing};

use super::{
    Errno, Target,
    request::{Parsed, Parser, Request},
};

/// The longest line; a key takes 80 bytes.
const LINE_BYTES: usize = 1024;
/// Reads before others get their turn.
const READS: usize = 64;

/// Whether a client goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It waits for us to read.
    Read,
    /// It has yet to take its answer.
    Write,
    /// It is done with, or we are with it.
    Close,
}

/// A client's stream and what is under way on it.
pub struct Connection {
    stream: UnixStream,
    line: Zeroizing<[u8; LINE_BYTES]>,
    filled: usize,
    parser: Parser,
    answer: Zeroizing<Vec<u8>>,
    written: usize,
    closing: bool,
    /// When it last did anything.
    pub active: Instant,
}

impl Connection {
    /// A client that has just connected.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            line: Zeroizing::new([0; LINE_BYTES]),
            filled: 0,
            parser: Parser::default(),
            answer: Zeroizing::default(),
            written: 0,
            closing: false,
            active: Instant::now(),
        })
    }

    /// Goes on as far as it can without waiting.
    pub fn proceed(&mut self, target: &mut impl Target) -> Next {
        self.active = Instant::now();
        match self.try_proceed(target) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.has_answer() => Next::Write,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Read,
            Err(_) => Next::Close,
        }
    }

    fn try_proceed(&mut self, target: &mut impl Target) -> io::Result<Next> {
        for _ in 0..READS {
            self.write()?;
            if self.closing {
                return Ok(Next::Close);
            }
            if !self.serve_lines(target) {
                continue;
            }
            let read = self.stream.read(&mut self.line[self.filled..])?;
            if read == 0 {
                return Ok(Next::Close);
            }
            self.filled += read;
        }
        Ok(if self.has_answer() { Next::Write } else { Next::Read })
    }

    /// Takes the lines that have come, up to the end of a request; whether more bytes are needed.
    fn serve_lines(&mut self, target: &mut impl Target) -> bool {
        while let Some(end) = self.line[..self.filled].iter().position(|byte| *byte == b'\n') {
            let parsed = match std::str::from_utf8(&self.line[..end]) {
                Ok(line) => self.parser.line(line),
                Err(_) => Parsed::Lost(Errno::INVALID),
            };
            self.line.copy_within(end + 1..self.filled, 0);
            self.filled -= end + 1;
            match parsed {
                Parsed::More => {}
                Parsed::Whole(request) => {
                    self.answer_to(request, target);
                    return false;
                }
                Parsed::Lost(error) => {
                    self.lose(error);
                    return false;
                }
            }
        }
        if self.filled == LINE_BYTES {
            self.lose(Errno::TOO_MUCH);
            return false;
        }
        true
    }

    fn answer_to(&mut self, request: Result<Request, Errno>, target: &mut impl Target) {
        let outcome = match request {
            Ok(Request::Get) => {
                self.answer = target.show();
                Ok(())
            }
            Ok(Request::Set(change)) => target.change(*change),
            Err(error) => Err(error),
        };
        self.finish_answer(outcome.err().unwrap_or(Errno::NONE));
    }

    fn lose(&mut self, error: Errno) {
        self.closing = true;
        self.finish_answer(error);
    }

    fn finish_answer(&mut self, errno: Errno) {
        self.answer.extend_from_slice(format!("errno={}\n\n", errno.0).as_bytes());
    }

    fn has_answer(&self) -> bool {
        self.written < self.answer.len()
    }

    fn write(&mut self) -> io::Result<()> {
        while self.has_answer() {
            self.written += self.stream.write(&self.answer[self.written..])?;
        }
        self.answer.zeroize();
        self.written = 0;
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
