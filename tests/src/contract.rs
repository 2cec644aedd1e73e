//! Checks the contract of [`Machine`] at every call.
//!
//! [`Checked`] wraps a machine and is a machine itself: drive it with a script, in the simulator or
//! on a real runtime. It panics if the machine or its driver breaks the state table or one of the
//! rules of [`wirestate_core::machine`]. The message begins with `machine:` or `driver:`.
//!
//! Checked in the machine:
//!
//! - State table: it does not read after the end of its input. Its output state only moves forward.
//!   It wants `Finished` only after its FIN, its RST or an error.
//! - Rule 2: `read_buf` and `write_bufs` offer at least one byte and no empty slice. A second
//!   `read_buf` returns the same memory with the same content.
//! - Rule 3: `write_owned` offers the first bytes of `write_bufs`, at most `max`.
//! - Rules 4 and 5: it sends nothing after `Error(Write, _)`.
//! - Rule 6: if `poll_shared` returns false, nothing changes. Without another call in between, the
//!   next `poll_shared` may resume reading or change the wanted output only if the waker was woken
//!   or the deadline has passed.
//! - Rule 8: [`work`](Machine::work) never decreases. One call adds at most [`MAX_WORK`].
//! - Rule 9: `Release` changes nothing.
//! - Rule 10: its observable state changes only by calls. It ends with a reason, and the reason
//!   never changes.
//! - Rule 11: after `Timeout` the deadline is later than `now`. A `Timeout` before the deadline and
//!   a second `ShutDown` change nothing; after the end, no `Timeout` or `ShutDown` does. With
//!   [`Checked::with_deadlines`], every wait has a deadline.
//!
//! Checked in the driver:
//!
//! - State table: every event is legal.
//! - Rule 2: `Read` directly follows `read_buf`, and `Written` an offer of output. Neither exceeds
//!   the offer.
//! - Rule 4: there is no `Eof` after a failed write.
//! - Rule 7: `now` never goes backwards.
//!
//! It also checks that the offered output and [`Status::queued`] stay within a limit. Rule 12 is
//! checked by [`check`](crate::script::check) and
//! [`split_invariant`](crate::script::split_invariant).
//!
//! `Checked` cannot see calls that a driver omits: `poll_shared` between a write and a read and
//! `Release` are optional. The [simulator](crate::sim) finds a driver that sleeps without calling
//! `poll_shared` (rule 6), handles a deadline before it reads (rule 7), or ends a failed connection
//! with a FIN (rule 4).
//!
//! ```should_panic
//! use wirestate_core::{Event, Instant, Machine, echo};
//! use wirestate_testkit::contract::Checked;
//!
//! let config = echo::Config::default();
//! let limit = config.buffer_size();
//! let server = echo::Server::new(config).unwrap();
//! let mut machine = Checked::new(server.machine(Instant::EPOCH), limit);
//! machine.handle(Instant::EPOCH, Event::Written(1)); // panics: there is no output
//! ```

use std::{
    cell::Cell,
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Wake, Waker},
};

use bytes::Bytes;
use wirestate_core::{
    Direction, Event, Instant, Interest, Machine, Outbound, Reason, Status, drive::MAX_SLICES,
};

use crate::coverage;

/// The most units of [work](Machine::work) that one call may do: the default of
/// [`Budget::work`](wirestate_core::drive::Budget::work), after which a driver yields to other
/// connections.
pub const MAX_WORK: u64 = 64;

/// The most slices of output that [`Checked`] adds up: 1,024. A driver offers [`MAX_SLICES`] at
/// once, but a machine can hold more small ones.
pub const MAX_COUNTED_SLICES: usize = 16 * MAX_SLICES;

/// Wraps a machine, and panics if the machine or its driver breaks the contract.
///
/// See the [module](self) for the rules that it checks.
#[derive(Debug)]
pub struct Checked<M> {
    machine: M,
    history: History,
    /// The machine's observable state after the last call.
    last: Option<Snapshot>,
    /// The memory that `read_buf` has offered: its address and length.
    read_offer: Option<(usize, usize)>,
    /// The bytes of output that the machine has offered.
    write_offer: Cell<Option<usize>>,
    /// The waker of the last `poll_shared`, if that returned false and no call came since.
    idle_waker: Option<Arc<RecordingWaker>>,
}

