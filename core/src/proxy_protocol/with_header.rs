//! A machine behind a header.

use alloc::{boxed::Box, vec::Vec};
use core::{fmt, task::Context};

use bytes::Bytes;

use super::{Config, Header, HeaderReader, ProxyHeaderReason};
use crate::{
    Event, Fault, Instant, Interest, Machine, Status,
    admission::{Peer, Refused},
    drive,
};

/// A machine that begins behind a PROXY header, and then is the one that `make` made of what the
/// header says.
///
/// What came with the header is fed to the machine as it takes it; until then nothing further is
/// read. Besides the machine it holds what [`HeaderReader`] does, and nothing once that is done.
///
/// ```
/// use wirestate_core::{Instant, Machine, admission::Peer, drive, echo};
/// use wirestate_core::proxy_protocol::{WithProxyHeader, Config, Header};
///
/// let (now, proxy) = (Instant::EPOCH, Peer::Ip("127.0.0.1:4000".parse()?));
/// let server = echo::Server::default();
/// let mut behind = WithProxyHeader::new(&Config::default(), proxy, now, |header, _length, now| {
///     let Header::Tcp { source, .. } = header else { panic!("it names a client") };
///     assert_eq!(source.to_string(), "192.0.2.7:50000");
///     Ok(server.machine(now))
/// });
///
/// let mut output = [0; 64];
/// let mut input = &b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 7\r\nhello"[..];
/// drive::deliver(&mut behind, &mut input, now);
/// let n = drive::collect_into(&mut behind, &mut output, now);
/// assert_eq!(&output[..n], b"hello");
/// # Ok::<(), core::net::AddrParseError>(())
/// ```
pub struct WithProxyHeader<M, F> {
    phase: Phase<M, F>,
}

enum Phase<M, F> {
    Header(Box<Awaited<F>>),
    Inner {
        machine: M,
        /// What came with the header, as far as the machine has not taken it.
        rest: Vec<u8>,
    },
}

struct Awaited<F> {
    reader: HeaderReader,
    /// Taken when there is a header.
    make: Option<F>,
}

/// Why a machine behind a header ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WithProxyHeaderReason<R> {
    /// Because of the header.
    #[error(transparent)]
    Header(ProxyHeaderReason),
    /// For a reason of its own.
    #[error("{0}")]
    Inner(R),
}

impl<R: crate::Reason> crate::Reason for WithProxyHeaderReason<R> {
    fn label(&self) -> &'static str {
        match self {
            Self::Header(reason) => reason.label(),
            Self::Inner(reason) => reason.label(),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Header(reason) => reason.fault(),
            Self::Inner(reason) => reason.fault(),
        }
    }
}

impl<M, F> WithProxyHeader<M, F>
where
    M: Machine,
    F: FnOnce(Header, usize, Instant) -> Result<M, Refused>,
{
    /// Awaits a header from `peer`, which connected at `now`. `make` gets the header and its length
    /// in bytes; it may refuse the client that the header names, which resets the connection.
    pub fn new(config: &Config, peer: Peer, now: Instant, make: F) -> Self {
        let reader = HeaderReader::new(config, peer, now);
        Self { phase: Phase::Header(Box::new(Awaited { reader, make: Some(make) })) }
    }

    /// The machine, once there was a header.
    pub fn inner(&self) -> Option<&M> {
        if let Phase::Inner { machine, .. } = &self.phase { Some(machine) } else { None }
    }

    /// Goes on to the machine when there is a header, and feeds it what it will take: true if that
    /// was something.
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
        let mut left = &rest[..];
        drive::deliver(machine, &mut left, now);
        let taken = rest.len() - left.len();
        rest.drain(..taken);
        if rest.is_empty() {
            *rest = Vec::new();
        }
        true
    }
}

/// Calls a method of the machine of this phase.
macro_rules! delegate {
    ($phase:expr, $method:ident($($argument:expr),*)) => {
        match $phase {
            Phase::Header(awaited) => awaited.reader.$method($($argument),*),
            Phase::Inner { machine, .. } => machine.$method($($argument),*),
        }
    };
}

#[deny(clippy::missing_trait_methods, reason = "what is not forwarded never happens")]
impl<M, F> Machine for WithProxyHeader<M, F>
where
    M: Machine,
    F: FnOnce(Header, usize, Instant) -> Result<M, Refused>,
{
    type Reason = WithProxyHeaderReason<M::Reason>;

    fn interest(&self) -> Interest {
        // What is left over was received first: then the machine does not read.
        delegate!(&self.phase, interest())
    }

    fn read_buf(&mut self) -> &mut [u8] {
        delegate!(&mut self.phase, read_buf())
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        delegate!(&self.phase, write_bufs(out))
    }

    fn write_owned(&self, out: &mut [Bytes], most: usize) -> usize {
        delegate!(&self.phase, write_owned(out, most))
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
        let news = delegate!(&mut self.phase, poll_shared(now, cx));
        self.pump(now) || news
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
            Phase::Header(awaited) => f.debug_tuple("Behind").field(&awaited.reader).finish(),
            Phase::Inner { machine, .. } => f.debug_tuple("Behind").field(machine).finish(),
        }
    }
}
