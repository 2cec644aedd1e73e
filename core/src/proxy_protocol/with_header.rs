//! A machine whose connection begins with a header.

use alloc::{boxed::Box, vec::Vec};
use core::{fmt, task::Context};

use bytes::Bytes;

use super::{Header, HeaderPolicy, HeaderReader, ProxyHeaderReason};
use crate::{
    Event, Instant, Interest, Machine, Status,
    admission::{Peer, Refused},
    drive,
    machine::impl_reason,
};

/// A machine whose connection begins with a PROXY header. It receives the header, then becomes the
/// machine that `make` returns for it.
///
/// Bytes that were received together with the header are delivered to that machine before any
/// further byte is read. Until the header is complete, it holds as much as [`HeaderReader`]; after
/// that, only the machine and those bytes.
///
/// ```
/// use wirestate_core::{Instant, Machine, admission::Peer, drive, echo};
/// use wirestate_core::proxy_protocol::{Header, HeaderPolicy, WithProxyHeader};
///
/// let (now, proxy) = (Instant::EPOCH, Peer::Ip("127.0.0.1:4000".parse()?));
/// let server = echo::Server::default();
/// let make = |header, _length, now| {
///     let Header::Tcp { source, .. } = header else { panic!("the header names a client") };
///     assert_eq!(source.to_string(), "192.0.2.7:50000");
///     Ok(server.machine(now))
/// };
/// let mut machine = WithProxyHeader::new(&HeaderPolicy::default(), proxy, now, make);
///
/// let mut output = [0; 64];
/// let mut input = &b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 7\r\nhello"[..];
/// drive::deliver(&mut machine, &mut input, now);
/// let n = drive::collect_into(&mut machine, &mut output, now);
/// assert_eq!(&output[..n], b"hello");
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
pub struct WithProxyHeader<M, F> {
    phase: Phase<M, F>,
}

enum Phase<M, F> {
    Header(Box<AwaitedHeader<F>>),
    Inner {
        machine: M,
        /// Bytes that were received together with the header and are pending for the machine.
        rest: Vec<u8>,
    },
}

struct AwaitedHeader<F> {
    reader: HeaderReader,
    /// `None` once the header is complete.
    make: Option<F>,
}

/// Why a [`WithProxyHeader`] ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WithProxyHeaderReason<R> {
    /// Before or because of the header.
    #[error(transparent)]
    Header(ProxyHeaderReason),
    /// For a reason of the inner machine.
    #[error("{0}")]
    Inner(R),
}

impl_reason!(<R> WithProxyHeaderReason<R> {
    Self::Header(reason) => (ProxyHeaderReason: reason),
    Self::Inner(reason) => (R: reason),
});

impl<M, F> WithProxyHeader<M, F>
where
    M: Machine,
    F: FnOnce(Header, usize, Instant) -> Result<M, Refused>,
{
    /// A machine that awaits a header from `peer`, which has connected at `now`. `make` gets the
    /// header and its length in bytes. An error from `make` refuses the client that the header
    /// names: its connection is reset.
    pub fn new(policy: &HeaderPolicy, peer: Peer, now: Instant, make: F) -> Self {
        let reader = HeaderReader::new(policy, peer, now);
        Self { phase: Phase::Header(Box::new(AwaitedHeader { reader, make: Some(make) })) }
    }

    /// The inner machine; `None` until the header is complete.
    pub fn inner(&self) -> Option<&M> {
        if let Phase::Inner { machine, .. } = &self.phase { Some(machine) } else { None }
    }

    /// Makes the machine when the header is complete, and delivers the pending bytes that it
    /// accepts. Returns whether anything was delivered, or the client was refused.
    fn pump(&mut self, now: Instant) -> bool {
        if let Phase::Header(awaited) = &mut self.phase {
            let Some((header, rest)) = awaited.reader.header() else { return false };
            let Some(make) = awaited.make.take() else { return false };
            match make(header, awaited.reader.header_len(), now) {
                Ok(machine) => self.phase = Phase::Inner { machine, rest: rest.to_vec() },
                Err(refused) => {
                    awaited.reader.refuse(refused);
                    return true;
                }
            }
        }
        let Phase::Inner { machine, rest } = &mut self.phase else { return false };
        if rest.is_empty() || !machine.interest().read {
            return false;
        }
        let mut undelivered = &rest[..];
        drive::deliver(machine, &mut undelivered, now);
        let delivered = rest.len() - undelivered.len();
        rest.drain(..delivered);
        if rest.is_empty() {
            *rest = Vec::new();
        }
        true
    }
}

/// Calls a method of the header's reader or of the machine, by phase.
macro_rules! delegate {
    ($phase:expr, $method:ident($($argument:expr),*)) => {
        match $phase {
            Phase::Header(awaited) => awaited.reader.$method($($argument),*),
            Phase::Inner { machine, .. } => machine.$method($($argument),*),
        }
    };
}

#[deny(
    clippy::missing_trait_methods,
    reason = "a default would hide the inner machine's own method"
)]
impl<M, F> Machine for WithProxyHeader<M, F>
where
    M: Machine,
    F: FnOnce(Header, usize, Instant) -> Result<M, Refused>,
{
    type Reason = WithProxyHeaderReason<M::Reason>;

    fn interest(&self) -> Interest {
        // While bytes are pending, the machine does not read: `pump` delivers all bytes that it
        // accepts.
        delegate!(&self.phase, interest())
    }

    fn read_buf(&mut self) -> &mut [u8] {
        delegate!(&mut self.phase, read_buf())
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        delegate!(&self.phase, write_bufs(out))
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        delegate!(&self.phase, write_owned(out, max))
    }

    fn handle(&mut self, now: Instant, event: Event) {
        delegate!(&mut self.phase, handle(now, event));
        if event != Event::Release {
            self.pump(now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        delegate!(&self.phase, poll_timeout())
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let has_changed = delegate!(&mut self.phase, poll_shared(now, cx));
        self.pump(now) || has_changed
    }

    fn work(&self) -> u64 {
        delegate!(&self.phase, work())
    }

    fn status(&self) -> Status {
        match &self.phase {
            Phase::Header(awaited) => awaited.reader.status(),
            Phase::Inner { machine, rest } => {
                let status = machine.status();
                Status { queued: status.queued + rest.len(), ..status }
            }
        }
    }

    fn reason(&self) -> Option<Self::Reason> {
        match &self.phase {
            Phase::Header(awaited) => awaited.reader.reason().map(WithProxyHeaderReason::Header),
            Phase::Inner { machine, .. } => machine.reason().map(WithProxyHeaderReason::Inner),
        }
    }
}

impl<M: fmt::Debug, F> fmt::Debug for WithProxyHeader<M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.phase {
            Phase::Header(awaited) => {
                f.debug_tuple("WithProxyHeader").field(&awaited.reader).finish()
            }
            Phase::Inner { machine, .. } => {
                f.debug_tuple("WithProxyHeader").field(machine).finish()
            }
        }
    }
}
