//! What capsules answered, printed as it comes.
//!
//! JSON, YAML, names and lines go out one answer at a time. A table waits for a first batch, so
//! that its widths fit: until every capsule has answered, or until nothing has come for a part of
//! the time that answers take; from then on each is printed at once. So a dead capsule delays no
//! live row.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Format, Out,
    style::Tone,
    table::{Cell, Column, Row, Table, column},
    yaml,
};
use crate::failure::Failure;

/// How long nothing must come before a table is begun without the capsules that are missing: this
/// part of the time so far, so that nearby capsules are shown at once and far ones together …
const QUIET_PART: u32 = 10;
/// … but no less than answers of one batch are apart …
const QUIET_MIN: Duration = Duration::from_millis(4);
/// … and no more than an eye would miss.
const QUIET_MAX: Duration = Duration::from_millis(20);

/// One capsule's answer.
#[derive(Debug)]
pub struct Answer<T> {
    /// The capsule's place in the order they were asked for.
    pub at: usize,
    /// Its name.
    pub capsule: String,
    /// What it said.
    pub result: Result<T, Failure>,
}

type Rows<T> = Box<dyn Fn(&T) -> Vec<Vec<Cell>> + Send>;
type Names<T> = Box<dyn Fn(&T) -> Vec<String> + Send>;
type Lines<T> = Box<dyn Fn(&T, &Out) -> Vec<String> + Send>;
type Flaws<T> = Box<dyn Fn(&T) -> Vec<Failure> + Send>;

enum Body<T> {
    Table(Vec<Column>, Rows<T>),
    Lines(Lines<T>),
}

/// How answers of one type look to a person.
pub struct Layout<T> {
    body: Body<T>,
    names: Names<T>,
    flaws: Flaws<T>,
}

impl<T> Layout<T> {
    /// Rows of a table, the CAPSULE column left out.
    pub fn table(columns: Vec<Column>, rows: impl Fn(&T) -> Vec<Vec<Cell>> + Send + 'static) -> Self {
        Self::of(Body::Table(columns, Box::new(rows)))
    }

    /// Free lines.
    pub fn lines(lines: impl Fn(&T, &Out) -> Vec<String> + Send + 'static) -> Self {
        Self::of(Body::Lines(Box::new(lines)))
    }

    fn of(body: Body<T>) -> Self {
        Self { body, names: Box::new(|_| Vec::new()), flaws: Box::new(|_| Vec::new()) }
    }

    /// What `-o name` prints of an answer.
    pub fn named(mut self, names: impl Fn(&T) -> Vec<String> + Send + 'static) -> Self {
        self.names = Box::new(names);
        self
    }

    /// What did not succeed although there is an answer: told after it, and the capsule counts as
    /// failed.
    pub fn flawed_by(mut self, flaws: impl Fn(&T) -> Vec<Failure> + Send + 'static) -> Self {
        self.flaws = Box::new(flaws);
        self
    }
}

/// Prints answers of one fan-out.
pub struct Printer<T> {
    out: Out,
    layout: Layout<T>,
    table: Option<Table>,
    pending: Vec<(usize, Vec<Row>)>,
    expected: usize,
    heard: usize,
    started: Instant,
    write: fn(&Out, &str),
    complain: fn(&Out, &str),
}

impl<T: Serialize> Printer<T> {
    /// A printer for the answers of `expected` capsules.
    pub fn new(out: Out, layout: Layout<T>, expected: usize) -> Self {
        let table = match (&layout.body, out.format) {
            (Body::Table(columns, _), Format::Table | Format::Wide) => {
                let shown = columns.iter().filter(|c| !c.wide || out.format == Format::Wide).copied();
                let columns = std::iter::once(column("CAPSULE")).chain(shown).collect();
                Some(Table::new(columns, out.colour, out.table_limit()))
            }
            _ => None,
        };
        let write = |out: &Out, text: &str| out.text(text);
        let complain = |out: &Out, text: &str| out.error_bytes(text.as_bytes());
        let started = Instant::now();
        Self { out, layout, table, pending: Vec::new(), expected, heard: 0, started, write, complain }
    }

    /// How long to wait for the next answer before [`Self::flush`] is due.
    pub fn patience(&self) -> Option<Duration> {
        let quiet = (self.started.elapsed() / QUIET_PART).clamp(QUIET_MIN, QUIET_MAX);
        (!self.pending.is_empty()).then_some(quiet)
    }

    /// The same, writing elsewhere than to stdout.
    #[cfg(test)]
    pub fn writing_to(self, write: fn(&Out, &str)) -> Self {
        Self { write, ..self }
    }

    /// Whether the capsule did all that was asked, to be counted.
    pub fn outcome(&self, answer: &Answer<T>) -> Result<(), ()> {
        let flawless = |result| (self.layout.flaws)(result).is_empty();
        if answer.result.as_ref().is_ok_and(flawless) { Ok(()) } else { Err(()) }
    }

