//! Text that a capsule sent, made harmless for a terminal.
//!
//! A workload's log line or an image's name may carry escape sequences that retitle the window,
//! move the cursor or answer as if typed. Nothing remote reaches a terminal unwashed.

use std::borrow::Cow;

/// Control characters (C0, DEL, C1) and bidirectional overrides: what can make a terminal do or
/// show something other than the text.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// For one line of a table or an error: line ends and tabs become blanks, other control characters
/// their escaped form.
pub fn one_line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.trim_end_matches(['\n', '\r']).chars() {
        match c {
            '\n' | '\r' | '\t' => clean.push(' '),
            c if is_unsafe(c) => clean.extend(c.escape_default()),
            c => clean.push(c),
        }
    }
    Cow::Owned(clean)
}

/// For an error or another paragraph: lines stay lines, and each is made harmless.
pub fn paragraph(text: &str) -> String {
    text.trim_end().lines().map(one_line).collect::<Vec<_>>().join("\n")
}

/// For a log line on a terminal: control characters but the tab are left out.
pub fn log_line(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|c| *c == '\t' || !is_unsafe(*c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_never_reach_a_terminal() {
        assert_eq!(one_line("web\x1b]0;pwned\x07"), "web\\u{1b}]0;pwned\\u{7}");
        assert_eq!(one_line("a\nb\tc\n"), "a b c");
        assert_eq!(one_line("\u{202e}txt.exe"), "\\u{202e}txt.exe");
        assert_eq!(paragraph("why:\n  \x1b[2Jline\n"), "why:\n  \\u{1b}[2Jline");
        assert_eq!(log_line(b"\x1b[31mred\x1b[0m\tx\xff"), "[31mred[0m\tx\u{fffd}");
    }

    #[test]
    fn ordinary_text_is_borrowed() {
        assert!(matches!(one_line("größe 5 MiB"), Cow::Borrowed(_)));
    }
}
