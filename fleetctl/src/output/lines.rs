//! Streams of lines from several capsules, merged without mixing within a line.

use super::{Out, clean, style};

/// Which of this process's streams a line goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// stdout.
    Out,
    /// stderr.
    Error,
}

/// Prefixes of the capsules of one run: `[name] `, aligned, each in its colour; none for one
/// capsule.
#[derive(Clone, Debug)]
pub struct Prefixes {
    texts: Vec<String>,
}

impl Prefixes {
    /// For these names, in this order.
    pub fn new(names: &[String], colour: bool) -> Self {
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
        let texts = match names.len() {
            0 | 1 => names.iter().map(|_| String::new()).collect(),
            _ => names.iter().enumerate().map(|(at, n)| style::prefix(at, n, width, colour)).collect(),
        };
        Self { texts }
    }

    /// The prefix of the capsule at this place.
    pub fn of(&self, at: usize) -> &str {
        self.texts.get(at).map_or("", String::as_str)
    }
}

/// Writes one whole line, made harmless where it meets a terminal.
pub fn write_line(out: &Out, sink: Sink, prefix: &str, line: &[u8]) {
    let mut bytes = Vec::with_capacity(prefix.len() + line.len() + 1);
    bytes.extend_from_slice(prefix.as_bytes());
    let meets_terminal = match sink {
        Sink::Out => out.terminal,
        Sink::Error => out.error_terminal,
    };
    if meets_terminal {
        bytes.extend_from_slice(clean::log_line(line).as_bytes());
    } else {
        bytes.extend_from_slice(line);
    }
    bytes.push(b'\n');
    match sink {
        Sink::Out => out.bytes(&bytes),
        Sink::Error => out.error_bytes(&bytes),
    }
}

/// Cuts one byte stream into lines.
#[derive(Debug, Default)]
pub struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// Bytes kept while no line end comes; past that they are a line of their own.
    const LONGEST_LINE_BYTES: usize = 1 << 20;

    /// Takes a piece of the stream; gives `line` each line that it completes.
    pub fn push(&mut self, piece: &[u8], mut line: impl FnMut(&[u8])) {
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(&rest[..end]);
            line(self.partial.strip_suffix(b"\r").unwrap_or(&self.partial));
            self.partial.clear();
            rest = &rest[end + 1..];
        }
        self.partial.extend_from_slice(rest);
        if self.partial.len() > Self::LONGEST_LINE_BYTES {
            self.finish(line);
        }
    }

    /// Gives what is left when the stream ends.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines_wherever_they_are_cut() {
        let mut splitter = Splitter::default();
        let mut lines: Vec<Vec<u8>> = Vec::new();
        for piece in ["a", "b\nc", "\r\n", "\n", "end"] {
            splitter.push(piece.as_bytes(), |line| lines.push(line.to_vec()));
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        assert_eq!(lines, [&b"ab"[..], b"c", b"", b"end"]);
    }

    #[test]
    fn one_capsule_needs_no_prefix() {
        assert_eq!(Prefixes::new(&["a".into()], true).of(0), "");
        assert_eq!(Prefixes::new(&["a".into(), "bc".into()], false).of(0), "[a]  ");
    }
}
