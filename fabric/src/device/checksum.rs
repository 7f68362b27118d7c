//! The Internet checksum (RFC 1071).

/// Bytes added in one step; wide enough for the compiler to use vector instructions.
const STEP: usize = 64;

/// A sum that is not folded yet, in the byte order of the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even place of what is summed.
    pub fn add(mut self, bytes: &[u8]) -> Self {
        let mut lanes = [0_u64; STEP / 4];
        let mut steps = bytes.chunks_exact(STEP);
        for step in &mut steps {
            for (lane, word) in lanes.iter_mut().zip(step.chunks_exact(4)) {
                *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
            }
        }
        self.0 += lanes.iter().sum::<u64>();
        let mut pairs = steps.remainder().chunks_exact(2);
        for pair in &mut pairs {
            self.0 += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
        }
        if let [last] = pairs.remainder() {
            self.0 += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        self
    }

    /// Adds a number as it stands on the wire.
    pub fn add_word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
    }

    /// The sum itself: what a checksum that is only begun holds. Big-endian.
    pub fn begun(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        (sum as u16).to_ne_bytes()
    }

    /// Its complement: the checksum. Big-endian; `[0, 0]` where the sum covers a right checksum.
    pub fn finish(self) -> [u8; 2] {
        self.begun().map(|byte| !byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_the_textbook(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let mut sum = 0_u32;
            for pair in bytes.chunks(2) {
                sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
                sum = (sum & 0xffff) + (sum >> 16);
            }
            prop_assert_eq!(Sum::default().add(&bytes).finish(), (!(sum as u16)).to_be_bytes());
        }
    }

    #[test]
    fn a_sum_over_a_right_checksum_is_nothing() {
        // The example header of RFC 1071's usual illustration, checksum b861 included.
        let header =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(Sum::default().add(&header).finish(), [0, 0]);
    }
}
