//! Dials the upstreams for one client, one after the other, within a timeout.

use std::{boxed::Box, future::Future, io, pin::Pin, string::ToString, time::Duration};

use super::{
    DialError, Proxy, Selection,
    loop_detection::{LoopDetector, SelfConnection, TrackedConnection},
};
use crate::{
    drive::Clock,
    runtime::{AddressErrors, Runtime, connect_within},
};

/// The attempts to connect one client to an upstream.
pub(super) struct Dialler<R> {
    runtime: R,
    pub(super) selection: Selection,
    /// The time for all attempts together.
    timeout: Option<Duration>,
    /// The remaining part of `timeout`.
    remaining: Option<Duration>,
    loops: Option<LoopDetector>,
    /// The entry of the connection to the upstream in `loops`.
    tracked: Option<Box<TrackedConnection>>,
}

/// A running [`Dialler::dial`].
pub(super) type Dialling<R> =
    Pin<Box<dyn Future<Output = Result<(<R as Runtime>::Socket, Dialler<R>), DialError>> + Send>>;

impl<R> Dialler<R> {
    pub(super) fn new(runtime: R, proxy: &Proxy, loops: Option<LoopDetector>) -> Self {
        let timeout = proxy.relays().config().connect_timeout;
        let selection = proxy.upstreams().select();
        Self { runtime, selection, timeout, remaining: timeout, loops, tracked: None }
    }

    /// Whether another upstream can be tried, and there is time for it.
    pub(super) fn has_another(&self) -> bool {
        self.selection.remaining() > 0 && self.remaining != Some(Duration::ZERO)
    }
}

impl<R: Runtime> Dialler<R> {
    /// Tries one upstream after the other, within the remaining time. Returns the connection, and
    /// the dialler, which can dial again if the connection is lost.
    pub(super) async fn dial(mut self) -> Result<(R::Socket, Self), DialError> {
        self.tracked = None;
        let clock = self.runtime.clock();
        let deadline = self.remaining.map(|remaining| clock.now() + remaining);
        let has_elapsed = |now| deadline.is_some_and(|deadline| now >= deadline);
        while !has_elapsed(clock.now())
            && let Some(address) = self.selection.next_address(clock.now())
        {
            // Each attempt gets an equal share of the time. So an upstream that does not answer
            // leaves time for the others.
            let shares = u32::try_from(self.selection.remaining()).unwrap_or(u32::MAX);
            let shares = shares.saturating_add(1);
            let share = deadline.map(|deadline| deadline.since(clock.now()) / shares);
            let connected = connect_within(&self.runtime, &address, share).await;
            let now = clock.now();
            match connected {
                Ok(socket) => {
                    let Ok(tracked) = self.track(&socket) else {
                        self.selection.mark_as_self(now);
                        continue;
                    };
                    self.tracked = tracked;
                    self.selection.handle_connected(now);
                    self.remaining = deadline.map(|deadline| deadline.since(now));
                    return Ok((socket, self));
                }
                Err(error) if is_exhausted(&error) => {
                    self.selection.handle_local_failure(error.to_string());
                }
                Err(error) => self.selection.handle_failure(error.to_string(), now),
            }
        }
        let timeout = self.timeout.filter(|_| has_elapsed(clock.now()));
        Err(self.selection.into_error(timeout))
    }

    /// Tracks the new connection, and detects whether its upstream is the proxy itself.
    fn track(&self, socket: &R::Socket) -> Result<Option<Box<TrackedConnection>>, SelfConnection> {
        match (&self.loops, self.selection.current()) {
            (Some(loops), Some(upstream)) => loops.dialled(&self.runtime, upstream, socket),
            (None, _) | (_, None) => Ok(None),
        }
    }
}

/// Whether this process or machine has run out of memory or open files (socket(2)): `ENOMEM`,
/// `ENFILE`, `EMFILE`, `ENOBUFS`.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(AddressErrors::raw_os_error(error), Some(12 | 23 | 24 | 105))
}
