//! Reading the log ring: its last lines, then, across rotations, each new one.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use tokio::sync::mpsc;
use tonic::Status;

use capsule_proto::v1::NodeLogLine;

use crate::logging::LogRing;

type Sender = mpsc::Sender<Result<NodeLogLine, Status>>;

/// Sends the last `tail` lines (all where `None`), and with `follow` all that come, until the
/// receiver is gone.
pub(super) async fn send(ring: LogRing, tail: Option<u32>, follow: bool, to: &Sender) -> io::Result<()> {
    let mut grew = ring.grew();
    grew.borrow_and_update();
    let mut reader = Reader::start(ring)?;
    let mut lines = reader.read_lines()?;
    let first = lines.len().saturating_sub(tail.map_or(usize::MAX, |tail| tail as usize));
    lines.drain(..first);
    loop {
        for line in lines {
            if to.send(Ok(NodeLogLine { line })).await.is_err() {
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
        tokio::select! {
            () = to.closed() => return Ok(()),
            changed = grew.changed() => if changed.is_err() { return Ok(()) },
        }
        lines = reader.read_lines()?;
    }
}

/// A place in the ring. The open file stays readable when it is renamed, and even when it is
/// replaced.
struct Reader {
    ring: LogRing,
    file: File,
    partial: Vec<u8>,
}

impl Reader {
    /// At the oldest line that is kept.
    fn start(ring: LogRing) -> io::Result<Self> {
        let file = File::open(ring.old_path()).or_else(|_| File::open(ring.path()))?;
        Ok(Self { ring, file, partial: Vec::new() })
    }

    /// All whole lines from here to the end.
    fn read_lines(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            self.file.read_to_end(&mut self.partial)?;
            let Some(next) = self.next_file()? else { break };
            // It was rotated between the two looks, or before: what it still had comes first.
            self.file.read_to_end(&mut self.partial)?;
            self.take_lines(&mut lines);
            self.file = next;
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

    fn take_lines(&mut self, lines: &mut Vec<String>) {
        let end = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.partial.drain(..end).collect();
        lines.extend(
            whole
                .split_inclusive(|byte| *byte == b'\n')
                .map(|line| String::from_utf8_lossy(line).trim_end_matches('\n').to_owned()),
        );
    }
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
        let following = ring.clone();
        let task = tokio::spawn(async move { send(following, Some(100), true, &sender).await });
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
        send(ring, None, false, &sender).await.unwrap();
        drop(sender);
        let mut count = 0;
        while let Some(line) = receiver.recv().await {
            assert_eq!(number(&line.unwrap().line), count);
            count += 1;
        }
        assert_eq!(count, 1200);
    }
}
