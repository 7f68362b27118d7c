//! Reading a workload's log files.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use capsule_proto::{timestamp, v1};

use super::{
    PREFIX, Segment, TIME,
    cursor::{Cursor, Place},
    segments,
};

/// Pieces of one line are joined up to this; a longer line comes as several.
const LONGEST_LINE: usize = 1024 * 1024;
/// By how much the kernel's clock for files may be behind that of records, generously.
const CLOCK_TICK: Duration = Duration::from_secs(1);
/// Read at once while looking for the last lines.
const BLOCK: usize = 64 * 1024;

/// Which records.
#[derive(Clone, Debug, Default)]
pub(in crate::workload) struct Query {
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only from this time on.
    pub since: Option<SystemTime>,
    /// Of the run before this one.
    pub previous: bool,
    /// From here on, over all runs; nothing else counts then.
    pub after: Option<Cursor>,
}

/// Goes through segments in order; at the end of what there is, `next_record` gives `None` and
/// may be called again.
pub(in crate::workload) struct Reader {
    dir: PathBuf,
    at: Option<Segment>,
    file: Option<BufReader<File>>,
    /// Behind the last record that was read from `file`.
    offset: u64,
    /// A record whose newline is not there yet.
    unfinished: Vec<u8>,
    /// Beginnings of lines, and where they are, by stream.
    pieces: [Option<(Place, v1::LogRecord)>; 2],
    /// Records up to here are left out.
    seen: Option<Place>,
    since: Option<String>,
    /// Only this run.
    only: Option<u64>,
}

impl Reader {
    /// At the first record that `query` asks for.
    pub fn open(dir: &Path, query: &Query) -> io::Result<Self> {
        if let Some(after) = query.after {
            return Self::resume(dir, after);
        }
        let all = segments(dir)?;
        let present = all.last().map_or(0, |last| last.run);
        let run = if query.previous { present.saturating_sub(1) } else { present };
        let only = query.previous.then_some(run);
        let wanted = |segment: &&Segment| segment.run == run;
        let mut of_run: Vec<Segment> = all.iter().filter(wanted).copied().collect();
        let mut reader = Self { since: query.since.map(stamp), only, ..Self::nowhere(dir) };
        if let Some(since) = query.since {
            of_run.retain(|segment| !ended_before(&segment.path(dir), since));
        }
        let (first, offset) = match query.tail {
            Some(count) => tail_start(dir, &of_run, count)?,
            None => (of_run.first().copied(), 0),
        };
        // Where nothing is wanted of what there is, begin after it.
        let first = first.or_else(|| all.iter().rfind(wanted).copied());
        if let Some(first) = first {
            reader.enter(first)?;
            let to = if of_run.is_empty() { SeekFrom::End(0) } else { SeekFrom::Start(offset) };
            reader.seek(to)?;
        }
        Ok(reader)
    }

    /// Names the place that it is at; `None` where a time says where it begins.
    pub fn place(&self) -> Option<Cursor> {
        let place = Place { segment: self.at.unwrap_or_default(), offset: self.offset };
        self.since.is_none().then_some(Cursor { from: place, seen: place })
    }

