//! A subscriber's position in a topic.

use core::{
    fmt::{self, Debug, Formatter},
    task::{Context, Poll},
};

use super::{Lagged, Topic};

/// A subscriber's position in a [`Topic`]. The subscriber leaves when this is dropped.
pub struct Subscription<T> {
    topic: Topic<T>,
    key: usize,
}

impl<T> Subscription<T> {
    pub(super) fn new(topic: Topic<T>, key: usize) -> Self {
        Self { topic, key }
    }

    /// Replays up to `items` of the last items that were published before. Only items that the
    /// filter accepts count, and only those in the window. Call it before the first
    /// [`poll_next`](Self::poll_next).
    pub fn with_replay(self, items: usize) -> Self {
        self.topic.inner.state.with(|state| state.replay(self.key, items));
        self
    }

    /// The topic.
    pub fn topic(&self) -> &Topic<T> {
        &self.topic
    }
}

impl<T: Clone> Subscription<T> {
    /// The next item.
    ///
    /// If it is pending, the waker of `cx` is woken by the next item of this subscription. In
    /// [`poll_shared`](crate::Machine::poll_shared), poll until it is pending, or until your output
    /// has reached its limit: then poll again after a write.
    ///
    /// # Errors
    /// The subscriber fell out of the window. It continues with the oldest item in the window. A
    /// subscriber whose peer must not miss an item ends its connection.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Lagged>> {
        let (next, previous) = self.topic.inner.state.with(|state| state.poll_next(self.key, cx));
        drop(previous); // outside the lock: it may be the last handle on a task
        next
    }
}

impl<T> Drop for Subscription<T> {
    fn drop(&mut self) {
        let removed = self.topic.inner.state.with(|state| state.unsubscribe(self.key));
        drop(removed); // outside the lock: its waker may be the last handle on a task
    }
}

impl<T> Debug for Subscription<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("topic", &self.topic).finish_non_exhaustive()
    }
}
