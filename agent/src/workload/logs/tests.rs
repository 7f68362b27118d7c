use std::{fs::File, io::Write as _, path::Path, time::Duration};

use capsule_proto::v1;
use tokio::sync::mpsc;

use super::{
    follow::Follower,
    pump::{self, Limits},
    read::{Query, Reader},
    segments,
};

/// A pump as a container has it; dropping the writers ends it.
fn start(dir: &Path, limits: Limits) -> (File, File, std::thread::JoinHandle<()>) {
    let (out, to_out) = std::io::pipe().unwrap();
    let (err, to_err) = std::io::pipe().unwrap();
    let file = |fd: std::os::fd::OwnedFd| File::from(fd);
    let (dir, streams) = (dir.to_owned(), [file(out.into()), file(err.into())]);
    let thread = std::thread::spawn(move || pump::pump(&dir, limits, streams).unwrap());
    (file(to_out.into()), file(to_err.into()), thread)
}

fn write_run(dir: &Path, limits: Limits, stdout: &[u8], stderr: &[u8]) {
    let (mut out, mut err, thread) = start(dir, limits);
    out.write_all(stdout).unwrap();
    err.write_all(stderr).unwrap();
    drop((out, err));
    thread.join().unwrap();
}

fn read(dir: &Path, query: &Query) -> Vec<v1::LogRecord> {
    let mut reader = Reader::open(dir, query).unwrap();
    std::iter::from_fn(|| reader.next_record().unwrap()).collect()
}

fn lines(records: &[v1::LogRecord]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8_lossy(&record.line).into_owned()).collect()
}

fn numbered(count: usize) -> Vec<u8> {
    (0..count).flat_map(|n| format!("line {n}\n").into_bytes()).collect()
}

#[test]
fn streams_are_kept_apart_and_bytes_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), Limits::default(), b"out\xff\xfe\n\nlast without newline", b"err\n");
    let records = read(dir.path(), &Query::default());
    let of = |stream: v1::Stream| {
        records.iter().filter(|r| r.stream() == stream).map(|r| r.line.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(v1::Stream::Stdout), [&b"out\xff\xfe"[..], b"", b"last without newline"]);
    assert_eq!(of(v1::Stream::Stderr), [b"err"]);
}

#[test]
fn a_line_longer_than_a_record_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(100_000);
    write_run(dir.path(), Limits::default(), format!("{long}\nshort\n").as_bytes(), b"");
    assert_eq!(lines(&read(dir.path(), &Query::default())), [long.clone(), "short".into()]);
    let tail = Query { tail: Some(2), ..Query::default() };
    assert_eq!(lines(&read(dir.path(), &tail)), [long, "short".into()]);
}

#[test]
fn rotation_keeps_the_newest_segments_and_the_order_of_lines() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { segment_bytes: 4096, segments: 3 };
    write_run(dir.path(), limits, &numbered(2000), b"");
    assert!(segments(dir.path()).unwrap().len() <= 3);
    let kept = lines(&read(dir.path(), &Query::default()));
    assert!(kept.len() > 50 && kept.len() < 2000);
    let expected: Vec<String> = (2000 - kept.len()..2000).map(|n| format!("line {n}")).collect();
    assert_eq!(kept, expected);
    for count in [0, 1, 60, 5000] {
        let tail = lines(&read(dir.path(), &Query { tail: Some(count), ..Query::default() }));
        assert_eq!(tail, expected[expected.len().saturating_sub(count)..]);
    }
}

#[test]
fn the_last_lines_are_found_over_many_blocks() {
    let dir = tempfile::tempdir().unwrap();
    write_run(dir.path(), Limits::default(), &numbered(20_000), b"");
    let tail = lines(&read(dir.path(), &Query { tail: Some(12_345), ..Query::default() }));
    assert_eq!((tail.len(), tail[0].as_str()), (12_345, "line 7655"));
}

#[test]
fn the_run_before_is_kept_and_the_one_before_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    for run in ["one\n", "two\n", "three\n"] {
        write_run(dir.path(), Limits::default(), run.as_bytes(), b"");
    }
    assert_eq!(lines(&read(dir.path(), &Query::default())), ["three"]);
    assert_eq!(lines(&read(dir.path(), &Query { previous: true, ..Query::default() })), ["two"]);
}

#[test]
fn since_skips_what_is_older() {
    let dir = tempfile::tempdir().unwrap();
    let (mut out, err, thread) = start(dir.path(), Limits::default());
    out.write_all(b"old\n").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let since = std::time::SystemTime::now();
    std::thread::sleep(Duration::from_millis(50));
    out.write_all(b"new\n").unwrap();
    drop((out, err));
    thread.join().unwrap();
    assert_eq!(lines(&read(dir.path(), &Query { since: Some(since), ..Query::default() })), ["new"]);
}

#[tokio::test]
async fn follow_goes_on_over_rotation_and_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { segment_bytes: 2048, segments: 1000 };
    write_run(dir.path(), limits, b"first\n", b"");
    let (to, mut from) = mpsc::channel(4);
    let path = dir.path().to_owned();
    tokio::spawn(async move {
        Follower::open(&path, Query::default(), true).await.unwrap().send(&to).await.unwrap();
    });
    let first = from.recv().await.unwrap().unwrap();
    assert_eq!(&first.line[..], b"first");
    let path = dir.path().to_owned();
    let writing = tokio::task::spawn_blocking(move || {
        write_run(&path, limits, &numbered(500), b"");
        std::thread::sleep(Duration::from_millis(50));
        write_run(&path, limits, b"end\n", b"");
    });
    let mut seen = Vec::new();
    while seen.last().is_none_or(|line| line != "end") {
        let next = tokio::time::timeout(Duration::from_secs(10), from.recv()).await.unwrap();
        seen.push(String::from_utf8_lossy(&next.unwrap().unwrap().line).into_owned());
    }
    writing.await.unwrap();
    let expected: Vec<String> = (0..500).map(|n| format!("line {n}")).chain(["end".into()]).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn who_wanted_nothing_of_the_past_goes_on_from_where_it_asked() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { segment_bytes: 2048, segments: 1000 };
    let begins = async || {
        let nothing = Query { tail: Some(0), ..Query::default() };
        Follower::open(dir.path(), nothing, false).await.unwrap().begins()
    };
    let after = |cursor| lines(&read(dir.path(), &Query { after: cursor, ..Query::default() }));
    let before_all = begins().await;
    write_run(dir.path(), limits, b"first\n", b"");
    let behind_first = begins().await;
    assert!(after(behind_first).is_empty());
    write_run(dir.path(), limits, b"second\n", b"");
    assert_eq!(after(behind_first), ["second"]);
    assert_eq!(after(before_all), ["first", "second"]);
}
