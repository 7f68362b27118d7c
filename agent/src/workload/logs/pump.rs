//! `capsuled log-pump DIR`: from a container's stdout and stderr to segments in DIR.
//!
//! Started by containerd's shim as a `binary://` logger: descriptor 3 is the read end of stdout,
//! 4 of stderr, and closing 5 says that the pump is ready. It ends when both are at their end, so
//! it outlives agent and containerd. One thread, poll(2), no runtime: some hundred KiB each.
//!
//! It never makes the container wait for a disk: what cannot be written is counted and dropped,
//! and a record says so as soon as there is room again.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Segment, segments};

/// Longest text of one record; a longer line becomes several.
const LONGEST_TEXT: usize = 16 * 1024;
/// Read at once from a pipe: what a pipe holds by default.
const READ: usize = 64 * 1024;
/// Runs kept: the present one and the one before.
const RUNS: u64 = 2;

/// How much of a run is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A segment that has grown to this is followed by another.
    pub segment_bytes: u64,
    /// Segments kept of a run.
    pub segments: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment_bytes: 10 * 1024 * 1024, segments: 3 }
    }
}

/// The directory, where the program was called as `capsuled log-pump DIR`. There is one of these
/// processes beside each container: it takes no memory for a parser of arguments.
pub fn asked_for(mut arguments: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    arguments.nth(1).filter(|word| word == "log-pump")?;
    arguments.next().map(PathBuf::from)
}

/// Pumps descriptors 3 and 4 into `dir` until both are at their end; closes 5 when ready.
/// `CAPSULE_LOG_SEGMENT_BYTES` overrides the size of a segment.
pub fn run(dir: &Path) -> io::Result<()> {
    let mut limits = Limits::default();
    if let Some(bytes) = std::env::var("CAPSULE_LOG_SEGMENT_BYTES").ok().and_then(|text| text.parse().ok()) {
        limits.segment_bytes = bytes;
    }
    // Opened anew through /proc: a raw number cannot be turned into a file safely.
    let streams = [reopen("/proc/self/fd/3")?, reopen("/proc/self/fd/4")?];
    for inherited in [3, 4, 5] {
        // 5 is missing where nobody waits for it.
        let _ = nix::unistd::close(inherited);
    }
    pump(dir, limits, streams)
}

