//! A TCP stream whose every byte is checked by its hash.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use sha2::{Digest as _, Sha256};

use super::Node;

/// For a connection to be made, and between two bytes of it.
const PATIENCE: Duration = Duration::from_secs(40);
const CHUNK: usize = 64 << 10;
/// Between two chunks of a flow, which is to leave the processors to others.
const PACE: Duration = Duration::from_millis(20);

/// Both ends of a connection.
pub struct Pair {
    /// The end that connected.
    pub from: TcpStream,
    /// The end that was connected to.
    pub to: TcpStream,
}

impl Pair {
    /// Connects two nodes, to one of the addresses inside.
    pub fn connect(from: &Node, to: &Node, address: IpAddr) -> Result<Self> {
        let listener = to.within(move || TcpListener::bind((address, 0)))?.context("cannot listen inside")?;
        let at = SocketAddr::new(address, listener.local_addr()?.port());
        let from = from.within(move || TcpStream::connect_timeout(&at, PATIENCE))?;
        let from = from.with_context(|| format!("cannot connect to {at} through the tunnel"))?;
        let (to, _) = listener.accept()?;
        for end in [&from, &to] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        Ok(Self { from, to })
    }

    /// Sends `bytes` one way and as many back, both at once; `meanwhile` runs beside.
    pub fn exchange(self, bytes: usize, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        let (from, to) = (self.from.try_clone()?, self.to.try_clone()?);
        let tasks = [
            thread::spawn(move || send(&self.from, bytes, 1)),
            thread::spawn(move || receive(&self.to, bytes)),
            thread::spawn(move || send(&to, bytes, 2)),
            thread::spawn(move || receive(&from, bytes)),
        ];
        let beside = meanwhile();
        let ends: Result<Vec<_>> =
            tasks.into_iter().map(|task| task.join().map_err(|_| anyhow!("a thread panicked"))?).collect();
        beside?;
        let ends = ends?;
        ensure!(ends[0] == ends[1], "what went there is not what came");
        ensure!(ends[2] == ends[3], "what went back is not what came");
        Ok(())
    }

    /// Sends `bytes` one way.
    pub fn send(self, bytes: usize) -> Result<()> {
        let Self { from, to } = self;
        let sender = thread::spawn(move || send(&from, bytes, 3));
        let came = receive(&to, bytes)?;
        let went = sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        ensure!(went == came, "what came is not what went");
        Ok(())
    }

    /// Lets bytes flow both ways until [`Flow::finish`].
    pub fn flow(self) -> Result<Flow> {
        for end in [&self.from, &self.to] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        let over: Arc<AtomicBool> = Arc::default();
        let way = |from: &TcpStream, to: &TcpStream, seed: u64| {
            let (from, to, over) = (from.try_clone()?, to.try_clone()?, over.clone());
            let came = Arc::<AtomicU64>::default();
            let count = came.clone();
            let sender = thread::spawn(move || send_until(&from, &over, seed));
            let receiver = thread::spawn(move || receive_all(&to, &count));
            anyhow::Ok(FlowWay { sender, receiver, came })
        };
        Ok(Flow { ways: [way(&self.from, &self.to, 1)?, way(&self.to, &self.from, 2)?], over })
    }
}

type Hash = [u8; 32];

/// Bytes on their way in both directions.
pub struct Flow {
    ways: [FlowWay; 2],
    over: Arc<AtomicBool>,
}

struct FlowWay {
    sender: JoinHandle<Result<Hash>>,
    receiver: JoinHandle<Result<(Hash, Duration)>>,
    came: Arc<AtomicU64>,
}

impl Flow {
    /// Bytes that came so far, each way.
    pub fn came(&self) -> [u64; 2] {
        self.ways.each_ref().map(|way| way.came.load(Ordering::Relaxed))
    }

    /// Waits until this many bytes more have come, each way.
    pub fn wait_for_more(&self, bytes: usize) -> Result<()> {
        let (before, end) = (self.came(), Instant::now() + PATIENCE);
        loop {
            let came = self.came();
            if came.iter().zip(before).all(|(now, before)| now - before >= bytes as u64) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "of {bytes} bytes each way {before:?} became {came:?} only");
            thread::sleep(PACE);
        }
    }

    /// Ends it and holds that all came as it was sent; the longest time that nothing came in.
    pub fn finish(self) -> Result<Duration> {
        self.over.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for FlowWay { sender, receiver, .. } in self.ways {
            let went = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
            let (came, silence) = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
            ensure!(went? == came, "what came is not what went");
            longest = longest.max(silence);
        }
        Ok(longest)
    }
}

/// Bytes that look random and are cheap (xorshift64).
fn fill(chunk: &mut [u8], state: &mut u64) {
    for word in chunk.chunks_exact_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

fn send(mut stream: &TcpStream, bytes: usize, seed: u64) -> Result<Hash> {
    let (mut hash, mut state, mut chunk) = (Sha256::new(), seed, vec![0; CHUNK]);
    let mut left = bytes;
    while left > 0 {
        fill(&mut chunk, &mut state);
        let part = &chunk[..left.min(CHUNK)];
        hash.update(part);
        stream.write_all(part).with_context(|| format!("{left} bytes could not be sent"))?;
        left -= part.len();
    }
    Ok(hash.finalize().into())
}

fn receive(mut stream: &TcpStream, bytes: usize) -> Result<Hash> {
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    let mut left = bytes;
    while left > 0 {
        let read = stream
            .read(&mut chunk[..left.min(CHUNK)])
            .with_context(|| format!("{left} bytes did not come"))?;
        ensure!(read > 0, "the stream ended {left} bytes early");
        hash.update(&chunk[..read]);
        left -= read;
    }
    Ok(hash.finalize().into())
}

fn send_until(mut stream: &TcpStream, over: &AtomicBool, seed: u64) -> Result<Hash> {
    let (mut hash, mut state, mut chunk) = (Sha256::new(), seed, vec![0; CHUNK]);
    while !over.load(Ordering::Relaxed) {
        fill(&mut chunk, &mut state);
        hash.update(&chunk);
        stream.write_all(&chunk).context("the connection takes no more bytes")?;
        thread::sleep(PACE);
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(hash.finalize().into())
}

/// All until the other side ends it, and the longest time between two reads.
fn receive_all(mut stream: &TcpStream, came: &AtomicU64) -> Result<(Hash, Duration)> {
    let (mut hash, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    loop {
        let read = stream.read(&mut chunk).context("no more bytes come")?;
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if read == 0 {
            return Ok((hash.finalize().into(), longest));
        }
        hash.update(&chunk[..read]);
        came.fetch_add(read as u64, Ordering::Relaxed);
    }
}
