//! A topic: every subscriber gets each item that a machine publishes, all in the same order.
//!
//! - [`Topic`] holds a bounded window of the newest items. Any machine publishes to it, at any
//!   time: [`Topic::publish`] never waits.
//! - [`Subscription`] is a subscriber's position in the topic. A machine polls it in
//!   [`poll_shared`](crate::Machine::poll_shared).
//! - [`Lagged`] tells a subscriber that it fell out of the window, and how many items it skipped.
//!   The lag policy is the subscriber's: it goes on and reports the gap, or it disconnects.
//!
//! A slow subscriber delays nobody and uses no more memory than a fast one. If the upstream should
//! wait for slow subscribers instead, use a [`fanout::Feed`](crate::fanout::Feed), which can pause
//! it.
//!
//! To tag items, make the tag a part of `T`. A subscriber that wants some of the items
//! [subscribes with a filter](Topic::subscribe_where): one room of a chat, or all lines but its
//! own. Items that the filter rejects do not wake it, and do not count as skipped.
//!
//! ```
//! use core::task::{Context, Poll, Waker};
//! use wirestate_core::topic::{Config, Lagged, Topic};
//!
//! // The last two lines of a chat, each with the number of its sender.
//! let config = Config::default().with_items(2);
//! let lines = Topic::new(config, |line: &(u64, &str)| line.1.len())?;
//! lines.publish((1, "anybody here?"));
//!
//! let mut others = lines.subscribe_where(|line| line.0 != 1); // all but the lines of sender 1
//! let mut late = lines.subscribe().with_replay(1);
//! lines.publish((1, "hello"));
//! lines.publish((2, "hi"));
//!
//! // In `poll_shared`: until `Pending`, or until the output is full.
//! let cx = &mut Context::from_waker(Waker::noop());
//! assert_eq!(others.poll_next(cx), Poll::Ready(Ok((2, "hi"))));
//! assert_eq!(others.poll_next(cx), Poll::Pending); // the next line of another sender wakes it
//!
//! assert_eq!(late.poll_next(cx), Poll::Ready(Err(Lagged { skipped: 1 })));
//! assert_eq!(late.poll_next(cx), Poll::Ready(Ok((1, "hello"))));
//! # Ok::<(), wirestate_core::ConfigError>(())
//! ```

mod config;
#[cfg(test)]
mod model;
mod state;
mod subscription;

use alloc::{boxed::Box, vec::Vec};
use core::{
    fmt::{self, Debug, Formatter},
    mem,
    task::Waker,
};

use self::state::{Filter, State};
pub use self::{
    config::Config,
    state::{Counters, Lagged},
    subscription::Subscription,
};
use crate::{
    ConfigError,
    shared::{Lock, Shared, wake},
};

/// A bounded window of items, which machines publish and subscribers read. Clones are the same
/// topic.
///
/// Memory in bytes, however slow the subscribers are: at most
///
/// - 2 × [`Config::items`] × `size_of::<(T, usize)>()` for the window;
/// - [`Config::bytes`] and the weight of the heaviest item, for what the items hold on the heap;
/// - 160 for each subscription, what its filter holds, and its waker.
///
/// A subscriber's clone of an item is not included, and can outlive the window. The topic's lock is
/// held to clone an item or to call filters, never while a waker runs.
pub struct Topic<T> {
    inner: Shared<Inner<T>>,
}

struct Inner<T> {
    weight: fn(&T) -> usize,
    state: Lock<State<T>>,
}

impl<T> Topic<T> {
    /// A topic without items and subscribers.
    ///
    /// `weight` returns how many bytes an item holds on the heap, such as the length of its
    /// [`Bytes`](bytes::Bytes). It is called once for each item.
    ///
    /// # Errors
    /// A limit in `config` is zero.
    pub fn new(config: Config, weight: fn(&T) -> usize) -> Result<Self, ConfigError> {
        config.check()?;
        let state = Lock::new(State::new(config));
        Ok(Self { inner: Shared::new(Inner { weight, state }) })
    }

