//! What a connection requires of its receive buffer.

use crate::buffer::QuotaExceeded;

/// A receive buffer, in which a [`Protocol`](super::Protocol) finds its frames.
///
/// [`Buffer`](super::Buffer) suits most protocols. Implement this trait for a protocol that stores
/// a part of its frames elsewhere.
pub trait Input {
    /// The space for the next read, behind the bytes received. It is not empty while
    /// [`has_space`](Self::has_space).
    fn spare(&mut self) -> &mut [u8];

    /// Adds the first `n` bytes of [`spare`](Self::spare) to the input.
    fn commit(&mut self, n: usize);

    /// Whether [`spare`](Self::spare) returns space without a further
    /// [`reserve`](Self::reserve).
    fn has_space(&self) -> bool;

    /// Whether the next frame cannot be complete, because bytes of its known length are missing.
    /// Then the protocol is not asked for a frame. Default: false.
    fn is_incomplete(&self) -> bool {
        false
    }

    /// How much of the next frame has arrived; `None` if no byte has. It is called after the
    /// protocol has returned [`Step::Incomplete`](super::Step::Incomplete).
    fn partial(&self) -> Option<PartialFrame>;

    /// Makes space for more bytes of the next frame, which is `length` bytes long if that is
    /// known.
    ///
    /// # Errors
    /// There is no space. The input still holds the bytes received.
    fn reserve(&mut self, length: Option<usize>) -> Result<(), NoSpace>;

    /// Discards all input.
    fn clear(&mut self);

    /// Frees the memory if no input is stored.
    fn release(&mut self);
}

/// How much of a frame has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartialFrame {
    /// Bytes of the frame that have arrived.
    pub received: u64,
    /// The length of the frame in bytes, as far as it is known, and otherwise 0.
    pub expected: u64,
    /// Whether the whole header has arrived, and so the length of the frame is known.
    pub has_header: bool,
}

impl PartialFrame {
    /// A part of a frame.
    pub const fn new(received: u64, expected: u64, has_header: bool) -> Self {
        Self { received, expected, has_header }
    }
}

/// Why an [`Input`] cannot receive more bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSpace {
    /// The frame is longer than the limit.
    #[error("a frame of {length} bytes or more, above the limit of {limit}")]
    TooLong {
        /// The length in bytes, or a lower bound of it.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// All connections together hold as much memory as they may.
    #[error("no memory for a frame: {0}")]
    Memory(#[from] QuotaExceeded),
}
