//! A machine around a machine.

use core::{fmt, mem, task::Context, time::Duration};

use bytes::Bytes;
use rustls::CommonState;
use wirestate_core::{
    ConnectionError, Direction, Event, Fault, Instant, Interest, Linger, Machine, Outbound, Reason,
    Status, WriteProgress,
    drive::MAX_SLICES,
    teardown::{DiscardBudget, FIN_TIMEOUT, Teardown},
};

use crate::{
    Config, Failure, TlsReason,
    session::{Progress, Session},
};

/// TLS around a machine: the machine receives and sends plaintext.
///
/// | the peer | the inner machine |
/// |---|---|
/// | data | [`Event::Read`] |
/// | `close_notify` | [`Event::Eof`] |
/// | a FIN without `close_notify` | [`Event::Error`] when reading |
/// | an alert, or a record that is not valid | [`Event::Error`] in both directions |
/// | a reset | a reset |
///
/// The errors are [`ConnectionError::Layer`], and the reason is a [`Failure`]. After a FIN without
/// `close_notify` it is [`Failure::Truncated`], and the connection is reset once the inner machine
/// has ended.
///
/// | the inner machine | the peer |
/// |---|---|
/// | output | encrypted; a record has at most 16 KiB of it |
/// | [`Outbound::Finish`] | `close_notify`, then a FIN. The other direction stays open |
/// | [`Outbound::Reset`] | a reset |
///
/// **Backpressure**: ciphertext is decrypted once the inner machine reads. While it does not, the
/// socket is not read either. A peer that reads nothing is still heard: input is decrypted while
/// output is pending.
///
/// **Deadlines**: those of the inner machine, and the two of [`Config`]. To the inner machine,
/// [`Event::Written`] means encrypted. [`Event::Timeout`] counts encrypted bytes that were not
/// sent as unacknowledged.
///
/// **Failures**: an alert tells the peer, then the connection lingers, so that a reset does not
/// destroy the alert. A handshake that takes too long has no alert, and ends at once.
///
/// **Work**: one call decrypts at most 64 records, and ends after a handshake or after the inner
/// machine has worked ([`Machine::work`]). The rest follows in `poll_shared`.
///
/// **Memory**: at most two [buffers](Config::buffer) and one record (16 KiB), besides the inner
/// machine and rustls' own state: after the handshake about 4.3 KB in a client and 2.4 KB in a
/// server (rustls 0.23, TLS 1.3), and the peer's certificates. An idle connection holds no buffer.
#[derive(Debug)]
pub struct Tls<M: Machine> {
    inner: M,
    session: Box<Session>,
    config: Config,
    discards: DiscardBudget,
    since: Instant,
    progress: WriteProgress,
    /// How the input ended, until the inner machine has received what came before.
    end: Option<End>,
    output: Output,
    /// The inner machine has worked enough for one call (rule 8 of the contract).
    is_paused: bool,
    failure: Option<Failure>,
    /// The end of the connection, after a failure that the peer is told.
    teardown: Option<Teardown<()>>,
    work: u64,
    on_handshake: OnHandshake,
}

/// What is called once the handshake is complete.
struct OnHandshake(Option<Callback>);

type Callback = Box<dyn FnOnce(&CommonState) + Send>;

impl fmt::Debug for OnHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "OnHandshake(..)" } else { "OnHandshake" })
    }
}

/// How the input ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Eof,
    Error(ConnectionError),
    /// The inner machine was told.
    Delivered,
}

/// Whether there is more output.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Output {
    Open,
    /// Writing has failed in the handshake, which cannot be completed. The inner machine was not
    /// told, because the peer may have explained why.
    Failed(ConnectionError),
    /// The inner machine was told that the FIN was sent, or that writing has failed.
    Finished,
}

