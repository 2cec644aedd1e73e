//! The contract between a protocol and its driver.
//!
//! A [`Machine`] is one side of one connection, without the socket: bytes enter its readable half,
//! bytes leave its writable half. An echo connects the two halves. A request/response server has a
//! decoder, a service and an encoder between them. A fan-out is one machine that writes a shared
//! log and many that read it. A proxy is two machines, each of which sends what the other receives.
//! All implement one trait.
//!
//! A driver repeats four steps:
//!
//! 1. It lets the machine read shared state: [`poll_shared`](Machine::poll_shared).
//! 2. It asks what the machine wants: [`interest`](Machine::interest),
//!    [`write_bufs`](Machine::write_bufs), [`read_buf`](Machine::read_buf),
//!    [`poll_timeout`](Machine::poll_timeout).
//! 3. It reads and writes, and reports what happened: [`handle`](Machine::handle), with an
//!    [`Event`].
//! 4. It publishes [`status`](Machine::status) and [`reason`](Machine::reason).
//!
//! [`drive::Drive`](crate::drive::Drive) is the driver for async runtimes,
//! [`drive::Seat`](crate::drive::Seat) the one for your own event loop.
//!
//! # The states of a machine
//!
//! To a driver, the state of a machine is its [`Interest`]. Each event is legal in some states
//! only:
//!
//! | event | legal while | afterwards |
//! |---|---|---|
//! | [`Event::Read`] | `read` | any |
//! | [`Event::Eof`], [`Event::Error`]`(Read, _)` | `read` | never `read` again |
//! | [`Event::Written`] | `write` is `Flush` | any |
//! | [`Event::Finished`] | `write` is `Finish` | sends no more |
//! | | `write` is `Reset` | the machine has ended |
//! | [`Event::Error`]`(Write, _)` | before [`Event::Finished`], not in `Reset` | sends no more |
//! | [`Event::Timeout`], [`Event::ShutDown`] | always | any; unchanged once the machine has ended |
//! | [`Event::Release`] | always | unchanged |
//! | [`poll_shared`](Machine::poll_shared) | always | any; unchanged if it returns false |
//!
//! "Sends no more" means that `write` is `Reset`, `Finished`, or `Idle` without `read`. (A machine
//! that pauses reading uses `Idle`, because `Finished` without `read` is its end.)
//!
//! "Any" has two limits. The output never goes back: `Flush` does not follow `Finish`, and only the
//! end follows `Reset`. After the end of the input, the machine never reads again.
//!
//! A machine has ended when [`Interest::is_done`] returns true. From then on
//! [`reason`](Machine::reason) is `Some` and [`poll_timeout`](Machine::poll_timeout) is `None`.
//!
//! # Rules
//!
//! The testkit's `Checked` asserts the table and these rules, of a machine and of its driver.
//!
//! 1. **Everything that happens is an [`Event`].** A wrapper is the driver of its inner machine: it
//!    forwards every event and every method, calls the machine only through this trait, and obeys
//!    the table. A wrapper that buffers input forwards `Eof` and `Error(Read, _)` after that
//!    input, and the inner machine's `Reset` at once. A wrapper that reacts to the inner machine's
//!    state does so after every `&mut` call except `read_buf` and `Release`. If that reaction
//!    changes anything in `poll_shared`, `poll_shared` returns true.
//! 2. **Offered output is valid until the next `&mut` call**, `poll_shared` and `read_buf`
//!    included. `Written` refers to the last [`write_bufs`](Machine::write_bufs) or
//!    [`write_owned`](Machine::write_owned) and follows it directly. After a write that would
//!    block, ask again. Likewise `Read` refers to the last [`read_buf`](Machine::read_buf) and
//!    follows it directly. (A second `read_buf` before that returns the same memory, with its
//!    content intact.) The two sides of a relay count as one machine here.
//! 3. **Owned output is reported at once.** A driver whose writes complete later takes output by
//!    `write_owned`, reports it by `Written`, and owns it from then on. `Written` means accepted by
//!    the sink, not sent.
//! 4. **A failed connection ends by a reset.** After `Error(Write, _)` the driver still reads while
//!    the machine wants input: the peer may have sent an explanation before it reset the
//!    connection. Linux reports a reset only once, to the first call, and the next read may return
//!    0. So after a failed write, the end of the input is an `Error(Read, _)`, not an `Eof`. When
//!    the machine has ended, the driver sends an RST, because a FIN would mean that the output is
//!    complete.
//! 5. **A sink may hold output** (TLS, completion queues). So `Error(Write, _)` can come while the
//!    machine has nothing to send, and [`Event::Timeout`] counts held bytes as unacknowledged.
//! 6. **`poll_shared` grants what depends on shared state.** A machine whose capacity for input
//!    depends on other machines withdraws `read` after each `Read`, until the next `poll_shared`.
//!    The driver calls `poll_shared` at the start of every turn, and sleeps only after it has
//!    returned false. It returns false only after it has registered the waker of `cx` for the next
//!    change.
//! 7. **Input comes before deadlines.** A driver handles a deadline only after it has read what
//!    arrived, unless input comes without a pause for 100 ms. Its `now` never goes backwards.
//! 8. **A call is short.** One read of 64 KiB can hold thousands of messages, which must not delay
//!    other connections. After about 50 µs of work a machine withdraws `read`, and continues in the
//!    next `poll_shared`, which then returns true. It counts the work in [`work`](Machine::work).
//! 9. **`Release` changes nothing that a driver can see.** A driver sends it before it sleeps,
//!    after a read that would block. Wrappers forward it and do nothing else; recordings omit it.
//! 10. **Getters have no side effects.** `interest`, `poll_timeout`, `status`, `reason` and the
//!     offered output stay the same until the next `&mut` call. A reason never changes. A second
//!     `ShutDown` changes nothing. An event that the table forbids is a bug of the driver: the
//!     machine may panic.
//! 11. **Every wait has a deadline**, unless it is configured off: for unacknowledged output, for a
//!     pending FIN (it leads to a reset), and for the lingering close ([`Linger`](crate::Linger)).
//!     After a `Timeout`, [`poll_timeout`](Machine::poll_timeout) lies beyond `now`. A `Timeout`
//!     before the deadline changes nothing. [`Instant::NEVER`] is no deadline.
//! 12. **The output does not depend on how the input is divided into reads**, and the same inputs
//!     at the same times give the same outputs.
//!
//! # A machine of your own
//!
//! This one answers in upper case, and closes after the peer's FIN. It has no deadlines; a server
//! needs them (rule 11).
//!
//! ```
//! use wirestate_core::{
//!     ConnectionError, Event, Fault, Instant, Interest, Machine, Outbound, Reason, drive,
//! };
//!
//! struct Shout {
//!     buffer: [u8; 64],
//!     start: usize,
//!     end: usize,
//!     closing: bool,
//!     reason: Option<ShoutReason>,
//! }
//!
//! #[derive(Clone, Debug, PartialEq, thiserror::Error)]
//! enum ShoutReason {
//!     #[error("all input is answered")]
//!     Finished,
//!     #[error("lost: {0}")]
//!     Lost(ConnectionError),
//! }
//! impl Reason for ShoutReason {
//!     fn label(&self) -> &'static str {
//!         match self {
//!             Self::Finished => "finished",
//!             Self::Lost(error) => error.label(),
//!         }
//!     }
//!     fn fault(&self) -> Fault {
//!         match self {
//!             Self::Finished => Fault::None,
//!             Self::Lost(_) => Fault::Lost,
//!         }
//!     }
//! }
//!
//! impl Machine for Shout {
//!     type Reason = ShoutReason;
//!     fn interest(&self) -> Interest {
//!         let write = match () {
//!             () if self.reason.is_some() => Outbound::Finished,
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
//!             Event::Error(_, error) => {
//!                 self.reason.get_or_insert(ShoutReason::Lost(error));
//!             }
//!             Event::Finished => {
//!                 self.reason.get_or_insert(ShoutReason::Finished);
//!             }
//!             Event::Timeout { .. } | Event::Release => {}
//!         }
//!     }
//!     fn reason(&self) -> Option<ShoutReason> {
//!         self.reason.clone()
//!     }
//! }
//!
//! let mut shout = Shout { buffer: [0; 64], start: 0, end: 0, closing: false, reason: None };
//! let (mut input, mut output) = (&b"hear, hear"[..], [0; 64]);
//! drive::deliver(&mut shout, &mut input, Instant::EPOCH);
//! let n = drive::collect_into(&mut shout, &mut output, Instant::EPOCH);
//! assert_eq!(&output[..n], b"HEAR, HEAR");
//! ```
//!
//! # A wrapper
//!
//! This one counts the bytes that an inner machine receives and sends:
//!
//! ```
//! use std::task::Context;
//! use bytes::Bytes;
//! use wirestate_core::{Event, Instant, Interest, Machine, Status, drive, echo};
//!
//! struct Counted<M> { inner: M, received: usize, sent: usize }
//!
//! #[deny(clippy::missing_trait_methods)] // without `poll_timeout`, no deadline would ever fire
//! impl<M: Machine> Machine for Counted<M> {
//!     type Reason = M::Reason;
//!     fn interest(&self) -> Interest { self.inner.interest() }
//!     fn read_buf(&mut self) -> &mut [u8] { self.inner.read_buf() }
//!     fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize { self.inner.write_bufs(out) }
//!     fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
//!         self.inner.write_owned(out, max)
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

