//! A digest of bytes.

/// A digest of 64 bits of a stream of bytes. It does not depend on how the bytes are divided into
/// calls. It finds accidental differences; it does not withstand an attacker.
///
/// The bytes are taken as little-endian words of 64 bits, the last one filled up with zeros. The
/// words go to four states in turn, which begin with 0. A word `w` changes its state `s` to
/// `((s rotated left by 5) xor w) × 0x9E3779B97F4A7C15` modulo 2⁶⁴. At the end, the second, third
/// and fourth state, and the number of bytes, change the first state as words do. The digest is
/// `s xor (s >> 32)` of that.
///
/// Four states are faster than one, because a processor computes them at the same time.
///
/// ```
/// use wirestate_core::record::Digest;
///
/// let mut digest = Digest::default();
/// digest.write(b"hello, ");
/// digest.write(b"world");
/// assert_eq!(digest.value(), Digest::of(b"hello, world"));
/// assert_ne!(digest.value(), Digest::of(b"hello, world\0"));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    states: [u64; STATES],
    /// The first bytes of an incomplete word.
    pending: u64,
    len: u64,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut digest = Self::default();
        digest.write(bytes);
        digest.value()
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !self.len.is_multiple_of((STATES * WORD) as u64)
            && let Some((byte, after)) = rest.split_first()
        {
            self.push(*byte);
            rest = after;
        }
        let (words, last) = rest.as_chunks::<WORD>();
        let (rounds, words) = words.as_chunks::<STATES>();
        for round in rounds {
            for (state, word) in self.states.iter_mut().zip(round) {
                *state = mix(*state, u64::from_le_bytes(*word));
            }
        }
        self.len += (rounds.len() * STATES * WORD) as u64;
        for byte in words.as_flattened().iter().chain(last) {
            self.push(*byte);
        }
    }

    /// How many bytes were added.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no byte was added.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The digest of the bytes so far.
    pub fn value(&self) -> u64 {
        let mut whole = *self;
        if !self.len.is_multiple_of(WORD as u64) {
            whole.push_word(self.pending, self.len);
        }
        let [first, second, third, fourth] = whole.states;
        let state = [second, third, fourth, self.len].into_iter().fold(first, mix);
        state ^ (state >> 32)
    }

    /// The lower half of [`value`](Self::value).
    #[expect(clippy::cast_possible_truncation, reason = "that is what it is")]
    pub(super) fn short(&self) -> u32 {
        self.value() as u32
    }

    fn push(&mut self, byte: u8) {
        let at = self.len;
        self.pending |= u64::from(byte) << (8 * (at % WORD as u64));
        self.len += 1;
        if self.len.is_multiple_of(WORD as u64) {
            let word = core::mem::take(&mut self.pending);
            self.push_word(word, at);
        }
    }

    /// Adds the word that has the byte `at`.
    #[expect(clippy::cast_possible_truncation, reason = "it is below the number of states")]
    fn push_word(&mut self, word: u64, at: u64) {
        let state = &mut self.states[(at / WORD as u64 % STATES as u64) as usize];
        *state = mix(*state, word);
    }
}

fn mix(state: u64, word: u64) -> u64 {
    (state.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The bytes of a word.
const WORD: usize = 8;
const STATES: usize = 4;

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn the_digest_depends_on_each_byte_and_on_no_cut() {
        let bytes: Vec<u8> = (0..200).map(|i: u8| i.wrapping_mul(31)).collect();
        for len in 0..bytes.len() {
            let whole = Digest::of(&bytes[..len]);
            for cut in 0..len {
                let mut digest = Digest::default();
                digest.write(&bytes[..cut]);
                digest.write(&bytes[cut..len]);
                assert_eq!(digest.value(), whole, "{cut} of {len}");
                let mut other = bytes[..len].to_vec();
                other[cut] ^= 1;
                assert_ne!(Digest::of(&other), whole, "{cut} of {len}");
            }
        }
    }
}
