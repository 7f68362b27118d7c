//! The first process: it reaps, passes signals on, and does nothing else.
//!
//! ```text
//!   PID 1 ── fork ──▶ the rest of init (`init`): starts and waits for its own children
//!     │                    └─▶ agent ─▶ its own children, waited for by it
//!     └─ waits for whatever has no parent any more: a daemon's shim, a killed agent's command
//! ```
//!
//! A process that waited for all others while it also started some would steal their ends from itself;
//! two processes need no lock for that.

use std::{convert::Infallible, io, time::Duration};

use nix::{
    sys::{
        reboot::{RebootMode, reboot, set_cad_enabled},
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, getpid, sync},
};

use crate::sys::memory;

/// For whoever looks at the console, before a machine without init starts anew.
const READING_TIME: Duration = Duration::from_secs(5);

/// Signals that ask the machine to stop: they are init's to answer.
const PASSED_ON: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGPWR, Signal::SIGUSR2];

/// Makes this process the one that reaps, and returns in another one, which is to be init. Called
/// before there is a second thread.
pub fn split() -> io::Result<()> {
    if getpid() != Pid::from_raw(1) {
        return Err(io::Error::other(
            "init is the first process of an appliance, and this is not; run `capsuled --state-dir DIR` on a \
             host that has an init of its own",
        ));
    }
    let mut waited_for = SigSet::from_iter(PASSED_ON);
    waited_for.add(Signal::SIGCHLD);
    waited_for.thread_block()?;
    // The kernel would reboot at once; like this it sends SIGINT.
    set_cad_enabled(false)?;
    match fork::fork()? {
        ForkResult::Child => waited_for.thread_unblock().map_err(io::Error::from),
        ForkResult::Parent { child } => {
            memory::give_back();
            let Err(error) = reap_until(child, &waited_for);
            eprintln!("capsule: {error}; rebooting");
            std::thread::sleep(READING_TIME);
            sync();
            let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
            Err(error.into())
        }
    }
}

/// Returns only when init has ended, which it never should: it stops the machine itself.
fn reap_until(init: Pid, signals: &SigSet) -> io::Result<Infallible> {
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(how) = reap(init)? {
                    return Err(io::Error::other(format!("init has ended ({how})")));
                }
            }
            // One that has ended meanwhile is told by SIGCHLD.
            other => drop(kill(init, other)),
        }
    }
}

/// Takes all ends that are there; how init ended, where it is among them.
fn reap(init: Pid) -> nix::Result<Option<String>> {
    let mut how = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == init => how = Some(format!("exit code {code}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == init => how = Some(signal.to_string()),
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return Ok(how),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Another process that goes on from here.
#[allow(unsafe_code)]
mod fork {
    use nix::unistd::ForkResult;

    pub(super) fn fork() -> nix::Result<ForkResult> {
        // SAFETY: this process has one thread, so that no lock can be held by another one that the child
        // would lack.
        unsafe { nix::unistd::fork() }
    }
}
