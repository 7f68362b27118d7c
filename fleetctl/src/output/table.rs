//! Tables that grow while they are read: column widths settle with the first batch of rows, later
//! rows are appended in those widths.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::{clean, style::Tone};

/// Blanks between two columns.
const GAP: usize = 2;
/// A column is never squeezed below this by a narrow terminal; rather the last ones are left out.
const LEAST_WIDTH: usize = 8;
/// The first columns, which name what a row is about, and what they are never squeezed below.
const NAMES: usize = 2;
const LEAST_NAME_WIDTH: usize = 12;

fn least_width(at: usize) -> usize {
    if at < NAMES { LEAST_NAME_WIDTH } else { LEAST_WIDTH }
}

/// One column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// In capitals.
    pub head: &'static str,
    /// Only with `-o wide`.
    pub wide: bool,
}

/// A column that is always shown.
pub const fn column(head: &'static str) -> Column {
    Column { head, wide: false }
}

/// A column of `-o wide`.
pub const fn wide(head: &'static str) -> Column {
    Column { head, wide: true }
}

/// One value of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Already fit for a terminal.
    pub text: String,
    /// Its colour.
    pub tone: Tone,
}

impl Cell {
    /// A value in a tone.
    pub fn new(text: &str, tone: Tone) -> Self {
        Self { text: clean::one_line(text).into_owned(), tone }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(&text, Tone::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// A row as it is printed.
#[derive(Clone, Debug)]
pub enum Row {
    /// One cell for each column.
    Cells(Vec<Cell>),
    /// A capsule without an answer, and why.
    Failed {
        /// First column.
        capsule: Cell,
        /// All the others.
        error: String,
    },
}

/// A table under way.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    widths: Option<Vec<usize>>,
    colour: bool,
    limit: Option<usize>,
}

impl Table {
    /// A table without rows; `limit` is the terminal's width where lines are to be cut to it.
    pub fn new(columns: Vec<Column>, colour: bool, limit: Option<usize>) -> Self {
        Self { columns, widths: None, colour, limit }
    }

    /// The text of a batch of rows, preceded by the heading where it is the first batch.
    pub fn render(&mut self, rows: &[Row]) -> String {
        let mut text = String::new();
        let widths = if let Some(widths) = self.widths.take() {
            widths
        } else {
            let widths = self.settle(rows);
            let heads = self.columns.iter().map(|c| Cell::new(c.head, Tone::Strong)).collect::<Vec<_>>();
            self.line(&mut text, &heads, &widths);
            widths
        };
        for row in rows {
            match row {
                Row::Cells(cells) => self.line(&mut text, cells, &widths),
                Row::Failed { capsule, error } => self.failure(&mut text, capsule, error, &widths),
            }
        }
        self.widths = Some(widths);
        text
    }

    /// Whether the heading is out.
    pub fn has_begun(&self) -> bool {
        self.widths.is_some()
    }

    fn settle(&self, rows: &[Row]) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|c| c.head.width()).collect();
        for row in rows {
            match row {
                Row::Cells(cells) => {
                    for (width, cell) in widths.iter_mut().zip(cells) {
                        *width = (*width).max(cell.text.width());
                    }
                }
                Row::Failed { capsule, .. } => widths[0] = widths[0].max(capsule.text.width()),
            }
        }
        self.squeeze(&mut widths);
        widths
    }

    /// Leaves out the last columns, which matter least, where even squeezed ones would not fit the
    /// terminal; the names stay. Then takes from the widest column until the line fits.
    fn squeeze(&self, widths: &mut Vec<usize>) {
        let Some(limit) = self.limit else { return };
        let least = |widths: &[usize]| {
            let columns = widths.iter().enumerate().map(|(at, width)| (*width).min(least_width(at)) + GAP);
            columns.sum::<usize>().saturating_sub(GAP)
        };
        while widths.len() > NAMES && least(widths) > limit {
            widths.pop();
        }
        let gaps = GAP * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > limit {
            let squeezable = widths.iter_mut().enumerate().filter(|(at, width)| **width > least_width(*at));
            let Some((_, widest)) = squeezable.max_by_key(|(_, width)| **width) else { return };
            *widest -= 1;
        }
    }

