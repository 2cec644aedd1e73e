//! A linear buffer of a pool.

use wirestate_core::buffer::Pool;

/// Contiguous bytes in a buffer of a pool. It holds none while it is empty and
/// [released](Self::release).
#[derive(Debug)]
pub(crate) struct Buffer {
    pool: Pool,
    memory: Option<Box<[u8]>>,
    /// The content is at `start..end` of the memory.
    start: usize,
    end: usize,
}

impl Buffer {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, memory: None, start: 0, end: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() == self.pool.size()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory[self.start..self.end])
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().map_or(&mut [], |memory| &mut memory[self.start..self.end])
    }

    /// The space behind the content: at least `min` bytes, or all that is free.
    pub(crate) fn spare(&mut self, min: usize) -> &mut [u8] {
        let memory = self.memory.get_or_insert_with(|| self.pool.take());
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if memory.len() - self.end < min {
            memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut memory[self.end..]
    }

    /// How many bytes [`spare`](Self::spare) can return.
    pub(crate) fn free(&self) -> usize {
        self.pool.size() - self.len()
    }

    /// Appends the first `n` bytes of [`spare`](Self::spare).
    pub(crate) fn commit(&mut self, n: usize) {
        self.end += n;
        debug_assert!(self.memory.as_ref().is_some_and(|memory| self.end <= memory.len()));
    }

    /// Removes the first `n` bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
    }

    pub(crate) fn clear(&mut self) {
        self.start = self.end;
    }

    /// Gives the memory back to the pool if the buffer is empty.
    pub(crate) fn release(&mut self) {
        if self.start == self.end
            && let Some(memory) = self.memory.take()
        {
            self.pool.give(memory);
            (self.start, self.end) = (0, 0);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.clear();
        self.release();
    }
}