use crate::Instant;

/// One side of one connection, as a state machine without IO. See the [module
/// documentation](self) for the contract.
///
/// `Box<M>` and `&mut M` are machines too. [`Erased`] turns any machine into one with the reason
/// [`AnyReason`], for `dyn Machine<Reason = AnyReason>`.
pub trait Machine {
    /// Why the machine ended.
    type Reason: Reason;

    /// What the machine wants now. Pure and O(1): a driver calls it several times in a turn.
    fn interest(&self) -> Interest;

    /// The buffer for the next received bytes. Never empty while `interest().read`.
    ///
    /// A machine may take the buffer from a pool here. Two calls in a row return the same memory.
    /// The driver overwrites the previous content.
    fn read_buf(&mut self) -> &mut [u8];

    /// Fills `out` from its start with the next output, in order, and returns the number of slices.
    ///
    /// Under [`Outbound::Flush`] there is at least one slice, and none is empty. `out` has room for
    /// at least one. Output that does not fit is offered by a later call.
    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize;

    /// Fills `out` from its start with the next output as owned buffers, at most `max` bytes, and
    /// returns the number of buffers. For writes that complete later.
    ///
    /// Under [`Outbound::Flush`] there is at least one buffer, and none is empty. The bytes are the
    /// first ones of [`write_bufs`](Self::write_bufs). `out` has room for at least one buffer, and
    /// `max` is at least 1.
    ///
    /// Default: one buffer with a copy. A machine that keeps its output as [`Bytes`] returns
    /// clones; a clone can keep a larger allocation alive.
    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        let mut bufs = [&[][..]; MAX_SLICES];
        let count = self.write_bufs(&mut bufs);
        let len = bufs[..count].iter().map(|buf| buf.len()).sum::<usize>().min(max);
        let mut copy = Vec::with_capacity(len);
        for buf in &bufs[..count] {
            copy.extend_from_slice(&buf[..buf.len().min(len - copy.len())]);
        }
        out[0] = copy.into();
        usize::from(count > 0)
    }

    /// Handles an event. It may change the result of every getter.
    ///
    /// It returns no error, because a machine does not end at once: one that finds a malformed
    /// frame must still send an error reply. Its [`reason`](Self::reason) says why it ended.
    fn handle(&mut self, now: Instant, event: Event);

    /// The earliest deadline of everything that the machine waits for. Default: `None`.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Reads shared state (a log, a queue of commands, futures that the machine holds). Returns
    /// true if that changed the machine in any way. Returns false only after it has registered the
    /// waker of `cx` for the next change. Default: false, for a machine that shares nothing.
    ///
    /// A driver may call it after the machine has ended.
    fn poll_shared(&mut self, _now: Instant, _cx: &mut Context<'_>) -> bool {
        false
    }

    /// The total work done beyond moving bytes, such as requests answered, in units of about 1 µs
    /// of one core. It never falls. A driver yields to other connections after
    /// [`Budget::work`](crate::drive::Budget::work) units. Default: 0, for a machine whose work is
    /// proportional to its bytes.
    fn work(&self) -> u64 {
        0
    }

    /// The status for the table of connections. Default: empty.
    fn status(&self) -> Status {
        Status::default()
    }

    /// Why the machine ended. `Some` once [`Interest::is_done`] returns true, and possibly before.
    /// It never changes.
    fn reason(&self) -> Option<Self::Reason>;
}

