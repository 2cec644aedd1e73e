//! A bounded queue of bytes in one buffer of a pool.

use alloc::boxed::Box;

use super::Pool;

/// A bounded queue of bytes in one buffer of a [`Pool`].
///
/// It takes the buffer at the first call of [`spare`](Self::spare). [`release`](Self::release)
/// gives it back once the ring is empty.
///
/// The kernel reads into [`spare`](Self::spare) and writes from [`slices`](Self::slices), so no
/// byte is copied. A ring that becomes empty starts at the front of its buffer again, so the next
/// read can fill the whole buffer.
#[derive(Debug)]
pub struct Ring {
    pool: Pool,
    buffer: Option<Box<[u8]>>,
    /// The position of the first byte; below the capacity.
    start: usize,
    /// The number of bytes; at most the capacity.
    len: usize,
}

impl Ring {
    /// An empty ring that takes its buffer from `pool`.
    pub fn new(pool: Pool) -> Self {
        Self { pool, buffer: None, start: 0, len: 0 }
    }

    /// The most bytes that it can hold: the size of the pool's buffers.
    pub fn capacity(&self) -> usize {
        self.pool.size()
    }

    /// The number of bytes that it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it has a buffer now.
    #[cfg(test)]
    pub(crate) fn holds_buffer(&self) -> bool {
        self.buffer.is_some()
    }

    /// Whether it holds [`capacity`](Self::capacity) bytes.
    pub fn is_full(&self) -> bool {
        self.len == self.capacity()
    }

    /// The contiguous free space after the last byte. It is empty only if the ring is full.
    pub fn spare(&mut self) -> &mut [u8] {
        let capacity = self.capacity();
        let end = self.start + self.len;
        let free = if end < capacity { end..capacity } else { end - capacity..self.start };
        let buffer = self.buffer.get_or_insert_with(|| self.pool.take());
        &mut buffer[free]
    }

    /// Takes the buffer of `other`, which belongs to the same pool, if `other` is empty and this
    /// ring has no buffer.
    pub(crate) fn take_over(&mut self, other: &mut Self) {
        if self.buffer.is_none() && other.len == 0 {
            self.buffer = other.buffer.take();
        }
    }

    /// Appends the first `n` bytes of [`spare`](Self::spare) to the queue.
    ///
    /// # Panics
    /// If `n` exceeds the free space, or `spare` was not called before.
    pub fn commit(&mut self, n: usize) {
        let free = self.capacity() - self.len;
        assert!(n == 0 || self.buffer.is_some(), "commit of {n} bytes without a call of spare");
        assert!(n <= free, "commit of {n} bytes exceeds the free space of {free}");
        self.len += n;
    }

    /// The bytes in order. The second slice is empty unless they wrap around the buffer's end.
    pub fn slices(&self) -> [&[u8]; 2] {
        let Some(buffer) = &self.buffer else { return [&[], &[]] };
        let end = self.start + self.len;
        match end.checked_sub(self.capacity()) {
            None | Some(0) => [&buffer[self.start..end], &[]],
            Some(wrapped) => [&buffer[self.start..], &buffer[..wrapped]],
        }
    }

    /// Fills `out` with the non-empty slices, and returns their number. It implements
    /// [`Machine::write_bufs`](crate::Machine::write_bufs).
    pub fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let slices = self.slices().into_iter().filter(|slice| !slice.is_empty());
        out.iter_mut().zip(slices).map(|(out, slice)| *out = slice).count()
    }

    /// Drops the first `n` bytes.
    ///
    /// # Panics
    /// If it holds fewer than `n` bytes.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.len, "consume of {n} bytes exceeds the length of {}", self.len);
        self.len -= n;
        self.start += n;
        if self.start >= self.capacity() {
            self.start -= self.capacity();
        }
        if self.len == 0 {
            self.start = 0;
        }
    }

    /// Gives the buffer back to the pool if the ring is empty.
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
        /// Compares a ring with the standard library's queue, with wraps at every position of a
        /// small buffer.
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