/// Without waiting for a writer: it may have gone already.
fn reopen(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// The same for two streams, stdout first.
pub fn pump(dir: &Path, limits: Limits, streams: [File; 2]) -> io::Result<()> {
    let mut writer = Writer::new(dir, limits)?;
    let mut open = streams.map(Some);
    let mut partial = [Vec::new(), Vec::new()];
    let mut buffer = vec![0; READ];
    while open.iter().any(Option::is_some) {
        for at in readable(&open)? {
            let Some(stream) = &mut open[at] else { continue };
            match stream.read(&mut buffer) {
                Ok(0) => {
                    writer.end_line(at, &mut partial[at]);
                    open[at] = None;
                }
                Ok(count) => writer.take(at, &buffer[..count], &mut partial[at]),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(_) => open[at] = None,
            }
        }
        writer.flush();
    }
    Ok(())
}

/// Indices of the streams that have something, an end or an error. Waits for the first.
fn readable(open: &[Option<File>; 2]) -> io::Result<Vec<usize>> {
    let (indices, mut polled): (Vec<usize>, Vec<PollFd<'_>>) = open
        .iter()
        .enumerate()
        .filter_map(|(at, stream)| Some((at, PollFd::new(stream.as_ref()?.as_fd(), PollFlags::POLLIN))))
        .unzip();
    match poll(&mut polled, PollTimeout::NONE) {
        Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
        other => other?,
    };
    let ready = indices.into_iter().zip(&polled);
    Ok(ready.filter(|(_, fd)| fd.any().unwrap_or(true)).map(|(at, _)| at).collect())
}

struct Writer {
    dir: PathBuf,
    limits: Limits,
    at: Segment,
    file: Option<File>,
    /// Of whole records in `file`.
    length: u64,
    batch: Vec<u8>,
    batch_lines: u64,
    lost: u64,
}

impl Writer {
    fn new(dir: &Path, limits: Limits) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let run = segments(dir)?.last().map_or(1, |last| last.run + 1);
        let mut writer = Self {
            dir: dir.to_owned(),
            limits,
            at: Segment { run, number: 0 },
            file: None,
            length: 0,
            batch: Vec::new(),
            batch_lines: 0,
            lost: 0,
        };
        writer.open_next();
        Ok(writer)
    }

    /// Adds what was read, in records, and leaves an unfinished line in `partial`.
    fn take(&mut self, stream: usize, mut bytes: &[u8], partial: &mut Vec<u8>) {
        while let Some(newline) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(newline);
            self.extend(stream, line, partial);
            self.record(stream, b'F', partial);
            partial.clear();
            bytes = &rest[1..];
        }
        self.extend(stream, bytes, partial);
    }

    fn extend(&mut self, stream: usize, mut bytes: &[u8], partial: &mut Vec<u8>) {
        while partial.len() + bytes.len() > LONGEST_TEXT {
            let (fits, rest) = bytes.split_at(LONGEST_TEXT - partial.len());
            partial.extend_from_slice(fits);
            self.record(stream, b'P', partial);
            partial.clear();
            bytes = rest;
        }
        partial.extend_from_slice(bytes);
    }

    fn end_line(&mut self, stream: usize, partial: &mut Vec<u8>) {
        if !partial.is_empty() {
            self.record(stream, b'F', partial);
            partial.clear();
        }
    }

    fn record(&mut self, stream: usize, flag: u8, text: &[u8]) {
        let name = ["stdout", "stderr"][stream];
        let time = jiff::Timestamp::now();
        // Writing to a Vec cannot fail.
        let _ = write!(self.batch, "{time:.9} {name} {} ", flag as char);
        self.batch.extend_from_slice(text);
        self.batch.push(b'\n');
        self.batch_lines += 1;
        if self.length + self.batch.len() as u64 >= self.limits.segment_bytes {
            self.flush();
            self.open_next();
        }
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.lost > 0 {
            self.admit_loss();
        }
        if !self.write_whole() {
            self.lost += self.batch_lines;
        }
        self.batch.clear();
        self.batch_lines = 0;
    }

    /// Before the batch: how many lines are missing. Counted as kept only once it is written.
    fn admit_loss(&mut self) {
        let time = jiff::Timestamp::now();
        let note = format!("{time:.9} stderr F capsule: {} lines lost: the disk was full\n", self.lost);
        self.batch.splice(0..0, note.into_bytes());
    }

    /// All of the batch or nothing of it.
    fn write_whole(&mut self) -> bool {
        let Some(file) = &mut self.file else {
            self.open_next();
            return self.file.is_some() && self.write_whole();
        };
        if file.write_all(&self.batch).is_ok() {
            self.length += self.batch.len() as u64;
            self.lost = 0;
            return true;
        }
        // A record cut short would swallow the next one.
        let _ = file.set_len(self.length);
        false
    }

    /// Begins the next segment and removes what is too old.
    fn open_next(&mut self) {
        let next = Segment { number: self.at.number + 1, ..self.at };
        // Where that fails, the present one grows on rather than lose a line.
        if let Ok(file) = OpenOptions::new().append(true).create_new(true).open(next.path(&self.dir)) {
            (self.file, self.at, self.length) = (Some(file), next, 0);
            self.remove_old();
        }
    }

    fn remove_old(&self) {
        let too_old = |segment: &Segment| {
            segment.run + RUNS <= self.at.run
                || (segment.run == self.at.run && segment.number + self.limits.segments <= self.at.number)
        };
        for old in segments(&self.dir).unwrap_or_default().into_iter().filter(too_old) {
            let _ = fs::remove_file(old.path(&self.dir));
        }
    }
}
