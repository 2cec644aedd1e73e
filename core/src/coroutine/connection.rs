//! The machine of a coroutine.

use alloc::{boxed::Box, vec::Vec};
use core::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::{
    CoroutineReason, Factory, Io,
    state::{Fin, IoState, Slot, Wait},
};
use crate::{
    ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound, Reason, Status,
    WriteProgress,
    admission::Admitted,
    drive::{Clock, Drive, Ended, Sink, Source},
    shared::{Lock, Shared},
    teardown::{DiscardBudget, Teardown},
};

/// One connection, driven by a coroutine. [`Factory::connection`] or [`Factory::handshake`] makes
/// it. The [module](super) explains how it works.
///
/// It holds at most `2 × Config::buffer` bytes, the coroutine, and what that holds. An idle
/// connection, which has no pending bytes, holds no buffer.
pub struct Connection<T, E, F> {
    coroutine: Option<Pin<Box<F>>>,
    slot: Slot,
    /// `None` only during a poll, while it is in the slot.
    state: Option<Box<IoState>>,
    /// Input has arrived or a deadline has passed: the next read waits until the coroutine was
    /// polled.
    is_paused: bool,
    hands_over: bool,
    /// The value of the coroutine, until it is taken.
    output: Option<T>,
    discards: DiscardBudget,
    ending: Option<Teardown<CoroutineReason<E>>>,
}

impl<T, E, F> Connection<T, E, F>
where
    F: Future<Output = Result<T, E>>,
{
    pub(super) fn new(
        factory: &Factory,
        now: Instant,
        coroutine: impl FnOnce(Io) -> F,
        hands_over: bool,
    ) -> Self {
        let slot = Slot::new(Lock::new(None));
        Self {
            coroutine: Some(Box::pin(coroutine(Io::new(Shared::clone(&slot))))),
            slot,
            state: Some(Box::new(IoState::new(factory, now))),
            is_paused: false,
            hands_over,
            output: None,
            discards: factory.discards.clone(),
            ending: None,
        }
    }
}

impl<T, E, F> Connection<T, E, F> {
    /// Takes the value of the coroutine, once: `None` until it has returned `Ok`. Of a
    /// [handshake](Factory::handshake), `None` until all output is written.
    pub fn take_output(&mut self) -> Option<T> {
        let may_take = !self.hands_over || !self.state().has_output();
        self.output.take_if(|_| may_take)
    }

    /// Takes the input that the coroutine has not read. For a [handshake](Factory::handshake),
    /// after its output was taken: the next machine gets these bytes first.
    pub fn take_input(&mut self) -> Vec<u8> {
        let state = self.state_mut();
        let input = state.input.slices().concat();
        state.clear_input();
        input
    }

    fn state(&self) -> &IoState {
        self.state.as_ref().expect(LENT)
    }

    fn state_mut(&mut self) -> &mut IoState {
        self.state.as_mut().expect(LENT)
    }
}