/// The past of a [`Checked`] machine, as far as the rules need it.
///
/// [`Checked::history`] and [`Checked::resume`] carry it from one wrapper to the next. A machine
/// that is borrowed anew for each call, such as a side of a proxy, needs that.
#[derive(Clone, Debug)]
pub struct History {
    /// The most bytes of offered output, and of [`Status::queued`].
    limit: usize,
    requires_deadlines: bool,
    now: Instant,
    input_ended: bool,
    connection: Connection,
    shut_down: bool,
    output: Output,
    /// The reason's label and text, once the machine has one.
    reason: Option<(&'static str, String)>,
}

impl History {
    /// The history of a new machine, which may queue at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        coverage::record_machine();
        Self {
            limit,
            requires_deadlines: false,
            now: Instant::EPOCH,
            input_ended: false,
            connection: Connection::Open,
            shut_down: false,
            output: Output::Open,
            reason: None,
        }
    }

    /// Requires deadlines, as [`Checked::with_deadlines`] does.
    #[must_use]
    pub fn with_deadlines(self) -> Self {
        Self { requires_deadlines: true, ..self }
    }
}

/// The state of the connection. Later variants replace earlier ones, never the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Connection {
    Open,
    /// A FIN or an RST was sent.
    Finished,
    ReadFailed,
    WriteFailed,
}

/// The state of the writable half. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Output {
    Open,
    /// The machine wants a FIN to be sent.
    Finishing,
    /// The FIN was sent, or writing has failed.
    Finished,
    /// The machine wants an RST to be sent.
    Resetting,
    /// The machine has ended.
    Done,
}

/// The state of a machine that a driver can observe.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snapshot {
    interest: Interest,
    deadline: Option<Instant>,
    work: u64,
    status: Status,
    reason: Option<(&'static str, String)>,
    output: Vec<u8>,
}

impl Snapshot {
    #[track_caller]
    fn of<M: Machine>(machine: &M) -> Self {
        let interest = machine.interest();
        assert_eq!(interest, machine.interest(), "machine: interest() differs when called twice");
        let flushes = interest.write == Outbound::Flush;
        Self {
            interest,
            deadline: machine.poll_timeout().filter(|deadline| *deadline != Instant::NEVER),
            work: machine.work(),
            status: machine.status(),
            reason: machine.reason().map(|reason| (reason.label(), reason.to_string())),
            output: if flushes { offered_output(machine) } else { Vec::new() },
        }
    }

    /// Whether the machine waits for the peer to acknowledge output or a FIN, or to send its FIN.
    fn waits_for_peer(&self) -> bool {
        match self.interest.write {
            Outbound::Flush | Outbound::Finish => true,
            Outbound::Finished => self.interest.read,
            Outbound::Idle | Outbound::Reset => false,
        }
    }
}

/// The output that the machine offers, in at most [`MAX_COUNTED_SLICES`].
#[track_caller]
fn offered_output<M: Machine>(machine: &M) -> Vec<u8> {
    let mut bufs = vec![&[][..]; MAX_SLICES];
    let mut n = write_bufs(machine, &mut bufs);
    while n == bufs.len() && n < MAX_COUNTED_SLICES {
        bufs.resize(2 * n, &[]);
        n = write_bufs(machine, &mut bufs);
    }
    bufs[..n].concat()
}

#[track_caller]
fn write_bufs<'a, M: Machine>(machine: &'a M, out: &mut [&'a [u8]]) -> usize {
    let n = machine.write_bufs(out);
    check_slices(n, out);
    n
}

/// Checks that the machine filled the first `n` of `out`, at least one, with non-empty slices.
#[track_caller]
fn check_slices(n: usize, out: &[impl AsRef<[u8]>]) {
    assert!((1..=out.len()).contains(&n), "machine: it fills {n} of {} slices", out.len());
    let empty = out[..n].iter().any(|slice| slice.as_ref().is_empty());
    assert!(!empty, "machine: it offers an empty slice");
}

