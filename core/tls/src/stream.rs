//! A socket with TLS.

use core::task::{Context, Poll, ready};

use rustls::CommonState;
use wirestate_core::{
    ConnectionError, Machine,
    drive::{IoError, Sink, Source, Splice},
};

use crate::{
    Failure, Handshake, Tls,
    session::{MAX_PLAINTEXT, Progress, Session},
};

/// A socket with TLS, after its handshake. For a machine with two sides, such as a proxy's relay;
/// around any other machine, put [`Tls`], which has reasons and deadlines.
///
/// A failure of TLS is a [`ConnectionError::Layer`] to the driver, and [`failure`](Self::failure)
/// says what it was. It is logged with the level `DEBUG`, because peers can cause any number of
/// failures.
///
/// **Memory**: as [`Tls`], without an inner machine.
#[derive(Debug)]
pub struct Stream<S> {
    socket: S,
    session: Box<Session>,
    failure: Option<Failure>,
}

impl<S: Source + Sink> Stream<S> {
    /// Continues a connection after its handshake, on the same `socket`.
    ///
    /// # Panics
    /// The handshake is not complete, or has failed.
    pub fn new(handshake: Tls<Handshake>, socket: S) -> Self {
        let is_ready = !handshake.is_handshaking() && handshake.reason().is_none();
        assert!(is_ready, "the handshake is not complete");
        Self { socket, session: handshake.into_session(), failure: None }
    }

    /// Why TLS has failed; `None` if it has not.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// As [`Tls::connection`].
    pub fn connection(&self) -> &CommonState {
        self.session.common()
    }

    /// The socket below.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    fn fail(&mut self, failure: Failure) -> IoError {
        if self.failure.is_none() {
            tracing::debug!(%failure, "a connection's TLS has failed");
            self.failure = Some(failure);
        }
        ConnectionError::Layer.into()
    }

    fn check(&self) -> Result<(), IoError> {
        if self.failure.is_some() { Err(ConnectionError::Layer.into()) } else { Ok(()) }
    }

    /// Sends what the socket accepts.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        while !self.session.pending().is_empty() {
            match ready!(self.socket.poll_write(cx, &[self.session.pending()])) {
                Ok(0) => return Poll::Ready(Err(ConnectionError::WriteZero.into())),
                Ok(n) => self.session.sent(n),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Source + Sink> Source for Stream<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        self.check()?;
        loop {
            let (mut moved, mut records) = (0, 0);
            // Several records, if the next one has space.
            while self.session.has_input()
                && (moved == 0 || records < MAX_RECORDS && buf.len() - moved >= MAX_PLAINTEXT)
            {
                records += 1;
                match self.session.read(&mut buf[moved..]) {
                    Ok(Progress::Moved(n)) => moved += n,
                    Ok(Progress::Blocked | Progress::Closed) => break,
                    Err(error) => {
                        let error = self.fail(Failure::of(error, false));
                        let _ = self.send(cx); // the alert
                        return Poll::Ready(if moved > 0 { Ok(moved) } else { Err(error) });
                    }
                }
            }
            if moved > 0 {
                return Poll::Ready(Ok(moved));
            }
            if self.session.peer_has_closed() {
                return Poll::Ready(Ok(0));
            }
            if self.session.has_input() {
                // The answer of TLS needs space.
                ready!(self.send(cx))?;
                continue;
            }
            if !self.session.can_receive() {
                let limit = self.session.receive_limit();
                return Poll::Ready(Err(self.fail(Failure::HandshakeTooLong { limit })));
            }
            match self.socket.poll_read(cx, self.session.receive_buf()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.fail(Failure::Truncated))),
                Poll::Ready(Ok(n)) => self.session.received(n),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn recheck(&mut self) {
        self.socket.recheck();
    }
}

