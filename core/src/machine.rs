//! The contract between a protocol and its driver.
//!
//! A [`Machine`] is one side of one connection, without the connection: bytes enter its readable
//! half, bytes leave its writable half. An echo connects the one to the other; a request/response
//! server has a decoder, a service and an encoder between them; a fan-out is one machine that
//! writes a shared log and many that read it; a proxy is two machines, crossed. One trait serves
//! them all.
//!
//! A driver does four things, over and over:
//!
//! 1. it asks what has changed in what the machine shares with others:
//!    [`poll_shared`](Machine::poll_shared);
//! 2. it asks what the machine wants: [`interest`](Machine::interest),
//!    [`write_bufs`](Machine::write_bufs), [`read_buf`](Machine::read_buf),
//!    [`poll_timeout`](Machine::poll_timeout);
//! 3. it does that, and says what happened: [`handle`](Machine::handle), with an [`Event`];
//! 4. it reports: [`status`](Machine::status), [`reason`](Machine::reason).
//!
//! [`drive::Drive`](crate::drive::Drive) is such a driver on an async runtime, and
//! [`drive::Seat`](crate::drive::Seat) in an event loop of your own.
//!
//! # The states of a machine
//!
//! For a driver, the state of a machine is its [`Interest`], and each event is legal in some states
//! only:
//!
//! | event | legal while | afterwards |
//! |---|---|---|
//! | [`Event::Read`] | `read` | any |
//! | [`Event::Eof`], [`Event::Error`]`(Read, _)` | `read` | never `read` again |
//! | [`Event::Written`] | `write` is `Flush` | any |
//! | [`Event::Finished`] | `write` is `Finish` | sends no more |
//! | | `write` is `Reset` | the machine has ended |
//! | [`Event::Error`]`(Write, _)` | before [`Event::Finished`], unless `write` is `Reset` | sends no more |
//! | [`Event::Timeout`], [`Event::ShutDown`] | always | any; unchanged once the machine has ended |
//! | [`Event::Release`] | always | unchanged |
//! | [`poll_shared`](Machine::poll_shared) | always | any; unchanged if it returns false |
//!
//! "Sends no more" means that `write` is `Reset`, `Finished`, or `Idle` without `read`. (The last
//! is for a machine that goes on reading later: `Finished` without `read` would be its end.)
//!
//! "Any" has two limits. The output never goes back: behind `Finish` there is no `Flush`, and
//! nothing but the end behind `Reset`. And behind the end of the input the machine never reads
//! again. A machine has ended when [`Interest::is_done`] returns true. From then on
//! [`reason`](Machine::reason) returns why, and [`poll_timeout`](Machine::poll_timeout) nothing.
//!
//! # Rules
//!
//! The testkit's `Checked` holds a machine and its driver to the table and to these rules.
//!
//! 1. **All that happens is an [`Event`].** A wrapper is its inner machine's driver: it forwards
//!    every event and every method, calls the machine through this trait alone, and keeps to the
//!    table. One that holds input or output back forwards `Eof` and `Error(Read, _)` behind the
//!    input that it holds, and `Reset` at once. Where it reacts to what the inner machine did, it
//!    does so after every `&mut` call except `read_buf` and `Release`, and its `poll_shared`
//!    returns true if that changed anything.
//! 2. **An offer lasts until the next `&mut` call**, `poll_shared` and `read_buf` included.
//!    `Written` refers to the last [`write_bufs`](Machine::write_bufs) or
//!    [`write_owned`](Machine::write_owned) and follows it directly. After a write that would block
//!    the offer has lapsed. Likewise `Read` refers to the last [`read_buf`](Machine::read_buf) and
//!    follows it directly. (`read_buf` called again before that returns the same memory, and leaves
//!    what was written there.) A relay's two sides count as one machine here.
//! 3. **Owned output is acknowledged at once.** A driver whose writes complete later takes output
//!    by `write_owned`, reports it by `Written`, and keeps it from then on. `Written` means handed
//!    over, not sent.
//! 4. **A failed connection ends by a reset.** After `Error(Write, _)` the driver still reads while
//!    the machine wants it: the peer may have said why before it reset the connection. Linux
//!    reports a reset once, to whichever call comes first, and the next read may return 0; so after
//!    a failed write an end of the input is an `Error(Read, _)`, not an `Eof`. When the machine has
//!    ended, the driver sends an RST, whether the machine asked for one or not: a FIN would say
//!    that the output is complete.
//! 5. **A sink may hold output** (TLS, completion queues). So `Error(Write, _)` can come while the
//!    machine has nothing to send, and [`Event::Timeout`] counts held bytes as not acknowledged.
//! 6. **What depends on shared state is granted by `poll_shared`.** A machine whose room for input
//!    depends on others withdraws `read` after each `Read`, until the next `poll_shared`. The
//!    driver calls `poll_shared` at the start of every turn, and sleeps only after it has returned
//!    false. It returns false only after it has left the waker of `cx` where it is woken by the
//!    next change.
//! 7. **Input comes before time.** A driver acts on a deadline only after it has read what arrived,
//!    unless more arrives without end for 100 ms. Its `now` never goes backwards.
//! 8. **A call is short.** One read of 64 KiB can hold thousands of messages, and they must not
//!    delay other connections. After some 50 µs of work a machine withdraws `read` and goes on in
//!    the next calls, `poll_shared` among them, which then returns true. It counts the work in
//!    [`work`](Machine::work).
//! 9. **`Release` changes nothing that a driver sees.** A driver sends it before it sleeps, after a
//!    read that would block. Wrappers forward it and do nothing else; recordings omit it.
//! 10. **Questions have no side effects.** `interest`, `poll_timeout`, `status`, `reason` and the
//!     output offered are the same each time they are asked, until the next `&mut` call. A reason
//!     never changes once it is given. A second `ShutDown` changes nothing. An event that the table
//!     forbids is a bug of the driver: the machine may panic.
//! 11. **Every wait has a deadline** unless configured off: output that is not acknowledged, a FIN
//!     that is pending (this one leads to a reset), and the lingering close, in which a machine
//!     that ends first reads and discards what the peer still sends, so that its last output is not
//!     destroyed by a reset ([`Linger`](crate::Linger)). After a `Timeout`,
//!     [`poll_timeout`](Machine::poll_timeout) lies beyond `now`; a `Timeout` before the deadline
//!     changes nothing. [`Instant::NEVER`] is no deadline.
//! 12. **The output does not depend on how the input was cut**, and the same inputs at the same
//!     times give the same outputs.
//!
//! # A machine of your own
//!
//! This one answers what it received in upper case, and ends when the peer does. It has no
//! deadlines; a server needs them (rule 11).
//!
//! ```
//! use wirestate_core::{
//!     ConnectionError, Event, Fault, Instant, Interest, Machine, Outbound, Reason, drive,
//! };
//!
//! struct Shout { buffer: [u8; 64], start: usize, end: usize, closing: bool, over: Option<Over> }
//!
//! #[derive(Clone, Debug, PartialEq, thiserror::Error)]
//! enum Over {
//!     #[error("all answered")]
//!     Finished,
//!     #[error("lost: {0}")]
//!     Lost(ConnectionError),
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
//!     fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
//!         out[0] = &self.buffer[self.start..self.end];
//!         1
//!     }
//!     fn handle(&mut self, _now: Instant, event: Event) {
//!         match event {
//!             Event::Read(n) => {
//!                 self.buffer[..n].make_ascii_uppercase();
//!                 (self.start, self.end) = (0, n);
//!             }
//!             Event::Written(n) => self.start += n,
//!             Event::Eof | Event::ShutDown => self.closing = true,
//!             Event::Error(_, why) => { self.over.get_or_insert(Over::Lost(why)); }
//!             Event::Finished => { self.over.get_or_insert(Over::Finished); }
//!             Event::Timeout { .. } | Event::Release => {}
//!         }
//!     }
//!     fn reason(&self) -> Option<Over> {
//!         self.over.clone()
//!     }
//! }
//!
//! let mut shout = Shout { buffer: [0; 64], start: 0, end: 0, closing: false, over: None };
//! let (mut input, mut output) = (&b"hear, hear"[..], [0; 64]);
//! drive::deliver(&mut shout, &mut input, Instant::EPOCH);
//! let n = drive::collect_into(&mut shout, &mut output, Instant::EPOCH);
//! assert_eq!(&output[..n], b"HEAR, HEAR");
//! ```
//!
//! # A wrapper
//!
//! This one counts what an inner machine receives and sends:
//!
//! ```
//! use std::task::Context;
//! use bytes::Bytes;
//! use wirestate_core::{Event, Instant, Interest, Machine, Status, drive, echo};
//!
//! struct Counted<M> { inner: M, received: usize, sent: usize }
//!
//! #[deny(clippy::missing_trait_methods)] // a deadline that is not forwarded never fires
//! impl<M: Machine> Machine for Counted<M> {
//!     type Reason = M::Reason;
//!     fn interest(&self) -> Interest { self.inner.interest() }
//!     fn read_buf(&mut self) -> &mut [u8] { self.inner.read_buf() }
//!     fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize { self.inner.write_bufs(out) }
//!     fn write_owned(&self, out: &mut [Bytes], most: usize) -> usize {
//!         self.inner.write_owned(out, most)
//!     }
//!     fn handle(&mut self, now: Instant, event: Event) {
//!         match event {
//!             Event::Read(n) => self.received += n,
//!             Event::Written(n) => self.sent += n,
//!             Event::Eof | Event::Finished | Event::Error(..) | Event::Timeout { .. }
//!             | Event::ShutDown | Event::Release => {}
//!         }
//!         self.inner.handle(now, event);
//!     }
//!     fn poll_timeout(&self) -> Option<Instant> { self.inner.poll_timeout() }
//!     fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
//!         self.inner.poll_shared(now, cx)
//!     }
//!     fn work(&self) -> u64 { self.inner.work() }
//!     fn status(&self) -> Status { self.inner.status() }
//!     fn reason(&self) -> Option<M::Reason> { self.inner.reason() }
//! }
//!
//! let inner = echo::Server::default().machine(Instant::EPOCH);
//! let mut counted = Counted { inner, received: 0, sent: 0 };
//! drive::deliver(&mut counted, &mut &b"hello"[..], Instant::EPOCH);
//! assert_eq!((counted.received, counted.sent), (5, 0));
//! ```

