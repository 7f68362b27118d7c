//! Children that die with this process.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        LazyLock,
        mpsc::{self, Sender},
    },
    thread,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::{prctl, signal::Signal},
    unistd::{getpid, getppid},
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
};

type Job = Box<dyn FnOnce() + Send>;

/// Starts all children. The kernel kills a child when the *thread* that started it ends, and a
/// runtime's threads come and go, so this one stays as long as the process.
static SPAWNER: LazyLock<io::Result<Sender<Job>>> = LazyLock::new(|| {
    let (jobs, queue) = mpsc::channel::<Job>();
    let run = move || queue.into_iter().for_each(|job| job());
    thread::Builder::new().name("vm-spawner".to_owned()).spawn(run)?;
    Ok(jobs)
});

/// Starts a child that inherits `sockets` under the numbers that they have here, and is killed when
/// it is dropped or when this process ends, however it ends. Needs a runtime.
pub(crate) fn spawn(mut command: Command, sockets: Vec<OwnedFd>) -> io::Result<Child> {
    let owner = getpid();
    let inherited: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    let prepare = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // It may have ended before the line above.
        if getppid() != owner {
            return Err(Errno::ESRCH.into());
        }
        for &fd in &inherited {
            // SAFETY: `sockets` are open until the child is started.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    // A terminal's Ctrl-C is for the owner, which ends its machines in its own way.
    command.kill_on_drop(true).process_group(0);

    let runtime = Handle::current();
    let (started, child) = mpsc::sync_channel(1);
    let job = move || {
        let _context = runtime.enter();
        let child = command.spawn();
        drop(sockets);
        // Whoever asked waits below.
        let _ = started.send(child);
    };
    let gone = || io::Error::other("the thread that starts children is gone");
    let spawner = SPAWNER.as_ref().map_err(|error| io::Error::from(error.kind()))?;
    spawner.send(Box::new(job)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}
