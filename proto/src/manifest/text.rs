//! How a text is written in YAML so that every reader takes it for the same text.

use std::fmt::Write as _;

use super::scalar::{Meaning, meaning};

/// Words that YAML 1.1 takes for truths.
const OLD_TRUTHS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];

/// The text on one line: as it is, where no reader could mistake it, else in double quotes.
pub(super) fn inline(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// Stricter than YAML has to be: it begins like a word or a path and has no character that could
/// mean something.
fn is_plain(text: &str) -> bool {
    let harmless = |c: char| c.is_ascii_alphanumeric() || " ./_@:+=-".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphabetic() || "/_".contains(c))
        && text.chars().all(harmless)
        && !text.contains(": ")
        && !text.ends_with([' ', ':'])
        && meaning(text) == Meaning::Text
        && !OLD_TRUTHS.contains(&text.to_ascii_lowercase().as_str())
}

fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Writing to a String cannot fail.
            c if is_invisible(c) => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What an editor does not show or a reader may take for a line's end; all lie below U+10000.
fn is_invisible(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// The header and the lines of a literal block, where the text has several lines and YAML keeps
/// each of them as it is.
pub(super) fn block(text: &str) -> Option<(&'static str, Vec<&str>)> {
    let (header, body) = match text.strip_suffix('\n') {
        Some(body) => ("|", body),
        None => ("|-", text),
    };
    let lines: Vec<&str> = body.split('\n').collect();
    let is_kept = |line: &&str| line.is_empty() || !line.trim().is_empty();
    let begins_at_margin = !text.starts_with([' ', '\t', '\n']) && !text.starts_with('#');
    let fits = lines.len() > 1
        && begins_at_margin
        && !body.ends_with('\n')
        && lines.iter().all(is_kept)
        && !text.chars().any(|c| c != '\n' && c != '\t' && is_invisible(c));
    fits.then_some((header, lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_could_be_mistaken_are_quoted() {
        for text in ["nginx:1.27", "/srv/data", "a b", "web-1", "GET /x", "k=v"] {
            assert_eq!(inline(text), text);
        }
        for text in
            ["", "8080", "1.0", "true", "null", "~", "yes", "a: b", "a:", " a", "- x", "#c", "*a", "12:30"]
        {
            assert!(inline(text).starts_with('"'), "{text}");
        }
        assert_eq!(inline("a\u{1}\n\"é"), "\"a\\u0001\\n\\\"é\"");
    }

    #[test]
    fn scripts_are_written_as_blocks() {
        assert_eq!(block("a\n  b\n"), Some(("|", vec!["a", "  b"])));
        assert_eq!(block("a\n\nb"), Some(("|-", vec!["a", "", "b"])));
        for text in ["a", "a\n", " a\nb", "a\n \nb", "a\n\n", "a\r\nb"] {
            assert_eq!(block(text), None, "{text:?}");
        }
    }
}
