//! The replies of a connection, in the order of their requests.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::{Immediate, Output, journal::Journal};
#[cfg(feature = "message")]
use crate::buffer::Reservation;
use crate::{
    Instant,
    buffer::{Quota, QuotaExceeded},
};

/// The replies that are not written yet, in the order of their requests.
///
/// `A` is the future of an answer that is not ready. Without any, the replies are one [`Output`].
#[derive(Debug)]
pub struct Replies<A = Immediate> {
    /// The output in front of the first pending answer.
    output: Output,
    /// What follows the output: nothing, or first an answer that is pending.
    slots: VecDeque<Slot<A>>,
    /// The next reply has begun in the last slot.
    has_begun: bool,
    quota: Quota,
    high_water_mark: usize,
    now: Instant,
    /// The connection closes after the replies so far.
    closing: Option<Closing>,
    is_draining: bool,
    /// An answer that became ready has exceeded the quota.
    exceeded: Option<QuotaExceeded>,
    /// Set while the connection is recorded or replayed.
    journal: Option<Box<Journal>>,
}

/// Why a protocol closes its connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Closing {
    Finished,
    #[cfg(feature = "message")]
    Answered,
}

#[derive(Debug)]
enum Slot<A> {
    Pending { since: Instant, answer: A },
    Ready(Output),
}

impl<A> Replies<A> {
    pub(super) fn new(quota: Quota, high_water_mark: usize, now: Instant) -> Self {
        let output = Output::with_quota(quota.clone());
        Self {
            output,
            slots: VecDeque::new(),
            has_begun: false,
            quota,
            high_water_mark,
            now,
            closing: None,
            is_draining: false,
            exceeded: None,
            journal: None,
        }
    }

    /// The output behind all replies so far, for the next reply.
    pub fn output(&mut self) -> &mut Output {
        if self.slots.is_empty() {
            return &mut self.output;
        }
        if !self.has_begun {
            self.has_begun = true;
            self.slots.push_back(Slot::Ready(Output::with_quota(self.quota.clone())));
        }
        match self.slots.back_mut() {
            Some(Slot::Ready(output)) => output,
            Some(Slot::Pending { .. }) | None => &mut self.output,
        }
    }

    /// Defers the next reply until `answer` is ready. Later replies wait behind it.
    ///
    /// The connection holds and polls the future. While
    /// [`Config::max_in_flight`](super::Config::max_in_flight) replies wait, it takes no further
    /// frame.
    pub fn defer(&mut self, answer: A) {
        self.has_begun = false;
        self.slots.push_back(Slot::Pending { since: self.now, answer });
    }

    /// Closes the connection after the replies so far. The rest of the input is discarded.
    pub fn close(&mut self) {
        self.closing.get_or_insert(Closing::Finished);
    }

    /// As [`close`](Self::close), because only one request is answered.
    #[cfg(feature = "message")]
    pub(crate) fn close_after_one(&mut self) {
        self.closing = Some(Closing::Answered);
    }

    /// The time of the present call.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Whether a shutdown was requested: the connection closes after the requests that are already
    /// on their way. A protocol can announce that in its replies, or [`close`](Self::close) the
    /// connection after one of them.
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Whether all replies are written.
    pub fn is_empty(&self) -> bool {
        self.output.is_empty() && self.slots.is_empty()
    }

    /// Resizes `reservation` under the quota. If that exceeds it, the connection ends.
    #[cfg(feature = "message")]
    pub(crate) fn reserve(&mut self, reservation: &mut Reservation, bytes: usize) {
        if let Err(exceeded) = self.quota.resize(reservation, bytes) {
            self.exceeded = Some(exceeded);
        }
    }

    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    pub(super) fn drain(&mut self) {
        self.is_draining = true;
    }

    pub(super) fn closing(&self) -> Option<Closing> {
        self.closing
    }

    /// The output in front of the first pending answer.
    pub(super) fn writable(&self) -> &Output {
        &self.output
    }

