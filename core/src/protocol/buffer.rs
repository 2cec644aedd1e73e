//! A linear receive buffer.

use alloc::{boxed::Box, vec::Vec};

use super::{Input, NoSpace, PartialFrame};
use crate::buffer::{Pool, Quota, Reservation};

/// A linear receive buffer: the bytes of a frame are contiguous.
///
/// It holds one buffer of the pool while it has input. A frame that is longer gets an allocation of
/// its own, which doubles as the bytes arrive: at most twice the bytes received, and at most
/// [`Config::max_frame`](super::Config::max_frame). It is freed once the frame is taken and the
/// rest of the input fits into a buffer of the pool.
///
/// A frame of a line with a length, and as many bytes:
///
/// ```
/// # use wirestate_core::protocol::*;
/// fn receive(input: &mut Buffer, replies: &mut Replies) -> Result<Step, Malformed> {
///     let Some(line) = input.find(b'\n') else {
///         return Ok(Step::Incomplete { length: None });
///     };
///     let length = str::from_utf8(&input.bytes()[..line]).ok().and_then(|text| text.parse().ok());
///     let length: u32 = length.ok_or("not a length")?;
///     let content = line + 1;
///     let end = content.saturating_add(length as usize);
///     if input.bytes().len() < end {
///         return Ok(Step::Incomplete { length: Some(end) }); // called again once all is there
///     }
///     let frame = input.take(end);
///     replies.output().extend(&frame[content..]);
///     Ok(Step::Taken)
/// }
/// ```
#[derive(Debug)]
pub struct Buffer {
    pool: Pool,
    quota: Quota,
    max_frame: usize,
    memory: Memory,
    /// The input is at `start..end` of the memory.
    start: usize,
    end: usize,
    /// The length of the next frame in bytes, once that is known.
    length: Option<usize>,
    /// [`take_until`](Self::take_until) has found no delimiter before this position.
    searched: usize,
}

#[derive(Debug)]
enum Memory {
    None,
    /// A buffer of the pool.
    Pooled(Box<[u8]>),
    /// An allocation for a frame that is longer than a buffer of the pool.
    Allocated(Vec<u8>, Reservation),
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Pooled(buffer) => buffer,
            Self::Allocated(buffer, _) => buffer,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::None => &mut [],
            Self::Pooled(buffer) => buffer,
            Self::Allocated(buffer, _) => buffer,
        }
    }
}

impl Buffer {
    /// A buffer for frames of at most `max_frame` bytes. The memory of longer frames than a buffer
    /// of `pool` is reserved under `quota`.
    pub fn new(pool: Pool, quota: Quota, max_frame: usize) -> Self {
        let memory = Memory::None;
        Self { pool, quota, max_frame, memory, start: 0, end: 0, length: None, searched: 0 }
    }

    /// The input, from the start of the next frame. It is at most
    /// [`max_frame`](super::Config::max_frame) bytes long.
    pub fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[self.start..self.end.min(self.start.saturating_add(self.max_frame))]
    }

    /// Removes the first `n` bytes, and returns them.
    ///
    /// # Panics
    /// There are fewer bytes.
    pub fn take(&mut self, n: usize) -> &[u8] {
        let start = self.start;
        assert!(n <= self.end - start, "took {n} bytes of {}", self.end - start);
        self.start += n;
        (self.length, self.searched) = (None, self.start);
        &self.memory.bytes()[start..self.start]
    }

    /// The position of the first `delimiter` in [`bytes`](Self::bytes); `None` if there is none
    /// yet. Each byte is searched once, even if the frame arrives in many pieces.
    ///
    /// Pass the same delimiter until one is found: bytes that were searched are not searched again
    /// for another one.
    pub fn find(&mut self, delimiter: u8) -> Option<usize> {
        let searched = self.searched.max(self.start) - self.start;
        let bytes = self.bytes();
        let found = memchr::memchr(delimiter, bytes.get(searched..)?).map(|found| searched + found);
        self.searched = self.start + found.unwrap_or(bytes.len());
        found
    }

    /// Removes the bytes up to the first `delimiter`, and returns them without it; `None` if there
    /// is no delimiter yet. The rule of [`find`](Self::find) for the delimiter applies.
    pub fn take_until(&mut self, delimiter: u8) -> Option<&[u8]> {
        let length = self.find(delimiter)?;
        Some(&self.take(length + 1)[..length])
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    /// Moves the input to the start of its memory.
    fn compact(&mut self) {
        let (start, end) = (self.start, self.end);
        self.memory.bytes_mut().copy_within(start..end, 0);
        self.searched = self.searched.saturating_sub(start);
        (self.start, self.end) = (0, end - start);
    }

    /// Moves the input to a buffer of the pool, in which it fits.
    fn move_to(&mut self, mut buffer: Box<[u8]>) {
        self.compact();
        buffer[..self.end].copy_from_slice(&self.memory.bytes()[..self.end]);
        self.memory = Memory::Pooled(buffer);
    }

    /// Discards the input, returns a buffer of the pool to the pool, and frees other memory.
    fn give_back(&mut self) {
        if let Memory::Pooled(buffer) = core::mem::replace(&mut self.memory, Memory::None) {
            self.pool.give(buffer);
        }
        (self.start, self.end, self.searched) = (0, 0, 0);
    }
}

