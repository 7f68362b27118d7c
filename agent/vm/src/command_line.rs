//! A kernel's command line.

use std::fmt;

/// Words for a kernel, in order. Where a kernel takes the last of several, so does a reader of this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<Word>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    key: String,
    value: Option<String>,
}

impl CommandLine {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a word without a value, such as `quiet`, unless it is there.
    #[must_use]
    pub fn flag(mut self, key: &str) -> Self {
        let word = Word { key: key.to_owned(), value: None };
        if !self.words.contains(&word) {
            self.words.push(word);
        }
        self
    }

    /// Adds `key=value` to what has that key already, as `console=` may be given twice.
    #[must_use]
    pub fn add(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.words.push(Word { key: key.to_owned(), value: Some(value.to_string()) });
        self
    }

    /// Makes `key=value` the only word with that key.
    #[must_use]
    pub fn set(self, key: &str, value: impl fmt::Display) -> Self {
        self.without(key).add(key, value)
    }

    /// Removes every word with that key.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.words.retain(|word| word.key != key);
        self
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Word { key, value }) in self.words.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { " " })?;
            f.write_str(key)?;
            // The kernel keeps blanks between quotes, which it takes around the value.
            match value {
                Some(value) if value.contains(char::is_whitespace) => write!(f, "=\"{value}\"")?,
                Some(value) => write!(f, "={value}")?,
                None => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_added_once_again_or_instead() {
        let line =
            CommandLine::new().add("console", "ttyS0").add("console", "tty0").flag("quiet").flag("quiet");
        assert_eq!(line.to_string(), "console=ttyS0 console=tty0 quiet");
        assert_eq!(line.clone().set("console", "hvc0").to_string(), "quiet console=hvc0");
        assert_eq!(
            line.without("console").add("dyndbg", "file a +p").to_string(),
            "quiet dyndbg=\"file a +p\""
        );
    }
}
