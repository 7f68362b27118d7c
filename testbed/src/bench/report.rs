//! The table, as docs/benchmarks.md holds it.

use std::fs;

use super::stats::Samples;

/// What our median, or its ratio to a peer's, must keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// This times the peer's.
    Ratio(f64),
    /// At least this times the peer's: of what is the better the more it is.
    AtLeast(f64),
    /// This many of the row's own unit, without regard to a peer.
    Own(f64),
    /// The same of our 95th percentile.
    OwnP95(f64),
    /// Only shown.
    None,
}

/// One line: ours, beside a peer's.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    unit: &'static str,
    ours: Samples,
    peer: Option<(String, Samples)>,
    limit: Limit,
    error: Option<String>,
}

impl Row {
    /// `ours` beside what `peer` measured.
    pub fn against(
        what: &str,
        unit: &'static str,
        ours: &Samples,
        peer: &(String, Samples),
        limit: Limit,
    ) -> Self {
        let peer = Some(peer.clone());
        Self { what: what.to_owned(), unit, ours: ours.clone(), peer, limit, error: None }
    }

    /// `ours` alone.
    pub fn alone(what: &str, unit: &'static str, ours: &Samples, limit: Limit) -> Self {
        Self { what: what.to_owned(), unit, ours: ours.clone(), peer: None, limit, error: None }
    }

    /// A bench that came to nothing.
    pub fn failed(what: &str, error: &str) -> Self {
        let ours = Samples::default();
        Self {
            what: what.to_owned(),
            unit: "",
            ours,
            peer: None,
            limit: Limit::None,
            error: Some(error.to_owned()),
        }
    }

    /// Whether it keeps its limit.
    pub fn is_kept(&self) -> bool {
        match (self.limit, self.ratio()) {
            _ if self.error.is_some() => false,
            (Limit::Ratio(limit), Some(ratio)) => ratio <= limit,
            (Limit::AtLeast(limit), Some(ratio)) => ratio >= limit,
            (Limit::Own(limit), _) => self.ours.median() <= limit,
            (Limit::OwnP95(limit), _) => self.ours.p95() <= limit,
            (Limit::Ratio(_) | Limit::AtLeast(_) | Limit::None, _) => true,
        }
    }

    fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|(_, peer)| self.ours.median() / peer.median())
    }

    fn line(&self) -> String {
        let Self { what, unit, ours, .. } = self;
        if let Some(error) = &self.error {
            return format!("| {what} | failed: {} | | | | | |", error.replace(['\n', '|'], " "));
        }
        let (peer, peer_median, peer_p95) = match &self.peer {
            Some((name, samples)) => (name.clone(), figure(samples.median()), figure(samples.p95())),
            None => ("–".to_owned(), "–".to_owned(), "–".to_owned()),
        };
        let ratio = self.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        let limit = match self.limit {
            Limit::Ratio(limit) => format!("≤ {limit} ×"),
            Limit::AtLeast(limit) => format!("≥ {limit} ×"),
            Limit::Own(limit) => format!("≤ {limit} {unit}"),
            Limit::OwnP95(limit) => format!("p95 ≤ {limit} {unit}"),
            Limit::None => String::new(),
        };
        let verdict = match self.limit {
            Limit::None => "",
            _ if self.is_kept() => " ✓",
            _ => " ✗",
        };
        format!(
            "| {what}, {unit} | {} / {} | {peer} | {peer_median} / {peer_p95} | {ratio} | {limit}{verdict} | {} |",
            figure(ours.median()),
            figure(ours.p95()),
            ours.len()
        )
    }
}

fn figure(value: f64) -> String {
    match value {
        value if value.is_nan() => "–".to_owned(),
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

/// Processes that wanted to run in the last minute: what else went on shows in every figure.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// The whole report in Markdown: date, machine, the [`load`] before it began, table.
pub fn markdown(rows: &[Row], load: &str) -> String {
    let lines: String = rows.iter().map(|row| row.line() + "\n").collect();
    format!(
        "Measured on {} on {}; load before: {load}.\n\n\
         | what | ours, median / p95 | peer | median / p95 | ratio | limit | rounds |\n\
         |---|---|---|---|---|---|---|\n{lines}",
        jiff::Zoned::now().strftime("%Y-%m-%d"),
        machine()
    )
}

/// CPU, memory and kernel of this machine.
fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |line: &str| Some(line.split_once(':')?.1.trim().to_owned());
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(field);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = model.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{cores} cores of {model}, {} GiB, Linux {}", kib.div_ceil(1 << 20), kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_it_keeps_its_limit() {
        let samples = |value: f64| Samples::from_iter([value]);
        let row =
            |limit| Row::against("start", "ms", &samples(120.0), &("ctr".into(), samples(100.0)), limit);
        assert!(row(Limit::Ratio(1.3)).is_kept());
        assert!(!row(Limit::Ratio(1.1)).is_kept());
        assert!(row(Limit::Ratio(1.3)).line().contains("| 1.20 | ≤ 1.3 × ✓ |"));
        assert!(row(Limit::AtLeast(1.2)).is_kept() && !row(Limit::AtLeast(1.3)).is_kept());
        assert!(!Row::failed("start", "no peer").is_kept());
    }
}
