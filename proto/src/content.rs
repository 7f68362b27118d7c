//! A file's bytes for an archive, whose header must say how many there are before the first of them.

use std::io::{self, Cursor, Read, Take};

/// Read before the header is written: a file that fits is told by its content, whatever its size
/// was said to be.
const AHEAD_BYTES: u64 = 64 << 10;
/// Kept in memory at most of a file that is said to be empty and is not.
const UNSAID_BYTES: u64 = 32 << 20;

/// The content of a file, and its true size.
///
/// The kernel's own files (`/proc`, `/sys`) state no size or a wrong one, and others change while
/// they are copied: one that grows is cut where it ended when the copy began, one that becomes
/// shorter is an error, because what the header promised is not there.
#[derive(Debug)]
pub struct Content<R> {
    size: u64,
    start: Cursor<Vec<u8>>,
    rest: Take<R>,
}

impl<R: Read> Content<R> {
    /// Begins to read a file of which the file system says that it has `said` bytes.
    pub fn begin(mut file: R, said: u64) -> io::Result<Self> {
        let most = if said == 0 { UNSAID_BYTES + 1 } else { said.min(AHEAD_BYTES) };
        let mut start = Vec::new();
        (&mut file).take(most).read_to_end(&mut start)?;
        let read = start.len() as u64;
        if read > UNSAID_BYTES {
            return Err(io::Error::other(format!(
                "it does not say how long it is, and has more than {} MiB; read it by a command instead",
                UNSAID_BYTES >> 20
            )));
        }
        let size = if read < most { read } else { said };
        Ok(Self { size, start: Cursor::new(start), rest: file.take(size - read) })
    }

    /// How many bytes come, unless there is an error.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.start.read(buffer)?;
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        match self.rest.read(buffer)? {
            0 if self.rest.limit() > 0 => Err(io::Error::other("it became shorter while it was copied")),
            read => Ok(read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a file that has `has` bytes and is said to have `said`.
    fn copied(has: u64, said: u64) -> io::Result<u64> {
        let mut content = Content::begin(io::repeat(7).take(has), said)?;
        let size = content.size();
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, size, "the header would lie");
        assert!(bytes.iter().all(|byte| *byte == 7), "bytes that are not the file's");
        Ok(size)
    }

    #[test]
    fn a_file_is_as_long_as_what_it_holds() {
        for (has, said, size) in [
            (0, 0, 0),
            (5, 5, 5),
            // As in /proc, and in /sys.
            (5000, 0, 5000),
            (1 << 20, 0, 1 << 20),
            (5, 4096, 5),
            (AHEAD_BYTES * 3, AHEAD_BYTES * 3, AHEAD_BYTES * 3),
            // It grew.
            (900, 300, 300),
            (AHEAD_BYTES * 4, AHEAD_BYTES * 2, AHEAD_BYTES * 2),
        ] {
            assert_eq!(copied(has, said).unwrap(), size, "{has} bytes, said to be {said}");
        }
    }

    #[test]
    fn what_is_not_there_and_what_has_no_end_are_errors() {
        let shorter = copied(AHEAD_BYTES * 2, AHEAD_BYTES * 3).unwrap_err().to_string();
        assert!(shorter.contains("became shorter"), "{shorter}");
        let endless = copied(u64::MAX, 0).unwrap_err().to_string();
        assert!(endless.contains("more than 32 MiB"), "{endless}");
    }
}