    /// Takes what one capsule answered; prints it, or keeps it for the batch.
    pub fn take(&mut self, answers: &[Answer<T>]) {
        self.heard += 1;
        for answer in answers {
            if self.table.is_some() {
                self.pending.push((answer.at, self.rows(answer)));
            } else {
                self.print(answer);
            }
        }
        let is_last = self.heard == self.expected;
        if is_last || self.table.as_ref().is_some_and(Table::has_begun) {
            self.flush();
        }
    }

    fn print(&self, answer: &Answer<T>) {
        match (self.out.format, &answer.result) {
            (Format::Json, _) => (self.write)(&self.out, &format!("{}\n", self.object(answer))),
            (Format::Yaml, _) => {
                (self.write)(&self.out, &format!("---\n{}", yaml::document(&self.object(answer))));
            }
            (_, Err(failure)) => self.print_failure(&answer.capsule, failure),
            (format, Ok(result)) => {
                match format {
                    Format::Name => self.print_names(&answer.capsule, result),
                    _ => self.print_lines(&answer.capsule, result),
                }
                let flaws = (self.layout.flaws)(result);
                flaws.iter().for_each(|flaw| self.print_failure(&answer.capsule, flaw));
            }
        }
    }

    /// The envelope, with what is flawed in it as its error.
    fn object(&self, answer: &Answer<T>) -> Value {
        let mut object = envelope(answer);
        let flaws = answer.result.as_ref().map(|result| (self.layout.flaws)(result)).unwrap_or_default();
        if let Some(first) = flaws.first() {
            let messages: Vec<&str> = flaws.iter().map(|flaw| flaw.message.as_str()).collect();
            object["ok"] = false.into();
            object["error"] = json!(Failure { code: first.code, message: messages.join("\n") });
        }
        object
    }

    /// Prints the batch, in the order in which capsules were asked for.
    pub fn flush(&mut self) {
        let Some(table) = &mut self.table else { return };
        if self.pending.is_empty() {
            return;
        }
        self.pending.sort_by_key(|(at, _)| *at);
        let rows: Vec<Row> = self.pending.drain(..).flat_map(|(_, rows)| rows).collect();
        let text = table.render(&rows);
        (self.write)(&self.out, &text);
    }

    fn rows(&self, answer: &Answer<T>) -> Vec<Row> {
        let capsule = Cell::from(answer.capsule.as_str());
        let (Body::Table(columns, rows), Ok(result)) = (&self.layout.body, &answer.result) else {
            let error = answer.result.as_ref().err().map(|e| format!("error: {e}")).unwrap_or_default();
            return vec![Row::Failed { capsule: Cell { tone: Tone::Bad, ..capsule }, error }];
        };
        let shown = |cells: Vec<Cell>| {
            let kept = cells.into_iter().zip(columns);
            let kept = kept.filter(|(_, c)| !c.wide || self.out.format == Format::Wide).map(|(cell, _)| cell);
            Row::Cells(std::iter::once(capsule.clone()).chain(kept).collect())
        };
        rows(result).into_iter().map(shown).collect()
    }

    fn print_names(&self, capsule: &str, result: &T) {
        let many = self.expected > 1;
        let full = |name: String| if many { format!("{name}@{capsule}\n") } else { format!("{name}\n") };
        let text: String = (self.layout.names)(result).into_iter().map(full).collect();
        (self.write)(&self.out, &text);
    }

    fn print_lines(&self, capsule: &str, result: &T) {
        let Body::Lines(lines) = &self.layout.body else { return };
        let prefix = self.prefix(capsule);
        let text: String =
            lines(result, &self.out).into_iter().map(|line| format!("{prefix}{line}\n")).collect();
        (self.write)(&self.out, &text);
    }

    fn print_failure(&self, capsule: &str, failure: &Failure) {
        let word = Tone::Bad.paint("error:", self.out.colour);
        (self.complain)(&self.out, &format!("{word} {capsule}: {failure}\n"));
    }

    fn prefix(&self, capsule: &str) -> String {
        if self.expected > 1 {
            Tone::Dim.paint(&format!("{capsule}: "), self.out.colour)
        } else {
            String::new()
        }
    }
}

/// The object that `-o json` prints for one answer; docs/json.md promises it.
pub fn envelope<T: Serialize>(answer: &Answer<T>) -> Value {
    match &answer.result {
        Ok(result) => match serde_json::to_value(result) {
            Ok(result) => json!({ "capsule": answer.capsule, "ok": true, "result": result }),
            Err(error) => failed(&answer.capsule, &Failure::local(error.to_string())),
        },
        Err(failure) => failed(&answer.capsule, failure),
    }
}

fn failed(capsule: &str, failure: &Failure) -> Value {
    json!({ "capsule": capsule, "ok": false, "error": failure })
}

#[cfg(test)]
mod tests;
