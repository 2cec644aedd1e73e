//! The contract of [`Machine`], asserted at every call.
//!
//! [`Checked`] wraps a machine and is one: drive it by a script, in the simulator or on a real
//! runtime, and whoever breaks the contract, machine or driver, panics with what was broken.
//!
//! | who | must |
//! |---|---|
//! | machine | answer `interest` purely; want nothing any more once it is done |
//! | | offer a non-empty `read_buf`, the same one twice in a row, and show no other change by it |
//! | | offer one to `out.len()` slices under `Flush`, none of them empty |
//! | | read no more behind the end of its input, write no more behind `Finish`, `Reset` or a loss |
//! | | want `Idle`, not `Finished`, where its FIN is out and it reads no more for the moment only |
//! | | have a reason when it is done, and never change it |
//! | | have its deadline beyond `now` after `handle_timeout`, which changes nothing before it |
//! | | say so when `poll_shared` changes something
//! | | change nothing at a second `shut_down`, or at any when it is done |
//! | | queue no more bytes than it says |
//! | driver | call what `interest` asks for, with figures within what was offered |
//! | | hand in a `now` that never goes backwards |
//!
//! ```should_panic
//! use wirestate_core::{Instant, Machine, echo};
//! use wirestate_testkit::contract::Checked;
//!
//! let config = echo::Config::default();
//! let limit = config.buffer_size();
//! let mut machine = Checked::new(echo::Server::new(config).machine(Instant::EPOCH), limit);
//! machine.handle(Instant::EPOCH, Event::Written(1)); // there is nothing to write
//! ```

use std::task::Context;

use bytes::Bytes;
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound, Reason, Status,
    drive::MAX_SLICES,
};

/// A machine that is held to the contract, and its driver with it. See the [module](self).
#[derive(Debug)]
pub struct Checked<M> {
    machine: M,
    history: History,
}

/// What a [`Checked`] remembers of a machine. It outlives the wrapper where the machine is lent for
/// a moment only, as a proxy's two sides are: see [`Checked::resume`].
#[derive(Clone, Debug)]
pub struct History {
    /// The most bytes that [`Status::queued`] may show.
    limit: usize,
    now: Instant,
    input_over: bool,
    output: Output,
    /// What the machine answered when it gave its reason first.
    reason: Option<(&'static str, String)>,
}

impl History {
    /// Of a machine that nothing has happened to, and which queues `limit` bytes at most.
    pub fn new(limit: usize) -> Self {
        Self { limit, now: Instant::EPOCH, input_over: false, output: Output::Open, reason: None }
    }
}

/// How far the writable half has come; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Output {
    Open,
    /// A FIN was wanted.
    Finishing,
    /// A FIN is out, or writing has failed.
    Over,
    /// An RST was wanted.
    Resetting,
    Done,
}

/// All of a machine that a driver can see.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    interest: Interest,
    deadline: Option<Instant>,
    status: Status,
    reason: Option<(&'static str, String)>,
    output: Vec<u8>,
}

impl<M: Machine> Checked<M> {
    /// Holds `machine` to the contract, and its [`Status::queued`] to `limit` bytes.
    pub fn new(machine: M, limit: usize) -> Self {
        Self::resume(machine, History::new(limit))
    }

    /// Goes on with a machine whose `history` was kept by [`history`](Self::history).
    pub fn resume(machine: M, history: History) -> Self {
        let mut checked = Self { machine, history };
        checked.look("new");
        checked
    }

    /// What it remembers of the machine.
    pub fn history(self) -> History {
        self.history
    }

    /// The machine.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The machine, to call what is beyond [`Machine`].
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The machine back.
    pub fn into_inner(self) -> M {
        self.machine
    }

    fn at(&mut self, now: Instant) {
        assert!(
            now >= self.history.now,
            "driver: time went back from {} to {now}",
            self.history.now
        );
        self.history.now = now;
    }

    fn seen(&self) -> Seen {
        let interest = self.machine.interest();
        let mut output = Vec::new();
        if interest.write == Outbound::Flush {
            let mut bufs = [&[][..]; MAX_SLICES];
            let n = self.write_bufs(&mut bufs);
            output = bufs[..n].concat();
        }
        Seen {
            interest,
            deadline: self.machine.poll_timeout(),
            status: self.machine.status(),
            reason: reason(&self.machine),
            output,
        }
    }

    /// What must hold after every call.
    fn look(&mut self, call: &str) {
        let interest = self.machine.interest();
        assert_eq!(interest, self.machine.interest(), "interest is not pure, after {call}");
        if self.history.input_over {
            assert!(!interest.read, "it reads behind the end of its input, after {call}");
        }
        let output = match interest {
            Interest::DONE => Output::Done,
            // It holds back from reading, and has not ended.
            Interest { read: false, write: Outbound::Idle }
                if self.history.output == Output::Over =>
            {
                Output::Over
            }
            Interest { write: Outbound::Idle | Outbound::Flush, .. } => Output::Open,
            Interest { write: Outbound::Finish, .. } => Output::Finishing,
            Interest { write: Outbound::Finished, .. } => Output::Over,
            Interest { write: Outbound::Reset, .. } => Output::Resetting,
        };
        let was = self.history.output;
        assert!(output >= was, "the output was {was:?} and is {output:?}, after {call}");
        self.history.output = output;

        let reason = reason(&self.machine);
        if output == Output::Done {
            assert!(reason.is_some(), "it ended without a reason, after {call}");
        }
        if self.history.reason.is_some() {
            assert_eq!(reason, self.history.reason, "its reason changed, after {call}");
        }
        self.history.reason = reason;

        let Status { queued, .. } = self.machine.status();
        let limit = self.history.limit;
        assert!(queued <= limit, "it queues {queued} of at most {limit} bytes, after {call}");
    }
}

