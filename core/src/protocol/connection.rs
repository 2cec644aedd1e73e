//! The machine of a connection.

use alloc::{boxed::Box, vec::Vec};
use core::{
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Config, Input as _, PartialFrame, Protocol, ProtocolReason, Replies, Server, Step,
    eviction::{Eviction, EvictionSlot, Phase},
    frame_timeouts::FrameTimer,
    replies::Closing,
    server::Inner,
};
use crate::{
    ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound, Status, WriteProgress,
    idle::Activity,
    record::Recordable,
    teardown::{InFlightWait, Teardown},
};

/// One connection of a [`Server`]: the machine of a [`Protocol`].
///
/// The peer may send requests without waiting for replies. Replies are sent in the order of the
/// requests, as many as possible in one vectored write.
///
/// One call of a method answers at most 32 frames, even if more are buffered, and sends at most 32
/// news. Each is a unit of [`work`](Machine::work). While more frames may be buffered, and while
/// [`Config::high_water_mark`] bytes of output are pending, the connection does not read.
/// [`Event::Written`] and [`poll_shared`](Machine::poll_shared) answer the next frames.
///
/// Invalid input, an end of the input within a frame, and a frame that does not arrive in time are
/// answered by [`Protocol::error_reply`], after the replies to earlier requests. A lingering close
/// follows. A shutdown still answers requests that are on their way.
///
/// It holds at most
///
/// - one receive buffer, or a frame of up to [`Config::max_frame`] bytes;
/// - pending output: 4 × the sum of [`Config::high_water_mark`], or 64 KiB if that is more, and one
///   reply; and an error reply;
/// - [`Config::max_in_flight`] answers, each pending or with its reply, and replies behind them of
///   the high-water mark and one reply.
///
/// [`Config::max_memory`] bounds the long frames and replies of all connections together. An idle
/// connection holds none of these.
#[derive(Debug)]
pub struct Connection<P: Protocol> {
    server: Server,
    protocol: P,
    input: P::Input,
    replies: Replies<P::Answer>,
    /// The last call has taken [`MAX_FRAMES`] frames, and the input may hold more.
    may_have_frames: bool,
    /// The next frame is not taken before this time.
    wait_until: Option<Instant>,
    /// The number of frames taken.
    frames: u64,
    /// The number of news.
    news: u64,
    frame_timer: FrameTimer,
    /// More than half of [`Config::max_memory`] was in use at the last call. It is stored because a
    /// deadline depends on it and must not change between calls.
    is_memory_scarce: bool,
    /// When a byte was last received or written, a frame taken, or an answer ready.
    last_activity: Instant,
    progress: WriteProgress,
    /// The peer's FIN has arrived.
    has_eof: bool,
    /// `None` if the server evicts no connection.
    slot: Option<Box<EvictionSlot>>,
    state: State<ProtocolReason<P::Error>>,
}

#[derive(Clone, Debug)]
enum State<R> {
    Open,
    /// A shutdown was requested. Requests that are already on their way are answered.
    Draining(InFlightWait),
    /// Reading has ended. The pending replies are sent, then an error reply.
    Answering(R),
    Ending(Teardown<R>),
}

impl<P: Protocol> Connection<P> {
    pub(super) fn new(server: Server, protocol: P, input: P::Input, now: Instant) -> Self {
        let Inner { config, quota, idle, .. } = &*server.inner;
        let slot = idle.as_ref().map(|(idle, limit)| EvictionSlot::new(idle, *limit, now));
        Self {
            replies: Replies::new(quota.clone(), config.high_water_mark.get(), now),
            slot: slot.map(Box::new),
            server,
            protocol,
            input,
            may_have_frames: false,
            wait_until: None,
            frames: 0,
            news: 0,
            frame_timer: FrameTimer::default(),
            is_memory_scarce: false,
            last_activity: now,
            progress: WriteProgress::new(now),
            has_eof: false,
            state: State::Open,
        }
    }

    /// The protocol.
    pub fn protocol(&self) -> &P {
        &self.protocol
    }

    /// The protocol. Only the methods of [`Protocol`] can append output.
    pub fn protocol_mut(&mut self) -> &mut P {
        &mut self.protocol
    }
}

impl<P: Protocol> Machine for Connection<P> {
    type Reason = ProtocolReason<P::Error>;

