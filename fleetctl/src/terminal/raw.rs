//! Modes of the terminal: raw, where every key goes to the remote process and none to the local line
//! discipline, and silent, for a secret.

use std::io;

use nix::sys::termios::{self, LocalFlags, SetArg, Termios};

/// The terminal of stdin is raw while this lives; dropping it, also in a panic, restores it.
pub struct RawMode {
    saved: Termios,
}

impl RawMode {
    /// Enters raw mode.
    pub fn enter() -> io::Result<Self> {
        let saved = termios::tcgetattr(io::stdin())?;
        let mut raw = saved.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self { saved })
    }

    /// Lines as ever, but nothing typed is shown.
    fn silent() -> io::Result<Self> {
        let saved = termios::tcgetattr(io::stdin())?;
        let mut silent = saved.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        termios::tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { saved })
    }
}

/// Asks on the terminal for a line that is not shown.
pub fn read_secret(prompt: &str) -> io::Result<String> {
    let silence = RawMode::silent()?;
    eprint!("{prompt}");
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    drop(silence);
    eprintln!();
    read.map(|_| line.trim_end_matches(['\n', '\r']).to_owned())
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nobody is left to tell if even this fails.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.saved);
    }
}
