//! The one contract: what a state machine is asked and told.
//!
//! Every machine is a **pipe**: bytes enter its readable half, bytes leave its writable half. An
//! echo is a pipe from a socket to itself; a request/response server is a pipe with a decoder, a
//! service and an encoder in it; a fan-out is one pipe that ends in a shared log and many that
//! begin in it; a proxy is two pipes, crossed. So one trait serves them all.
//!
//! [`Machine`] has four classes of method, and a driver calls them in this order, over and over:
//!
//! 1. **what is shared** — [`poll_shared`](Machine::poll_shared): what other machines published,
//!    what a handle queued;
//! 2. **what it wants** — [`interest`](Machine::interest), [`write_bufs`](Machine::write_bufs),
//!    [`read_buf`](Machine::read_buf), [`poll_timeout`](Machine::poll_timeout): questions, of
//!    which only `read_buf` may take something (a buffer), and none of which changes what comes
//!    out;
//! 3. **what happened** — `handle_…` and [`shut_down`](Machine::shut_down): any of them may change
//!    the answers to all questions, so they are asked again afterwards;
//!    [`release`](Machine::release), which changes none;
//! 4. **how it is and how it ended** — [`status`](Machine::status), [`reason`](Machine::reason).
//!
//! Nothing returns an error: **the end of a machine is state**, not a failure in the middle of a
//! call. A decoder that finds a bad frame while it makes room in `handle_written` owes an error
//! reply before the end; a `Result` there would have nobody to go to. A machine is over when
//! [`Interest::is_done`] says so; from then on `reason` says why, and it wants nothing any more.
//!
//! # What a driver must keep to
//!
//! - `read_buf` and `handle_read`, `handle_eof` only while `interest().read`; `write_bufs` and
//!   `handle_written` only under [`Outbound::Flush`]; `handle_finished` only after a FIN under
//!   [`Outbound::Finish`] or an RST under [`Outbound::Reset`].
//! - `handle_eof` is the peer's FIN and nothing else. A connection that broke is `handle_lost`. Linux
//!   reports a reset once, to whichever call comes first, and the next read may then return 0:
//!   after a failed write, what a read still finds is delivered, and its end is `handle_lost`.
//! - `poll_shared` is called after every change, until it finds nothing new.
//! - A read that would block is followed by `release` before the driver goes to sleep (but for a
//!   short sleep in the read itself). Who has no
//!   reads that block ([`drive::feed`](crate::drive::feed)) calls it when its input is used up.
//! - Input comes before time: a deadline is acted on only after what has arrived was read.
//! - `now` never goes backwards.
//!
//! # What a machine must guarantee
//!
//! - A call is short, whatever was received: one read of 64 KiB can hold thousands of messages,
//!   which must not delay other connections. After some 50 µs of work a machine returns from the
//!   call, withdraws [`Interest::read`] and goes on in later calls, including `poll_shared` (which
//!   then returns true). It counts the work in [`work`](Machine::work).
//! - The joined output does not depend on how the input was split.
//!
//! [`drive::turn`](crate::drive::turn) is a driver that keeps to all of it, so an event loop of
//! your own seldom needs more than the three traits that it asks for. Under debug assertions it
//! also holds the machine to its part of the contract.
//!
//! # A machine of your own
//!
//! Says what it received back in upper case, and ends when the peer does:
//!
//! ```
//! use wirestate_core::{Fault, Instant, Interest, Lost, Machine, Outbound, Reason, Status, Way, drive};
//!
//! struct Shout { buffer: [u8; 64], start: usize, end: usize, closing: bool, over: Option<Over> }
//!
//! #[derive(Clone, Debug, PartialEq, thiserror::Error)]
//! enum Over {
//!     #[error("all said")]
//!     Finished,
//!     #[error("lost: {0}")]
//!     Lost(Lost),
//! }
//! impl Reason for Over {
//!     fn label(&self) -> &'static str {
//!         match self { Over::Finished => "finished", Over::Lost(why) => why.label() }
//!     }
//!     fn fault(&self) -> Fault {
//!         match self { Over::Finished => Fault::None, Over::Lost(_) => Fault::Lost }
//!     }
//! }
//!
//! impl Machine for Shout {
//!     type Reason = Over;
//!     fn interest(&self) -> Interest {
//!         let write = match () {
//!             () if self.over.is_some() => Outbound::Finished,
//!             () if self.start < self.end => Outbound::Flush,
//!             () if self.closing => Outbound::Finish,
//!             () => Outbound::Idle,
//!         };
//!         Interest { read: write == Outbound::Idle, write }
//!     }
//!     fn read_buf(&mut self) -> &mut [u8] {
//!         &mut self.buffer
//!     }
//!     fn handle_read(&mut self, _now: Instant, n: usize) {
//!         self.buffer[..n].make_ascii_uppercase();
//!         (self.start, self.end) = (0, n);
//!     }
//!     fn handle_eof(&mut self, _now: Instant) {
//!         self.closing = true;
//!     }
//!     fn handle_lost(&mut self, _now: Instant, _way: Way, why: Lost) {
//!         self.over.get_or_insert(Over::Lost(why));
//!     }
//!     fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
//!         out[0] = &self.buffer[self.start..self.end];
//!         1
//!     }
//!     fn handle_written(&mut self, _now: Instant, n: usize) {
//!         self.start += n;
//!     }
//!     fn handle_finished(&mut self, _now: Instant) {
//!         self.over.get_or_insert(Over::Finished);
//!     }
//!     fn shut_down(&mut self, _now: Instant) {
//!         self.closing = true;
//!     }
//!     fn status(&self) -> Status {
//!         Status { state: "open", queued: self.end - self.start, lag: 0 }
//!     }
//!     fn reason(&self) -> Option<Over> {
//!         self.over.clone()
//!     }
//! }
//!
//! let mut shout = Shout { buffer: [0; 64], start: 0, end: 0, closing: false, over: None };
//! let (mut input, mut output) = (&b"hear, hear"[..], Vec::new());
//! drive::feed(&mut shout, &mut input, Instant::EPOCH);
//! drive::collect(&mut shout, &mut output, Instant::EPOCH);
//! assert_eq!(output, b"HEAR, HEAR");
//! ```

