//! Progress: one line per step, with its time.

use std::{fmt::Display, time::Instant};

use owo_colors::{OwoColorize as _, Stream};

use crate::Result;

/// Does `work` under the given headline, and says what `told` makes of its value when it is done.
pub fn step<T>(
    headline: &str,
    work: impl FnOnce() -> Result<T>,
    told: impl FnOnce(&T) -> String,
) -> Result<T> {
    let started = Instant::now();
    let outcome = work();
    match &outcome {
        Ok(value) => {
            let time = format!("{:.1} s", started.elapsed().as_secs_f64());
            let time = time.if_supports_color(Stream::Stdout, |text| text.dimmed()).to_string();
            let mark = "✓".if_supports_color(Stream::Stdout, |text| text.green()).to_string();
            println!("  {mark} {}  {time}", told(value));
        }
        Err(_) => {
            println!("  {} {headline}", "✗".if_supports_color(Stream::Stdout, |text| text.red()));
        }
    }
    outcome
}

/// Says something between two steps.
pub fn say(line: &str) {
    println!("  {line}");
}

/// A size for people.
pub fn mib(bytes: u64) -> impl Display {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
