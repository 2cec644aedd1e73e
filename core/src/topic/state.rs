//! The state of a topic, behind its lock.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::{
    mem,
    task::{Context, Poll, Waker},
};

use slab::Slab;

use super::Config;
use crate::shared::register_waker;

/// Decides whether a subscriber gets an item.
pub(super) type Filter<T> = Box<dyn Fn(&T) -> bool + Send>;

/// A subscriber fell out of the window: items were displaced before it had read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{skipped} items left the window before they were read")]
pub struct Lagged {
    /// How many items that its filter accepts were displaced unread since the last `Lagged`.
    pub skipped: u64,
}

/// The counters of a topic since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Items published.
    pub published: u64,
    /// Items that left the window before a subscriber had read them. An item counts once for each
    /// such subscriber.
    pub skipped: u64,
    /// How often a subscriber fell out of the window. It counts again once the subscriber has got
    /// [`Lagged`].
    pub lagged: u64,
    /// Subscribers now.
    pub subscribers: u64,
}

/// The state of a topic: its window, its subscribers, and its counters.
///
/// A filter may panic at any call. It leaves the state consistent.
pub(super) struct State<T> {
    config: Config,
    window: Window<T>,
    subscribers: Slab<Subscriber<T>>,
    counters: Counters,
}

/// The newest items. Their positions count from 0 since the topic was made.
struct Window<T> {
    /// The items, each with its weight.
    items: VecDeque<(T, usize)>,
    /// The position of the oldest item.
    start: u64,
    /// The weight of all items.
    weight: usize,
}

/// The state of one subscriber.
pub(super) struct Subscriber<T> {
    filter: Option<Filter<T>>,
    /// The position of the next item to look at.
    next: u64,
    /// How many items it has skipped and does not know of.
    skipped: u64,
    /// `Some` while it waits. Then it has read everything and skipped nothing.
    waker: Option<Waker>,
}

impl<T> State<T> {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            window: Window { items: VecDeque::new(), start: 0, weight: 0 },
            subscribers: Slab::new(),
            counters: Counters::default(),
        }
    }

    /// Removes the oldest items until there is room for one of `weight` bytes, and returns them.
    /// Counts them for the subscribers that have not read them.
    pub(super) fn displace(&mut self, weight: usize) -> Vec<(T, usize)> {
        let excess = self.window.excess(weight, self.config);
        let start = self.window.start + excess as u64;
        for (_, subscriber) in &mut self.subscribers {
            while subscriber.next < start {
                if subscriber.step(&self.window).is_some() {
                    self.counters.skipped += 1;
                    self.counters.lagged += u64::from(subscriber.skipped == 0);
                    subscriber.skipped += 1;
                }
            }
        }
        self.window.remove(excess)
    }

    /// Adds an item.
    pub(super) fn push(&mut self, item: T, weight: usize) {
        self.window.weight += weight;
        self.window.items.push_back((item, weight));
        self.counters.published += 1;
    }

    /// Takes the wakers of the subscribers that wait although there is something to read.
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        let end = self.window.end();
        // All filters come first: if one panicked in the other loop, taken wakers would be lost.
        for (_, subscriber) in &mut self.subscribers {
            while subscriber.waker.is_some() && subscriber.next < end {
                if subscriber.step(&self.window).is_some() {
                    subscriber.next -= 1;
                    break;
                }
            }
        }
        let mut wakers = Vec::new();
        for (_, subscriber) in &mut self.subscribers {
            if subscriber.next < end || subscriber.skipped > 0 {
                wakers.extend(subscriber.waker.take());
            }
        }
        wakers
    }

    /// Adds a subscriber, which starts with the next item. Returns its key.
    pub(super) fn subscribe(&mut self, filter: Option<Filter<T>>) -> usize {
        let next = self.window.end();
        self.subscribers.insert(Subscriber { filter, next, skipped: 0, waker: None })
    }

    /// Moves a subscriber back by up to `items` items of its subscription.
    pub(super) fn replay(&mut self, key: usize, items: usize) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        let mut rest = items;
        while rest > 0
            && let Some(position) = subscriber.next.checked_sub(1)
            && let Some(item) = self.window.get(position)
        {
            subscriber.next = position;
            rest -= usize::from(subscriber.accepts(item));
        }
    }

    /// The next item of a subscriber. If it is pending, the waker of `cx` is registered, and the
    /// previous one is returned too, to be dropped outside of the lock.
    pub(super) fn poll_next(
        &mut self,
        key: usize,
        cx: &Context<'_>,
    ) -> (Poll<Result<T, Lagged>>, Option<Waker>)
    where
        T: Clone,
    {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return (Poll::Pending, None) };
        if subscriber.skipped > 0 {
            let skipped = mem::take(&mut subscriber.skipped);
            return (Poll::Ready(Err(Lagged { skipped })), None);
        }
        while subscriber.next < self.window.end() {
            if let Some(item) = subscriber.step(&self.window) {
                return (Poll::Ready(Ok(item.clone())), None);
            }
        }
        (Poll::Pending, register_waker(&mut subscriber.waker, cx))
    }

    /// Removes a subscriber. Drop the result outside of the lock.
    pub(super) fn unsubscribe(&mut self, key: usize) -> Option<Subscriber<T>> {
        self.subscribers.try_remove(key)
    }

    pub(super) fn counters(&self) -> Counters {
        Counters { subscribers: self.subscribers.len() as u64, ..self.counters }
    }
}

impl<T> Subscriber<T> {
    fn accepts(&self, item: &T) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter(item))
    }

    /// Goes past the next item in the window. Returns it if the subscriber gets it.
    fn step<'a>(&mut self, window: &'a Window<T>) -> Option<&'a T> {
        let item = window.get(self.next);
        // Before the filter: if that panics, it is not called with this item again.
        self.next += 1;
        item.filter(|item| self.accepts(item))
    }
}

impl<T> Window<T> {
    /// The position of the next item that is published.
    fn end(&self) -> u64 {
        self.start + self.items.len() as u64
    }

    /// The item at `position`; `None` if it is not in the window.
    fn get(&self, position: u64) -> Option<&T> {
        let index = usize::try_from(position.checked_sub(self.start)?).ok()?;
        self.items.get(index).map(|(item, _)| item)
    }

    /// How many of the oldest items exceed the limits if one of `weight` bytes is added.
    fn excess(&self, weight: usize, limits: Config) -> usize {
        let (mut items, mut bytes) = (self.items.len(), self.weight.saturating_add(weight));
        let exceeds = |items, bytes| items >= limits.items || bytes > limits.bytes;
        for (_, oldest) in &self.items {
            if !exceeds(items, bytes) {
                break;
            }
            (items, bytes) = (items - 1, bytes - oldest);
        }
        self.items.len() - items
    }

    /// Removes the `count` oldest items.
    fn remove(&mut self, count: usize) -> Vec<(T, usize)> {
        let removed: Vec<_> = self.items.drain(..count).collect();
        self.start += count as u64;
        self.weight -= removed.iter().map(|(_, weight)| weight).sum::<usize>();
        removed
    }
}
