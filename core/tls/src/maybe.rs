//! A machine with or without TLS.

use core::task::Context;

use bytes::Bytes;
use wirestate_core::{Event, Instant, Interest, Machine, Status};

use crate::{Tls, TlsReason};

/// A machine with or without TLS, for a program in which TLS is a setting.
#[derive(Debug)]
pub enum MaybeTls<M: Machine> {
    /// Without TLS.
    Plain(M),
    /// With TLS.
    Tls(Box<Tls<M>>),
}

impl<M: Machine> MaybeTls<M> {
    /// The inner machine.
    pub fn inner(&self) -> &M {
        match self {
            Self::Plain(inner) => inner,
            Self::Tls(tls) => tls.inner(),
        }
    }

    /// The inner machine, for calls beyond the contract: poll the driver afterwards.
    pub fn inner_mut(&mut self) -> &mut M {
        match self {
            Self::Plain(inner) => inner,
            Self::Tls(tls) => tls.inner_mut(),
        }
    }
}

/// Calls a method of the machine with or without TLS.
macro_rules! delegate {
    ($self:expr, $method:ident($($argument:expr),*)) => {
        match $self {
            Self::Plain(machine) => machine.$method($($argument),*),
            Self::Tls(machine) => machine.$method($($argument),*),
        }
    };
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl<M: Machine> Machine for MaybeTls<M> {
    type Reason = TlsReason<M::Reason>;

    fn interest(&self) -> Interest {
        delegate!(self, interest())
    }

    fn read_buf(&mut self) -> &mut [u8] {
        delegate!(self, read_buf())
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        delegate!(self, write_bufs(out))
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        delegate!(self, write_owned(out, max))
    }

    fn handle(&mut self, now: Instant, event: Event) {
        delegate!(self, handle(now, event));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        delegate!(self, poll_timeout())
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        delegate!(self, poll_shared(now, cx))
    }

    fn work(&self) -> u64 {
        delegate!(self, work())
    }

    fn status(&self) -> Status {
        delegate!(self, status())
    }

    fn reason(&self) -> Option<Self::Reason> {
        match self {
            Self::Plain(machine) => machine.reason().map(TlsReason::Inner),
            Self::Tls(tls) => tls.reason(),
        }
    }
}
