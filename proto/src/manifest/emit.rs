//! Writes trees as YAML in block style.

use super::text;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Doc {
    /// Any text.
    Text(String),
    /// A number, a truth or a name, which needs no quotes.
    Plain(String),
    List(Vec<Doc>),
    Map(Vec<(String, Doc)>),
}

/// Columns per level.
const STEP: usize = 2;

/// A map's lines.
pub(super) fn emit(entries: &[(String, Doc)]) -> String {
    let mut out = String::new();
    map(&mut out, entries, 0);
    out
}

fn indent(out: &mut String, columns: usize) {
    out.extend(std::iter::repeat_n(' ', columns));
}

fn map(out: &mut String, entries: &[(String, Doc)], column: usize) {
    for (key, value) in entries {
        indent(out, column);
        out.push_str(&text::inline(key));
        out.push(':');
        after_key(out, value, column + STEP);
    }
}

/// A value on its key's line, or below it at `column`.
fn after_key(out: &mut String, value: &Doc, column: usize) {
    match value {
        Doc::List(items) if !items.is_empty() => {
            out.push('\n');
            for item in items {
                list_item(out, item, column);
            }
        }
        Doc::Map(entries) if !entries.is_empty() => {
            out.push('\n');
            map(out, entries, column);
        }
        value => {
            out.push(' ');
            flat(out, value, column);
        }
    }
}

fn list_item(out: &mut String, item: &Doc, column: usize) {
    indent(out, column);
    out.push_str("- ");
    match item {
        Doc::Map(entries) if !entries.is_empty() => {
            let mut lines = String::new();
            map(&mut lines, entries, column + STEP);
            // The first key stands right behind the dash.
            out.push_str(&lines[column + STEP..]);
        }
        item => flat(out, item, column + STEP),
    }
}

/// What begins on the present line; a block goes on at `column`.
fn flat(out: &mut String, value: &Doc, column: usize) {
    match value {
        Doc::Plain(plain) => out.push_str(plain),
        Doc::List(_) => out.push_str("[]"),
        Doc::Map(_) => out.push_str("{}"),
        Doc::Text(content) => match text::block(content) {
            Some((header, lines)) => return block(out, header, &lines, column),
            None => out.push_str(&text::inline(content)),
        },
    }
    out.push('\n');
}

fn block(out: &mut String, header: &str, lines: &[&str], column: usize) {
    out.push_str(header);
    out.push('\n');
    for line in lines {
        if !line.is_empty() {
            indent(out, column);
            out.push_str(line);
        }
        out.push('\n');
    }
}
