//! JSON (RFC 8259): one value after another.

use super::{
    error::{Place, Problem},
    scalar::Scalar,
    tree::{Builder, Tree},
};

/// Every value of `text`, or the first mistake in its syntax.
pub(super) fn read(text: &str) -> Result<Tree, Problem> {
    let mut reader = Reader { rest: text, at: Place::START, builder: Builder::default() };
    reader.skip_space();
    while !reader.rest.is_empty() {
        reader.value()?;
        reader.skip_space();
    }
    Ok(reader.builder.finish(None))
}

struct Reader<'t> {
    rest: &'t str,
    at: Place,
    builder: Builder,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.rest = &self.rest[next.len_utf8()..];
        if next == '\n' {
            self.at = Place { line: self.at.line + 1, column: 1 };
        } else {
            self.at.column += 1;
        }
        Some(next)
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|c| matches!(c, ' ' | '\t' | '\n' | '\r')) {
            self.bump();
        }
    }

    /// The present place has something else than `expected`.
    fn unexpected(&self, expected: &str) -> Problem {
        let found = self.peek().map_or("the end".to_owned(), |c| format!("{c:?}"));
        Problem::new(self.at, format!("this is not valid JSON: expected {expected}, found {found}"))
    }

    fn expect(&mut self, expected: char) -> Result<(), Problem> {
        if self.peek() != Some(expected) {
            return Err(self.unexpected(&format!("{expected:?}")));
        }
        self.bump();
        Ok(())
    }

    /// Recursion is as deep as the builder lets lists and maps nest.
    fn value(&mut self) -> Result<(), Problem> {
        match self.peek() {
            Some('{') => self.members('}', true),
            Some('[') => self.members(']', false),
            Some('"') => self.string(),
            _ => self.literal(),
        }
    }

    /// A list's items or an object's members, up to `end`.
    fn members(&mut self, end: char, keyed: bool) -> Result<(), Problem> {
        if keyed {
            self.builder.open_map(self.at)?;
        } else {
            self.builder.open_list(self.at)?;
        }
        self.bump();
        self.skip_space();
        if self.peek() != Some(end) {
            loop {
                if keyed {
                    self.key()?;
                }
                self.skip_space();
                self.value()?;
                self.skip_space();
                match self.peek() {
                    Some(',') => self.bump(),
                    Some(c) if c == end => break,
                    _ => return Err(self.unexpected(&format!("',' or {end:?}"))),
                };
                self.skip_space();
            }
        }
        self.bump();
        self.builder.close();
        Ok(())
    }

    fn key(&mut self) -> Result<(), Problem> {
        if self.peek() != Some('"') {
            return Err(self.unexpected("a key in double quotes"));
        }
        self.string()?;
        self.skip_space();
        self.expect(':')
    }

    /// `null`, `true`, `false` or a number.
    fn literal(&mut self) -> Result<(), Problem> {
        let at = self.at;
        let length = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)));
        let text = &self.rest[..length.unwrap_or(self.rest.len())];
        let of_number = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
        let begins = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let is_number = begins && text.chars().all(of_number) && text.parse::<f64>().is_ok();
        if !is_number && !matches!(text, "null" | "true" | "false") {
            return Err(self.unexpected("a value"));
        }
        self.builder.scalar(at, Scalar::new(text.to_owned(), false));
        self.at.column += text.len();
        self.rest = &self.rest[text.len()..];
        Ok(())
    }

    fn string(&mut self) -> Result<(), Problem> {
        let at = self.at;
        self.expect('"')?;
        let mut text = String::new();
        loop {
            match self.peek() {
                Some('"') => break,
                Some('\\') => {
                    self.bump();
                    text.push(self.escape()?);
                }
                Some(c) if u32::from(c) >= 0x20 => {
                    text.push(c);
                    self.bump();
                }
                _ => return Err(self.unexpected("'\"' at the end of a text")),
            }
        }
        self.bump();
        self.builder.scalar(at, Scalar::new(text, true));
        Ok(())
    }

    fn escape(&mut self) -> Result<char, Problem> {
        let escaped = match self.peek() {
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => return self.unicode(),
            _ => return Err(self.unexpected("an escape: one of \" \\ / b f n r t u")),
        };
        self.bump();
        Ok(escaped)
    }

    /// One UTF-16 unit or two, as RFC 8259, section 7 has it.
    fn unicode(&mut self) -> Result<char, Problem> {
        let at = self.at;
        let mut units = vec![self.unit()?];
        if (0xd800..0xdc00).contains(&units[0]) && self.peek() == Some('\\') {
            self.bump();
            units.push(self.unit()?);
        }
        let mut decoded = char::decode_utf16(units);
        match (decoded.next(), decoded.next()) {
            (Some(Ok(character)), None) => Ok(character),
            _ => Err(Problem::new(at, "this is not valid JSON: half of a surrogate pair is no character")),
        }
    }

    fn unit(&mut self) -> Result<u16, Problem> {
        self.expect('u')?;
        let digits = self.rest.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.unexpected("four hex digits"))?;
        self.rest = &self.rest[4..];
        self.at.column += 4;
        Ok(unit)
    }
}