use alloc::{boxed::Box, string::ToString, sync::Arc, vec::Vec};
use core::{
    fmt::{Debug, Display},
    task::Context,
};

use bytes::Bytes;

use crate::{Instant, drive::MAX_SLICES};

/// One side of one connection, as a state machine without IO. See the [module
/// documentation](self) for the contract.
///
/// `Box<M>` and `&mut M` are machines as well; [`Erased`] makes a machine with a reason of its own
/// a `dyn Machine<Reason = AnyReason>`.
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

    /// Fills `out` from its start with what is to be sent next, in order, and answers how many
    /// slices it filled: at least one, none of them empty, under [`Outbound::Flush`]. `out` has
    /// room for at least one.
    ///
    /// All output need not fit: what is left comes the next time.
    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize;

    /// Fills `out` from its start with the first bytes of [`write_bufs`](Self::write_bufs), at most
    /// `most` of them, as buffers that outlive the next call, and returns how many it filled: at
    /// least one, none of them empty, under [`Outbound::Flush`]. `out` has room for at least one,
    /// and `most` is at least 1.
    ///
    /// It is for writes that complete later. Default: one buffer, with a copy. A machine that keeps
    /// its output as [`Bytes`] hands out clones, which may keep more memory than they show.
    fn write_owned(&self, out: &mut [Bytes], most: usize) -> usize {
        let mut bufs = [&[][..]; MAX_SLICES];
        let count = self.write_bufs(&mut bufs);
        let len = bufs[..count].iter().map(|buf| buf.len()).sum::<usize>().min(most);
        let mut copy = Vec::with_capacity(len);
        for buf in &bufs[..count] {
            copy.extend_from_slice(&buf[..buf.len().min(len - copy.len())]);
        }
        out[0] = copy.into();
        usize::from(count > 0)
    }

    /// Takes note of something that has happened. It may change the answer to every question, so a
    /// driver asks them again afterwards.
    ///
    /// Nothing is returned, since the end of a machine is state: a bad frame can be found while
    /// [`Event::Written`] makes room, and an error reply is still owed then.
    fn handle(&mut self, now: Instant, event: Event);

    /// The earliest deadline of all that the machine waits for. Default: none.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Looks at what the machine shares with others (a log, a queue of commands, futures that it
    /// holds). True if that changed anything in the machine, be it only what a handle can take
    /// from it; false only after it left `cx`'s waker where it will be woken when that moves
    /// again. Default: false, for a machine that shares nothing.
    ///
    /// It may be called on a machine that has ended.
    fn poll_shared(&mut self, _now: Instant, _cx: &mut Context<'_>) -> bool {
        false
    }

    /// The work done so far beyond moving bytes, in units of about a microsecond of one core:
    /// requests answered, for example. It never falls. A driver yields to other connections after
    /// [`Budget::work`](crate::drive::Budget::work) units.
    ///
    /// Default: 0, for a machine whose work is proportional to its bytes.
    fn work(&self) -> u64 {
        0
    }

    /// A line for the table of connections. Default: an empty one.
    fn status(&self) -> Status {
        Status::default()
    }

    /// Why it ended: `Some` from the moment that [`Interest::is_done`] holds, and possibly before.
    /// It does not change once it is given.
    fn reason(&self) -> Option<Self::Reason>;
}