impl<S: Source + Sink> Sink for Stream<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        self.check()?;
        loop {
            match self.session.write(bufs) {
                Ok(Progress::Moved(n)) => {
                    return match self.send(cx) {
                        Poll::Ready(Err(IoError::Connection(error))) => {
                            Poll::Ready(Err(error.into()))
                        }
                        // The driver would repeat this write, but it is encrypted.
                        Poll::Ready(Ok(()) | Err(IoError::Interrupted)) | Poll::Pending => {
                            Poll::Ready(Ok(n))
                        }
                    };
                }
                Ok(Progress::Blocked | Progress::Closed) => ready!(self.send(cx))?,
                Err(error) => return Poll::Ready(Err(self.fail(Failure::of_write(error)))),
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        ready!(self.send(cx))?;
        self.session.release();
        self.socket.poll_flush(cx)
    }

    fn held(&self) -> usize {
        self.session.pending().len() + self.socket.held()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        self.check()?;
        while !self.session.has_closed() {
            if let Err(error) = self.session.close() {
                return Poll::Ready(Err(self.fail(Failure::of_write(error))));
            }
            ready!(self.send(cx))?;
        }
        ready!(self.send(cx))?;
        self.socket.poll_finish(cx)
    }

    fn reset(&mut self) {
        self.socket.reset();
    }

    fn unacknowledged(&self) -> usize {
        self.session.pending().len() + self.socket.unacknowledged()
    }
}

/// A socket with or without TLS.
#[derive(Debug)]
pub enum MaybeTlsStream<S> {
    /// Without TLS.
    Plain(S),
    /// With TLS.
    Tls(Stream<S>),
}

impl<S> MaybeTlsStream<S> {
    /// The socket below.
    pub fn socket(&self) -> &S {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.socket,
        }
    }
}

/// Calls a method of the socket with or without TLS.
macro_rules! delegate {
    ($self:expr, $method:ident($($argument:expr),*)) => {
        match $self {
            Self::Plain(socket) => socket.$method($($argument),*),
            Self::Tls(stream) => stream.$method($($argument),*),
        }
    };
}

#[deny(clippy::missing_trait_methods, reason = "a default method would hide the socket's own")]
impl<S: Source + Sink> Source for MaybeTlsStream<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        delegate!(self, poll_read(cx, buf))
    }

    fn recheck(&mut self) {
        delegate!(self, recheck());
    }
}

#[deny(clippy::missing_trait_methods, reason = "a default method would hide the socket's own")]
impl<S: Source + Sink> Sink for MaybeTlsStream<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        delegate!(self, poll_write(cx, bufs))
    }

    fn max_owned(&self) -> usize {
        delegate!(self, max_owned())
    }

    fn poll_write_owned(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [bytes::Bytes],
    ) -> Poll<Result<usize, IoError>> {
        delegate!(self, poll_write_owned(cx, bufs))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        delegate!(self, poll_flush(cx))
    }

    fn held(&self) -> usize {
        delegate!(self, held())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        delegate!(self, poll_finish(cx))
    }

    fn reset(&mut self) {
        delegate!(self, reset());
    }

    fn unacknowledged(&self) -> usize {
        delegate!(self, unacknowledged())
    }
}

/// Only without TLS: the kernel cannot decrypt.
impl<S: Splice> Splice for MaybeTlsStream<S> {
    type Pipe = S::Pipe;

    fn pipe() -> Option<Self::Pipe> {
        S::pipe()
    }

    fn can_splice(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.can_splice(),
            Self::Tls(_) => false,
        }
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Self::Pipe,
        max: usize,
    ) -> Poll<Result<Option<usize>, IoError>> {
        match self {
            Self::Plain(socket) => socket.poll_fill(cx, pipe, max),
            Self::Tls(_) => Poll::Ready(Ok(None)),
        }
    }

    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Self::Pipe,
        held: usize,
    ) -> Poll<Result<usize, IoError>> {
        match self {
            Self::Plain(socket) => socket.poll_drain(cx, pipe, held),
            Self::Tls(_) => Poll::Ready(Err(ConnectionError::Layer.into())),
        }
    }
}

/// The most records of a read. Each takes about 1 µs, even if it has only one byte.
const MAX_RECORDS: usize = 16;