    fn interest(&self) -> Interest {
        let has_output = !self.replies.writable().is_empty();
        if let State::Ending(ending) = &self.state {
            return ending.interest(has_output);
        }
        let write = if has_output { Outbound::Flush } else { Outbound::Idle };
        Interest { read: self.is_open() && self.is_reading(), write }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.input.spare()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.replies.writable().write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.replies.writable().write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => self.handle_read(now, n),
            Event::Eof => self.handle_eof(now),
            Event::Error(direction, error) => self.handle_error(direction, error),
            Event::Written(n) => {
                self.replies.writable_mut().consume(n);
                self.last_activity = now;
                self.progress.written(now, n);
                self.pump(now);
            }
            Event::Finished => {
                if let State::Ending(ending) = &mut self.state {
                    ending.handle_finished(now);
                }
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => {
                if let State::Open = self.state {
                    self.state = State::Draining(InFlightWait::new(now));
                    self.replies.drain();
                }
            }
            Event::Release => {
                self.input.release();
                self.replies.release();
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let write = self.write_deadline();
        let idle = || {
            let limit = self.config().idle_timeout.filter(|_| self.protocol.is_idle());
            limit.map(|limit| self.last_activity + limit)
        };
        let deadlines = match &self.state {
            State::Open if self.is_idle() => [write, idle(), None],
            State::Draining(drain) if self.is_idle() => [write, idle(), Some(drain.deadline())],
            State::Open | State::Draining(_) if self.wait_until.is_some() => {
                [write, self.wait_until, self.reply_deadline()]
            }
            State::Open | State::Draining(_) | State::Answering(_) => {
                [write, self.frame_deadline(), self.reply_deadline()]
            }
            State::Ending(ending) => [ending.poll_timeout(write), None, None],
        };
        let eviction = self.eviction().map(|eviction| eviction.until);
        deadlines.into_iter().flatten().chain(eviction).min()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.replies.set_now(now);
        let mut has_changed = self.may_have_frames && self.has_room();
        match self.replies.poll(cx) {
            Ok(false) => {}
            Ok(true) => {
                has_changed = true;
                // The reply may have no output.
                self.last_activity = now;
            }
            Err(error) => {
                has_changed = true;
                self.end_with(ProtocolReason::Malformed(error));
            }
        }
        has_changed |= self.poll_news(now, cx);
        if has_changed {
            self.pump(now);
        }
        has_changed | self.poll_eviction(now, cx)
    }

    fn work(&self) -> u64 {
        self.frames + self.news
    }

    fn status(&self) -> Status {
        let state = match &self.state {
            State::Open if self.is_idle() => "idle",
            State::Open if self.wait_until.is_some() => "waiting",
            State::Open => "open",
            State::Draining(_) => "draining",
            State::Answering(_) => "answering",
            State::Ending(ending) => ending.state(),
        };
        let (queued, lag) = (self.replies.writable().len(), self.replies.unanswered() as u64);
        Status { state, queued, lag }
    }

    fn reason(&self) -> Option<Self::Reason> {
        let State::Ending(ending) = &self.state else { return None };
        ending.reason()
    }
}

/// Answers of futures are recorded, so a replay polls no future. News are not recorded. Neither is
/// how much of [`Config::max_memory`] the other connections use.
impl<P: Protocol> Recordable for Connection<P> {
    fn begin_recording(&mut self) {
        self.replies.begin_recording();
    }

    fn take_outside(&mut self, out: &mut Vec<u8>) {
        self.replies.take_answers(out);
    }

    fn restore_outside(&mut self, outside: &[u8]) -> Result<(), &'static str> {
        let is_valid = self.replies.restore_answers(outside);
        if is_valid { Ok(()) } else { Err("these are no answers") }
    }
}

/// Event handlers.
impl<P: Protocol> Connection<P> {
    fn handle_read(&mut self, now: Instant, n: usize) {
        if let State::Ending(ending) = &mut self.state {
            return ending.handle_read(now, n, &self.server.inner.discards);
        }
        if self.is_idle()
            && let State::Draining(drain) = &mut self.state
        {
            drain.handle_read(now);
        }
        self.input.commit(n);
        self.last_activity = now;
        self.pump(now);
    }

    fn handle_eof(&mut self, now: Instant) {
        if let State::Ending(ending) = &mut self.state {
            return ending.handle_eof();
        }
        self.has_eof = true;
        self.pump(now);
    }