impl<M: Machine> Checked<M> {
    /// Wraps a new `machine`. The output that it offers in [`MAX_COUNTED_SLICES`] and its
    /// [`Status::queued`] may each be at most `limit` bytes.
    #[track_caller]
    pub fn new(machine: M, limit: usize) -> Self {
        Self::resume(machine, History::new(limit))
    }

    /// Wraps a machine again, with the `history` of its last wrapper.
    #[track_caller]
    pub fn resume(machine: M, history: History) -> Self {
        let current = Snapshot::of(&machine);
        coverage::record_state::<M::Reason>(current.status.state);
        let mut checked = Self {
            machine,
            history,
            last: None,
            read_offer: None,
            write_offer: Cell::new(None),
            idle_waker: None,
        };
        checked.end_call(&current, "the calls before");
        checked
    }

    /// Requires a deadline whenever the machine waits for its peer: while output is pending, while
    /// a FIN is pending, and while it reads after its FIN. For machines that have all timeouts
    /// configured.
    #[must_use]
    pub fn with_deadlines(self) -> Self {
        Self { history: self.history.with_deadlines(), ..self }
    }

    /// Unwraps the machine and returns its history, for [`resume`](Self::resume).
    pub fn history(self) -> History {
        self.history
    }

    /// The wrapped machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The wrapped machine, for calls that are not part of [`Machine`]. Earlier offers of
    /// `read_buf` and `write_bufs` lapse.
    pub fn machine_mut(&mut self) -> &mut M {
        (self.last, self.read_offer, self.idle_waker) = (None, None, None);
        self.write_offer.take();
        &mut self.machine
    }

    /// Unwraps the machine.
    pub fn into_inner(self) -> M {
        self.machine
    }

    /// Begins a call at `now`, and returns the machine's observable state.
    ///
    /// Since the last call only the status may have changed: it may depend on shared state.
    #[track_caller]
    fn begin_call(&mut self, now: Instant) -> Snapshot {
        let last = self.history.now;
        assert!(now >= last, "driver: time goes back from {last} to {now}");
        self.history.now = now;
        let current = Snapshot::of(&self.machine);
        if let Some(last) = self.last.take() {
            let last = Snapshot { status: current.status, ..last };
            assert_eq!(current, last, "machine: its observable state changes between two calls");
        }
        current
    }

    /// Checks that `event` is legal: the second column of the state table, and rules 2 and 4.
    #[track_caller]
    fn check_event(&mut self, event: Event, interest: Interest, readable: usize, writable: usize) {
        let history = &mut self.history;
        let legal = match event {
            Event::Read(n) => interest.read && (1..=readable).contains(&n),
            Event::Eof | Event::Error(Direction::Read, _) => interest.read,
            Event::Written(n) => interest.write == Outbound::Flush && (1..=writable).contains(&n),
            Event::Finished => matches!(interest.write, Outbound::Finish | Outbound::Reset),
            Event::Error(Direction::Write, _) => history.output < Output::Finished,
            Event::Timeout { .. } | Event::ShutDown | Event::Release => true,
        };
        assert!(
            legal,
            "driver: {event:?}, but the machine wants {interest:?}; it offers {readable} bytes to \
             read into and {writable} bytes to write"
        );
        let connection = match event {
            Event::Eof => {
                let failed = history.connection == Connection::WriteFailed;
                assert!(!failed, "driver: Eof after a failed write");
                history.input_ended = true;
                Connection::Open
            }
            Event::Error(Direction::Read, _) => {
                history.input_ended = true;
                Connection::ReadFailed
            }
            Event::Error(Direction::Write, _) => {
                history.output = Output::Finished;
                Connection::WriteFailed
            }
            Event::Finished => {
                let reset = interest.write == Outbound::Reset;
                history.output = if reset { Output::Done } else { Output::Finished };
                Connection::Finished
            }
            Event::Read(_)
            | Event::Written(_)
            | Event::Timeout { .. }
            | Event::ShutDown
            | Event::Release => Connection::Open,
        };
        history.connection = history.connection.max(connection);
    }

