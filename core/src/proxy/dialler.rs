//! Dials the upstreams for one client, one after the other, within a timeout.

use std::{
    boxed::Box, future::Future, io, net::SocketAddr, pin::Pin, string::String, string::ToString,
    time::Duration, vec::Vec,
};

use super::{
    Config, DialError, Lookup, Proxy, Selection, Upstreams,
    loop_detection::{LoopDetector, SelfConnection, TrackedConnection},
    upstreams::NO_ADDRESS,
};
use crate::{
    Instant,
    admission::UpstreamConnection,
    drive::Clock,
    runtime::{AddressErrors, Runtime, no_answer, within},
    shared::Shared,
};

/// The attempts to connect one client to an upstream.
pub(super) struct Dialler<R> {
    runtime: R,
    pub(super) selection: Selection,
    config: Shared<Config>,
    /// The remaining part of [`Config::connect_timeout`].
    remaining: Option<Duration>,
    /// When the last dial began.
    began: Instant,
    loops: Option<LoopDetector>,
    /// The entry of the connection to the upstream in `loops`.
    tracked: Option<Box<TrackedConnection>>,
}

/// A running [`Dialler::dial`].
pub(super) type Dialling<R> =
    Pin<Box<dyn Future<Output = Result<(<R as Runtime>::Socket, Dialler<R>), DialError>> + Send>>;

impl<R> Dialler<R> {
    pub(super) fn new(runtime: R, proxy: &Proxy, loops: Option<LoopDetector>) -> Self {
        let config = proxy.relays().shared_config();
        let (selection, remaining) = (proxy.upstreams().select(), config.connect_timeout);
        let began = Instant::EPOCH;
        Self { runtime, selection, config, remaining, began, loops, tracked: None }
    }

    /// The upstream that is connected to.
    pub(super) fn upstream(&self) -> Option<UpstreamConnection> {
        let (endpoint, since) = self.selection.connected()?;
        let connect_time = since.since(self.began);
        Some(UpstreamConnection { endpoint: endpoint.clone(), connect_time })
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
        let mut clock = self.runtime.clock();
        let began = clock.now();
        self.began = began;
        let deadline = self.remaining.map(|remaining| began + remaining);
        let has_elapsed = |now| deadline.is_some_and(|deadline| now >= deadline);
        self.selection.upstreams().look_up_again(&self.runtime, &self.config, began);
        while !has_elapsed(clock.now()) {
            let Some(address) = self.selection.next_address(clock.now()) else {
                // The names whose addresses have failed may have others now.
                let Some(lookup) = self.selection.lookup_again(began) else { break };
                let limit = deadline.map(|deadline| deadline.since(clock.now()));
                let found = look_up(&self.runtime, &mut clock, lookup.name(), limit).await;
                lookup.finish(found, self.config.resolve_interval, clock.now());
                continue;
            };
            // Each attempt gets an equal share of the time. So an upstream that does not answer
            // leaves time for the others.
            let shares = u32::try_from(self.selection.remaining()).unwrap_or(u32::MAX);
            let shares = shares.saturating_add(1);
            let share = deadline.map(|deadline| deadline.since(clock.now()) / shares);
            if let Some(lookup) = self.selection.lookup() {
                let found = look_up(&self.runtime, &mut clock, lookup.name(), share).await;
                let (now, error) = (clock.now(), found.as_ref().err().cloned());
                lookup.finish(found, self.config.resolve_interval, now);
                if let Some(error) = error {
                    self.selection.handle_failure(error, now);
                }
                continue;
            }
            let name = self.selection.endpoint().map_or(&address, |endpoint| endpoint.upstream());
            let connect = self.runtime.connect_named(&address, name);
            let connected = within(&mut clock, share, connect).await;
            let connected = connected.unwrap_or_else(|limit| Err(no_answer(limit)));
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
        let timeout = self.config.connect_timeout.filter(|_| has_elapsed(clock.now()));
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

impl Upstreams {
    /// Looks up in the background the names whose addresses are old or have failed. Meanwhile the
    /// addresses that are known stay in use.
    fn look_up_again<R: Runtime>(&self, runtime: &R, config: &Shared<Config>, now: Instant) {
        while let Some(lookup) = self.poll_lookup(false, now) {
            let (looking_up, config) = (runtime.clone(), config.clone());
            // Without a thread for it, the next connection after a second tries again.
            let _ = runtime.spawn(async move { run_lookup(&looking_up, lookup, &config).await });
        }
    }
}

/// Looks up a name.
pub(super) async fn run_lookup<R: Runtime>(runtime: &R, lookup: Lookup, config: &Config) {
    let mut clock = runtime.clock();
    let found = look_up(runtime, &mut clock, lookup.name(), config.connect_timeout).await;
    lookup.finish(found, config.resolve_interval, clock.now());
}

async fn look_up<R: Runtime>(
    runtime: &R,
    clock: &mut R::Clock,
    name: &str,
    limit: Option<Duration>,
) -> Result<Vec<SocketAddr>, String> {
    let found = within(clock, limit, runtime.resolve(name)).await;
    match found.unwrap_or_else(|limit| Err(no_answer(limit))) {
        Ok(found) if found.is_empty() => Err(NO_ADDRESS.into()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether this process or machine has run out of memory or open files (socket(2)): `ENOMEM`,
/// `ENFILE`, `EMFILE`, `ENOBUFS`.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    matches!(AddressErrors::raw_os_error(error), Some(12 | 23 | 24 | 105))
}