    fn line(&self, text: &mut String, cells: &[Cell], widths: &[usize]) {
        let last = cells.len().min(widths.len()).saturating_sub(1);
        for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let shown = if self.limit.is_some() { cut(&cell.text, *width) } else { cell.text.clone() };
            text.push_str(&cell.tone.paint(&shown, self.colour));
            if at < last {
                let pad = width.saturating_sub(shown.width()) + GAP;
                text.extend(std::iter::repeat_n(' ', pad));
            }
        }
        text.push('\n');
    }

    fn failure(&self, text: &mut String, capsule: &Cell, error: &str, widths: &[usize]) {
        let name = capsule.tone.paint(&capsule.text, self.colour);
        let pad = widths[0].saturating_sub(capsule.text.width()) + GAP;
        let error = Tone::Bad.paint(&clean::one_line(error), self.colour);
        text.extend([&name, " ".repeat(pad).as_str(), &error, "\n"]);
    }
}

/// `text` in at most `width` columns, `…` standing for what was cut.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 0;
    let kept = text.chars().take_while(|c| {
        used += c.width().unwrap_or(0);
        used < width
    });
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Row {
        Row::Cells(cells.iter().map(|c| Cell::from(*c)).collect())
    }

    #[test]
    fn widths_settle_with_the_first_batch_and_hold() {
        let mut table = Table::new(vec![column("CAPSULE"), column("NAME")], false, None);
        let first = table.render(&[row(&["a", "web"]), row(&["capsule-1", "db"])]);
        assert_eq!(first, "CAPSULE    NAME\na          web\ncapsule-1  db\n");
        let dead = Row::Failed { capsule: "c".into(), error: "no\nanswer".into() };
        assert_eq!(table.render(&[row(&["b", "x"]), dead]), "b          x\nc          no answer\n");
    }

    #[test]
    fn a_narrow_terminal_cuts_the_widest_column() {
        let mut table = Table::new(vec![column("NAME"), column("REASON")], false, Some(24));
        let text = table.render(&[row(&["web", "pulling an image that takes its time"])]);
        assert!(text.lines().all(|line| line.width() <= 24), "{text}");
        assert!(text.contains('…'), "{text}");
    }

    #[test]
    fn a_very_narrow_terminal_leaves_out_the_last_columns() {
        let heads = ["CAPSULE", "NAME", "KIND", "STATUS", "RESTARTS", "AGE", "PORTS", "IMAGE"];
        let cells = [
            "a",
            "capsule-a3f2",
            "Container",
            "Running",
            "0",
            "5m",
            "8080->80/tcp",
            "docker.io/library/nginx:1.27",
        ];
        for limit in [22, 40, 60, 80] {
            let mut table = Table::new(heads.map(column).to_vec(), false, Some(limit));
            let text = table.render(&[row(&cells)]);
            assert!(text.lines().all(|line| line.width() <= limit), "{limit}:\n{text}");
            assert!(
                text.contains("capsule-a3f2") && !text.lines().any(|line| line.ends_with(' ')),
                "{limit}:\n{text}"
            );
            assert_eq!(text.contains("KIND"), limit >= 40, "{limit}:\n{text}");
            assert_eq!(text.contains("PORTS"), limit >= 80, "{limit}:\n{text}");
        }
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let mut table = Table::new(vec![column("A"), column("B")], true, None);
        let text = table.render(&[Row::Cells(vec![Cell::new("x", Tone::Good), "y".into()])]);
        assert!(text.ends_with("\u{1b}[32mx\u{1b}[0m  y\n"), "{text:?}");
    }
}