    fn handle_error(&mut self, direction: Direction, error: ConnectionError) {
        let unsent = self.replies.writable().len();
        let unanswered = self.replies.unanswered() + usize::from(self.wait_until.is_some());
        let lost = ProtocolReason::Lost { direction, error, unsent, unanswered };
        if let State::Ending(ending) = &mut self.state {
            ending.handle_error(lost);
        } else {
            self.state = State::Ending(Teardown::ended(lost));
        }
        self.clear();
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let is_closing = matches!(&self.state, State::Ending(ending) if ending.is_closing());
        let queued = is_closing || !self.replies.writable().is_empty();
        if !WriteProgress::expires(self, |m| &mut m.progress, now, queued, unacknowledged) {
            return;
        }
        let write_timeout = self.config().write_timeout.filter(|limit| {
            self.write_deadline().is_some() && self.progress.is_stalled(now, *limit)
        });
        if write_timeout.is_none()
            && let Some(eviction) = self.eviction().filter(|eviction| eviction.until <= now)
        {
            return self.end_evicted(eviction, now);
        }
        let unacknowledged = self.replies.writable().len() + unacknowledged;
        let stalled = |limit| ProtocolReason::WriteStalled { limit, unacknowledged };
        if let State::Ending(ending) = &mut self.state {
            ending.expire(self.server.inner.config.write_timeout.map(stalled));
            return self.clear();
        }
        if let Some(limit) = write_timeout {
            self.state = State::Ending(Teardown::reset(stalled(limit)));
            return self.clear();
        }
        match self.state {
            State::Draining(_) if self.is_idle() => self.stop_reading(ProtocolReason::ShutDown),
            State::Open if self.is_idle() => {
                let limit = self.config().idle_timeout.unwrap_or_default();
                let fault = self.config().idle_fault;
                self.stop_reading(ProtocolReason::IdleTimeout { limit, fault });
            }
            State::Open | State::Draining(_) | State::Answering(_) | State::Ending(_) => {
                self.expire(now);
            }
        }
        self.pump(now);
    }

    /// Handles the deadline of a reply or a frame.
    fn expire(&mut self, now: Instant) {
        if self.reply_deadline().is_some_and(|deadline| deadline <= now) {
            let limit = self.config().service_timeout.unwrap_or_default();
            let unanswered = self.replies.unanswered();
            self.abandon_replies(ProtocolReason::ServiceTimeout { limit, unanswered });
        } else if self.wait_until.is_none()
            && let Some(partial) = self.input.partial()
        {
            let limit = self.frame_limit(partial).unwrap_or_default();
            let PartialFrame { received, expected, has_header } = partial;
            self.stop_reading(ProtocolReason::FrameTimeout {
                received,
                expected,
                has_header,
                limit,
            });
        }
    }
}

/// Requests and replies.
impl<P: Protocol> Connection<P> {
    /// Takes at most [`MAX_FRAMES`] frames and sends replies, while there is room. Then updates the
    /// state that depends on them. It is called after every event.
    fn pump(&mut self, now: Instant) {
        let (mut steps, mut is_incomplete) = (0, false);
        let had_output = !self.replies.writable().is_empty();
        self.replies.set_now(now);
        self.may_have_frames = false;
        self.wait_until.take_if(|until| *until <= now);
        loop {
            self.check_replies();
            self.replies.write_ready();
            let is_waiting = is_incomplete || self.wait_until.is_some();
            if is_waiting || !self.is_open() || !self.has_room() {
                break;
            }
            if steps == MAX_FRAMES {
                self.may_have_frames = true;
                break;
            }
            steps += 1;
            self.replies.begin();
            let received = if self.input.is_incomplete() {
                Ok(Step::Incomplete { length: None })
            } else {
                self.protocol.receive(&mut self.input, &mut self.replies)
            };
            match received {
                Ok(Step::Taken) => {
                    self.frame_timer.stop();
                    self.frames += 1;
                    // A frame may have waited for its time.
                    self.last_activity = now;
                }
                Ok(Step::WaitUntil(until)) => {
                    self.wait_until = Some(until).filter(|until| *until > now);
                }
                Ok(Step::Incomplete { length }) => match self.input.reserve(length) {
                    Ok(()) if self.has_eof => self.stop_reading(self.end_of_input()),
                    Ok(()) => is_incomplete = true,
                    Err(no_space) => self.stop_reading(no_space.into()),
                },
                Err(error) => self.stop_reading(ProtocolReason::Malformed(error)),
            }
        }
        self.answer_last(now);
        self.note_output(had_output, now);
        let is_partial =
            self.is_open() && self.wait_until.is_none() && self.input.partial().is_some();
        self.frame_timer.update(is_partial, self.is_reading(), now);
        let in_use = self.server.inner.quota.reserved();
        self.is_memory_scarce = in_use > self.config().max_memory / 2;
        if !self.has_room() {
            // No read follows before output is written or a reply is ready.
            self.input.release();
        }
        self.restart_drain(now);
    }