    /// Checks what holds after every call, and returns the machine's observable state.
    #[track_caller]
    fn end_call(&mut self, before: &Snapshot, call: impl Debug) -> Snapshot {
        let current = Snapshot::of(&self.machine);
        let Snapshot { interest, work, reason, status, .. } = &current;
        let history = &mut self.history;
        if status.state != before.status.state {
            coverage::record_state::<M::Reason>(status.state);
        }
        if let (None, Some((label, _))) = (&history.reason, reason) {
            coverage::record_reason::<M::Reason>(label);
        }
        let legal = !history.input_ended || !interest.read;
        assert!(legal, "machine: it wants to read after the end of its input, after {call:?}");

        let was = history.output;
        history.output = match *interest {
            Interest::DONE => Output::Done,
            // Reading is paused; the machine has not ended.
            Interest { read: false, write: Outbound::Idle } if was == Output::Finished => was,
            Interest { write: Outbound::Idle | Outbound::Flush, .. } => Output::Open,
            Interest { write: Outbound::Finish, .. } => Output::Finishing,
            Interest { write: Outbound::Finished, .. } => Output::Finished,
            Interest { write: Outbound::Reset, .. } => Output::Resetting,
        };
        let is = history.output;
        assert!(is >= was, "machine: its output goes from {was:?} to {is:?}, after {call:?}");
        assert!(
            interest.write != Outbound::Finished || history.connection > Connection::Open,
            "machine: it wants Finished, but has sent neither FIN nor RST, after {call:?}"
        );

        let done = interest.is_done();
        assert!(!done || reason.is_some(), "machine: it ends without a reason, after {call:?}");
        if history.reason.is_some() {
            assert_eq!(*reason, history.reason, "machine: its reason changes, after {call:?}");
        }
        history.reason.clone_from(reason);

        let (offered, queued, limit) = (current.output.len(), current.status.queued, history.limit);
        assert!(
            offered <= limit,
            "machine: it offers {offered} bytes of output, the limit is {limit}, after {call:?}"
        );
        assert!(
            queued <= limit,
            "machine: it queues {queued} bytes, the limit is {limit}, after {call:?}"
        );
        let units = work.checked_sub(before.work).expect("machine: its work decreases");
        assert!(
            units <= MAX_WORK,
            "machine: {units} units of work in {call:?}, the limit is {MAX_WORK}"
        );
        assert!(
            !history.requires_deadlines || !current.waits_for_peer() || current.deadline.is_some(),
            "machine: it waits for its peer without a deadline, after {call:?}"
        );
        self.last = Some(current.clone());
        current
    }
}

