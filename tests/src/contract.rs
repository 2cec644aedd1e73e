//! The contract of [`Machine`], asserted at every call.
//!
//! [`Checked`] wraps a machine and is one: drive it by a script, in the simulator or on a real
//! runtime. It panics where the machine or its driver breaks the state table or one of the rules of
//! [`wirestate_core::machine`]; the message begins with `machine:` or `driver:`.
//!
//! | rule | asserted of the machine | asserted of its driver |
//! |---|---|---|
//! | table | it reads no more behind the end of its input; its output goes forward only; it wants `Finished` only once its FIN or RST is out, or after an error | each event is legal |
//! | 2 | `read_buf` and `write_bufs` offer something, and no empty slice; `read_buf` again returns the same memory with its content intact | `Read` follows `read_buf` directly and `Written` an offer of output, with at most as many bytes |
//! | 3 | `write_owned` offers the first bytes of `write_bufs`, at most `most` | |
//! | 4, 5 | it sends nothing after `Error(Write, _)` | no `Eof` after a failed write |
//! | 6 | `poll_shared` that returns false changes nothing; the next one makes the machine read again, or want something else of its output, only after another call, once the waker was woken, or at the deadline | |
//! | 7 | | `now` never goes backwards |
//! | 8 | [`work`](Machine::work) never falls; one call raises it by at most [`MAX_WORK`] | |
//! | 9 | `Release` changes nothing | |
//! | 10 | its answers change by calls only; it ends with a reason, which never changes | |
//! | 11 | after `Timeout` the deadline lies beyond `now`; a `Timeout` before the deadline, a second `ShutDown`, and both once it has ended change nothing; if [asked](Checked::with_deadlines), every wait has a deadline | |
//!
//! It also holds [`Status::queued`] to a limit. Rule 12 is
//! [`split_invariant`](crate::script::split_invariant).
//!
//! It can't see what a driver leaves out. A driver may take a read after a write without
//! `poll_shared` in between, as [`drive::Seat`](wirestate_core::drive::Seat) does, and need never
//! send `Release`; so a driver that sleeps without having called `poll_shared` (rule 6) or that
//! acts on a deadline before it has read (rule 7) is found by the [simulator](crate::sim) only, as
//! is one that ends a failed connection by a FIN (rule 4).
//!
//! ```should_panic
//! use wirestate_core::{Event, Instant, Machine, echo};
//! use wirestate_testkit::contract::Checked;
//!
//! let config = echo::Config::default();
//! let limit = config.buffer_size();
//! let mut machine = Checked::new(echo::Server::new(config).unwrap().machine(Instant::EPOCH), limit);
//! machine.handle(Instant::EPOCH, Event::Written(1)); // there is nothing to write
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

/// The most units of [work](Machine::work) that one call may do: what a driver spends on a
/// connection before it yields to others, by default
/// ([`Budget::work`](wirestate_core::drive::Budget::work)).
pub const MAX_WORK: u64 = 64;

/// A machine that is held to the contract, and its driver with it. See the [module](self).
#[derive(Debug)]
pub struct Checked<M> {
    machine: M,
    history: History,
    /// What it answered after the last call.
    seen: Option<Seen>,
    /// The memory that `read_buf` has offered, as its address and length.
    room: Option<(usize, usize)>,
    /// How many bytes of output it has offered.
    output: Cell<Option<usize>>,
    /// The waker of the last `poll_shared`, if that found nothing new and no call came since.
    asleep: Option<Arc<Woken>>,
}

/// What a [`Checked`] remembers of a machine. It outlives the wrapper where the machine is lent for
/// a moment only, as a proxy's two sides are: see [`Checked::resume`].
#[derive(Clone, Debug)]
pub struct History {
    /// The most bytes that [`Status::queued`] may show.
    limit: usize,
    deadlines: bool,
    now: Instant,
    input_over: bool,
    connection: Connection,
    shut_down: bool,
    output: Output,
    /// Label and text of the reason, once it was given.
    reason: Option<(&'static str, String)>,
}

impl History {
    /// Of a machine that nothing has happened to, and which queues `limit` bytes at most.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            deadlines: false,
            now: Instant::EPOCH,
            input_over: false,
            connection: Connection::Open,
            shut_down: false,
            output: Output::Open,
            reason: None,
        }
    }

    /// As [`Checked::with_deadlines`].
    #[must_use]
    pub fn with_deadlines(self) -> Self {
        Self { deadlines: true, ..self }
    }
}

