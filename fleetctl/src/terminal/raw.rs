//! Raw mode: every key goes to the remote process, none to the local line discipline.

use std::io;

use nix::sys::termios::{self, SetArg, Termios};

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
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nobody is left to tell if even this fails.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.saved);
    }
}
