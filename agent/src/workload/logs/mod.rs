//! What workloads write to stdout and stderr.
//!
//! `pump.rs` is a small process beside each container that writes files and outlives the agent;
//! `read.rs` reads them; `follow.rs` goes on reading across rotation and restarts.
//!
//! A run's output is a row of segments, `RUN.SEGMENT.log`, both numbers rising and never reused;
//! nothing is renamed, so a reader's place stays valid. Of each run the newest segments are kept,
//! of the runs the present and the one before.
//!
//! One record is one line, its first 40 bytes of fixed width:
//!
//! ```text
//! 2026-01-02T03:04:05.000000006Z stdout F the text, any bytes but a newline
//! 2026-01-02T03:04:05.000000006Z stderr P a piece of a line that goes on in the next record
//! ```

pub(super) mod cursor;
pub(super) mod follow;
pub mod pump;
pub(super) mod read;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Bytes before the text of a record.
const PREFIX: usize = 40;
/// Of a timestamp in a record.
const TIME: usize = 30;

/// One file of a run's output; ordered by age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    pub run: u64,
    pub number: u64,
}

impl Segment {
    pub fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:06}.{:06}.log", self.run, self.number))
    }

    fn parse(name: &str) -> Option<Self> {
        let (run, number) = name.strip_suffix(".log")?.split_once('.')?;
        Some(Self { run: run.parse().ok()?, number: number.parse().ok()? })
    }
}

/// Every segment in `dir`, oldest first; none where there is no such directory.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(entry?.file_name().to_str().and_then(Segment::parse));
    }
    found.sort();
    Ok(found)
}

/// The last lines of the newest run that wrote any, for messages.
pub(super) fn last_lines(dir: &Path, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let query = read::Query { tail: Some(count), ..read::Query::default() };
    let Ok(mut reader) = read::Reader::open(dir, &query) else { return lines };
    while let Ok(Some(record)) = reader.next_record() {
        lines.push(String::from_utf8_lossy(&record.line).into_owned());
    }
    lines
}