    /// As [`writable`](Self::writable).
    pub(super) fn writable_mut(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Whether no answer is pending.
    pub(super) fn are_writable(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether another reply may be appended: less than the high-water mark is pending.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        if self.slots.is_empty() {
            return self.output.len() < self.high_water_mark;
        }
        let ready = self.slots.iter().map(|slot| match slot {
            Slot::Ready(output) => output.len(),
            Slot::Pending { .. } => 0,
        });
        self.output.len() + ready.sum::<usize>() < self.high_water_mark
    }

    /// When the first pending answer was deferred.
    pub(super) fn pending_since(&self) -> Option<Instant> {
        match self.slots.front()? {
            Slot::Pending { since, .. } => Some(*since),
            Slot::Ready(_) => None,
        }
    }

    /// Begins the next reply.
    pub(super) fn begin(&mut self) {
        self.has_begun = false;
        self.output.begin();
    }

    /// How many replies are not writable: answers that are pending, and the replies behind them.
    pub(super) fn unanswered(&self) -> usize {
        self.slots.len()
    }

    /// Makes the slots that are ready writable, up to the first one that is not, while there is
    /// room.
    pub(super) fn write_ready(&mut self) {
        let is_ready = |slot: &mut Slot<A>| matches!(slot, Slot::Ready(_));
        while self.output.len() < self.high_water_mark
            && let Some(Slot::Ready(output)) = self.slots.pop_front_if(is_ready)
        {
            self.output.append(output);
        }
    }

    /// Returns the error if output has exceeded the quota.
    pub(super) fn take_exceeded(&mut self) -> Option<QuotaExceeded> {
        let last = match self.slots.back_mut() {
            Some(Slot::Ready(output)) => output.take_exceeded(),
            Some(Slot::Pending { .. }) | None => None,
        };
        self.exceeded.take().or(last).or(self.output.take_exceeded())
    }

    /// Drops the replies that are not writable yet.
    pub(super) fn abandon(&mut self) {
        self.slots.clear();
    }

    /// Discards everything.
    pub(super) fn clear(&mut self) {
        self.output.clear();
        self.abandon();
    }

    /// Keeps the answers of futures for a recording.
    pub(super) fn begin_recording(&mut self) {
        self.journal = Some(Box::default());
    }

    /// Appends the answers since the last call.
    pub(super) fn take_answers(&mut self, out: &mut Vec<u8>) {
        if let Some(journal) = &mut self.journal {
            journal.take(out);
        }
    }

    /// In a replay: sets the answers that become ready at the next poll. Returns false if they are
    /// invalid.
    pub(super) fn restore_answers(&mut self, answers: &[u8]) -> bool {
        self.journal.get_or_insert_default().restore(answers)
    }

    /// In a replay: makes the recorded answers ready. Returns whether there is one; `None` if this
    /// is no replay.
    fn poll_restored(&mut self) -> Option<bool> {
        let answers = self.journal.as_mut()?.take_restored()?;
        let mut has_changed = false;
        for (index, bytes) in answers {
            if matches!(self.slots.get(index), Some(Slot::Pending { .. })) {
                self.make_ready(index, Output::from(bytes));
                has_changed = true;
            }
        }
        Some(has_changed)
    }

    /// Puts an answer into its slot.
    fn make_ready(&mut self, index: usize, mut output: Output) {
        if let Some(journal) = &mut self.journal {
            journal.push(index, &output);
        }
        // The slot's future is dropped first: it may hold a reservation for the request.
        self.slots[index] = Slot::Ready(Output::default());
        output.set_quota(&self.quota);
        self.exceeded = self.exceeded.or(output.take_exceeded());
        self.slots[index] = Slot::Ready(output);
    }

    pub(super) fn release(&mut self) {
        self.output.release();
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
        }
    }
}

impl<A, E> Replies<A>
where
    A: Future<Output = Result<Output, E>> + Unpin,
{
    /// Polls all pending answers. Returns whether one became ready.
    ///
    /// # Errors
    /// An answer has failed. It was dropped with all replies behind it; those before it stay.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Result<bool, E> {
        if let Some(has_changed) = self.poll_restored() {
            return Ok(has_changed);
        }
        let mut has_changed = false;
        for index in 0..self.slots.len() {
            if let Slot::Pending { answer, .. } = &mut self.slots[index]
                && let Poll::Ready(output) = Pin::new(answer).poll(cx)
            {
                has_changed = true;
                let output = output.inspect_err(|_| self.slots.truncate(index))?;
                self.make_ready(index, output);
            }
        }
        Ok(has_changed)
    }
}