/// Something that happens to a machine, as plain data of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many bytes, at least one, were received into the front of [`Machine::read_buf`].
    Read(usize),
    /// The peer's FIN: all that it sent has been read. It may still be reading.
    Eof,
    /// The first so many bytes, at least one, of [`Machine::write_bufs`] are with the sink, most
    /// often the kernel.
    Written(usize),
    /// Our FIN is out ([`Outbound::Finish`]), or our RST ([`Outbound::Reset`]).
    Finished,
    /// Reading or writing has failed. After `Direction::Read` the machine reads no more. After
    /// `Direction::Write` it writes no more: it ends, wants [`Outbound::Reset`], or goes on reading
    /// what had arrived, with [`Outbound::Finished`], or [`Outbound::Idle`] while it holds back
    /// from reading.
    Error(Direction, ConnectionError),
    /// Time has passed. Afterwards [`Machine::poll_timeout`] lies beyond `now`. Before the deadline
    /// it changes nothing.
    Timeout {
        /// How many of the bytes that were written the peer has not acknowledged, those that the
        /// sink holds included ([`Sink::unacknowledged`](crate::drive::Sink::unacknowledged)). A
        /// deadline for a peer that takes nothing follows this figure, not what the kernel has
        /// taken ([`WriteProgress`](crate::WriteProgress)).
        unacknowledged: usize,
    },
    /// A graceful end is asked for: nothing new is begun, pending output is flushed, then comes the
    /// FIN. It has no effect on a machine that is ending already. To abort, drop the machine and
    /// reset the socket.
    ShutDown,
    /// The driver is about to sleep: the machine can give buffers back that hold nothing. No answer
    /// changes by that.
    ///
    /// Bytes may have arrived all the same: the runtime may not have looked at the socket since.
    Release,
}