impl<T, E, F> Machine for Connection<T, E, F>
where
    E: Reason,
    F: Future<Output = Result<T, E>>,
{
    type Reason = CoroutineReason<E>;

    fn interest(&self) -> Interest {
        let state = self.state();
        if let Some(teardown) = &self.ending {
            return teardown.interest(!state.output.is_empty());
        }
        let may_read = self.coroutine.is_some() && !self.is_paused && !state.has_yielded;
        let read = may_read && !state.has_eof && state.has_room();
        let write = match state.fin {
            _ if !state.output.is_empty() => Outbound::Flush,
            Fin::Requested => Outbound::Finish,
            Fin::Sent if read => Outbound::Finished,
            // `Finished` without a read would be the end.
            Fin::None | Fin::Sent => Outbound::Idle,
        };
        Interest { read, write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.state_mut().input.spare()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.state().output.write_bufs(out)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        let state = self.state.as_mut().expect(LENT);
        match (event, &mut self.ending) {
            (Event::Read(n), None) => {
                state.handle_read(now, n);
                self.is_paused = true;
            }
            (Event::Read(n), Some(teardown)) => teardown.handle_read(now, n, &self.discards),
            (Event::Eof, None) => state.handle_eof(),
            (Event::Eof, Some(teardown)) => teardown.handle_eof(),
            (Event::Error(direction, error), _) => self.handle_error(direction, error),
            (Event::Written(n), _) => state.handle_written(now, n),
            (Event::Finished, None) => state.handle_finished(),
            (Event::Finished, Some(teardown)) => teardown.handle_finished(now),
            (Event::Timeout { unacknowledged }, _) => self.handle_timeout(now, unacknowledged),
            (Event::ShutDown, _) => state.shut_down(now),
            (Event::Release, _) => state.input.release(),
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let state = self.state();
        let write = state.write_deadline();
        match &self.ending {
            Some(teardown) => teardown.poll_timeout(write),
            None if self.coroutine.is_none() => write,
            None => write.into_iter().chain(state.poll_timeout()).min(),
        }
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let Some(coroutine) = &mut self.coroutine else { return false };
        let mut state = self.state.take().expect(LENT);
        let (before, had_yielded) = (state.observable(), state.has_yielded);
        let had_input = !state.input.is_empty();
        state.begin_poll(now, cx, MAX_OPERATIONS);
        self.slot.with(|slot| *slot = Some(state));
        let polled = coroutine.as_mut().poll(cx);
        let state = self.slot.with(Option::take).expect("only this connection takes it");
        let was_paused = core::mem::take(&mut self.is_paused);
        let has_changed =
            was_paused || had_yielded || polled.is_ready() || state.observable() != before;
        let passed = state.passed_deadline(state.waiting.map(|waiting| waiting.wait));
        self.state = Some(state);
        match (polled, passed) {
            (Poll::Ready(Ok(value)), _) => {
                self.output = Some(value);
                self.coroutine = None;
                if !self.hands_over {
                    self.close(CoroutineReason::Finished, now);
                }
            }
            (Poll::Ready(Err(error)), _) => self.close(CoroutineReason::Failed(error), now),
            // It may still work on input that arrived in time.
            (Poll::Pending, Some(limit)) if !(had_input && self.state().has_yielded) => {
                self.close(CoroutineReason::Deadline { limit }, now);
                return true;
            }
            (Poll::Pending, _) => {}
        }
        has_changed
    }

    fn work(&self) -> u64 {
        self.state().operations
    }

    fn status(&self) -> Status {
        let waiting = || self.state().waiting.map(|waiting| waiting.wait);
        let state = match &self.ending {
            Some(teardown) => teardown.state(),
            None if self.coroutine.is_none() => "handing_over",
            None => match waiting() {
                Some(Wait::Input { .. }) => "reading",
                Some(Wait::Output) => "writing",
                Some(Wait::Until(_)) => "sleeping",
                None => "waiting",
            },
        };
        Status { state, queued: self.state().output.len(), lag: 0 }
    }

    fn reason(&self) -> Option<CoroutineReason<E>> {
        self.ending.as_ref()?.reason()
    }
}

impl<T, E, F> Connection<T, E, F>
where
    E: Reason,
    F: Future<Output = Result<T, E>>,
{
    /// Ends the connection, after the pending output and a FIN.
    fn close(&mut self, reason: CoroutineReason<E>, now: Instant) {
        self.coroutine = None;
        let state = self.state.as_mut().expect(LENT);
        let linger = (!state.has_eof).then_some(state.config.linger);
        state.clear_input();
        let mut teardown = Teardown::closing(reason, linger, &mut state.progress, now);
        if state.fin == Fin::Sent {
            teardown.handle_finished(now);
        }
        self.ending = Some(teardown);
    }

    /// Ends the connection without a FIN, in the state `teardown`.
    fn abort(&mut self, teardown: Teardown<CoroutineReason<E>>) {
        (self.coroutine, self.output) = (None, None);
        self.state_mut().clear_input();
        self.state_mut().clear_output();
        self.ending = Some(teardown);
    }

    fn handle_error(&mut self, direction: Direction, error: ConnectionError) {
        let unsent = self.state().output.len();
        let lost = CoroutineReason::Lost { direction, error, unsent };
        match &mut self.ending {
            None => self.abort(Teardown::ended(lost)),
            Some(teardown) => {
                teardown.handle_error(lost);
                self.state_mut().clear_output();
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let is_closing = self.ending.as_ref().is_some_and(Teardown::is_closing);
        let queued = is_closing || self.state().has_output();
        let is_expired = WriteProgress::expires(
            self,
            |connection| &mut connection.state_mut().progress,
            now,
            queued,
            unacknowledged,
        );
        if !is_expired {
            return;
        }
        let state = self.state.as_mut().expect(LENT);
        let unacknowledged = state.output.len() + unacknowledged;
        let stalled = |limit| CoroutineReason::WriteStalled { limit, unacknowledged };
        if let Some(teardown) = &mut self.ending {
            teardown.expire(state.config.write_timeout.map(stalled));
            return state.clear_output();
        }
        let is_stalled =
            |limit: &_| state.write_deadline().is_some() && state.progress.is_stalled(now, *limit);
        if let Some(limit) = state.config.write_timeout.filter(is_stalled) {
            self.abort(Teardown::reset(stalled(limit)));
        } else {
            state.handle_timeout(now);
            self.is_paused = true;
        }
    }
}

impl<T, E, F, S, C> Drive<Connection<T, E, F>, &mut S, C>
where
    E: Reason,
    F: Future<Output = Result<T, E>>,
    S: Source + Sink,
    C: Clock,
{
    /// Drives the machine of a [`Factory::handshake`] until it is complete, and gives the borrowed
    /// socket back for the next machine. Returns the value of the coroutine, the input after the
    /// handshake, and the entry of [`admitted`](Self::admitted).
    ///
    /// # Errors
    /// The connection has ended. Drop the socket.
    pub async fn handshake(
        mut self,
    ) -> Result<(T, Vec<u8>, Option<Admitted>), Ended<CoroutineReason<E>>> {
        let taken = self.until(|machine, _| Some((machine.take_output()?, machine.take_input())));
        let (output, input) = taken.await?;
        Ok((output, input, self.hand_over()))
    }
}

impl<T, E, F> fmt::Debug for Connection<T, E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("state", &self.state).finish_non_exhaustive()
    }
}

/// A panic of the coroutine leaves the state in the slot.
const LENT: &str = "the state is lent only during a poll";
/// The most operations that one poll completes: about 30 µs of CPU time with quick steps.
const MAX_OPERATIONS: u64 = 32;