impl<M: Machine> Tls<M> {
    pub(crate) fn new(
        inner: M,
        session: Session,
        config: Config,
        discards: DiscardBudget,
        now: Instant,
    ) -> Self {
        let mut tls = Self {
            inner,
            session: Box::new(session),
            config,
            discards,
            since: now,
            progress: WriteProgress::new(now),
            end: None,
            output: Output::Open,
            is_paused: false,
            failure: None,
            teardown: None,
            work: 0,
            on_handshake: OnHandshake(None),
        };
        let work = tls.work();
        tls.pump(now, work); // a client's first message
        tls
    }

    /// `Some` once the handshake is complete, for [`Drive::until`](wirestate_core::drive::Drive).
    pub(crate) fn is_complete(&self) -> Option<()> {
        (!self.is_handshaking()).then_some(())
    }

    /// Calls `f` once the handshake is complete, for example to record the subject of the peer's
    /// certificate ([`peer_certificate`](crate::peer_certificate)).
    #[must_use]
    pub fn on_handshake(self, f: impl FnOnce(&CommonState) + Send + 'static) -> Self {
        Self { on_handshake: OnHandshake(Some(Box::new(f))), ..self }
    }

    /// The inner machine.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// The inner machine, for calls beyond the contract: poll the driver afterwards.
    pub fn inner_mut(&mut self) -> &mut M {
        &mut self.inner
    }

    pub(crate) fn into_session(self) -> Box<Session> {
        self.session
    }

    /// Whether the handshake is not complete.
    pub fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// What rustls knows about the connection: the protocol's version, the cipher suite, the
    /// application protocol (ALPN), the peer's certificates.
    pub fn connection(&self) -> &CommonState {
        self.session.common()
    }

    /// Moves what can be moved between the session and the inner machine. Returns whether anything
    /// changed. `work` is the work before this call of the contract.
    fn pump(&mut self, now: Instant, work: u64) -> bool {
        let was_empty = self.session.pending().is_empty();
        // After `close_notify` and the FIN there is no alert.
        let has_closed = was_empty && self.session.has_closed();
        let is_silent = self.teardown.is_none() && (has_closed || self.output != Output::Open);
        let mut has_changed = mem::take(&mut self.is_paused);
        let mut steps = 0;
        while self.teardown.is_none() && !self.inner_has_ended() && self.work() == work {
            match self.step(now, work) {
                Ok(true) => has_changed = true,
                Ok(false) => break,
                Err(failure) => {
                    self.fail(failure, now);
                    has_changed = true;
                }
            }
            steps += 1;
            if steps == MAX_STEPS && self.work() == work {
                self.work += MAX_STEPS;
            }
        }
        self.is_paused = self.work() > work;
        // The inner machine was told of an error, but the driver has seen a FIN.
        let is_truncated = self.failure == Some(Failure::Truncated) && self.output == Output::Open;
        if is_truncated && self.teardown.is_none() && self.inner.interest().is_done() {
            self.teardown = Some(Teardown::reset(()));
            self.session.discard_pending();
            self.session.discard_input();
        }
        if self.teardown.is_some() {
            has_changed |= self.end_inner(now);
        }
        if is_silent {
            self.session.discard_pending();
        }
        if was_empty && !self.session.pending().is_empty() {
            self.progress.queued(now);
        }
        has_changed
    }

