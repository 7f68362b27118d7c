//! Bars and spinners on stderr for what takes more than a second.
//!
//! A process has one screen, so there is one set of bars; [`suspend`] lets other text through
//! without tearing them.

use std::{
    sync::{LazyLock, Once},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Out, clean};

/// Work shorter than this draws nothing.
const GRACE: Duration = Duration::from_secs(1);
/// Redraw of spinners.
const TICK: Duration = Duration::from_millis(120);

static BARS: LazyLock<MultiProgress> =
    LazyLock::new(|| MultiProgress::with_draw_target(ProgressDrawTarget::hidden()));
static REVEAL: Once = Once::new();

/// Runs `action`, which writes to the terminal, with the bars out of the way.
pub fn suspend<R>(action: impl FnOnce() -> R) -> R {
    if REVEAL.is_completed() { BARS.suspend(action) } else { action() }
}

/// A bar of bytes, of unknown length where `total` is 0.
pub fn bytes(out: &Out, label: &str, total: u64) -> Bar {
    let template = match total {
        0 => "{prefix} {spinner} {bytes} {bytes_per_sec}",
        _ => "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
    };
    let bar = if total == 0 { ProgressBar::no_length() } else { ProgressBar::new(total) };
    Bar::add(out, bar, template, label)
}

/// A spinner with a message.
pub fn spinner(out: &Out, label: &str) -> Bar {
    Bar::add(out, ProgressBar::new_spinner(), "{prefix} {spinner} {wide_msg}", label)
}

/// One bar; vanishes when dropped.
#[derive(Debug)]
pub struct Bar(ProgressBar);

impl Bar {
    fn add(out: &Out, bar: ProgressBar, template: &str, label: &str) -> Self {
        if !out.draws_progress {
            return Self(ProgressBar::hidden());
        }
        reveal_after_grace();
        let bar = BARS.add(bar);
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(clean::one_line(label).into_owned());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Moves on by so many bytes.
    pub fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Sets how far of how much.
    pub fn set(&self, done: u64, total: u64) {
        if total > 0 {
            self.0.set_length(total);
        }
        self.0.set_position(done);
    }

    /// Changes the label.
    pub fn label(&self, label: &str) {
        self.0.set_prefix(clean::one_line(label).into_owned());
    }

    /// Sets the message.
    pub fn say(&self, message: &str) {
        self.0.set_message(clean::one_line(message).into_owned());
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn reveal_after_grace() {
    REVEAL.call_once(|| {
        tokio::spawn(async {
            tokio::time::sleep(GRACE).await;
            BARS.set_draw_target(ProgressDrawTarget::stderr());
        });
    });
}
