//! A connected socket of a simulated host.

use std::{
    collections::VecDeque,
    future::poll_fn,
    net::SocketAddr,
    task::{Context, Poll, ready},
    thread,
};

use wirestate_core::{
    ConnectionError,
    drive::{IoError, Sink, Source, Splice},
};

use super::{Record, World, connection::EndId, network::Network};
use crate::script::Ending;

/// A connected socket of a simulated host. Dropping it closes it.
///
/// A driver uses it as a [`Source`] and a [`Sink`]. The methods are for peers without a machine.
///
/// # Panics
/// If a driver reads or writes an empty buffer, writes after its FIN, sends a second FIN, sends a
/// FIN after an error, or makes a call after a reset.
#[derive(Debug)]
pub struct Socket {
    world: World,
    end: EndId,
    /// Whether a call of the driver has failed.
    failed: bool,
}

impl Socket {
    pub(super) fn new(world: World, end: EndId) -> Self {
        Self { world, end, failed: false }
    }

    /// Decides whether a scripted peer performs its act `number`, and how many of the `len` bytes
    /// of a `Send` it sends: `None` if the act is left out.
    pub(super) fn decide_act(
        &self,
        number: u64,
        len: usize,
        text: impl FnOnce(usize) -> String,
    ) -> Option<usize> {
        let EndId { connection, side } = self.end;
        self.world
            .network(|network| network.connections[connection].dice(side).act(number, len, text))
    }

    pub(super) fn local_address(&self) -> SocketAddr {
        self.world.network(|network| network.end(self.end).record.local)
    }

    pub(super) fn remote_address(&self) -> SocketAddr {
        self.world.network(|network| network.end(self.end).record.remote)
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn send(&mut self, mut bytes: &[u8]) -> Result<(), ConnectionError> {
        while !bytes.is_empty() {
            let n = self.call(|network, end, cx| network.write(end, cx, &[bytes])).await?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Receives into `buf`, which must not be empty. Returns 0 after the peer's FIN.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn receive(&mut self, buf: &mut [u8]) -> Result<usize, ConnectionError> {
        self.call(|network, end, cx| network.read(end, cx, buf)).await
    }

    /// Receives up to and including the next occurrence of `delimiter`, and appends that to
    /// `received`. Returns false if the peer's FIN comes first.
    ///
    /// Nothing behind the delimiter is read. If `delimiter` is empty, nothing is read.
    ///
    /// # Errors
    /// If the connection fails. `received` has what came before.
    pub async fn receive_until(
        &mut self,
        delimiter: &[u8],
        received: &mut Vec<u8>,
    ) -> Result<bool, ConnectionError> {
        let start = received.len();
        while !received[start..].ends_with(delimiter) {
            let new = &received[start..];
            let bytes = self
                .call(|network, end, cx| {
                    let mut buf = vec![0; network.end(end).len_until(delimiter, new).max(1)];
                    let read = network.read(end, cx, &mut buf);
                    read.map_ok(|n| {
                        buf.truncate(n);
                        buf
                    })
                })
                .await?;
            if bytes.is_empty() {
                return Ok(false);
            }
            received.extend_from_slice(&bytes);
        }
        Ok(true)
    }

    /// Sends a FIN.
    ///
    /// # Errors
    /// If the connection fails.
    pub async fn finish(&mut self) -> Result<(), ConnectionError> {
        self.call(Network::finish).await
    }

    /// Repeats a call until it is neither blocked nor interrupted.
    async fn call<T>(
        &self,
        mut call: impl FnMut(&mut Network, EndId, &mut Context<'_>) -> Poll<Result<T, IoError>>,
    ) -> Result<T, ConnectionError> {
        loop {
            match poll_fn(|cx| self.world.network(|network| call(network, self.end, cx))).await {
                Ok(value) => return Ok(value),
                Err(IoError::Interrupted) => {}
                Err(IoError::Connection(error)) => return Err(error),
            }
        }
    }
}

impl Source for Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize, IoError>> {
        let read = self.world.network(|network| network.read(self.end, cx, buf));
        self.failed |= matches!(read, Poll::Ready(Err(IoError::Connection(_))));
        read
    }

    fn recheck(&mut self) {
        self.world.network(|network| network.recheck(self.end));
    }
}

impl Sink for Socket {
    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[&[u8]]) -> Poll<Result<usize, IoError>> {
        let written = self.world.network(|network| network.write(self.end, cx, bufs));
        self.failed |= matches!(written, Poll::Ready(Ok(0) | Err(IoError::Connection(_))));
        written
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        let finished = self.world.network(|network| network.finish(self.end, cx));
        let hides_error = self.failed && matches!(finished, Poll::Ready(Ok(())));
        assert!(!hides_error, "the driver sends a FIN after a failed call");
        self.failed |= matches!(finished, Poll::Ready(Err(IoError::Connection(_))));
        finished
    }

    fn reset(&mut self) {
        self.world.network(|network| network.reset(self.end));
    }

    fn unacknowledged(&self) -> usize {
        self.world.network(|network| network.unacknowledged(self.end))
    }
}

/// Splices through pipes of 600 bytes.
///
/// # Panics
/// If a driver fills a pipe that is not empty, or drains another number of bytes than the pipe
/// holds.
impl Splice for Socket {
    type Pipe = VecDeque<u8>;

    fn pipe() -> Option<VecDeque<u8>> {
        Some(VecDeque::new())
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut VecDeque<u8>,
        max: usize,
    ) -> Poll<Result<Option<usize>, IoError>> {
        assert!(pipe.is_empty(), "the driver fills a pipe that is not empty");
        if self.world.network(|network| network.refuses_to_splice(self.end)) {
            return Poll::Ready(Ok(None));
        }
        let mut bytes = vec![0; max.min(PIPE_CAPACITY)];
        let n = ready!(self.poll_read(cx, &mut bytes))?;
        self.world.network(|network| network.end(self.end).record.piped += n);
        pipe.extend(&bytes[..n]);
        Poll::Ready(Ok(Some(n)))
    }

    fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut VecDeque<u8>,
        held: usize,
    ) -> Poll<Result<usize, IoError>> {
        assert_eq!(
            held,
            pipe.len(),
            "the driver drains another number of bytes than the pipe holds"
        );
        let n = ready!(self.poll_write(cx, &[pipe.make_contiguous()]))?;
        pipe.drain(..n);
        Poll::Ready(Ok(n))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let closed_by_fin = self.world.network(|network| {
            let before = network.end(self.end).record.ending;
            network.close(self.end);
            let Record { ending, killed, .. } = network.end(self.end).record;
            before.is_none() && ending == Some(Ending::Fin) && !killed
        });
        let hides_error = closed_by_fin && self.failed && !thread::panicking();
        assert!(!hides_error, "the driver closes a connection with a FIN after a failed call");
    }
}

/// The capacity of a pipe in bytes: between the smallest and the largest buffers of tests.
const PIPE_CAPACITY: usize = 600;
