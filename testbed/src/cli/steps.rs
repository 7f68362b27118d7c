//! Progress on the terminal: a spinner while a step lasts, a line with its time when it is done.

use std::{
    fmt::Display,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize as _, Stream};

/// Between two frames of the spinner.
const FRAME: Duration = Duration::from_millis(80);

/// The reader of stdout went away, as `head` does: nothing is wrong, but there is nobody to tell.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub struct Unread;

/// Prints a line.
pub fn say(line: impl Display) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Unread.into()),
        outcome => outcome.context("cannot write to stdout"),
    }
}

/// Does `work` under the given headline; its value is what the done step says about itself.
pub async fn step<T>(
    headline: &str,
    work: impl AsyncFnOnce(&ProgressBar) -> Result<(T, String)>,
) -> Result<T> {
    let bar = ProgressBar::new_spinner().with_message(headline.to_owned());
    if let Ok(style) = ProgressStyle::with_template("  {spinner:.cyan} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(FRAME);
    let started = Instant::now();
    let outcome = work(&bar).await;
    bar.finish_and_clear();
    match outcome {
        Ok((value, said)) => {
            let time = format!("{:.1} s", started.elapsed().as_secs_f64());
            say(format!("  {} {said}  {}", mark("✓", true), faint(&time)))?;
            Ok(value)
        }
        Err(error) => {
            // What went wrong matters more than that nobody reads this line.
            let _ = say(format!("  {} {headline}", mark("✗", false)));
            Err(error)
        }
    }
}

fn mark(text: &str, good: bool) -> String {
    let painted = text.if_supports_color(Stream::Stdout, |text| {
        if good {
            text.style(owo_colors::Style::new().green())
        } else {
            text.style(owo_colors::Style::new().red())
        }
    });
    painted.to_string()
}

/// Less important text.
pub fn faint(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.dimmed()).to_string()
}

/// Text that heads a part.
pub fn bold(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.bold()).to_string()
}

/// Something to type.
pub fn code(text: &str) -> String {
    text.if_supports_color(Stream::Stdout, |text| text.cyan()).to_string()
}