    /// Publishes an item. It displaces the oldest items if a limit is reached.
    ///
    /// Wakes each subscriber that waits for an item and whose filter accepts this one. A subscriber
    /// waits from when [`Subscription::poll_next`] has returned [`Pending`](core::task::Poll)
    /// until it is woken, so it is woken once, however many items are published before it polls
    /// again.
    pub fn publish(&self, item: T) {
        drop(self.append(item));
    }

    /// As [`publish`](Self::publish), but wakes the subscribers when the result is dropped.
    ///
    /// For items that announce changes of a value behind a lock. Append under that lock, so that
    /// the items have the order of the changes. Drop the result outside of it, since a waker can
    /// run anything:
    ///
    /// ```
    /// # use wirestate_core::{shared::Lock, topic::{Config, Topic}};
    /// let (members, events) = (Lock::new(0), Topic::new(Config::default(), |_| 0)?);
    /// let (published, mut later) = members.with(|members| {
    ///     *members += 1;
    ///     // It gets all events that `members` does not include yet.
    ///     (events.append(*members), events.subscribe())
    /// });
    /// drop(published);
    /// # Ok::<(), wirestate_core::ConfigError>(())
    /// ```
    pub fn append(&self, item: T) -> Published<T> {
        let weight = (self.inner.weight)(&item);
        self.inner.state.with(|state| {
            let displaced = state.displace(weight);
            state.push(item, weight);
            Published { wakers: state.take_wakers(), displaced }
        })
    }

    /// Subscribes to all items, from the next one on.
    pub fn subscribe(&self) -> Subscription<T> {
        self.subscribe_with(None)
    }

    /// Subscribes to the items that `filter` accepts, from the next one on.
    ///
    /// The filter is called under the topic's lock. It must return quickly, and not use the topic.
    /// If it panics, that subscriber does not get that item, and other subscribers may be woken
    /// only by the next item.
    pub fn subscribe_where(&self, filter: impl Fn(&T) -> bool + Send + 'static) -> Subscription<T> {
        self.subscribe_with(Some(Box::new(filter)))
    }

    fn subscribe_with(&self, filter: Option<Filter<T>>) -> Subscription<T> {
        let key = self.inner.state.with(|state| state.subscribe(filter));
        Subscription::new(self.clone(), key)
    }

    /// A snapshot of the counters.
    pub fn counters(&self) -> Counters {
        self.inner.state.with(|state| state.counters())
    }
}

/// An item that [`Topic::append`] has published. Dropping this wakes the subscribers that wait.
#[must_use = "subscribers are woken when it is dropped"]
pub struct Published<T> {
    wakers: Vec<Waker>,
    /// Dropped here, since dropping an item can run anything.
    #[expect(dead_code, reason = "its drop has the effect")]
    displaced: Vec<(T, usize)>,
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        wake(mem::take(&mut self.wakers));
    }
}

