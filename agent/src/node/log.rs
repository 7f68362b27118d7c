//! Reading the log ring: its last lines, then, across rotations, each new one.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::Path,
    str::FromStr,
};

use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use capsule_proto::v1::NodeLogLine;

use crate::logging::LogRing;

type Sender = mpsc::Sender<Result<NodeLogLine, Status>>;

/// Of a file's first line, which begins with a time, this much tells the file from all others.
const HEAD_BYTES: usize = 4096;

/// Behind a line, for as long as its file is kept, over restarts of the agent too. An inode would
/// not do: the kernel gives that of a removed file to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Digest of the file's first line.
    file: String,
    offset: u64,
}

impl FromStr for Cursor {
    type Err = Status;

    fn from_str(text: &str) -> Result<Self, Status> {
        let wrong =
            || Status::invalid_argument(format!("{text:?} is no cursor of a line of the agent's log"));
        let (file, offset) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self { file: file.to_owned(), offset: offset.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.file, self.offset)
    }
}

/// The log from one place on.
pub(super) struct Log {
    reader: Reader,
    grew: watch::Receiver<()>,
    lines: Vec<NodeLogLine>,
    /// The cursor of the line before the first; empty where that is the oldest.
    pub begins: String,
}

impl Log {
    /// Behind `after`, else with the last `tail` lines, else with all.
    pub fn open(ring: LogRing, tail: Option<u32>, after: Option<&Cursor>) -> io::Result<Self> {
        let mut grew = ring.grew();
        grew.borrow_and_update();
        let mut reader = Reader::start(ring, after)?;
        let mut lines = reader.read_lines()?;
        let wanted = if after.is_some() { None } else { tail };
        let skipped = lines.len().saturating_sub(wanted.map_or(usize::MAX, |tail| tail as usize));
        let begins = lines.drain(..skipped).next_back().map(|line| line.cursor);
        let begins = begins.or_else(|| after.map(Cursor::to_string)).unwrap_or_default();
        Ok(Self { reader, grew, lines, begins })
    }

    /// Sends what there is, and with `follow` all that comes, until the receiver is gone.
    pub async fn send(mut self, follow: bool, to: &Sender) -> io::Result<()> {
        loop {
            for line in self.lines {
                if to.send(Ok(line)).await.is_err() {
                    return Ok(());
                }
            }
            if !follow {
                return Ok(());
            }
            tokio::select! {
                () = to.closed() => return Ok(()),
                changed = self.grew.changed() => if changed.is_err() { return Ok(()) },
            }
            self.lines = self.reader.read_lines()?;
        }
    }
}

/// A place in the ring. The open file stays readable when it is renamed, and even when it is
/// replaced.
struct Reader {
    ring: LogRing,
    file: File,
    /// Its name in cursors; empty before its first line was read.
    id: String,
    /// Bytes of it that were taken as lines.
    offset: u64,
    partial: Vec<u8>,
}

impl Reader {
    /// Behind the line of a cursor, else at the oldest line that is kept.
    fn start(ring: LogRing, after: Option<&Cursor>) -> io::Result<Self> {
        // In this order a rotation between the two hides no file.
        let (current, old) = (File::open(ring.path())?, File::open(ring.old_path()).ok());
        let mut kept: Vec<File> = old.into_iter().chain([current]).collect();
        for file in kept.iter_mut().filter(|_| after.is_some()) {
            let Some(after) = after.filter(|after| id_of(file).is_ok_and(|id| id == after.file)) else {
                continue;
            };
            file.seek(SeekFrom::Start(after.offset))?;
            let (file, id) = (file.try_clone()?, after.file.clone());
            return Ok(Self { ring, file, id, offset: after.offset, partial: Vec::new() });
        }
        let file = kept.swap_remove(0);
        Ok(Self { ring, file, id: String::new(), offset: 0, partial: Vec::new() })
    }

    /// All whole lines from here to the end.
    fn read_lines(&mut self) -> io::Result<Vec<NodeLogLine>> {
        let mut lines = Vec::new();
        loop {
            self.file.read_to_end(&mut self.partial)?;
            let Some(next) = self.next_file()? else { break };
            // It was rotated between the two looks, or before: what it still had comes first.
            self.file.read_to_end(&mut self.partial)?;
            self.take_lines(&mut lines);
            *self = Self {
                ring: self.ring.clone(),
                file: next,
                id: String::new(),
                offset: 0,
                partial: Vec::new(),
            };
        }
        self.take_lines(&mut lines);
        Ok(lines)
    }

