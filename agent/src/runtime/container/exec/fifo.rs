//! The FIFOs between a command and the agent.

use std::{
    fs, io,
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
};

use containerd_client::services::v1::CloseIoRequest;
use nix::{
    errno::Errno,
    sys::stat::Mode,
    unistd::{mkdir, mkfifo},
};
use tokio::{
    io::AsyncWrite,
    net::unix::pipe::{OpenOptions, Receiver, Sender},
};

use super::Handle;
use crate::runtime::{ExecSpec, RuntimeError, container::api::request, container::layout::io_error};

/// A directory that goes with its value.
pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn existing(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Our ends, and the directory they are in.
pub(super) struct Fifos {
    dir: Option<Dir>,
    stdin: Option<Sender>,
    stdout: Option<Output>,
    stderr: Option<Output>,
}

struct Output {
    receiver: Receiver,
    /// A writing end of ours: without one the reader would see the end before the shim opened its.
    keep_open: Option<Sender>,
}

impl Fifos {
    pub(super) fn make(path: &Path, spec: &ExecSpec) -> Result<Self, RuntimeError> {
        let failed = |error: &io::Error| io_error("make FIFOs in", path, error);
        mkdir(path, Mode::S_IRWXU).map_err(|errno| failed(&errno.into()))?;
        let mut fifos = Self { dir: Some(Dir(path.to_owned())), stdin: None, stdout: None, stderr: None };
        fifos.open(path, spec).map_err(|error| failed(&error))?;
        Ok(fifos)
    }

    fn open(&mut self, path: &Path, spec: &ExecSpec) -> io::Result<()> {
        if spec.stdin {
            let stdin = make_fifo(path, "stdin")?;
            // Both ways, as the shim has not opened its end yet.
            self.stdin = Some(OpenOptions::new().read_write(true).open_sender(stdin)?);
        }
        self.stdout = Some(Output::open(&make_fifo(path, "stdout")?)?);
        if !spec.tty {
            self.stderr = Some(Output::open(&make_fifo(path, "stderr")?)?);
        }
        Ok(())
    }

    /// The shim has opened its ends.
    pub(super) fn started(&mut self) {
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            output.keep_open = None;
        }
    }

    pub(super) fn stdin_path(&self) -> String {
        self.path("stdin", self.stdin.is_some())
    }

    pub(super) fn stdout_path(&self) -> String {
        self.path("stdout", self.stdout.is_some())
    }

    pub(super) fn stderr_path(&self) -> String {
        self.path("stderr", self.stderr.is_some())
    }

    fn path(&self, name: &str, exists: bool) -> String {
        let dir = self.dir.as_ref().filter(|_| exists);
        dir.map(|dir| dir.0.join(name).display().to_string()).unwrap_or_default()
    }

    pub(super) fn take_stdin(&mut self) -> Option<Sender> {
        self.stdin.take()
    }

    pub(super) fn take_stdout(&mut self) -> Option<Receiver> {
        self.stdout.take().map(|output| output.receiver)
    }

    pub(super) fn take_stderr(&mut self) -> Option<Receiver> {
        self.stderr.take().map(|output| output.receiver)
    }

    pub(super) fn take_dir(&mut self) -> Option<Dir> {
        self.dir.take()
    }
}

impl Output {
    fn open(path: &Path) -> io::Result<Self> {
        let receiver = OpenOptions::new().open_receiver(path)?;
        let keep_open = Some(OpenOptions::new().open_sender(path)?);
        Ok(Self { receiver, keep_open })
    }
}

fn make_fifo(dir: &Path, name: &str) -> io::Result<PathBuf> {
    let path = dir.join(name);
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(io::Error::from)?;
    Ok(path)
}

/// Writes to a command. The shim holds a writing end too, so the command sees the end of its input
/// only when the shim is told to close: on shutdown, or when this is dropped.
pub(super) struct Stdin {
    pipe: Option<Sender>,
    handle: Handle,
}

impl Stdin {
    pub(super) fn new(pipe: Sender, handle: Handle) -> Self {
        Self { pipe: Some(pipe), handle }
    }

    fn close(&mut self) {
        let (Some(pipe), Ok(runtime)) = (self.pipe.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let handle = self.handle.clone();
        runtime.spawn(async move {
            let close = CloseIoRequest {
                container_id: handle.name.to_string(),
                exec_id: handle.id.clone(),
                stdin: true,
            };
            let _ = handle.tasks.clone().close_io(request(close)).await;
            // Ours last: what is in the pipe is lost when nobody has it open.
            drop(pipe);
        });
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.pipe {
            Some(pipe) => Pin::new(pipe).poll_write(context, bytes),
            None => Poll::Ready(Err(Errno::EPIPE.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.pipe {
            Some(pipe) => Pin::new(pipe).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(context))?;
        self.close();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.close();
    }
}