impl<T> Clone for Topic<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T> Debug for Topic<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use alloc::{sync::Arc, vec};
    use core::task::{Context, Poll};

    use super::*;
    use crate::shared::WakeCount;

    fn topic(items: usize, bytes: usize) -> Topic<usize> {
        Topic::new(Config::default().with_items(items).with_bytes(bytes), |item| *item).unwrap()
    }

    /// Everything that can be read without waiting.
    fn read<T: Clone>(subscription: &mut Subscription<T>) -> Vec<Result<T, u64>> {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut read = Vec::new();
        while let Poll::Ready(item) = subscription.poll_next(cx) {
            read.push(item.map_err(|lagged| lagged.skipped));
        }
        read
    }

    #[test]
    fn limits_must_not_be_zero() {
        for (items, bytes, setting) in [(0, 1, "items"), (1, 0, "bytes")] {
            let config = Config { items, bytes };
            let error = Topic::new(config, |item: &usize| *item).unwrap_err();
            assert_eq!(error, ConfigError::Zero { setting });
        }
    }

    #[test]
    fn an_item_that_is_heavier_than_the_window_stands_alone() {
        let topic = topic(10, 10);
        let mut subscription = topic.subscribe();
        for item in [4, 6, 11] {
            topic.publish(item);
        }
        assert_eq!(read(&mut subscription), [Err(2), Ok(11)]);
        topic.publish(1);
        assert_eq!(read(&mut topic.subscribe().with_replay(usize::MAX)), [Ok(1)]);
        topic.publish(usize::MAX);
        assert_eq!(read(&mut topic.subscribe().with_replay(usize::MAX)), [Ok(usize::MAX)]);
    }

    #[test]
    fn a_subscriber_is_woken_once_while_it_waits_and_by_its_own_items_only() {
        let (topic, (count, waker)) = (topic(10, 100), WakeCount::new());
        let cx = &mut Context::from_waker(&waker);
        let mut even = topic.subscribe_where(|item| item % 2 == 0);
        topic.publish(2);
        assert_eq!(count.get(), 0, "it does not wait");
        assert_eq!(even.poll_next(cx), Poll::Ready(Ok(2)));
        topic.publish(4);
        assert_eq!(count.get(), 0, "it has read an item, and does not wait");
        assert_eq!(even.poll_next(cx), Poll::Ready(Ok(4)));
        for _ in 0..2 {
            assert_eq!(even.poll_next(cx), Poll::Pending);
        }
        assert_eq!(Arc::strong_count(&count), 3, "the topic holds one clone of the waker");
        topic.publish(1);
        assert_eq!(count.get(), 0, "its filter rejects the item");
        topic.publish(6);
        topic.publish(8);
        assert_eq!(count.get(), 1);
        assert_eq!(read(&mut even), [Ok(6), Ok(8)]);
    }

    #[test]
    fn an_appended_item_is_read_at_once_but_wakes_only_when_the_result_is_dropped() {
        let (topic, (count, waker)) = (topic(1, 100), WakeCount::new());
        let mut subscription = topic.subscribe();
        assert!(subscription.poll_next(&mut Context::from_waker(&waker)).is_pending());
        let published = topic.append(1);
        assert_eq!((count.get(), read(&mut subscription)), (0, vec![Ok(1)]));
        drop(published);
        assert_eq!(count.get(), 1);
    }

    #[test]
    fn memory_stays_within_the_formula() {
        const SUBSCRIBERS: usize = 100;
        const HEAVIEST: usize = 300;
        let config = Config::default().with_items(500).with_bytes(50_000);
        let mut subscriptions = Vec::with_capacity(SUBSCRIBERS);
        let memory = allocation_counter::measure(|| {
            let topic = Topic::new(config, Vec::capacity).unwrap();
            subscriptions.resize_with(SUBSCRIBERS, || topic.subscribe());
            for len in (0..10).chain(0..HEAVIEST).cycle().take(2000) {
                for waiting in subscriptions.iter_mut().step_by(2) {
                    let cx = &mut Context::from_waker(Waker::noop());
                    while waiting.poll_next(cx).is_ready() {}
                }
                topic.publish(vec![0_u8; len]);
            }
        });
        let window = 2 * config.items * size_of::<(Vec<u8>, usize)>();
        let limit = window + config.bytes + HEAVIEST + 160 * SUBSCRIBERS;
        assert!(memory.bytes_max <= limit as u64, "{} bytes, limit {limit}", memory.bytes_max);
    }

    #[test]
    fn a_subscriber_that_leaves_takes_its_waker_along() {
        let (topic, (count, waker)) = (topic(10, 100), WakeCount::new());
        let mut subscription = topic.subscribe();
        assert!(subscription.poll_next(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!((topic.counters().subscribers, Arc::strong_count(&count)), (1, 3));
        drop(subscription);
        assert_eq!((topic.counters().subscribers, Arc::strong_count(&count)), (0, 2));
        topic.publish(1);
        assert_eq!(count.get(), 0);
    }

    #[cfg(feature = "std")]
    #[test]
    fn a_waker_and_an_item_may_use_the_topic() {
        use std::sync::Mutex;

        #[derive(Clone)]
        struct Item(Option<Topic<Self>>);
        impl Drop for Item {
            fn drop(&mut self) {
                if let Some(topic) = self.0.take() {
                    topic.publish(Self(None));
                }
            }
        }
        struct Reentrant(Mutex<Option<Subscription<Item>>>);
        impl alloc::task::Wake for Reentrant {
            fn wake(self: Arc<Self>) {
                let mut subscription = self.0.lock().unwrap().take().unwrap();
                let cx = &mut Context::from_waker(Waker::noop());
                assert!(subscription.poll_next(cx).is_ready());
                subscription.topic().publish(Item(None));
            }
        }
        let topic = Topic::new(Config::default().with_items(1), |_| 0).unwrap();
        let subscription = topic.subscribe();
        let reentrant = Arc::new(Reentrant(Mutex::new(Some(subscription))));
        let waker = Waker::from(reentrant.clone());
        let mut slot = reentrant.0.lock().unwrap();
        let pending = slot.as_mut().unwrap().poll_next(&mut Context::from_waker(&waker));
        assert!(pending.is_pending());
        drop(slot);
        topic.publish(Item(Some(topic.clone())));
        let Counters { published, subscribers, .. } = topic.counters();
        // The item, its clone, the waker, and the displaced item.
        assert_eq!((published, subscribers), (4, 0));
    }

    #[cfg(feature = "std")]
    #[test]
    fn a_filter_that_panics_leaves_the_topic_usable() {
        use std::panic::{AssertUnwindSafe, catch_unwind};

        let (topic, (count, waker)) = (topic(2, 100), WakeCount::new());
        let cx = &mut Context::from_waker(&waker);
        let mut all = [topic.subscribe(), topic.subscribe_where(|item| *item != 13 || panic!())];
        let [first, second] = &mut all;
        assert!(first.poll_next(cx).is_pending() && second.poll_next(cx).is_pending());
        catch_unwind(AssertUnwindSafe(|| topic.publish(13))).unwrap_err();
        topic.publish(1);
        assert_eq!(count.get(), 2);
        assert_eq!((read(first), read(second)), (vec![Ok(13), Ok(1)], vec![Ok(1)]));
    }

    #[cfg(feature = "std")]
    #[test]
    fn no_wake_up_is_lost_when_threads_publish_and_wait() {
        use std::thread;

        use crate::shared::block_on;

        // Two threads take turns, so each item must wake the other thread.
        const TURNS: usize = 1000;
        let topic = topic(10, usize::MAX);
        thread::scope(|scope| {
            for own in 0..2 {
                let mut others = topic.subscribe_where(move |item| item % 2 != own);
                scope.spawn(move || {
                    for _ in 0..TURNS {
                        let item = block_on(|cx| others.poll_next(cx)).unwrap();
                        others.topic().publish(item + 1);
                    }
                });
            }
            topic.publish(0);
        });
        assert_eq!(topic.counters().published, 1 + 2 * TURNS as u64);
    }

    #[cfg(feature = "std")]
    #[test]
    fn all_subscribers_see_the_items_of_all_threads_in_one_order() {
        use std::thread;

        use crate::shared::block_on;

        const ITEMS: usize = 500;
        // The small window makes subscribers lag. The large one does not.
        for window in [3, 2 * ITEMS] {
            let topic = topic(window, usize::MAX);
            let subscriptions: [_; 3] = core::array::from_fn(|_| topic.subscribe());
            let read = thread::scope(|scope| {
                let readers = subscriptions.map(|mut subscription| {
                    scope.spawn(move || {
                        let (mut read, mut skipped) = (Vec::new(), 0);
                        while read.len() as u64 + skipped < 2 * ITEMS as u64 {
                            match block_on(|cx| subscription.poll_next(cx)) {
                                Ok(item) => read.push(item),
                                Err(lagged) => skipped += lagged.skipped,
                            }
                        }
                        read
                    })
                });
                for publisher in 0..2 {
                    let topic = &topic;
                    scope.spawn(move || {
                        for item in 0..ITEMS {
                            topic.publish(2 * item + publisher);
                        }
                    });
                }
                readers.map(|reader| reader.join().unwrap())
            });
            for read in &read {
                for publisher in 0..2 {
                    let own: Vec<_> = read.iter().filter(|item| **item % 2 == publisher).collect();
                    assert!(own.is_sorted(), "{own:?}");
                }
            }
            assert!(window == 3 || read.iter().all(|other| *other == read[0]));
        }
    }
}
