//! A bounded queue of bytes in one buffer.

use alloc::boxed::Box;

use super::Pool;

/// A bounded queue of bytes that holds a buffer of a [`Pool`] only while it holds bytes, or while
/// somebody is about to put some in.
///
/// The kernel reads into [`spare`](Self::spare) and writes from [`slices`](Self::slices): nothing
/// is copied. An empty ring starts at the front of its buffer again, so a read that follows a
/// complete write finds the whole of it.
#[derive(Debug)]
pub struct Ring {
    pool: Pool,
    buffer: Option<Box<[u8]>>,
    /// Where the first byte is; below the capacity.
    start: usize,
    /// How many bytes there are; at most the capacity.
    len: usize,
}

impl Ring {
    /// An empty ring of the size of `pool`'s buffers.
    pub fn new(pool: Pool) -> Self {
        Self { pool, buffer: None, start: 0, len: 0 }
    }

    /// How many bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.pool.size()
    }

    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it has a buffer now.
    #[cfg(test)]
    pub(crate) fn holds_buffer(&self) -> bool {
        self.buffer.is_some()
    }

    /// Whether it can take nothing more.
    pub fn is_full(&self) -> bool {
        self.len == self.capacity()
    }

    /// The room behind the last byte, as far as it is in one piece; empty only if the ring is full.
    pub fn spare(&mut self) -> &mut [u8] {
        let capacity = self.capacity();
        let end = self.start + self.len;
        let room = if end < capacity { end..capacity } else { end - capacity..self.start };
        let buffer = self.buffer.get_or_insert_with(|| self.pool.take());
        &mut buffer[room]
    }

    /// Takes over `other`'s buffer, if that holds nothing and this ring has none. Both are of one pool.
    pub(crate) fn take_over(&mut self, other: &mut Self) {
        if self.buffer.is_none() && other.len == 0 {
            self.buffer = other.buffer.take();
        }
    }

    /// The first `n` bytes of [`spare`](Self::spare) now belong to the queue.
    ///
    /// # Panics
    /// If that is more than there is room for, or `spare` was not asked for.
    pub fn commit(&mut self, n: usize) {
        assert!(n == 0 || self.buffer.is_some(), "committed what there was no buffer for");
        assert!(n <= self.capacity() - self.len, "committed more than there was room for");
        self.len += n;
    }

    /// The bytes in order; the second slice is empty unless they wrap around the buffer's end.
    pub fn slices(&self) -> [&[u8]; 2] {
        let Some(buffer) = &self.buffer else { return [&[], &[]] };
        let end = self.start + self.len;
        match end.checked_sub(self.capacity()) {
            None | Some(0) => [&buffer[self.start..end], &[]],
            Some(wrapped) => [&buffer[self.start..], &buffer[..wrapped]],
        }
    }

    /// Fills `out` with the slices that are not empty, as
    /// [`Machine::write_bufs`](crate::Machine::write_bufs) wants them.
    pub fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let slices = self.slices().into_iter().filter(|slice| !slice.is_empty());
        out.iter_mut().zip(slices).map(|(out, slice)| *out = slice).count()
    }

    /// Drops the first `n` bytes.
    ///
    /// # Panics
    /// If it does not hold as many.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len, "consumed more than there was");
        self.len -= n;
        self.start += n;
        if self.start >= self.capacity() {
            self.start -= self.capacity();
        }
        if self.len == 0 {
            self.start = 0;
        }
    }

    /// Gives the buffer back if it holds nothing.
    pub fn release(&mut self) {
        if self.len == 0
            && let Some(buffer) = self.buffer.take()
        {
            self.pool.give(buffer);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.len = 0;
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use alloc::{collections::VecDeque, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the queue of the standard library, through every wrap of a small buffer.
        #[test]
        fn it_is_a_bounded_queue(
            capacity in 1_usize..9,
            steps in prop::collection::vec((any::<bool>(), 0_usize..9), 0..200),
        ) {
            let mut ring = Ring::new(Pool::new(capacity, 1));
            let mut model = VecDeque::new();
            let mut next = 0_u8;
            for (put, n) in steps {
                if put {
                    let spare = ring.spare();
                    let n = n.min(spare.len());
                    for byte in &mut spare[..n] {
                        *byte = next;
                        model.push_back(next);
                        next = next.wrapping_add(1);
                    }
                    ring.commit(n);
                } else {
                    let n = n.min(model.len());
                    ring.consume(n);
                    model.drain(..n);
                    ring.release();
                }
                prop_assert_eq!(ring.slices().concat(), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(ring.is_full(), model.len() == capacity);
                prop_assert_eq!(ring.spare().is_empty(), ring.is_full());
            }
        }
    }
}