/// What has become of the connection: the greatest of what has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Connection {
    Open,
    /// A FIN or an RST is out.
    Finished,
    ReadFailed,
    WriteFailed,
}

/// How far the writable half has come. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Output {
    Open,
    /// A FIN is wanted.
    Finishing,
    /// The FIN is out, or writing has failed.
    Finished,
    /// An RST is wanted.
    Resetting,
    /// The machine has ended.
    Done,
}

/// All of a machine that a driver can see.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    interest: Interest,
    deadline: Option<Instant>,
    work: u64,
    status: Status,
    reason: Option<(&'static str, String)>,
    output: Vec<u8>,
}

impl Seen {
    fn of<M: Machine>(machine: &M) -> Self {
        let interest = machine.interest();
        assert_eq!(
            interest,
            machine.interest(),
            "machine: it wants something else at each question"
        );
        let flushes = interest.write == Outbound::Flush;
        Self {
            interest,
            deadline: machine.poll_timeout().filter(|deadline| *deadline != Instant::NEVER),
            work: machine.work(),
            status: machine.status(),
            reason: machine.reason().map(|reason| (reason.label(), reason.to_string())),
            output: if flushes { output(machine) } else { Vec::new() },
        }
    }

    /// Whether it waits for the peer to acknowledge output or a FIN, or to send its own FIN.
    fn waits_for_peer(&self) -> bool {
        match self.interest.write {
            Outbound::Flush | Outbound::Finish => true,
            Outbound::Finished => self.interest.read,
            Outbound::Idle | Outbound::Reset => false,
        }
    }
}

fn output<M: Machine>(machine: &M) -> Vec<u8> {
    let mut bufs = [&[][..]; MAX_SLICES];
    let n = write_bufs(machine, &mut bufs);
    bufs[..n].concat()
}

fn write_bufs<'a, M: Machine>(machine: &'a M, out: &mut [&'a [u8]]) -> usize {
    let n = machine.write_bufs(out);
    are_slices(n, out);
    n
}

/// Asserts that the first `n` of `out` are what a machine may offer.
fn are_slices(n: usize, out: &[impl AsRef<[u8]>]) {
    assert!((1..=out.len()).contains(&n), "machine: it fills {n} of {} slices", out.len());
    let empty = out[..n].iter().any(|slice| slice.as_ref().is_empty());
    assert!(!empty, "machine: it offers an empty slice");
}

impl<M: Machine> Checked<M> {
    /// Holds `machine` to the contract, and its [`Status::queued`] to `limit` bytes.
    pub fn new(machine: M, limit: usize) -> Self {
        Self::resume(machine, History::new(limit))
    }

    /// Goes on with a machine whose `history` was kept by [`history`](Self::history).
    pub fn resume(machine: M, history: History) -> Self {
        let seen = Seen::of(&machine);
        let (room, output, asleep) = (None, Cell::new(None), None);
        let mut checked = Self { machine, history, seen: None, room, output, asleep };
        checked.after(&seen, "the calls before");
        checked
    }

    /// Asserts from now on that the machine has a deadline while it waits for its peer: with output
    /// that is not acknowledged, with a FIN that is pending, and while it reads after its FIN. For
    /// machines whose timeouts are all configured.
    #[must_use]
    pub fn with_deadlines(self) -> Self {
        Self { history: self.history.with_deadlines(), ..self }
    }

