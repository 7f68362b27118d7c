//! What reaches the screen: tables, lines, JSON and YAML on stdout; notes and progress on stderr.
//!
//! `clean` makes remote text harmless, `human` writes sizes and times, `style` colours, `table`
//! lays out rows, `answer` prints what capsules answered in the format asked for, `lines` merges
//! streams of many capsules, `progress` draws bars.

pub mod answer;
pub mod clean;
pub mod human;
pub mod lines;
pub mod progress;
pub mod style;
pub mod table;
pub mod yaml;

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    process,
};

use clap::ValueEnum;

use crate::exit::Exit;

/// Shape of what is printed on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// A table with every column, cut nowhere.
    Wide,
    /// One JSON object a line and capsule; see docs/json.md.
    Json,
    /// The same as YAML documents.
    Yaml,
    /// Names only; `NAME@CAPSULE` where several capsules are asked.
    Name,
}

/// Where and how to print.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    /// Shape of answers.
    pub format: Format,
    /// Colours on stdout.
    pub colour: bool,
    /// Whether stdout is a terminal: remote text is then made harmless.
    pub terminal: bool,
    /// The same of stderr.
    pub error_terminal: bool,
    /// Whether bars can be drawn on stderr.
    pub draws_progress: bool,
    /// No notes, no progress.
    pub quiet: bool,
}

impl Out {
    /// As this process's streams, `NO_COLOR` (<https://no-color.org>) and the flags have it.
    pub fn new(format: Format, no_colour: bool, quiet: bool) -> Self {
        let (terminal, error_terminal) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let refused = no_colour || dumb || env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let draws_progress = !quiet && !dumb && error_terminal;
        Self { format, colour: terminal && !refused, terminal, error_terminal, draws_progress, quiet }
    }

    /// Columns of the terminal where a table must fit one.
    pub fn table_limit(&self) -> Option<usize> {
        let fits = self.terminal && self.format == Format::Table;
        fits.then(terminal_columns).flatten()
    }

    /// Prints text as it is and lets it out at once.
    pub fn text(&self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Prints one line.
    pub fn line(&self, line: &str) {
        self.bytes(format!("{line}\n").as_bytes());
    }

    /// Prints bytes. A reader that went away ends the process, as SIGPIPE would.
    pub fn bytes(&self, bytes: &[u8]) {
        progress::suspend(|| end_on_error(self.try_bytes(bytes)));
    }

    /// Prints bytes, for who must clean up before the process ends.
    pub fn try_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        write_stdout(bytes)
    }

    /// Prints bytes on stderr.
    pub fn error_bytes(&self, bytes: &[u8]) {
        progress::suspend(|| end_on_error(io::stderr().lock().write_all(bytes)));
    }

    /// Tells a person something that is no part of the answer.
    pub fn note(&self, note: &str) {
        if !self.quiet {
            self.error_bytes(format!("{note}\n").as_bytes());
        }
    }
}

/// Prints bytes where no [`Out`] is there yet.
pub fn print(bytes: &[u8]) {
    end_on_error(write_stdout(bytes));
}

fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush())
}

/// Ends the process where its output cannot be written: an answer that is not whole must not look
/// like one.
pub fn end_on_error(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        process::exit(i32::from(lost_output(&error).0));
    }
}

/// What to end with where output cannot be written: in silence where nobody reads it any more, as
/// SIGPIPE would, else with the reason.
pub fn lost_output(error: &io::Error) -> Exit {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Exit::PIPE;
    }
    print_error(&format!("the output cannot be written, and what is there of it is not whole: {error}"));
    Exit::NONE
}

fn terminal_columns() -> Option<usize> {
    let asked = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    asked.or_else(|| crate::terminal::window_of(&io::stdout()).map(|window| window.columns as usize))
}

/// Prints an error as one paragraph on stderr.
pub fn print_error(message: &str) {
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let word = style::Tone::Bad.paint("error:", colour);
    let _ = writeln!(io::stderr(), "{word} {message}");
}