#[deny(clippy::missing_trait_methods, reason = "a default method would hide the machine's own")]
impl<M: Machine> Machine for Checked<M> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.machine.interest()
    }

    #[track_caller]
    fn read_buf(&mut self) -> &mut [u8] {
        self.write_offer.take();
        let before = self.begin_call(self.history.now);
        let interest = before.interest;
        assert!(interest.read, "driver: read_buf, but the machine wants {interest:?}");
        let buf = self.machine.read_buf();
        assert!(!buf.is_empty(), "machine: it wants to read, but read_buf is empty");
        let offer = (buf.as_ptr().addr(), buf.len());
        if let Some(last) = self.read_offer.replace(offer) {
            assert_eq!(offer, last, "machine: read_buf returns other memory the second time");
        } else {
            let content = vec![0xa5; buf.len()];
            buf.copy_from_slice(&content);
            let again = self.machine.read_buf();
            let same = (again.as_ptr().addr(), again.len()) == offer;
            assert!(same, "machine: read_buf returns other memory the second time");
            assert!(*again == content, "machine: read_buf overwrites the content of its memory");
        }
        let after = self.end_call(&before, "read_buf");
        assert_eq!(after, before, "machine: read_buf changes its observable state");
        self.machine.read_buf()
    }

    #[track_caller]
    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let write = self.machine.interest().write;
        assert_eq!(write, Outbound::Flush, "driver: write_bufs without output");
        let n = write_bufs(&self.machine, out);
        self.write_offer.set(Some(out[..n].iter().map(|slice| slice.len()).sum()));
        n
    }

    #[track_caller]
    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        let write = self.machine.interest().write;
        assert_eq!(write, Outbound::Flush, "driver: write_owned without output");
        assert!(max > 0, "driver: write_owned of at most 0 bytes");
        let n = self.machine.write_owned(out, max);
        check_slices(n, out);
        let (owned, output) = (out[..n].concat(), offered_output(&self.machine));
        assert!(owned.len() <= max, "machine: it offers {} owned bytes of {max}", owned.len());
        let common = owned.len().min(output.len());
        let same = owned[..common] == output[..common];
        assert!(same, "machine: write_owned and write_bufs offer different bytes");
        self.write_offer.set(Some(owned.len()));
        n
    }

    #[track_caller]
    fn handle(&mut self, now: Instant, event: Event) {
        let readable = self.read_offer.take().map_or(0, |(_, len)| len);
        let writable = self.write_offer.take().unwrap_or(0);
        let before = self.begin_call(now);
        self.check_event(event, before.interest, readable, writable);
        if event != Event::Release {
            self.idle_waker = None;
        }
        self.machine.handle(now, event);
        let after = self.end_call(&before, event);

        let (done, repeated) = (before.interest.is_done(), self.history.shut_down);
        let changes_nothing = match event {
            Event::Timeout { .. } => done || before.deadline.is_none_or(|deadline| deadline > now),
            Event::ShutDown => done || repeated,
            Event::Release => true,
            Event::Read(_) | Event::Eof | Event::Written(_) | Event::Error(..) => false,
            Event::Finished => {
                let finished = matches!(self.history.output, Output::Finished | Output::Done);
                assert!(finished, "machine: it wants a reset after its FIN");
                false
            }
        };
        if changes_nothing {
            assert_eq!(after, before, "machine: {event:?} changes its observable state");
        }
        if let (Event::Timeout { .. }, Some(deadline)) = (event, after.deadline) {
            assert!(
                deadline > now,
                "machine: its deadline {deadline} stays after Timeout at {now}"
            );
        }
        if event == Event::ShutDown && !repeated {
            // A second ShutDown must change nothing.
            self.history.shut_down = true;
            self.handle(now, event);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    #[track_caller]
    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.read_offer = None;
        self.write_offer.take();
        let before = self.begin_call(now);
        let is_due = before.deadline.is_some_and(|deadline| deadline <= now);
        let unwoken = self.idle_waker.take().is_some_and(|waker| !waker.take() && !is_due);
        let recording = Arc::new(RecordingWaker::new(cx.waker().clone()));
        let waker = Waker::from(recording.clone());
        let is_new = self.machine.poll_shared(now, &mut Context::from_waker(&waker));
        let after = self.end_call(&before, "poll_shared");
        let (was, is) = (before.interest, after.interest);
        let changed = is.write != was.write || (is.read && !was.read);
        assert!(!(unwoken && changed), "machine: it wants {is:?}, but its waker was not woken");
        if !is_new {
            assert_eq!(
                after, before,
                "machine: poll_shared returns false, but changes its observable state"
            );
            self.idle_waker = Some(recording);
        }
        is_new
    }

    fn work(&self) -> u64 {
        self.machine.work()
    }

    fn status(&self) -> Status {
        self.machine.status()
    }

    fn reason(&self) -> Option<M::Reason> {
        self.machine.reason()
    }
}

/// A waker that remembers that it was woken, and wakes another waker.
#[derive(Debug)]
struct RecordingWaker {
    woken: AtomicBool,
    waker: Waker,
}

impl RecordingWaker {
    fn new(waker: Waker) -> Self {
        Self { woken: AtomicBool::new(false), waker }
    }

    /// Whether it was woken since the last call.
    fn take(&self) -> bool {
        self.woken.swap(false, SeqCst)
    }
}

impl Wake for RecordingWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.waker.wake_by_ref();
    }
}