/// Makes `$wrapper` the machine that `$inner` is, with `$reason` for its reason.
macro_rules! forward {
    ($wrapper:ty, $self:ident => $inner:expr, $type:ty, $reason:expr) => {
        #[deny(clippy::missing_trait_methods, reason = "what is not forwarded never happens")]
        impl<M: Machine + ?Sized> Machine for $wrapper {
            type Reason = $type;

            fn interest(&$self) -> Interest {
                $inner.interest()
            }

            fn read_buf(&mut $self) -> &mut [u8] {
                $inner.read_buf()
            }

            fn write_bufs<'a>(&'a $self, out: &mut [&'a [u8]]) -> usize {
                $inner.write_bufs(out)
            }

            fn write_owned(&$self, out: &mut [Bytes], most: usize) -> usize {
                $inner.write_owned(out, most)
            }

            fn handle(&mut $self, now: Instant, event: Event) {
                $inner.handle(now, event);
            }

            fn poll_timeout(&$self) -> Option<Instant> {
                $inner.poll_timeout()
            }

            fn poll_shared(&mut $self, now: Instant, cx: &mut Context<'_>) -> bool {
                $inner.poll_shared(now, cx)
            }

            fn work(&$self) -> u64 {
                $inner.work()
            }

            fn status(&$self) -> Status {
                $inner.status()
            }

            fn reason(&$self) -> Option<$type> {
                $reason
            }
        }
    };
}