impl Input for Buffer {
    fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            if let Memory::Allocated(..) = self.memory {
                self.memory = Memory::None;
            }
            (self.start, self.end, self.searched) = (0, 0, 0);
        }
        // A long frame was taken, and the rest needs no allocation.
        let is_short = self.start > 0 && self.len() < self.pool.size();
        match self.memory {
            Memory::Allocated(..) if is_short => self.move_to(self.pool.take()),
            Memory::None => self.memory = Memory::Pooled(self.pool.take()),
            Memory::Pooled(_) | Memory::Allocated(..) => {}
        }
        let size = self.memory.bytes().len();
        if self.start > 0 && size - self.end <= size / 4 {
            self.compact();
        }
        let end = self.end;
        &mut self.memory.bytes_mut()[end..]
    }

    fn commit(&mut self, n: usize) {
        let spare = self.memory.bytes().len() - self.end;
        assert!(n <= spare, "committed {n} bytes, but `spare` has {spare}");
        self.end += n;
    }

    fn has_space(&self) -> bool {
        self.start == self.end || self.len() < self.memory.bytes().len()
    }

    fn is_incomplete(&self) -> bool {
        self.length.is_some_and(|length| self.len() < length)
    }

    fn partial(&self) -> Option<PartialFrame> {
        let (received, expected) = (self.len() as u64, self.length.unwrap_or(0) as u64);
        let partial = PartialFrame::new(received, expected, self.length.is_some());
        (received > 0).then_some(partial)
    }

    fn reserve(&mut self, length: Option<usize>) -> Result<(), NoSpace> {
        let (received, limit) = (self.len(), self.max_frame);
        let seen = received.min(limit); // by the protocol
        let is_valid = length.is_none_or(|length| length > seen);
        debug_assert!(is_valid, "a frame of {length:?} bytes is incomplete, but has {received}");
        let length = length.or(self.length).filter(|length| *length > seen);
        let min_length = length.unwrap_or(seen.saturating_add(1));
        if min_length > limit {
            return Err(NoSpace::TooLong { length: min_length, limit });
        }
        self.length = length;
        let size = self.memory.bytes().len();
        if received == 0 || received < size {
            return Ok(()); // `spare` makes the space
        }
        let size = received.saturating_mul(2).min(length.unwrap_or(limit));
        if let Memory::Allocated(buffer, reservation) = &mut self.memory {
            self.quota.resize(reservation, size)?;
            buffer.reserve_exact(size - received);
            buffer.resize(size, 0);
            return Ok(());
        }
        let mut reservation = Reservation::default();
        self.quota.resize(&mut reservation, size)?;
        let mut buffer = Vec::with_capacity(size);
        buffer.extend_from_slice(&self.memory.bytes()[self.start..self.end]);
        buffer.resize(size, 0);
        let searched = self.searched.saturating_sub(self.start);
        self.give_back();
        self.memory = Memory::Allocated(buffer, reservation);
        (self.end, self.searched) = (received, searched);
        Ok(())
    }

    fn clear(&mut self) {
        self.start = self.end;
        self.length = None;
    }

    fn release(&mut self) {
        if self.start == self.end {
            self.give_back();
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.give_back();
    }
}