    /// The file after the open one, where that is no longer written.
    fn next_file(&self) -> io::Result<Option<File>> {
        let (here, current, old) = (inode(&self.file)?, self.ring.path(), self.ring.old_path());
        let newest = File::open(&current)?;
        if inode(&newest)? == here {
            return Ok(None);
        }
        if is_file(&old, here) { Ok(Some(newest)) } else { File::open(&old).or(Ok(newest)).map(Some) }
    }

    fn take_lines(&mut self, lines: &mut Vec<NodeLogLine>) {
        let end = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.partial.drain(..end).collect();
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            if self.id.is_empty() {
                self.id = id_of_head(line);
            }
            self.offset += line.len() as u64;
            let cursor = Cursor { file: self.id.clone(), offset: self.offset }.to_string();
            let line = String::from_utf8_lossy(line).trim_end_matches('\n').to_owned();
            lines.push(NodeLogLine { line, cursor });
        }
    }
}

/// What cursors call a file that begins like this.
fn id_of_head(head: &[u8]) -> String {
    let end = head.iter().position(|byte| *byte == b'\n').unwrap_or(head.len());
    hex::encode(&Sha256::digest(&head[..end.min(HEAD_BYTES)])[..8])
}

fn id_of(file: &mut File) -> io::Result<String> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.rewind()?;
    file.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(id_of_head(&head))
}

fn inode(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|meta| (meta.dev(), meta.ino()))
}

fn is_file(path: &Path, inode: (u64, u64)) -> bool {
    path.metadata().is_ok_and(|meta| (meta.dev(), meta.ino()) == inode)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use tracing_subscriber::fmt::MakeWriter as _;

    use super::*;

    fn write(ring: &LogRing, numbers: std::ops::Range<u32>) {
        for n in numbers {
            writeln!(ring.make_writer(), "{n:0>1000}").unwrap();
        }
    }

    fn number(line: &str) -> u32 {
        line.trim_start_matches('0').parse().unwrap_or(0)
    }

    #[tokio::test]
    async fn a_follower_gets_each_line_once_across_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let ring = LogRing::open(dir.path()).unwrap();
        write(&ring, 0..1500);
        let (sender, mut receiver) = mpsc::channel(8);
        let log = Log::open(ring.clone(), Some(100), None).unwrap();
        let task = tokio::spawn(async move { log.send(true, &sender).await });
        for expected in 1400..1500 {
            assert_eq!(number(&receiver.recv().await.unwrap().unwrap().line), expected);
        }
        for start in (1500..4500).step_by(500) {
            write(&ring, start..start + 500);
            for expected in start..start + 500 {
                assert_eq!(number(&receiver.recv().await.unwrap().unwrap().line), expected);
            }
        }
        drop(receiver);
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn without_follow_all_that_is_kept_comes_and_then_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let ring = LogRing::open(dir.path()).unwrap();
        write(&ring, 0..1200);
        let (sender, mut receiver) = mpsc::channel(2000);
        let log = Log::open(ring, None, None).unwrap();
        assert!(log.begins.is_empty());
        log.send(false, &sender).await.unwrap();
        drop(sender);
        let mut count = 0;
        while let Some(line) = receiver.recv().await {
            assert_eq!(number(&line.unwrap().line), count);
            count += 1;
        }
        assert_eq!(count, 1200);
    }

    /// The numbers of the lines from a place on.
    fn numbers(log: &Log) -> Vec<u32> {
        log.lines.iter().map(|line| number(&line.line)).collect()
    }

    #[test]
    fn a_cursor_outlives_agent_and_rotation_and_doubles_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ring = || LogRing::open(dir.path()).unwrap();
        let after = |cursor: &str| {
            let cursor: Cursor = cursor.parse().unwrap();
            // The tail does not count.
            numbers(&Log::open(ring(), Some(1), Some(&cursor)).unwrap())
        };
        assert_eq!(Log::open(ring(), Some(0), None).unwrap().begins, "", "nothing was ever written");
        write(&ring(), 0..100);
        let log = Log::open(ring(), Some(0), None).unwrap();
        assert!(log.lines.is_empty());
        let (end, middle) = (log.begins, Log::open(ring(), Some(50), None).unwrap().lines[9].cursor.clone());
        assert!(after(&end).is_empty());
        write(&ring(), 100..120);
        assert_eq!(after(&end), (100..120).collect::<Vec<_>>());
        assert_eq!(after(&middle), (60..120).collect::<Vec<_>>());
        // One rotation later.
        write(&ring(), 120..1500);
        assert_eq!(after(&middle), (60..1500).collect::<Vec<_>>());
        // Its file is gone: what is left comes, which is all newer.
        write(&ring(), 1500..4000);
        let left = after(&end);
        assert!(left[0] > 1000 && left.last() == Some(&3999), "{} to {:?}", left[0], left.last());
        assert!("no cursor".parse::<Cursor>().is_err());
    }
}
