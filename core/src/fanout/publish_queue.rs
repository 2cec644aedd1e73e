//! Publishers that share a feed: their order, and the memory of their messages.

use alloc::{collections::VecDeque, vec::Vec};
use core::{
    mem,
    task::{Context, Waker},
};

use bytes::{Bytes, BytesMut};

use super::{Capacity, Feed};
use crate::{
    Instant,
    shared::{register_waker, wake},
};

/// The publishers that wait for capacity, in the order in which they get it, and a block that their
/// messages share.
///
/// Only the first one asks the feed for capacity. When it has published, it wakes the next one. So
/// a pause costs one wake for each publisher, however many there are.
#[derive(Debug, Default)]
pub(super) struct PublishQueue {
    /// In ascending order of tickets. The end of a pause wakes the first one.
    waiting: VecDeque<(Ticket, Option<Waker>)>,
    last: Ticket,
    block: BytesMut,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

impl PublishQueue {
    fn is_first(&self, ticket: Ticket) -> bool {
        self.waiting.front().is_some_and(|(first, _)| *first == ticket)
    }

    /// Adds a publisher at the end.
    fn push(&mut self) -> Ticket {
        self.last.0 += 1;
        self.waiting.push_back((self.last, None));
        self.last
    }

    fn index(&self, ticket: Ticket) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()
    }

    /// The waker of the first one, which has become the first.
    fn take_first_waker(&mut self) -> Option<Waker> {
        self.waiting.front_mut()?.1.take()
    }

    /// Copies messages into memory that a chunk can keep. A chunk keeps its whole block alive, so
    /// small ones share blocks: otherwise the window would keep a block for each of them.
    fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > BLOCK / 4 {
            return Bytes::copy_from_slice(bytes);
        }
        if self.block.capacity() < bytes.len() {
            self.block = BytesMut::with_capacity(BLOCK);
        }
        self.block.extend_from_slice(bytes);
        self.block.split().freeze()
    }
}

impl Feed {
    /// Publishes a copy of `bytes`, which are complete messages, if it is this publisher's turn and
    /// there is capacity. Returns its position and its first message.
    ///
    /// # Errors
    /// The publisher waits in the queue with its `ticket`, until this time at most. `cx` is woken
    /// when the result may have changed.
    pub(super) fn poll_publish(
        &self,
        ticket: &mut Option<Ticket>,
        bytes: &[u8],
        messages: u64,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Result<(u64, u64), Option<Instant>> {
        let (published, wakers, replaced) = self.inner.state.with(|state| {
            let queue = &mut state.queue;
            let is_next = ticket.map_or(queue.waiting.is_empty(), |ticket| queue.is_first(ticket));
            if !is_next {
                let ticket = ticket.get_or_insert_with(|| queue.push());
                let slot = queue.index(*ticket).map(|index| &mut queue.waiting[index].1);
                let replaced = slot.and_then(|waker| register_waker(waker, cx));
                return (Err(None), Vec::new(), replaced);
            }
            let replaced = state.pause.as_mut().and_then(|pause| pause.upstream.take());
            let capacity = state.poll_capacity(&self.inner.config, now, bytes.len(), cx);
            let (published, wakers) = match capacity {
                Capacity::Available => {
                    let position = (state.log.end(), state.log.messages());
                    let bytes = state.queue.copy(bytes);
                    let mut wakers = state.publish(&self.inner.published, bytes, messages, now);
                    if mem::take(ticket).is_some() {
                        state.queue.waiting.pop_front();
                    }
                    wakers.extend(state.queue.take_first_waker());
                    (Ok(position), wakers)
                }
                Capacity::Paused { until } => {
                    ticket.get_or_insert_with(|| state.queue.push());
                    (Err(until), Vec::new())
                }
            };
            (published, wakers, replaced)
        });
        drop(replaced); // outside the lock: it may be the last handle on a task
        wake(wakers);
        published
    }

    /// Takes a publisher that will not publish out of the queue.
    pub(super) fn withdraw(&self, ticket: &mut Option<Ticket>, now: Instant) {
        let Some(ticket) = mem::take(ticket) else { return };
        let (removed, next) = self.inner.state.with(|state| {
            let removed = state.queue.index(ticket).and_then(|index| {
                let removed = state.queue.waiting.remove(index);
                if index == 0 {
                    state.end_pause(now);
                }
                removed
            });
            (removed, state.queue.take_first_waker())
        });
        drop(removed); // outside the lock: its waker may be the last handle on a task
        wake(next);
    }

    /// Counts a publisher that has connected.
    pub(super) fn publisher_connected(&self) {
        self.inner.state.with(|state| state.counters.publishers += 1);
    }

    /// Counts the end of a publisher, with the bytes that it has sent and that were not published.
    pub(super) fn publisher_ended(&self, tail: usize) {
        self.inner.state.with(|state| {
            state.counters.publishers -= 1;
            state.counters.tail_bytes_dropped += tail as u64;
        });
    }
}

/// The size of a block that small chunks share, in bytes.
const BLOCK: usize = 64 * 1024;
