//! What the guest writes on its serial line, all of it, and typing there.
//!
//! A console has a place: waiting moves it behind what was found, and a wait that times out leaves it
//! where it was, so that nothing is skipped unseen. Prompts need no newline: bytes are looked at as
//! they come.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::watch,
    time::timeout,
};

use crate::{Error, Result};

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
/// What errors show of it.
const TAIL_BYTES: usize = 2000;
/// The guest takes a few bytes at a time; one that takes none at all hangs.
const SEND_LIMIT: Duration = Duration::from_mins(1);

/// A machine's serial line.
#[derive(Debug)]
pub struct Console {
    writer: OwnedWriteHalf,
    seen: Arc<Mutex<Vec<u8>>>,
    /// How much there is; closed at the end.
    length: watch::Receiver<usize>,
    /// Everything before it was waited for.
    pub(crate) place: usize,
    marks: u64,
}

impl Console {
    pub(crate) fn new(socket: UnixStream) -> Self {
        let (reader, writer) = socket.into_split();
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let (more, length) = watch::channel(0);
        tokio::spawn(keep(reader, seen.clone(), more));
        Self { writer, seen, length, place: 0, marks: 0 }
    }

    /// Everything since the machine started; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen()).into_owned()
    }

    /// Waits for `text`; what came before it since the last wait.
    pub async fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        self.wait_for_any(&[text], limit).await.map(|(_, before)| before)
    }

    /// Waits for whichever of `texts` comes first: its index, and what came before it since the last
    /// wait.
    pub async fn wait_for_any(&mut self, texts: &[&str], limit: Duration) -> Result<(usize, String)> {
        let mut length = self.length.clone();
        let mut searched = self.place;
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let search = async {
            loop {
                // First what will be new then, so that the end cannot hide the last bytes.
                let open = length.has_changed().is_ok();
                let there = *length.borrow_and_update();
                if let Some(found) = self.find(searched, texts) {
                    return Some(found);
                }
                // A text may have begun where the last bytes end.
                searched = there.saturating_sub(longest).max(searched);
                if !open {
                    return None;
                }
                // At the end there is one more look.
                let _ = length.changed().await;
            }
        };
        let found = timeout(limit, search).await;
        let what = || format!("its console showed {}", texts.join(" or "));
        let Ok(found) = found else {
            return Err(Error::TimedOut {
                what: format!("waiting until {}", what()),
                limit,
                tail: self.tail(),
            });
        };
        let Some((index, at)) = found else {
            return Err(Error::Ended { what: what(), tail: self.tail() });
        };
        let before = String::from_utf8_lossy(&self.seen()[self.place..at]).into_owned();
        self.place = at + texts[index].len();
        Ok((index, before))
    }

    /// Types bytes.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match timeout(SEND_LIMIT, self.writer.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::Ended { what: "it took what was typed".to_owned(), tail: self.tail() }),
            Err(_) => Err(Error::TimedOut {
                what: "typing on its console".to_owned(),
                limit: SEND_LIMIT,
                tail: self.tail(),
            }),
        }
    }

    /// Types a line and its end.
    pub async fn send_line(&mut self, line: &str) -> Result<()> {
        self.send(format!("{line}\n").as_bytes()).await
    }

    /// Ctrl-C: ends what runs in the foreground.
    pub async fn interrupt(&mut self) -> Result<()> {
        self.send(&[CTRL_C]).await
    }

    /// Ctrl-D: the end of what is typed. A shell that is not at its prompt yet may miss it.
    pub async fn eof(&mut self) -> Result<()> {
        self.send(&[CTRL_D]).await
    }

    /// A number that it has not shown.
    pub(crate) fn mark(&mut self) -> u64 {
        self.marks += 1;
        self.marks
    }

    /// The last that it showed, for an error.
    pub(crate) fn tail(&self) -> String {
        let seen = self.seen();
        String::from_utf8_lossy(&seen[seen.len().saturating_sub(TAIL_BYTES)..]).into_owned()
    }

    /// Waits until everything that QEMU sent before it ended is here.
    pub(crate) async fn drain(&mut self, limit: Duration) {
        let end = async { while self.length.changed().await.is_ok() {} };
        // QEMU is gone, so there is an end unless a child of it holds the socket.
        let _ = timeout(limit, end).await;
    }

    /// The first of `texts` from `from` on, and where it begins.
    fn find(&self, from: usize, texts: &[&str]) -> Option<(usize, usize)> {
        let seen = self.seen();
        let first = |text: &str| {
            let mut windows = seen[from..].windows(text.len().max(1));
            windows.position(|window| window == text.as_bytes())
        };
        let found = texts.iter().enumerate().filter_map(|(index, text)| Some((first(text)? + from, index)));
        found.min().map(|(at, index)| (index, at))
    }

    fn seen(&self) -> MutexGuard<'_, Vec<u8>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads to the end, whoever waits.
async fn keep(mut reader: impl AsyncRead + Unpin, seen: Arc<Mutex<Vec<u8>>>, more: watch::Sender<usize>) {
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = reader.read(&mut chunk).await {
        let length = {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.extend_from_slice(&chunk[..count]);
            seen.len()
        };
        more.send_replace(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const NEVER: Duration = Duration::from_millis(50);

    fn console() -> (Console, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Console::new(near), far)
    }

    #[tokio::test]
    async fn a_prompt_needs_no_newline_and_may_come_in_pieces() {
        let (mut console, mut guest) = console();
        guest.write_all(b"hello\nlog").await.unwrap();
        console.wait_for("hello", SOON).await.unwrap();
        guest.write_all(b"in: ").await.unwrap();
        assert_eq!(console.wait_for("login: ", SOON).await.unwrap(), "\n");
    }

    #[tokio::test]
    async fn a_time_out_loses_no_bytes_and_shows_them() {
        let (mut console, mut guest) = console();
        guest.write_all(b"one two").await.unwrap();
        console.wait_for("one", SOON).await.unwrap();
        let error = console.wait_for("three", NEVER).await.unwrap_err();
        assert!(
            error.to_string().contains("showed three") && error.to_string().contains("one two"),
            "{error}"
        );
        assert_eq!(console.wait_for("two", SOON).await.unwrap(), " ");
        assert_eq!(console.text(), "one two");
    }

    #[tokio::test]
    async fn of_several_the_first_to_come_is_found() {
        let (mut console, mut guest) = console();
        guest.write_all(b"x incorrect $ ").await.unwrap();
        let any = ["$ ", "incorrect"];
        assert_eq!(console.wait_for_any(&any, SOON).await.unwrap(), (1, "x ".to_owned()));
        assert_eq!(console.wait_for_any(&any, SOON).await.unwrap(), (0, " ".to_owned()));
    }

    #[tokio::test]
    async fn the_end_is_told_at_once_and_after_what_came_before() {
        let (mut console, mut guest) = console();
        guest.write_all(b"last words").await.unwrap();
        drop(guest);
        console.wait_for("words", SOON).await.unwrap();
        assert!(matches!(console.wait_for("more", SOON).await, Err(Error::Ended { .. })));
    }

    #[tokio::test]
    async fn keys_are_what_a_terminal_sends() {
        let (mut console, mut guest) = console();
        console.send_line("ls").await.unwrap();
        console.interrupt().await.unwrap();
        console.eof().await.unwrap();
        let mut typed = [0; 5];
        guest.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"ls\n\x03\x04");
    }
}