forward!(&mut M, self => (**self), M::Reason, (**self).reason());
forward!(Box<M>, self => (**self), M::Reason, (**self).reason());
forward!(Erased<M>, self => self.0, AnyReason, self.0.reason().as_ref().map(AnyReason::of));

/// A machine whose reason has no type of its own any more, so that machines of several kinds fit in
/// one collection, as `Box<dyn Machine<Reason = AnyReason>>`.
///
/// ```
/// use wirestate_core::{AnyReason, Erased, Instant, Machine, echo, fanout};
///
/// let echo = echo::Server::default().machine(Instant::EPOCH);
/// let source = fanout::Source::new(fanout::SourceConfig::default(), Instant::EPOCH);
/// let machines: Vec<Box<dyn Machine<Reason = AnyReason>>> =
///     vec![Box::new(Erased(echo)), Box::new(Erased(source))];
/// assert!(machines.iter().all(|machine| machine.reason().is_none()));
/// ```
#[derive(Clone, Debug)]
pub struct Erased<M: ?Sized>(pub M);

/// The reason of an [`Erased`] machine: what it displays as, its label, and whose fault it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct AnyReason {
    text: Arc<str>,
    label: &'static str,
    fault: Fault,
}

impl AnyReason {
    /// What there is to know of `reason`.
    pub fn of(reason: &impl Reason) -> Self {
        Self { text: reason.to_string().into(), label: reason.label(), fault: reason.fault() }
    }
}

impl Reason for AnyReason {
    fn label(&self) -> &'static str {
        self.label
    }

    fn fault(&self) -> Fault {
        self.fault
    }
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
    /// It is also what a machine wants that has sent its FIN, has not had the peer's, and holds
    /// back from reading for the moment: with [`Outbound::Finished`] it would have ended.
    Idle,
    /// There is output: [`Machine::write_bufs`].
    Flush,
    /// All output is with the sink: send a FIN.
    Finish,
    /// No output will come any more: our FIN or RST is out, or the connection is lost. Without
    /// [`Interest::read`] it is the machine's end.
    Finished,
    /// Break the connection with an RST, so that the peer can't take it for a clean end.
    Reset,
}

/// One direction of a connection, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Direction {
    /// From the peer to us.
    #[error("receiving")]
    Read,
    /// From us to the peer.
    #[error("sending")]
    Write,
}

/// How a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
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
    /// A write accepted no byte, although there was output.
    #[error("a write took no byte")]
    WriteZero,
    /// A layer between the machine and the socket has failed, such as TLS. The wrapper's reason
    /// says why.
    #[error("a layer of the connection failed")]
    Layer,
    /// Any other error of the operating system, by its number (errno(3)); 0 where it has none.
    #[error("system error {errno}")]
    Other {
        /// The error's number.
        errno: i32,
    },
}

impl ConnectionError {
    /// The name under which it is counted.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::WriteZero => "wrote_zero",
            Self::Layer => "layer",
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

/// Implements [`Reason`] by one match, whose arms give the label and the fault.
macro_rules! impl_reason {
    ($reason:ty { $($arms:tt)* }) => {
        impl $crate::Reason for $reason {
            fn label(&self) -> &'static str {
                match self { $($arms)* }.0
            }

            fn fault(&self) -> $crate::Fault {
                match self { $($arms)* }.1
            }
        }
    };
}
pub(crate) use impl_reason;

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
    Requested,
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