    fn nowhere(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            at: None,
            file: None,
            offset: 0,
            unfinished: Vec::new(),
            pieces: [None, None],
            seen: None,
            since: None,
            only: None,
        }
    }

    /// Behind the record of a cursor, or at the first one after it that is still kept.
    fn resume(dir: &Path, after: Cursor) -> io::Result<Self> {
        let mut reader = Self::nowhere(dir);
        reader.enter(after.from.segment)?;
        let length = reader.file.as_ref().map(|file| file.get_ref().metadata()).transpose()?;
        // Shorter than it was: the workload was deleted and made anew, and so were its logs.
        if length.is_none_or(|meta| meta.len() >= after.from.offset) {
            reader.seen = Some(after.seen);
            reader.seek(SeekFrom::Start(after.from.offset))?;
        }
        Ok(reader)
    }

    fn seek(&mut self, to: SeekFrom) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            self.offset = file.seek(to)?;
        }
        Ok(())
    }

    /// Whether there was nothing to begin with.
    pub fn is_empty(&self) -> bool {
        self.at.is_none()
    }

    /// The next whole line, or `None` at the end of what there is by now.
    pub fn next_record(&mut self) -> io::Result<Option<v1::LogRecord>> {
        loop {
            if !self.fill()? {
                return Ok(None);
            }
            let line = std::mem::take(&mut self.unfinished);
            let start = self.offset;
            self.offset += line.len() as u64 + 1;
            if self.since.as_ref().is_some_and(|since| line.get(..TIME).is_some_and(|t| t < since.as_bytes()))
            {
                continue;
            }
            self.since = None;
            let Some(record) = self.assemble(start, &line) else { continue };
            let seen = Place { segment: self.at.unwrap_or_default(), offset: self.offset };
            if self.seen.is_none_or(|until| seen > until) {
                let begun = self.pieces.iter().flatten().map(|(place, _)| *place).min();
                let cursor = Cursor { from: begun.unwrap_or(seen), seen };
                return Ok(Some(v1::LogRecord { cursor: cursor.to_string(), ..record }));
            }
        }
    }

    /// Reads one record into `unfinished`, from the next segment where this one is at its end.
    fn fill(&mut self) -> io::Result<bool> {
        loop {
            let next = self.next_segment()?;
            if let Some(file) = &mut self.file {
                file.read_until(b'\n', &mut self.unfinished)?;
                if self.unfinished.last() == Some(&b'\n') {
                    self.unfinished.pop();
                    return Ok(true);
                }
            }
            // `next` was there before the read that found the end: nothing more comes here.
            match next {
                Some(next) => self.enter(next)?,
                None => return Ok(false),
            }
        }
    }

    fn next_segment(&self) -> io::Result<Option<Segment>> {
        // Listing a directory costs more than reading a buffered line.
        if self.file.as_ref().is_some_and(|file| file.buffer().contains(&b'\n')) {
            return Ok(None);
        }
        let all = segments(&self.dir)?;
        let later = |segment: &Segment| self.at.is_none_or(|at| *segment > at);
        let wanted = |segment: &Segment| self.only.is_none_or(|run| segment.run == run);
        Ok(all.into_iter().find(|segment| later(segment) && wanted(segment)))
    }

    fn enter(&mut self, segment: Segment) -> io::Result<()> {
        self.unfinished.clear();
        if self.at.is_none_or(|at| at.run != segment.run) {
            self.pieces = [None, None];
        }
        self.at = Some(segment);
        self.offset = 0;
        self.file = match File::open(segment.path(&self.dir)) {
            // Removed since it was listed: the next one is there already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            file => Some(BufReader::new(file?)),
        };
        Ok(())
    }

    /// Joins pieces; `None` where more belong to the line, or where it is no record.
    fn assemble(&mut self, start: u64, line: &[u8]) -> Option<v1::LogRecord> {
        let (head, text) = line.split_at_checked(PREFIX)?;
        let time = std::str::from_utf8(&head[..TIME]).ok()?.parse::<jiff::Timestamp>().ok()?;
        let (stream, slot) = match &head[TIME + 1..TIME + 7] {
            b"stdout" => (v1::Stream::Stdout, 0),
            b"stderr" => (v1::Stream::Stderr, 1),
            _ => return None,
        };
        let begin = || {
            let record = v1::LogRecord {
                time: Some(timestamp(time.into())),
                stream: stream as i32,
                ..Default::default()
            };
            (Place { segment: self.at.unwrap_or_default(), offset: start }, record)
        };
        let (place, mut record) = self.pieces[slot].take().unwrap_or_else(begin);
        record.line = [&record.line[..], text].concat();
        if head[PREFIX - 2] == b'P' && record.line.len() < LONGEST_LINE {
            self.pieces[slot] = Some((place, record));
            return None;
        }
        Some(record)
    }
}

/// As it stands in a record; records compare by it byte by byte.
fn stamp(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|at| format!("{at:.9}")).unwrap_or_default()
}

fn ended_before(path: &Path, since: SystemTime) -> bool {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    modified.is_ok_and(|modified| modified + CLOCK_TICK < since)
}

/// Where the last `count` lines begin, found from the end backwards.
fn tail_start(dir: &Path, segments: &[Segment], count: usize) -> io::Result<(Option<Segment>, u64)> {
    let mut missing = count;
    let mut earliest = (segments.last().copied(), None);
    for segment in segments.iter().rev() {
        let Ok(mut file) = File::open(segment.path(dir)) else { continue };
        if missing == 0 {
            break;
        }
        let (start, found) = last_lines_of(&mut file, missing)?;
        missing -= found;
        earliest = (Some(*segment), Some(start));
    }
    match earliest {
        (Some(segment), Some(start)) => Ok((Some(segment), start)),
        // None wanted: after everything.
        (Some(segment), None) => Ok((Some(segment), fs::metadata(segment.path(dir))?.len())),
        (None, _) => Ok((None, 0)),
    }
}

/// Offset where the last `count` lines of a file begin, and how many it has of them. A line that
/// came in pieces counts once, at its end.
fn last_lines_of(file: &mut File, count: usize) -> io::Result<(u64, usize)> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut tail: Vec<u8> = Vec::new();
    let mut begin = length;
    let mut found = 0;
    let mut start = length;
    // Of the first record in `tail` that is known to be whole.
    let mut whole_from = length;
    while begin > 0 {
        let block = (BLOCK as u64).min(begin);
        begin -= block;
        let mut bytes = vec![0; block as usize];
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut bytes)?;
        bytes.extend_from_slice(&tail);
        tail = bytes;
        let unread = &tail[..(whole_from - begin) as usize];
        for record in record_starts(unread, begin == 0).into_iter().rev() {
            let last_piece = tail.get(record + PREFIX - 2) != Some(&b'P');
            if last_piece && found == count {
                return Ok((start, found));
            }
            found += usize::from(last_piece);
            start = begin + record as u64;
            whole_from = start;
        }
        // Only what precedes the first whole record matters for the next block.
        tail.truncate((whole_from - begin) as usize + PREFIX);
    }
    Ok((start, found))
}

/// Offsets at which a finished record begins.
fn record_starts(bytes: &[u8], from_start: bool) -> Vec<usize> {
    let ends: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
    let first = from_start.then_some(0);
    let last = ends.last().copied();
    first.into_iter().chain(ends).filter(|start| last.is_some_and(|last| *start < last)).collect()
}
