//! A digest of bytes.

/// A digest of 64 bits of a stream of bytes. It does not depend on how the bytes are divided into
/// calls. It finds accidental differences; it does not withstand an attacker.
///
/// The bytes are taken as little-endian words of 64 bits, the last one filled up with zeros, and
/// then the number of bytes as one more word. Each word `w` changes the state `s`, which begins
/// with 0, to `((s rotated left by 5) xor w) × 0x9E3779B97F4A7C15` modulo 2⁶⁴. The digest is
/// `s xor (s >> 32)`.
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
    state: u64,
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
        while !self.is_aligned()
            && let Some((byte, after)) = rest.split_first()
        {
            self.push(*byte);
            rest = after;
        }
        let (words, last) = rest.as_chunks::<WORD>();
        self.len += (words.len() * WORD) as u64;
        self.state = words.iter().fold(self.state, |state, word| {
            mix(state, u64::from_le_bytes(*word))
        });
        for byte in last {
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
        let last = if self.is_aligned() { self.state } else { mix(self.state, self.pending) };
        let state = mix(last, self.len);
        state ^ (state >> 32)
    }

    /// The lower half of [`value`](Self::value).
    #[expect(clippy::cast_possible_truncation, reason = "that is what it is")]
    pub(super) fn short(&self) -> u32 {
        self.value() as u32
    }

    fn is_aligned(&self) -> bool {
        self.len.is_multiple_of(WORD as u64)
    }

    fn push(&mut self, byte: u8) {
        self.pending |= u64::from(byte) << (8 * (self.len % WORD as u64));
        self.len += 1;
        if self.is_aligned() {
            self.state = mix(self.state, self.pending);
            self.pending = 0;
        }
    }
}

fn mix(state: u64, word: u64) -> u64 {
    (state.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The bytes of a word.
const WORD: usize = 8;