/// What a machine wants from its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Whether it accepts input. False is backpressure: no queue grows because a peer is slow.
    pub read: bool,
    /// What it wants to send.
    pub write: Outbound,
}

impl Interest {
    /// The interest of a machine that has ended.
    pub const DONE: Self = Self { read: false, write: Outbound::Finished };

    /// Whether the machine has ended: it reads no more, and its FIN or RST was sent, or the
    /// connection is lost.
    pub fn is_done(self) -> bool {
        self == Self::DONE
    }
}

/// What a machine wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// Nothing now.
    ///
    /// Also for a machine that has sent its FIN, awaits the peer's, and pauses reading: with
    /// [`Outbound::Finished`] it would have ended.
    Idle,
    /// The output in [`Machine::write_bufs`].
    Flush,
    /// A FIN. The sink has accepted all output.
    Finish,
    /// Nothing any more: the FIN or RST was sent, or the connection is lost. If the machine does
    /// not [`read`](Interest::read) either, it has ended.
    Finished,
    /// An RST, so that the peer notices that the end is not clean.
    Reset,
}

/// Something that happens to a machine. Plain data of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// This many bytes, at least one, were received at the start of [`Machine::read_buf`].
    Read(usize),
    /// The peer has sent a FIN, and all its data has been read. The peer may still read.
    Eof,
    /// The sink has accepted this many bytes, at least one, from the start of
    /// [`Machine::write_bufs`].
    Written(usize),
    /// The FIN ([`Outbound::Finish`]) or the RST ([`Outbound::Reset`]) was sent.
    Finished,
    /// Reading or writing has failed. After `Direction::Read` the machine never reads again. After
    /// `Direction::Write` it never writes again: it ends, wants [`Outbound::Reset`], or still reads
    /// what arrived, with [`Outbound::Finished`] (or [`Outbound::Idle`] while it pauses reading).
    Error(Direction, ConnectionError),
    /// A deadline may have passed. Afterwards [`Machine::poll_timeout`] lies beyond `now`. If the
    /// deadline has not passed, the machine does not change.
    Timeout {
        /// Bytes written that the peer has not acknowledged, including those that the sink holds
        /// ([`Sink::unacknowledged`](crate::drive::Sink::unacknowledged)). A write deadline counts
        /// a fall of this number as progress, not a successful write
        /// ([`WriteProgress`](crate::WriteProgress)).
        unacknowledged: usize,
    },
    /// A graceful end is requested: the machine starts nothing new, flushes pending output, and
    /// sends a FIN. It has no effect on a machine that is already ending. To abort, drop the
    /// driver.
    ShutDown,
    /// The driver is about to sleep: the machine returns empty buffers to their pool. No getter
    /// changes.
    ///
    /// Input may have arrived that the runtime has not noticed yet.
    Release,
}

