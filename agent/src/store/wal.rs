//! Damage to the write-ahead log that SQLite itself would pass over.
//!
//! SQLite reads a log up to its first bad frame and takes the rest for a transaction that a crash
//! cut off. But each commit is synced before the next is written, so a crash damages the last
//! transaction at most: a bad frame with two commits after it, or a bad header before any frame,
//! is a loss of what was promised. Format: <https://www.sqlite.org/fileformat2.html#walformat>.

use std::{fs, io, path::Path};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// Of a log whose checksums read little-endian words; one more for big-endian.
const MAGIC: u32 = 0x377f_0682;
/// Commits after a bad frame that no crash explains.
const LOST_COMMITS: usize = 2;

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    #[error("its write-ahead log cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the header of its write-ahead log is damaged")]
    Header,
    #[error("frame {0} of its write-ahead log is damaged and committed ones follow")]
    Frame(usize),
}

/// Checks a log; one that is absent or holds no frame is sound.
pub(super) fn check(path: &Path) -> Result<(), Damage> {
    match fs::read(path) {
        Ok(log) if log.len() > HEADER_BYTES => check_bytes(&log),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn check_bytes(log: &[u8]) -> Result<(), Damage> {
    let (header, frames) = log.split_at(HEADER_BYTES);
    let (magic, page) = (word(header, 0), word(header, 8) as usize);
    let is_sane = magic & !1 == MAGIC && page.is_power_of_two() && (512..=65536).contains(&page);
    let mut sums = Checksum { words: [0; 2], is_big_endian: magic & 1 == 1 };
    sums.add(&header[..24]);
    if !is_sane || sums.words != [word(header, 24), word(header, 28)] {
        return Err(Damage::Header);
    }
    let (mut bad, mut commits) = (None, 0);
    for (at, frame) in frames.chunks_exact(FRAME_HEADER_BYTES + page).enumerate() {
        // Frames of an earlier log, which this one has not yet overwritten, have other salts.
        let is_ours = frame[8..16] == header[16..24];
        sums.add(&frame[..8]);
        sums.add(&frame[FRAME_HEADER_BYTES..]);
        if bad.is_none() && !(is_ours && sums.words == [word(frame, 16), word(frame, 20)]) {
            bad = Some(at + 1);
        } else if bad.is_some() && is_ours && word(frame, 4) != 0 {
            commits += 1;
        }
    }
    match bad {
        Some(frame) if commits >= LOST_COMMITS => Err(Damage::Frame(frame)),
        _ => Ok(()),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

struct Checksum {
    words: [u32; 2],
    is_big_endian: bool,
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let read = |at| if self.is_big_endian { word(bytes, at) } else { word(bytes, at).swap_bytes() };
        for at in (0..bytes.len()).step_by(8) {
            self.words[0] = self.words[0].wrapping_add(read(at)).wrapping_add(self.words[1]);
            self.words[1] = self.words[1].wrapping_add(read(at + 4)).wrapping_add(self.words[0]);
        }
    }
}