use core::{
    fmt::{Debug, Display},
    task::Context,
};

use crate::Instant;

/// A protocol's one side of one connection, without the connection. See the
/// [module documentation](self) for the contract.
pub trait Machine {
    /// Why it ended.
    type Reason: Reason;

    /// What it wants now. Pure, and O(1): a driver asks it several times in a turn.
    fn interest(&self) -> Interest;

    /// Where the next bytes received go; never empty while `interest().read`.
    ///
    /// It may take a buffer from a pool; called twice in a row it answers the same memory. What
    /// the buffer holds beforehand is of no meaning.
    fn read_buf(&mut self) -> &mut [u8];

    /// `n` bytes were received into the front of [`read_buf`](Self::read_buf); `n` is never 0.
    fn handle_read(&mut self, now: Instant, n: usize);

    /// The peer's FIN: all that it sent has been handed in. It may still be reading.
    fn handle_eof(&mut self, now: Instant);

    /// The connection broke while reading (`Way::In`) or writing (`Way::Out`).
    ///
    /// After `Way::In` the machine reads no more. After `Way::Out` it writes no more: it wants
    /// [`Outbound::Reset`], or [`Outbound::Finished`] if it goes on reading what had arrived (a
    /// reset is sent in the next turn, before any read), [`Outbound::Idle`] while it holds back from
    /// that.
    fn handle_lost(&mut self, now: Instant, way: Way, why: Lost);

    /// The driver is about to sleep: buffers that hold nothing can be given back. Nothing that the driver asks
    /// for changes by that.
    ///
    /// Bytes may have arrived all the same: the runtime may not have looked at the socket since.
    fn release(&mut self) {}

    /// Fills `out` from its start with what is to be sent next, in order, and answers how many
    /// slices it filled: at least one, none of them empty, under [`Outbound::Flush`]. `out` has
    /// room for at least one.
    ///
    /// All output need not fit: what is left comes the next time.
    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize;

    /// The first `n` bytes of [`write_bufs`](Self::write_bufs) are with the kernel; `n` is never 0.
    fn handle_written(&mut self, now: Instant, n: usize);

    /// Our FIN is out ([`Outbound::Finish`]), or our RST ([`Outbound::Reset`]).
    fn handle_finished(&mut self, now: Instant);

    /// Asks for a graceful end: nothing new is begun, what is owed is flushed, then comes the FIN.
    ///
    /// Idempotent, and without effect on a machine that is ending already. To abort, drop the
    /// machine and reset the socket.
    fn shut_down(&mut self, now: Instant);

