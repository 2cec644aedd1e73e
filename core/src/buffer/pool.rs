//! Buffers of one size, shared by connections that seldom need one all at once.

use alloc::{boxed::Box, vec, vec::Vec};

use crate::shared::{Lock, Shared};

/// Buffers of one size. Clones are the same pool.
///
/// It keeps at most `keep` buffers that nobody uses, so `size × (keep + buffers in use)` bytes are
/// held at most. How many are in use is bounded by the number of machines.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: Shared<Inner>,
}

#[derive(Debug)]
struct Inner {
    size: usize,
    keep: usize,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Box<[u8]>>,
    /// How many are out.
    in_use: usize,
}

impl Pool {
    /// A pool of buffers of `size` bytes each, that keeps at most `keep` idle ones.
    ///
    /// # Panics
    /// If `size` is 0.
    pub fn new(size: usize, keep: usize) -> Self {
        assert!(size > 0, "a buffer must hold something");
        Self { inner: Shared::new(Inner { size, keep, state: Lock::default() }) }
    }

    /// The size of each buffer, in bytes.
    pub fn size(&self) -> usize {
        self.inner.size
    }

    /// How many buffers were taken and not given back.
    pub fn in_use(&self) -> usize {
        self.inner.state.with(|state| state.in_use)
    }

    /// A buffer; what it holds is left over from its last use.
    pub fn take(&self) -> Box<[u8]> {
        let idle = self.inner.state.with(|state| {
            state.in_use += 1;
            state.idle.pop()
        });
        idle.unwrap_or_else(|| vec![0; self.inner.size].into_boxed_slice())
    }

    /// Gives a buffer back.
    pub fn give(&self, buffer: Box<[u8]>) {
        debug_assert_eq!(buffer.len(), self.inner.size, "buffers go back where they came from");
        let surplus = self.inner.state.with(|state| {
            state.in_use -= 1;
            if state.idle.len() < self.inner.keep {
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
    fn it_keeps_no_more_than_it_may() {
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
