//! This process's own terminal: its size, raw mode, and stdin as a stream.

mod raw;
mod stdin;

use std::os::fd::AsFd;

use capsule_proto::v1::WindowSize;
use terminal_size::{Height, Width, terminal_size_of};

pub use raw::{RawMode, read_secret};
pub use stdin::pieces;

/// Size of the terminal behind a file, if it is one.
pub fn window_of(file: &impl AsFd) -> Option<WindowSize> {
    let (Width(columns), Height(rows)) = terminal_size_of(file.as_fd())?;
    (columns > 0 && rows > 0).then_some(WindowSize { columns: columns.into(), rows: rows.into() })
}