    /// The earliest deadline of all that the machine waits for.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Time has passed. Afterwards [`poll_timeout`](Self::poll_timeout) lies beyond `now`.
    ///
    /// `unacknowledged` is how many of the bytes that were written the peer has not acknowledged
    /// ([`Sink::unacknowledged`](crate::drive::Sink::unacknowledged)). A deadline for a peer that
    /// does not take its output follows that figure, not what the kernel has taken
    /// ([`WriteProgress`](crate::WriteProgress)).
    ///
    /// A call before the deadline changes nothing.
    fn handle_timeout(&mut self, _now: Instant, _unacknowledged: usize) {}

    /// Looks at what the machine shares with others (a log, a queue of commands, futures that it
    /// holds). True if that changed anything in the machine, be it only what a handle can take
    /// from it; false only after it left `cx`'s waker where it will be woken when that moves
    /// again.
    ///
    /// It may be called on a machine that has ended.
    fn poll_shared(&mut self, _now: Instant, _cx: &mut Context<'_>) -> bool {
        false
    }

    /// The work done so far beyond moving bytes, in units of about a microsecond of one core:
    /// requests answered, for example. It never decreases. A driver yields to other connections
    /// after [`Budget::work`](crate::drive::Budget::work) units.
    ///
    /// Default: 0, for a machine whose work is proportional to its bytes.
    fn work(&self) -> u64 {
        0
    }

    /// A line for the table of connections.
    fn status(&self) -> Status;

    /// Why it ended: `Some` from the moment that [`Interest::is_done`] holds, and possibly before.
    fn reason(&self) -> Option<Self::Reason>;
}

/// What a machine wants of its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// It can take input. False is backpressure: no queue grows because a peer is slow.
    pub read: bool,
    /// What it wants of its writable half.
    pub write: Outbound,
}

impl Interest {
    /// A machine that has ended.
    pub const DONE: Self = Self { read: false, write: Outbound::Finished };

    /// Whether the machine has ended: it reads no more, and its FIN or RST is out (or can't be).
    pub fn is_done(self) -> bool {
        self == Self::DONE
    }
}

/// What a machine wants of its writable half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// Nothing to send now.
    ///
    /// It is also what a machine wants that has sent its FIN, has not had the peer's, and holds back
    /// from reading for the moment: with [`Outbound::Finished`] it would have ended.
    Idle,
    /// There is output: [`Machine::write_bufs`].
    Flush,
    /// All output is with the kernel: send a FIN.
    Finish,
    /// No output will come any more: our FIN or RST is out, or the connection is lost. Without
    /// [`Interest::read`] it is the machine's end.
    Finished,
    /// Break the connection with an RST, so that the peer can't take it for a clean end.
    Reset,
}

/// One direction of a connection, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Way {
    /// From the peer to us.
    #[error("receiving")]
    In,
    /// From us to the peer.
    #[error("sending")]
    Out,
}

/// How a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The peer reset it, or it is no more (`ECONNRESET`, `ECONNABORTED`, `EPIPE`, `ENOTCONN`;
    /// RFC 9293, section 3.5.3).
    #[error("connection reset by peer")]
    Reset,
    /// The kernel gave up on unacknowledged data or keepalive probes (`ETIMEDOUT`; tcp(7)).
    #[error("connection timed out")]
    TimedOut,
    /// No route (`EHOSTUNREACH`, `ENETUNREACH`, `ENETDOWN`).
    #[error("peer unreachable")]
    Unreachable,
    /// A write took nothing, although there was something to take.
    #[error("a write took no byte")]
    WroteZero,
    /// Any other error of the operating system, by its number (errno(3)); 0 where it has none.
    #[error("system error {errno}")]
    Other {
        /// The error's number.
        errno: i32,
    },
}

impl Lost {
    /// The name under which it is counted.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::WroteZero => "wrote_zero",
            Self::Other { .. } => "system_error",
        }
    }
}

/// Why a machine ended. It displays as a sentence with limit and figure, for a log.
pub trait Reason: Clone + Debug + Display {
    /// A short name without figures, in `snake_case`: one per way to end, for a metric's label.
    fn label(&self) -> &'static str;

    /// Whose fault it was.
    fn fault(&self) -> Fault;
}

/// Whose fault an end was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody's: all was done.
    None,
    /// The peer broke the protocol.
    Peer,
    /// The peer hit a limit.
    Limit,
    /// A time ran out.
    Time,
    /// We were asked to stop.
    Asked,
    /// The connection was lost.
    Lost,
    /// Ours: a panic. Never the result of what a peer sent.
    Bug,
}

/// A machine's line in the table of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The state's name.
    pub state: &'static str,
    /// Bytes that wait to be sent.
    pub queued: usize,
    /// How far behind it is, in what the machine counts (messages, for a subscriber); 0 where
    /// nothing can lag.
    pub lag: u64,
}