    /// Why the connection ends once the input has ended and all whole frames are taken.
    fn end_of_input(&self) -> ProtocolReason<P::Error> {
        match self.input.partial() {
            None => ProtocolReason::Finished,
            Some(PartialFrame { received, expected, .. }) => {
                ProtocolReason::Truncated { received, expected }
            }
        }
    }

    /// Appends the protocol's news, while there is room. Returns whether there was any. A shutdown
    /// ends them, since they could go on for ever.
    fn poll_news(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let had_output = !self.replies.writable().is_empty();
        let mut has_news = false;
        for _ in 0..MAX_FRAMES {
            if !matches!(self.state, State::Open) || !self.has_room() {
                break;
            }
            self.replies.begin();
            match self.protocol.poll_news(&mut self.replies, cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.stop_reading(ProtocolReason::Malformed(error)),
            }
            has_news = true;
            self.news += 1;
            self.check_replies();
        }
        self.note_output(had_output, now);
        has_news
    }

    /// Starts the write deadline if there is output, and there was none before.
    fn note_output(&mut self, had_output: bool, now: Instant) {
        if !had_output && !self.replies.writable().is_empty() {
            self.progress.queued(now);
        }
    }

    /// Applies what the protocol has requested of its replies.
    fn check_replies(&mut self) {
        if let Some(exceeded) = self.replies.take_exceeded() {
            self.abandon_replies(exceeded.into());
        } else if let Some(closing) = self.replies.closing()
            && self.is_open()
        {
            self.stop_reading(match closing {
                Closing::Finished if self.replies.is_draining() => ProtocolReason::ShutDown,
                Closing::Finished => ProtocolReason::Finished,
                #[cfg(feature = "message")]
                Closing::Answered => ProtocolReason::Answered,
            });
        }
    }

    /// Sends the last reply and a FIN, once reading has ended and all replies are writable.
    fn answer_last(&mut self, now: Instant) {
        if let State::Answering(reason) = &self.state
            && self.replies.are_writable()
        {
            let reason = reason.clone();
            let output = self.replies.writable_mut();
            output.begin();
            self.protocol.error_reply(&reason, output);
            // One that exceeds the quota is not sent.
            output.take_exceeded();
            // The new connection waits for the end of an evicted one.
            let lingers = !self.has_eof && !matches!(reason, ProtocolReason::Evicted { .. });
            let linger = lingers.then_some(self.config().linger);
            let closing = Teardown::closing(reason, linger, &mut self.progress, now);
            self.state = State::Ending(closing);
        }
    }

    /// Drops the replies that are not writable, and ends the connection with `reason`.
    fn abandon_replies(&mut self, reason: ProtocolReason<P::Error>) {
        self.replies.abandon();
        self.end_with(reason);
    }

    /// Ends the connection with `reason`, after the replies so far.
    fn end_with(&mut self, reason: ProtocolReason<P::Error>) {
        // An earlier error of the peer stays the reason, so that the peer is sent that error.
        if !matches!(&self.state, State::Answering(reason) if reason.is_error()) {
            self.stop_reading(reason);
        }
    }

    /// Stops reading. Replies to earlier requests are still sent.
    fn stop_reading(&mut self, reason: ProtocolReason<P::Error>) {
        self.input.clear();
        self.input.release();
        self.wait_until = None;
        self.state = State::Answering(reason);
    }

    /// Discards input, output and replies.
    fn clear(&mut self) {
        self.input.clear();
        self.replies.clear();
    }