/// A direction of a connection, as the local side sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Direction {
    /// From the peer to us.
    #[error("receiving")]
    Read,
    /// From us to the peer.
    #[error("sending")]
    Write,
}

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The peer reset the connection, or it no longer exists (`ECONNRESET`, `ECONNABORTED`,
    /// `EPIPE`, `ENOTCONN`; RFC 9293, section 3.5.3).
    #[error("connection reset by peer")]
    Reset,
    /// The kernel gave up on unacknowledged data or keepalive probes (`ETIMEDOUT`; tcp(7)).
    #[error("connection timed out")]
    TimedOut,
    /// No route (`EHOSTUNREACH`, `ENETUNREACH`, `ENETDOWN`).
    #[error("peer unreachable")]
    Unreachable,
    /// A write accepted no byte although there was output.
    #[error("a write accepted no byte")]
    WriteZero,
    /// A layer between the machine and the socket has failed, such as TLS. The reason of the
    /// machine that implements the layer says why.
    #[error("a layer of the connection failed")]
    Layer,
    /// Any other error of the operating system, by its number (errno(3)); 0 if it has none.
    #[error("system error {errno}")]
    Other {
        /// The error number.
        errno: i32,
    },
}

/// Why a machine ended. `Display` gives a sentence with limit and figure, for a log.
pub trait Reason: Clone + Debug + Display {
    /// A short name in `snake_case`, without figures, as the label in metrics.
    fn label(&self) -> &'static str;

    /// Whose fault the end was.
    fn fault(&self) -> Fault;

    /// All that [`label`](Self::label) can return, for tests that demand that each is reached.
    /// Default: none.
    fn labels() -> Vec<&'static str> {
        Vec::new()
    }
}

/// Whose fault an end was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody's: a clean end.
    None,
    /// The peer broke the protocol.
    Peer,
    /// The peer hit a limit.
    Limit,
    /// A deadline passed.
    Time,
    /// The end was requested, by a shutdown or a command.
    Requested,
    /// The connection was lost.
    Lost,
    /// A bug of this program: a panic. Never the result of what a peer sent.
    Bug,
}