    /// What it remembers of the machine.
    pub fn history(self) -> History {
        self.history
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The machine, to call what is beyond [`Machine`]. That counts as a call: offers lapse.
    pub fn machine_mut(&mut self) -> &mut M {
        (self.seen, self.room, self.asleep) = (None, None, None);
        self.output.take();
        &mut self.machine
    }

    /// The machine back.
    pub fn into_inner(self) -> M {
        self.machine
    }

    /// Before a call at `now`: what the machine answers. Since the last call only its status may
    /// have changed, which may follow what it shares.
    fn before(&mut self, now: Instant) -> Seen {
        let last = self.history.now;
        assert!(now >= last, "driver: time goes back from {last} to {now}");
        self.history.now = now;
        let seen = Seen::of(&self.machine);
        if let Some(last) = self.seen.take() {
            let last = Seen { status: seen.status, ..last };
            assert_eq!(seen, last, "machine: its answers change between two calls");
        }
        seen
    }

    /// The table's second column, and rules 2 and 4: whether `event` is legal.
    fn allow(&mut self, event: Event, interest: Interest, room: usize, output: usize) {
        let history = &mut self.history;
        let legal = match event {
            Event::Read(n) => interest.read && (1..=room).contains(&n),
            Event::Eof | Event::Error(Direction::Read, _) => interest.read,
            Event::Written(n) => interest.write == Outbound::Flush && (1..=output).contains(&n),
            Event::Finished => matches!(interest.write, Outbound::Finish | Outbound::Reset),
            Event::Error(Direction::Write, _) => history.output < Output::Finished,
            Event::Timeout { .. } | Event::ShutDown | Event::Release => true,
        };
        assert!(
            legal,
            "driver: {event:?}, and the machine wants {interest:?}, with {room} bytes of room and \
             {output} bytes of output on offer"
        );
        let connection = match event {
            Event::Eof => {
                let failed = history.connection == Connection::WriteFailed;
                assert!(!failed, "driver: Eof after a failed write");
                history.input_over = true;
                Connection::Open
            }
            Event::Error(Direction::Read, _) => {
                history.input_over = true;
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

    /// What holds after every call, whatever it was. Returns what the machine answers now.
    fn after(&mut self, before: &Seen, call: impl Debug) -> Seen {
        let seen = Seen::of(&self.machine);
        let Seen { interest, work, reason, .. } = &seen;
        let history = &mut self.history;
        let behind_end = history.input_over && interest.read;
        assert!(!behind_end, "machine: it reads behind the end of its input, after {call:?}");

        let was = history.output;
        history.output = match *interest {
            Interest::DONE => Output::Done,
            // It holds back from reading, and has not ended.
            Interest { read: false, write: Outbound::Idle } if was == Output::Finished => was,
            Interest { write: Outbound::Idle | Outbound::Flush, .. } => Output::Open,
            Interest { write: Outbound::Finish, .. } => Output::Finishing,
            Interest { write: Outbound::Finished, .. } => Output::Finished,
            Interest { write: Outbound::Reset, .. } => Output::Resetting,
        };
        let is = history.output;
        assert!(is >= was, "machine: its output goes back from {was:?} to {is:?}, after {call:?}");
        assert!(
            interest.write != Outbound::Finished || history.connection > Connection::Open,
            "machine: it wants Finished, and has sent neither FIN nor RST, after {call:?}"
        );

        let done = interest.is_done();
        assert!(!done || reason.is_some(), "machine: it ends without a reason, after {call:?}");
        if history.reason.is_some() {
            assert_eq!(*reason, history.reason, "machine: its reason changes, after {call:?}");
        }
        history.reason.clone_from(reason);

        let (queued, limit) = (seen.status.queued, history.limit);
        assert!(queued <= limit, "machine: it queues {queued} of {limit} bytes, after {call:?}");
        let units = work.checked_sub(before.work).expect("machine: its work falls");
        assert!(units <= MAX_WORK, "machine: {units} units of work are too many for {call:?}");
        assert!(
            !history.deadlines || !seen.waits_for_peer() || seen.deadline.is_some(),
            "machine: it waits for its peer without a deadline, after {call:?}"
        );
        self.seen = Some(seen.clone());
        seen
    }
}

#[deny(clippy::missing_trait_methods, reason = "what is not forwarded never happens")]
impl<M: Machine> Machine for Checked<M> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.machine.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.output.take();
        let before = self.before(self.history.now);
        let interest = before.interest;
        assert!(interest.read, "driver: read_buf, and the machine wants {interest:?}");
        let buf = self.machine.read_buf();
        assert!(!buf.is_empty(), "machine: it wants to read, and has no room");
        let room = (buf.as_ptr().addr(), buf.len());
        if let Some(last) = self.room.replace(room) {
            assert_eq!(room, last, "machine: read_buf returns other memory the second time");
        } else {
            let content = vec![0xa5; buf.len()];
            buf.copy_from_slice(&content);
            let again = self.machine.read_buf();
            let same = (again.as_ptr().addr(), again.len()) == room;
            assert!(same, "machine: read_buf returns other memory the second time");
            assert!(*again == content, "machine: read_buf changes what was received");
        }
        let after = self.after(&before, "read_buf");
        assert_eq!(after, before, "machine: read_buf changes its answers");
        self.machine.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let write = self.machine.interest().write;
        assert_eq!(write, Outbound::Flush, "driver: write_bufs");
        let n = write_bufs(&self.machine, out);
        self.output.set(Some(out[..n].iter().map(|slice| slice.len()).sum()));
        n
    }

    fn write_owned(&self, out: &mut [Bytes], most: usize) -> usize {
        let write = self.machine.interest().write;
        assert_eq!(write, Outbound::Flush, "driver: write_owned");
        assert!(most > 0, "driver: write_owned of nothing");
        let n = self.machine.write_owned(out, most);
        are_slices(n, out);
        let (owned, output) = (out[..n].concat(), output(&self.machine));
        assert!(owned.len() <= most, "machine: it offers {} of {most} owned bytes", owned.len());
        let common = owned.len().min(output.len());
        let same = owned[..common] == output[..common];
        assert!(same, "machine: write_owned and write_bufs offer different bytes");
        self.output.set(Some(owned.len()));
        n
    }

    fn handle(&mut self, now: Instant, event: Event) {
        let room = self.room.take().map_or(0, |(_, len)| len);
        let output = self.output.take().unwrap_or(0);
        let before = self.before(now);
        self.allow(event, before.interest, room, output);
        if event != Event::Release {
            self.asleep = None;
        }
        self.machine.handle(now, event);
        let after = self.after(&before, event);

        let (done, again) = (before.interest.is_done(), self.history.shut_down);
        let changes_nothing = match event {
            Event::Timeout { .. } => done || before.deadline.is_none_or(|deadline| deadline > now),
            Event::ShutDown => done || again,
            Event::Release => true,
            Event::Read(_) | Event::Eof | Event::Written(_) | Event::Error(..) => false,
            Event::Finished => {
                let finished = matches!(self.history.output, Output::Finished | Output::Done);
                assert!(finished, "machine: it wants a reset after its FIN");
                false
            }
        };
        if changes_nothing {
            assert_eq!(after, before, "machine: {event:?} changes its answers");
        }
        if let (Event::Timeout { .. }, Some(deadline)) = (event, after.deadline) {
            assert!(deadline > now, "machine: its deadline {deadline} was handled at {now}");
        }
        if event == Event::ShutDown && !again {
            self.history.shut_down = true;
            self.handle(now, event);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.room = None;
        self.output.take();
        let before = self.before(now);
        let is_due = before.deadline.is_some_and(|deadline| deadline <= now);
        let unannounced = self.asleep.take().is_some_and(|waker| !waker.take() && !is_due);
        let woken = Arc::new(Woken::new(cx.waker().clone()));
        let waker = Waker::from(woken.clone());
        let news = self.machine.poll_shared(now, &mut Context::from_waker(&waker));
        let after = self.after(&before, "poll_shared");
        let (was, is) = (before.interest, after.interest);
        let missed = is.write != was.write || (is.read && !was.read);
        assert!(!(unannounced && missed), "machine: it wants {is:?}, and nobody was woken");
        if !news {
            assert_eq!(after, before, "machine: poll_shared returns false and changes its answers");
            self.asleep = Some(woken);
        }
        news
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

/// A waker that remembers, and wakes another one.
#[derive(Debug)]
struct Woken {
    woken: AtomicBool,
    waker: Waker,
}

impl Woken {
    fn new(waker: Waker) -> Self {
        Self { woken: AtomicBool::new(false), waker }
    }

    /// Whether it was woken since the last time.
    fn take(&self) -> bool {
        self.woken.swap(false, SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, SeqCst);
        self.waker.wake_by_ref();
    }
}