    /// Moves one record of input, and all output, while the work is that before the call. Returns
    /// whether anything changed.
    fn step(&mut self, now: Instant, work: u64) -> Result<bool, Failure> {
        let Self { inner, session, .. } = self;
        let mut has_changed = false;
        let was_handshaking = session.is_handshaking();
        let reads = was_handshaking || inner.interest().read;
        if reads && (session.has_input() || was_handshaking && session.bytes_received() == 0) {
            let buf = if was_handshaking { &mut [] } else { inner.read_buf() };
            let is_first = session.common().protocol_version().is_none();
            let failed = |error| Failure::of(error, is_first);
            match session.read(buf).map_err(failed)? {
                Progress::Moved(0) | Progress::Closed => has_changed = true,
                Progress::Moved(n) => {
                    inner.handle(now, Event::Read(n));
                    has_changed = true;
                }
                Progress::Blocked => {}
            }
            if was_handshaking && !session.is_handshaking() {
                if let Output::Failed(error) = self.output {
                    return Err(Failure::Lost(error));
                }
                self.work += HANDSHAKE_WORK;
                if let Some(f) = self.on_handshake.0.take() {
                    f(session.common());
                }
                return Ok(true);
            }
        }
        if !session.can_receive() && !session.has_input() {
            return Err(Failure::HandshakeTooLong { limit: self.config.buffer });
        }
        if self.work() == work {
            has_changed |= self.deliver_end(now)?;
        }
        let Self { inner, session, .. } = self;
        let writes = |inner: &M| inner.interest().write == Outbound::Flush;
        while !session.is_handshaking() && writes(inner) && self.work + inner.work() == work {
            let mut bufs = [&[][..]; MAX_SLICES];
            let count = inner.write_bufs(&mut bufs);
            match session.write(&bufs[..count]).map_err(Failure::of_write)? {
                Progress::Moved(n) => inner.handle(now, Event::Written(n)),
                Progress::Blocked | Progress::Closed => break,
            }
            has_changed = true;
        }
        let closes = inner.interest().write == Outbound::Finish && !session.has_closed();
        if closes && !session.is_handshaking() {
            session.close().map_err(Failure::of_write)?;
            has_changed |= session.has_closed();
        }
        Ok(has_changed)
    }

    /// Tells the inner machine that the input has ended, after all of it.
    fn deliver_end(&mut self, now: Instant) -> Result<bool, Failure> {
        let Self { inner, session, .. } = self;
        let has_more = session.has_input() && !session.peer_has_closed() || session.has_plaintext();
        if has_more || matches!(self.end, Some(End::Delivered)) {
            return Ok(false);
        }
        let event = match self.end {
            _ if session.peer_has_closed() => Event::Eof,
            Some(End::Eof) if session.is_handshaking() => {
                let received = session.bytes_received();
                return Err(Failure::HandshakeTruncated { received });
            }
            Some(End::Error(error)) if session.is_handshaking() => {
                return Err(Failure::Lost(error));
            }
            Some(End::Eof) => Event::Error(Direction::Read, ConnectionError::Layer),
            Some(End::Error(error)) => Event::Error(Direction::Read, error),
            Some(End::Delivered) | None => return Ok(false),
        };
        if !inner.interest().read {
            return Ok(false);
        }
        if let Event::Error(_, ConnectionError::Layer) = event {
            self.failure.get_or_insert(Failure::Truncated);
        }
        self.end = Some(End::Delivered);
        self.inner.handle(now, event);
        Ok(true)
    }

    /// Ends the connection, after an alert if there is one.
    fn fail(&mut self, failure: Failure, now: Instant) {
        let is_lost = matches!(failure, Failure::Lost(_));
        if self.inner.reason().is_none() {
            self.failure.get_or_insert(failure);
        }
        self.session.discard_input();
        let has_alert = !self.session.pending().is_empty();
        let linger = (has_alert && self.end.is_none()).then(Linger::default);
        self.teardown = Some(if self.output != Output::Open || is_lost {
            Teardown::ended(())
        } else {
            Teardown::closing((), linger, &mut self.progress, now)
        });
    }

    /// Ends the inner machine after a failure. Returns whether it changed.
    fn end_inner(&mut self, now: Instant) -> bool {
        let mut has_changed = false;
        let mut end = |inner: &mut M, event| {
            inner.handle(now, event);
            has_changed = true;
        };
        let inner = &mut self.inner;
        let is_told = mem::replace(&mut self.output, Output::Finished) == Output::Finished;
        match inner.interest().write {
            Outbound::Idle | Outbound::Flush | Outbound::Finish if !is_told => {
                end(inner, Event::Error(Direction::Write, ConnectionError::Layer));
            }
            Outbound::Idle
            | Outbound::Flush
            | Outbound::Finish
            | Outbound::Finished
            | Outbound::Reset => {}
        }
        if inner.interest().read {
            self.end = Some(End::Delivered);
            end(inner, Event::Error(Direction::Read, ConnectionError::Layer));
        }
        if inner.interest().write == Outbound::Reset {
            end(inner, Event::Finished);
        }
        has_changed
    }