    /// Restarts the wait for input if the connection drains and nothing is pending any more.
    fn restart_drain(&mut self, now: Instant) {
        if self.is_idle()
            && let State::Draining(drain) = &mut self.state
        {
            drain.wait(now);
        }
    }
}

/// Eviction.
impl<P: Protocol> Connection<P> {
    /// Updates the slot in the order of eviction. Returns whether the connection is evicted.
    fn poll_eviction(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let Some(phase) = self.phase() else { return false };
        let Some(slot) = &mut self.slot else { return false };
        let Some(eviction) = slot.poll(phase, now, cx) else { return false };
        match phase.activity {
            // It ends after its first reply.
            Activity::FirstQueued => return false,
            Activity::Idle | Activity::Sending => slot.begin(eviction),
            Activity::Queued => {
                self.abandon_replies(eviction.reason());
                self.pump(now);
            }
            Activity::Lingering => self.state = State::Ending(Teardown::ended(eviction.reason())),
        }
        true
    }

    /// The eviction that ends the connection at its deadline.
    fn eviction(&self) -> Option<Eviction> {
        self.slot.as_ref()?.eviction(|| self.phase())
    }

    /// Ends an evicted connection.
    fn end_evicted(&mut self, eviction: Eviction, now: Instant) {
        if self.replies.writable().is_empty() {
            self.stop_reading(eviction.reason());
            self.pump(now);
        } else {
            self.state = State::Ending(Teardown::reset(eviction.reason()));
            self.clear();
        }
    }

    /// What the connection does, for the order of eviction; `None` if it ends in any case, or the
    /// server evicts no connection.
    fn phase(&self) -> Option<Phase> {
        self.slot.as_ref()?;
        let has_output = !self.replies.writable().is_empty();
        let unanswered = self.replies.unanswered() as u64;
        let is_waiting = self.wait_until.is_some() || unanswered > 0;
        let activity = match &self.state {
            State::Ending(ending) if ending.lingers_since().is_some() => Activity::Lingering,
            State::Ending(ending) if !ending.is_closing() || !has_output => return None,
            State::Open | State::Draining(_) | State::Answering(_) | State::Ending(_) => match () {
                () if has_output => Activity::Sending,
                () if is_waiting && self.frames > unanswered => Activity::Queued,
                () if is_waiting => Activity::FirstQueued,
                () if self.protocol.is_idle() => Activity::Idle,
                () => Activity::Sending,
            },
        };
        let is_partial = activity == Activity::Idle && self.input.partial().is_some();
        Some(Phase { activity, frames: self.frames, is_partial })
    }
}

/// States and deadlines.
impl<P: Protocol> Connection<P> {
    fn config(&self) -> &Config {
        &self.server.inner.config
    }

    /// Whether requests are accepted.
    fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Draining(_))
    }

    /// Whether another frame may be taken.
    fn has_room(&self) -> bool {
        self.replies.has_room() && self.replies.unanswered() < self.config().max_in_flight.get()
    }

    /// Whether no frame waits, no reply is pending, and no frame has begun to arrive.
    fn is_idle(&self) -> bool {
        self.wait_until.is_none() && self.replies.is_empty() && self.input.partial().is_none()
    }

    /// Whether an open connection reads.
    fn is_reading(&self) -> bool {
        !self.has_eof
            && self.has_room()
            && !self.may_have_frames
            && (self.wait_until.is_none() || self.input.has_space())
    }

    /// When the frame that is being received must be complete.
    fn frame_deadline(&self) -> Option<Instant> {
        self.frame_timer.deadline(self.frame_limit(self.input.partial()?))
    }

    /// How long `frame` may take. While memory is scarce, the minimum rate does not extend the time
    /// for a content, so that slow senders do not occupy the memory.
    fn frame_limit(&self, frame: PartialFrame) -> Option<Duration> {
        let timeouts = &self.config().frame_timeouts;
        let limit = timeouts.limit(frame)?;
        let content = timeouts.content.filter(|_| frame.has_header && self.is_memory_scarce);
        Some(content.map_or(limit, |content| content.min(limit)))
    }

    /// When the first pending answer must be ready.
    fn reply_deadline(&self) -> Option<Instant> {
        Some(self.replies.pending_since()? + self.config().service_timeout?)
    }

    /// When the peer must have acknowledged output; `None` if none is pending.
    fn write_deadline(&self) -> Option<Instant> {
        let has_output = !self.replies.writable().is_empty();
        self.progress.pending_deadline(has_output, self.config().write_timeout)
    }
}

/// The most frames that one call takes, and the most news. They spread the cost of a write over
/// many replies, and take about 30 µs of CPU time with a quick protocol.
const MAX_FRAMES: u64 = 32;