/// A machine's status in the table of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The state's name.
    pub state: &'static str,
    /// Bytes of pending output.
    pub queued: usize,
    /// How far the machine lags behind, in its own unit (messages, for a subscriber). 0 if it
    /// cannot lag.
    pub lag: u64,
}

/// A machine with the reason [`AnyReason`], so that machines of several kinds fit in one
/// collection, as `Box<dyn Machine<Reason = AnyReason>>`.
///
/// ```
/// use wirestate_core::{AnyReason, Erased, Instant, Machine, echo, fanout};
///
/// let echo = echo::Server::default().machine(Instant::EPOCH);
/// let config = fanout::MessageSourceConfig::default();
/// let source = fanout::MessageSource::new(config, Instant::EPOCH)?;
/// let machines: Vec<Box<dyn Machine<Reason = AnyReason>>> =
///     vec![Box::new(Erased(echo)), Box::new(Erased(source))];
/// assert!(machines.iter().all(|machine| machine.reason().is_none()));
/// # Ok::<(), wirestate_core::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Erased<M: ?Sized>(pub M);

/// The reason of an [`Erased`] machine: its text, label and fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct AnyReason {
    text: Arc<str>,
    label: &'static str,
    fault: Fault,
}

impl AnyReason {
    /// Converts `reason`.
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

/// Implements [`Machine`] for `$wrapper` by forwarding to `$inner`, with `$reason` as its reason.
macro_rules! forward {
    ($wrapper:ty, $self:ident => $inner:expr, $type:ty, $reason:expr) => {
        #[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
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

            fn write_owned(&$self, out: &mut [Bytes], max: usize) -> usize {
                $inner.write_owned(out, max)
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

/// Implements [`Reason`] by one match. Each arm has the label and the fault. Instead of a label, it
/// has the type and the name of a value with a label: `(ConnectionError: error, Fault::Lost)`; or
/// only that, if the value has a fault as well: `(DecodeError: error)`.
macro_rules! impl_reason {
    (<$param:ident> $reason:ty { $($arms:tt)* }) => {
        $crate::machine::impl_reason!(@impl [<$param: $crate::Reason>] $reason { $($arms)* });
    };
    ($reason:ty { $($arms:tt)* }) => {
        $crate::machine::impl_reason!(@impl [] $reason { $($arms)* });
    };
    (@impl [$($params:tt)*] $reason:ty { $($pattern:pat => $arm:tt,)* }) => {
        impl $($params)* $crate::Reason for $reason {
            fn label(&self) -> &'static str {
                match self { $($pattern => $crate::machine::impl_reason!(@row $arm),)* }.0
            }

            fn fault(&self) -> $crate::Fault {
                match self { $($pattern => $crate::machine::impl_reason!(@row $arm),)* }.1
            }

            fn labels() -> ::alloc::vec::Vec<&'static str> {
                [$($crate::machine::impl_reason!(@labels $arm)),*].concat()
            }
        }
    };
    (@row ($label:literal, $fault:expr)) => { ($label, $fault) };
    (@row ($type:ty: $value:expr, $fault:expr)) => { ($value.label(), $fault) };
    (@row ($type:ty: $value:expr)) => { ($value.label(), $value.fault()) };
    (@labels ($label:literal, $fault:expr)) => { &[$label][..] };
    (@labels ($type:ty: $value:expr $(, $fault:expr)?)) => { &<$type>::labels()[..] };
}
pub(crate) use impl_reason;

/// Adds a method `label` to an enum, and a function that returns all labels.
macro_rules! impl_label {
    ($visibility:vis $type:ty { $($pattern:pat => $label:literal,)* }) => {
        impl $type {
            /// The label in metrics.
            $visibility const fn label(&self) -> &'static str {
                match self { $($pattern => $label,)* }
            }

            /// All labels.
            $visibility const fn labels() -> &'static [&'static str] {
                &[$($label),*]
            }
        }
    };
}
#[cfg(feature = "nats")]
pub(crate) use impl_label;

impl_label!(pub ConnectionError {
    Self::Reset => "reset",
    Self::TimedOut => "timed_out",
    Self::Unreachable => "unreachable",
    Self::WriteZero => "wrote_zero",
    Self::Layer => "layer",
    Self::Other { .. } => "system_error",
});

/// The most slices that a driver passes to [`Machine::write_bufs`], and so the most in one vectored
/// write. Linux accepts 1,024 (`IOV_MAX`); beyond 64 the cost of the call itself no longer matters.
pub const MAX_SLICES: usize = 64;