fn reason<M: Machine>(machine: &M) -> Option<(&'static str, String)> {
    machine.reason().map(|reason| (reason.label(), reason.to_string()))
}

#[deny(clippy::missing_trait_methods, reason = "what is not forwarded never happens")]
impl<M: Machine> Machine for Checked<M> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.machine.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        assert!(self.machine.interest().read, "driver: read_buf of a machine that does not read");
        let before = self.seen();
        let first = self.machine.read_buf().as_ptr_range();
        assert!(!first.is_empty(), "it wants to read, and has no room");
        let second = self.machine.read_buf().as_ptr_range();
        assert_eq!(first, second, "read_buf answers other memory the second time");
        assert_eq!(self.seen(), before, "read_buf changes what the driver sees");
        self.machine.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let write = self.machine.interest().write;
        assert_eq!(write, Outbound::Flush, "driver: write_bufs");
        let n = self.machine.write_bufs(out);
        assert!(n > 0, "it wants to flush, and has nothing to");
        assert!(n <= out.len(), "it fills {n} of {} slices", out.len());
        assert!(out[..n].iter().all(|buf| !buf.is_empty()), "it offers an empty slice");
        n
    }

    fn write_owned(&self, out: &mut [Bytes], most: usize) -> usize {
        self.machine.write_owned(out, most)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                self.at(now);
                assert!(n > 0, "driver: handle_read of nothing");
                let room = self.read_buf().len();
                assert!(n <= room, "driver: handle_read of {n} bytes into {room}");
                self.machine.handle(now, Event::Read(n));
                self.look("handle_read");
            }
            Event::Eof => {
                self.at(now);
                assert!(
                    self.machine.interest().read,
                    "driver: handle_eof of a machine that does not read"
                );
                self.machine.handle(now, Event::Eof);
                self.history.input_over = true;
                self.look("handle_eof");
            }
            Event::Error(way, why) => self.handle_lost(now, way, why),
            Event::Written(n) => {
                self.at(now);
                let offered = self.seen().output.len();
                assert!(n > 0 && n <= offered, "driver: handle_written of {n} bytes of {offered}");
                self.machine.handle(now, Event::Written(n));
                self.look("handle_written");
            }
            Event::Finished => self.handle_finished(now),
            Event::Timeout { unacknowledged } => self.handle_timeout(now, unacknowledged),
            Event::ShutDown => self.shut_down(now),
            Event::Release => {
                let before = self.seen();
                self.machine.handle(now, Event::Release);
                assert_eq!(self.seen(), before, "release changes what the driver sees");
                self.look("release");
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.at(now);
        let before = self.seen();
        let news = self.machine.poll_shared(now, cx);
        self.look("poll_shared");
        if !news {
            assert_eq!(self.seen(), before, "poll_shared changes something, and does not say so");
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

impl<M: Machine> Checked<M> {
    fn handle_lost(&mut self, now: Instant, way: Direction, why: ConnectionError) {
        self.at(now);
        match (way, self.machine.interest()) {
            (Direction::Read, Interest { read, .. }) => {
                assert!(read, "driver: loses the input of a machine that does not read");
                self.history.input_over = true;
            }
            (Direction::Write, Interest { write: Outbound::Flush | Outbound::Finish, .. }) => {
                self.history.output = Output::Over;
            }
            (Direction::Write, Interest { write, .. }) => {
                panic!("driver: loses the output of a machine that wants {write:?}")
            }
        }
        self.machine.handle(now, Event::Error(way, why));
        self.look("handle_lost");
    }

    fn handle_finished(&mut self, now: Instant) {
        self.at(now);
        let write = self.machine.interest().write;
        self.history.output = match write {
            Outbound::Finish => Output::Over,
            Outbound::Reset => Output::Done,
            Outbound::Idle | Outbound::Flush | Outbound::Finished => {
                panic!("driver: handle_finished of a machine that wants {write:?}")
            }
        };
        self.machine.handle(now, Event::Finished);
        self.look("handle_finished");
    }

    fn handle_timeout(&mut self, now: Instant, unacknowledged: usize) {
        self.at(now);
        let early = self.poll_timeout().is_none_or(|deadline| deadline > now);
        let before = early.then(|| self.seen());
        self.machine.handle(now, Event::Timeout { unacknowledged });
        self.look("handle_timeout");
        if let Some(before) = before {
            assert_eq!(self.seen(), before, "a timeout before the deadline changes something");
        }
        if let Some(deadline) = self.poll_timeout() {
            assert!(deadline > now, "at {now}, the deadline that was handled is {deadline}");
        }
    }

    fn shut_down(&mut self, now: Instant) {
        self.at(now);
        let done = self.machine.interest().is_done().then(|| self.seen());
        self.machine.handle(now, Event::ShutDown);
        self.look("shut_down");
        let once = self.seen();
        if let Some(done) = done {
            assert_eq!(once, done, "shut_down changes a machine that has ended");
        }
        self.machine.handle(now, Event::ShutDown);
        self.look("shut_down");
        assert_eq!(self.seen(), once, "a second shut_down changes something");
    }
}
