//! Framed protocols: requests in frames, replies in their order.
//!
//! A [`Protocol`] is a parser and its answers. [`Connection`] makes a machine of it, with receive
//! buffer, pipelining, backpressure, deadlines, error reply, lingering close and drain.
//!
//! This one answers each line with its length:
//!
//! ```
//! use wirestate_core::{Instant, drive, protocol::*};
//!
//! struct Length;
//!
//! impl Protocol for Length {
//!     type Input = Buffer;
//!     type Error = Malformed;
//!     type Answer = Immediate;
//!
//!     fn receive(
//!         &mut self,
//!         input: &mut Buffer,
//!         replies: &mut Replies,
//!     ) -> Result<Step, Malformed> {
//!         let Some(line) = input.take_until(b'\n') else {
//!             return Ok(Step::Incomplete { length: None });
//!         };
//!         if !line.is_ascii() {
//!             return Err("not ASCII".into());
//!         }
//!         writeln!(replies.output(), "{}", line.len());
//!         Ok(Step::Taken)
//!     }
//!
//!     fn error_reply(&mut self, reason: &ProtocolReason, output: &mut Output) {
//!         if reason.is_error() {
//!             writeln!(output, "error: {reason}");
//!         }
//!     }
//! }
//!
//! let server = Server::new(Config::default().with_max_frame(1000.try_into()?))?;
//! let mut machine = server.machine(Length, Instant::EPOCH); // one for each connection
//!
//! let mut output = [0; 64];
//! drive::deliver(&mut machine, &mut &b"hello\n\nhe"[..], Instant::EPOCH);
//! let n = drive::collect_into(&mut machine, &mut output, Instant::EPOCH);
//! assert_eq!(&output[..n], b"5\n0\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The guide `docs/write-a-protocol.md` continues with asynchronous answers, shared state, three
//! runtimes, and tests.

mod buffer;
mod config;
mod connection;
mod eviction;
mod frame_timeouts;
mod input;
mod journal;
mod output;
mod reason;
mod replies;
mod server;

use core::{
    convert::Infallible,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

#[cfg(any(feature = "message", feature = "nats"))]
pub(crate) use self::frame_timeouts::FrameTimer;
#[cfg(feature = "message")]
pub(crate) use self::output::MIN_SLICE;
#[cfg(feature = "nats")]
pub(crate) use self::output::Text;
pub use self::{
    buffer::Buffer,
    config::Config,
    connection::Connection,
    frame_timeouts::FrameTimeouts,
    input::{Input, NoSpace, PartialFrame},
    output::{HIGH_WATER_MARK, Output},
    reason::{Malformed, ProtocolReason},
    replies::Replies,
    server::Server,
};
use crate::{Instant, Reason};

/// A protocol of requests in frames: the parser and the answers of one connection.
///
/// The [module documentation](self) has an example. State that connections share, such as a store,
/// is a handle in the implementing type ([`shared`](crate::shared)).
pub trait Protocol {
    /// The receive buffer: [`Buffer`], or your own type.
    type Input: Input;

    /// Why a frame is refused: [`Malformed`], or your own type.
    type Error: Reason;

    /// The future of an answer that is not ready: [`Immediate`] if there is none.
    ///
    /// If it fails, the replies to later requests are dropped. The connection closes after those to
    /// earlier ones and an [`error_reply`](Self::error_reply).
    type Answer: Future<Output = Result<Output, Self::Error>> + Unpin;

    /// Takes the next frame from the input, and answers it.
    ///
    /// The connection calls it until it returns [`Step::Incomplete`], or until the output is full,
    /// at most 32 times in a row. What it does must depend only on the bytes of the frame, not on
    /// how many bytes follow. A call should take less than about 1 µs, because 32 calls in a row
    /// delay other connections.
    ///
    /// # Errors
    /// The frame is refused. The connection closes after the replies so far and an
    /// [`error_reply`](Self::error_reply).
    fn receive(
        &mut self,
        input: &mut Self::Input,
        replies: &mut Replies<Self::Answer>,
    ) -> Result<Step, Self::Error>;

    /// Appends output that no request has asked for, such as messages of other connections.
    ///
    /// It returns ready after it has appended some or closed the connection, and is called again.
    /// It returns pending only if it has done neither, and has registered the waker of `cx` for the
    /// next change. It is not called while the output is full, nor after a shutdown was requested.
    /// Default: pending for ever.
    ///
    /// # Errors
    /// The connection closes after the replies so far and an [`error_reply`](Self::error_reply).
    fn poll_news(
        &mut self,
        _replies: &mut Replies<Self::Answer>,
        _cx: &mut Context<'_>,
    ) -> Poll<Result<(), Self::Error>> {
        Poll::Pending
    }

    /// Appends the last reply of a connection that ends with `reason`, in front of the FIN.
    /// Default: none.
    ///
    /// It is also called for a graceful end; see [`ProtocolReason::is_error`].
    fn error_reply(&mut self, _reason: &ProtocolReason<Self::Error>, _output: &mut Output) {}

    /// Whether [`Config::idle_timeout`] applies while no frame and no reply is pending. Default:
    /// true. A subscriber that waits for [news](Self::poll_news) is not idle.
    fn is_idle(&self) -> bool {
        true
    }
}

/// The result of [`Protocol::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The frame is incomplete, or there is none. Nothing was taken.
    Incomplete {
        /// The length of the whole frame in bytes, or a lower bound, once one is known: greater
        /// than the length of the input. `receive` is not called until so many bytes have arrived.
        length: Option<usize>,
    },
    /// A frame was taken from the input. It was answered, deferred, or needs no answer. A protocol
    /// that has taken nothing is asked again, for ever.
    Taken,
    /// The next frame is not taken before this time, which is later than [`Replies::now`]. Use it
    /// for a limit of the rate. Requests that follow wait in the receive buffer.
    WaitUntil(Instant),
}

/// The [`Protocol::Answer`] of a protocol that answers each request at once. No value of
/// this type exists.
#[derive(Clone, Copy, Debug)]
pub struct Immediate<E = Malformed> {
    never: Infallible,
    error: PhantomData<fn() -> E>,
}

impl<E> Future for Immediate<E> {
    type Output = Result<Output, E>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.never {}
    }
}
