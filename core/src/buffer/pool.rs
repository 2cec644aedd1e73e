//! A pool of buffers for many connections, few of which need a buffer at a time.

use alloc::{boxed::Box, vec, vec::Vec};

use crate::shared::{Lock, Shared};

/// A pool of buffers of one size. Clones are the same pool.
///
/// It keeps at most `max_idle` unused buffers. So it holds at most `size × (max_idle + buffers in
/// use)` bytes, and each machine uses at most one buffer for each of its rings.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: Shared<Inner>,
}

#[derive(Debug)]
struct Inner {
    size: usize,
    max_idle: usize,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Box<[u8]>>,
    /// How many buffers were taken and not given back.
    in_use: usize,
}

impl Pool {
    /// A pool of buffers of `size` bytes each, which keeps at most `max_idle` unused ones.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn new(size: usize, max_idle: usize) -> Self {
        assert!(size > 0, "the size of a pool's buffers must be non-zero");
        Self { inner: Shared::new(Inner { size, max_idle, state: Lock::default() }) }
    }

    /// The size of each buffer, in bytes.
    pub fn size(&self) -> usize {
        self.inner.size
    }

    /// How many buffers were taken and not given back.
    pub fn in_use(&self) -> usize {
        self.inner.state.with(|state| state.in_use)
    }

    /// Takes an unused buffer, or allocates one. Its content may be that of an earlier use.
    pub fn take(&self) -> Box<[u8]> {
        let idle = self.inner.state.with(|state| {
            state.in_use += 1;
            state.idle.pop()
        });
        idle.unwrap_or_else(|| vec![0; self.inner.size].into_boxed_slice())
    }

    /// Gives a buffer back. The pool frees it if it has `max_idle` unused ones already.
    pub fn give(&self, buffer: Box<[u8]>) {
        debug_assert_eq!(
            buffer.len(),
            self.inner.size,
            "the buffer must have the size of the pool's buffers"
        );
        let surplus = self.inner.state.with(|state| {
            state.in_use -= 1;
            if state.idle.len() < self.inner.max_idle {
                state.idle.push(buffer);
                None
            } else {
                Some(buffer)
            }
        });
        drop(surplus); // freed outside the lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_at_most_max_idle_buffers() {
        let pool = Pool::new(16, 1);
        let (first, second) = (pool.take(), pool.take());
        let address = first.as_ptr();
        assert_eq!(pool.in_use(), 2);
        pool.give(first);
        pool.give(second);
        let again = pool.take();
        assert_eq!(again.as_ptr(), address, "the first one was kept");
        assert_eq!(pool.inner.state.with(|state| state.idle.len()), 0, "the second one was not");
        assert_eq!(pool.in_use(), 1);
    }
}
