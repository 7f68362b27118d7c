//! Content-defined chunks: cut where the content says, not at fixed offsets, so that what is
//! inserted or removed changes the chunks around it and no other.
//!
//! The cut points are those of FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for
//! Data Deduplication Based Storage Systems", 2020). Both ends of an update cut alike, so sizes and
//! normalisation are part of the protocol.

use std::io::{self, Read};

use fastcdc::v2020::{Error, StreamCDC};

use crate::Digest;

/// No chunk but the last of its content is smaller …
pub const MIN_BYTES: u32 = 16 << 10;
/// … most are about this large …
pub const AVERAGE_BYTES: u32 = 64 << 10;
/// … and none is larger.
pub const MAX_BYTES: u32 = 256 << 10;

/// A piece of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// What it is called.
    pub id: Digest,
    /// Where it begins.
    pub offset: u64,
    /// What is in it.
    pub data: Vec<u8>,
}

/// Cuts all that `reader` gives. Read errors end the chunks.
pub fn cut(reader: impl Read) -> impl Iterator<Item = io::Result<Chunk>> {
    let sizes = [MIN_BYTES, AVERAGE_BYTES, MAX_BYTES].map(|bytes| bytes as usize);
    StreamCDC::new(reader, sizes[0], sizes[1], sizes[2]).map(|piece| {
        let piece = piece.map_err(|error| match error {
            Error::IoError(error) => error,
            other => io::Error::other(other.to_string()),
        })?;
        Ok(Chunk { id: Digest::of(&piece.data), offset: piece.offset, data: piece.data })
    })
}

/// The most chunks that content of this size can have.
pub fn most_chunks(bytes: u64) -> u64 {
    bytes.div_ceil(u64::from(MIN_BYTES))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Bytes that repeat nowhere (xorshift64).
    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let word = std::iter::from_fn(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            Some(state.to_le_bytes())
        });
        word.flatten().take(bytes).collect()
    }

    fn chunks(content: &[u8]) -> Vec<Chunk> {
        cut(content).collect::<io::Result<_>>().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn chunks_make_up_the_content_and_keep_their_bounds(seed: u64, bytes in 0_usize..2_000_000) {
            let content = noise(seed, bytes);
            let chunks = chunks(&content);
            prop_assert!(chunks.len() as u64 <= most_chunks(bytes as u64));
            let joined: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.data.clone()).collect();
            prop_assert_eq!(joined, content);
            for (at, chunk) in chunks.iter().enumerate() {
                let is_last = at + 1 == chunks.len();
                prop_assert!(chunk.data.len() <= MAX_BYTES as usize);
                prop_assert!(is_last || chunk.data.len() >= MIN_BYTES as usize);
                prop_assert_eq!(chunk.id, Digest::of(&chunk.data));
            }
        }

        #[test]
        fn an_insertion_changes_the_chunks_around_it_and_no_other(seed: u64, at in 0_usize..2_000_000) {
            let before = noise(seed, 2_000_000);
            let mut after = before.clone();
            after.splice(at..at, *b"something new");
            let known: HashSet<Digest> = chunks(&before).into_iter().map(|chunk| chunk.id).collect();
            let new: usize = chunks(&after).iter().filter(|c| !known.contains(&c.id)).map(|c| c.data.len()).sum();
            prop_assert!(new <= 6 * MAX_BYTES as usize, "{} bytes are new", new);
        }
    }
}