    /// Whether the inner machine has ended, or resets the connection. Then TLS does nothing more.
    fn inner_has_ended(&self) -> bool {
        let inner = self.inner.interest();
        inner.is_done() || inner.write == Outbound::Reset
    }

    /// Whether both sides have sent `close_notify`, and nothing else is pending.
    fn is_closed_by_both(&self) -> bool {
        let Self { session, .. } = self;
        session.peer_has_closed() && session.has_closed() && session.pending().is_empty()
    }

    fn handshake_deadline(&self) -> Option<Instant> {
        let is_pending = self.is_handshaking() && self.teardown.is_none();
        let limit = self.config.handshake_timeout.filter(|_| is_pending)?;
        Some(self.since + limit)
    }

    /// The deadline of encrypted output, or of the FIN after an alert.
    fn write_deadline(&self) -> Option<Instant> {
        let is_pending = !self.session.pending().is_empty() || self.teardown.is_some();
        let limit = self.write_limit().filter(|_| is_pending)?;
        Some(self.progress.deadline(limit))
    }

    /// The limit of [`Self::write_deadline`]. An alert always has one.
    fn write_limit(&self) -> Option<Duration> {
        self.config.write_timeout.or(self.teardown.as_ref().map(|_| FIN_TIMEOUT))
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let pending = self.session.pending().len();
        let unacknowledged = unacknowledged + pending;
        // Without a deadline, output may begin to wait in this call.
        if self.write_deadline().is_none_or(|deadline| deadline <= now) {
            let is_closing = self.teardown.as_ref().is_some_and(Teardown::is_closing);
            self.progress.observe(now, pending > 0 || is_closing, unacknowledged);
        }
        if self.teardown.is_none() {
            self.inner.handle(now, Event::Timeout { unacknowledged });
            if self.inner_has_ended() {
                return;
            }
            if let Some(limit) = self.config.handshake_timeout
                && is_due(self.handshake_deadline())
            {
                let received = self.session.bytes_received();
                self.fail(Failure::HandshakeTimeout { limit, received }, now);
            } else if let Some(limit) = self.config.write_timeout
                && is_due(self.write_deadline())
            {
                self.fail(Failure::WriteStalled { limit, pending }, now);
            }
        }
        let write = self.write_deadline();
        if let Some(teardown) = &mut self.teardown
            && is_due(teardown.poll_timeout(write))
        {
            teardown.expire(None);
            self.session.discard_pending();
        }
    }

    /// Handles an event after a failure.
    fn handle_in_teardown(&mut self, now: Instant, event: Event) {
        let Some(teardown) = &mut self.teardown else { return };
        match event {
            Event::Read(n) => teardown.handle_read(now, n, &self.discards),
            Event::Eof => teardown.handle_eof(),
            Event::Written(n) => {
                self.session.sent(n);
                self.progress.written(now, n);
            }
            Event::Finished => teardown.handle_finished(now),
            Event::Error(..) => {
                teardown.handle_error(());
                self.session.discard_pending();
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => self.inner.handle(now, event),
            Event::Release => {}
        }
    }
}

#[deny(
    clippy::missing_trait_methods,
    reason = "a default would hide the inner machine's own method"
)]
impl<M: Machine> Machine for Tls<M> {
    type Reason = TlsReason<M::Reason>;

