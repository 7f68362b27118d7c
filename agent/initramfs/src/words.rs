//! The kernel's command line.

use std::{fs, path::Path};

use crate::{Error, Result};

const FILE: &str = "/proc/cmdline";
/// A block of verity.
const BLOCK: u64 = 4096;

/// Its words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(Vec<String>);

/// The root that a kernel belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// SHA-256 over salt and top hash block.
    pub hash: [u8; 32],
    /// Of the file system; the hash tree follows.
    pub bytes: u64,
}

impl Words {
    /// Of the running kernel.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(FILE).map_err(Error::io("read", Path::new(FILE)))?;
        Ok(Self::parse(&text))
    }

    /// Of a line.
    pub fn parse(text: &str) -> Self {
        Self(text.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// The last value of a word, as the kernel has it.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// What `capsule.root=` says.
    pub fn root(&self) -> Result<Root> {
        let text = self.value("capsule.root").ok_or_else(|| Error::Root("it is missing".into()))?;
        let wrong = |why: &str| Error::Root(format!("{text:?} {why}"));
        let (hash, bytes) = text.split_once(',').ok_or_else(|| wrong("has no comma"))?;
        let hash = hex::decode(hash).ok().and_then(|hash| hash.try_into().ok());
        let hash = hash.ok_or_else(|| wrong("begins with no 64 hex digits"))?;
        let bytes: u64 = bytes.parse().map_err(|_| wrong("ends with no number"))?;
        if bytes == 0 || !bytes.is_multiple_of(BLOCK) {
            return Err(wrong("ends with no multiple of 4096"));
        }
        Ok(Root { hash, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_word_counts() {
        let words = Words::parse("a=1 quiet capsule.log=info  capsule.log=debug\n");
        assert_eq!(words.value("capsule.log"), Some("debug"));
        assert_eq!(words.value("quiet"), None);
        assert_eq!(words.value("capsule"), None);
    }

    #[test]
    fn a_root_is_a_hash_and_a_number_of_whole_blocks() {
        let hash = "ab".repeat(32);
        let root = Words::parse(&format!("capsule.root={hash},8192")).root().unwrap();
        assert_eq!(root, Root { hash: [0xab; 32], bytes: 8192 });
        for (text, why) in [
            ("quiet".to_owned(), "missing"),
            (format!("capsule.root={hash}"), "no comma"),
            ("capsule.root=abc,8192".to_owned(), "no 64 hex digits"),
            (format!("capsule.root={hash},x"), "no number"),
            (format!("capsule.root={hash},0"), "no multiple"),
            (format!("capsule.root={hash},8193"), "no multiple"),
        ] {
            let error = Words::parse(&text).root().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
