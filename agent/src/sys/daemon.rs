//! Programs that outlive the agent and are taken over by the next one.
//!
//! A lock file tells whether one runs. The agent locks it and passes the descriptor to the program as
//! its stdin; the kernel drops the lock when the last copy is closed, that is, when the program ends.
//! So there is no PID to mistake for another, no moment between starting and recording, and waiting
//! for the lock is waiting for the end.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    process::Stdio,
};

use tokio::{
    process::{Child, Command},
    sync::oneshot,
};

/// What the lock says.
#[derive(Debug)]
pub enum Found {
    /// Nobody runs; whoever holds this file may start one.
    Nobody(File),
    /// One runs, as long as this file cannot be locked.
    Running(File),
}

/// A program that runs.
pub enum Running {
    /// Started by this agent.
    Child(Child),
    /// By an earlier one; resolves when it ends.
    Adopted(oneshot::Receiver<()>),
}

impl Running {
    /// Waits for its end, and says how it came.
    pub async fn ended(&mut self) -> String {
        match self {
            Self::Child(child) => {
                child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
            }
            Self::Adopted(ended) => {
                let _ = ended.await;
                "started by an earlier agent".to_owned()
            }
        }
    }
}

/// Looks whether a program runs.
pub fn look(lock: &Path) -> io::Result<Found> {
    let file = File::options().create(true).write(true).truncate(false).open(lock)?;
    match file.try_lock() {
        Ok(()) => Ok(Found::Nobody(file)),
        Err(TryLockError::WouldBlock) => Ok(Found::Running(file)),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a program runs, for who only wants to know.
pub fn is_running(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| file.try_lock().is_err())
}

/// Starts a program that keeps the lock; no terminal or process group of the agent reaches it.
pub fn spawn(mut command: std::process::Command, lock: File) -> io::Result<Child> {
    command.stdin(Stdio::from(lock));
    // A service manager that watches the agent must not hear of others' starts.
    command.env_remove("NOTIFY_SOCKET").current_dir("/");
    session::detach(&mut command);
    Command::from(command).spawn()
}

/// Resolves when the program that was found running ends.
pub fn ended(lock: File) -> io::Result<oneshot::Receiver<()>> {
    let (ended, wait) = oneshot::channel();
    let watch = move || {
        let _ = lock.lock();
        drop(lock);
        let _ = ended.send(());
    };
    std::thread::Builder::new().name("daemon-lock".into()).stack_size(64 * 1024).spawn(watch)?;
    Ok(wait)
}

/// A child in a session of its own.
#[allow(unsafe_code)]
mod session {
    use std::{io, os::unix::process::CommandExt, process::Command};

    pub(super) fn detach(command: &mut Command) {
        let setsid = || nix::unistd::setsid().map(drop).map_err(io::Error::from);
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; setsid(2) is one,
        // and nothing here allocates or locks.
        unsafe { command.pre_exec(setsid) };
    }
}