    fn interest(&self) -> Interest {
        let has_output = !self.session.pending().is_empty();
        if let Some(teardown) = &self.teardown {
            return teardown.interest(has_output);
        }
        let inner = self.inner.interest();
        if self.inner_has_ended() {
            return Interest { read: false, ..inner };
        }
        let is_handshaking = self.session.is_handshaking();
        let write = match inner.write {
            _ if has_output => Outbound::Flush,
            _ if is_handshaking && self.output != Output::Open => Outbound::Finished,
            Outbound::Finish if self.session.has_closed() => Outbound::Finish,
            Outbound::Finished => Outbound::Finished,
            // Nothing can be encrypted before the handshake is complete.
            Outbound::Idle | Outbound::Flush | Outbound::Finish | Outbound::Reset => Outbound::Idle,
        };
        let reads = is_handshaking || inner.read && !self.session.has_plaintext();
        let can_receive = self.session.can_receive() && !self.is_paused;
        let interest = Interest { read: self.end.is_none() && reads && can_receive, write };
        // The inner machine has not received all of the input.
        if interest.is_done() { Interest { write: Outbound::Idle, ..interest } } else { interest }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.session.receive_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let pending = self.session.pending();
        out[0] = pending;
        usize::from(!pending.is_empty())
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        let pending = self.session.pending();
        out[0] = Bytes::copy_from_slice(&pending[..pending.len().min(max)]);
        usize::from(!pending.is_empty())
    }

    fn handle(&mut self, now: Instant, event: Event) {
        if event == Event::Release {
            self.session.release();
            self.inner.handle(now, event);
            return;
        }
        if self.teardown.is_some() {
            self.handle_in_teardown(now, event);
            return;
        }
        let work = self.work();
        match event {
            Event::Read(n) => self.session.received(n),
            Event::Eof => self.end = Some(End::Eof),
            Event::Error(Direction::Read, error) => self.end = Some(End::Error(error)),
            // The peer has closed the connection before it has received our `close_notify`.
            Event::Error(Direction::Write, _) if self.is_closed_by_both() => {
                self.output = Output::Finished;
                self.inner.handle(now, Event::Finished);
            }
            Event::Error(Direction::Write, error) => {
                self.session.discard_pending();
                if self.session.is_handshaking() {
                    self.output = Output::Failed(error);
                } else {
                    self.output = Output::Finished;
                    self.inner.handle(now, event);
                }
            }
            Event::Written(n) => {
                self.session.sent(n);
                self.progress.written(now, n);
            }
            Event::Finished => {
                self.output = Output::Finished;
                self.inner.handle(now, event);
            }
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => {
                if self.session.is_handshaking() && !self.inner_has_ended() {
                    self.fail(Failure::ShutDown, now);
                }
                self.inner.handle(now, event);
            }
            Event::Release => {}
        }
        self.pump(now, work);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if let Some(teardown) = &self.teardown {
            return teardown.poll_timeout(self.write_deadline());
        }
        if self.inner_has_ended() {
            return self.inner.poll_timeout();
        }
        let own = [self.handshake_deadline(), self.write_deadline()];
        own.into_iter().chain([self.inner.poll_timeout()]).flatten().min()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let work = self.work();
        let has_changed = self.inner.poll_shared(now, cx);
        self.pump(now, work) || has_changed
    }

    fn work(&self) -> u64 {
        self.inner.work() + self.work
    }

    fn status(&self) -> Status {
        let status = self.inner.status();
        let state = if self.teardown.is_some() {
            "tls_failed"
        } else if self.is_handshaking() {
            "tls_handshake"
        } else {
            status.state
        };
        Status { state, queued: status.queued + self.session.pending().len(), ..status }
    }

    /// The failure of TLS, unless the inner machine has ended for a reason of its own.
    fn reason(&self) -> Option<Self::Reason> {
        if self.teardown.as_ref().is_some_and(|teardown| teardown.reason().is_none()) {
            return None;
        }
        match (&self.failure, self.inner.reason()) {
            (Some(failure), Some(reason)) if reason.fault() == Fault::Lost => {
                Some(TlsReason::Tls(failure.clone()))
            }
            (_, Some(reason)) => Some(TlsReason::Inner(reason)),
            (Some(failure), None) if self.teardown.is_some() => {
                Some(TlsReason::Tls(failure.clone()))
            }
            (_, None) => None,
        }
    }
}

/// The work of a handshake, which is enough for the driver to yield to other connections. Signing
/// takes 50 µs to 1 ms, and cannot be divided.
const HANDSHAKE_WORK: u64 = 64;
/// The most records of a call, which take about 1 µs each if they are short.
const MAX_STEPS: u64 = 64;
