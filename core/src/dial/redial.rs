//! A connection that is dialled again when it has ended.

use std::{
    convert::Infallible,
    future::poll_fn,
    string::{String, ToString},
    time::Duration,
};

use tracing::{info, warn};

use super::Backoff;
use crate::{
    Event, Instant, Machine,
    config::with_setters,
    drive::{Clock, Drive},
    log_limit::{LogDecision, LogLimit},
    quantity::Time,
    runtime::{Runtime, connect_within},
    shared::Shared,
    shutdown::{Shutdown, ShutdownHandle},
};

/// A peer that is dialled again whenever the connection to it has ended.
///
/// ```no_run
/// use wirestate_core::{dial::{Backoff, Dial}, fanout::Client, runtime::Runtime};
///
/// # async fn example<R: Runtime>(runtime: R) {
/// let dial = Dial::new("10.0.0.1:1234", Backoff::new(7));
/// let mut failures = 0;
/// dial.keep_connected(&runtime, || failures += 1, |_now| Client::new()).await;
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dial {
    /// The peer's address, `HOST:PORT` or `unix:PATH`.
    pub address: String,
    /// How long one attempt may take. `None`: the operating system's limit. Default: 10 s.
    pub connect_timeout: Option<Duration>,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// Ends the connection gracefully, and stops dialling. Default: a new handle.
    pub shutdown: ShutdownHandle,
    /// The name of the server that dials, the field `server` of the log lines. Default: none.
    pub server: Option<Shared<str>>,
}

impl Dial {
    /// A peer that has not been dialled yet.
    pub fn new(address: impl Into<String>, backoff: Backoff) -> Self {
        Self {
            address: address.into(),
            connect_timeout: Some(Duration::from_secs(10)),
            backoff,
            shutdown: ShutdownHandle::new(),
            server: None,
        }
    }

    with_setters! {
        with_connect_timeout(connect_timeout: impl Into<Option<Duration>>);
        with_shutdown(shutdown: ShutdownHandle);
        with_server(server: Option<Shared<str>>);
    }

    /// Connects, runs a machine on the connection, and repeats that when it has ended, until
    /// [`shutdown`](Self::shutdown) is requested.
    ///
    /// The back-off restarts after a connection that has lasted for 10 s. The end of each
    /// connection and each failed attempt is logged, with the reason and the wait. `on_failure` is
    /// called for each failed attempt. `machine` makes the machine for each connection.
    pub async fn keep_connected<R, M>(
        mut self,
        runtime: &R,
        mut on_failure: impl FnMut(),
        mut machine: impl FnMut(Instant) -> M,
    ) where
        R: Runtime,
        M: Machine,
    {
        let mut clock = runtime.clock();
        let (mut connect_log, mut end_log) = (LogLimit::default(), LogLimit::default());
        loop {
            let connect = connect_within(runtime, &self.address, self.connect_timeout);
            let Some(connected) = self.shutdown.unless_requested(connect).await else { return };
            let outcome = match connected {
                Err(error) => {
                    on_failure();
                    format!("cannot connect: {error}")
                }
                Ok(socket) => {
                    let since = clock.now();
                    let decision = connect_log.check_unless_debugging(since);
                    if let LogDecision::Log { suppressed } = decision {
                        info!(
                            address = self.address,
                            suppressed,
                            server = self.server.as_deref(),
                            "connected"
                        );
                    }
                    let mut drive = Drive::new(machine(since), socket, runtime.clock());
                    let ended = poll_fn(|cx| {
                        let is_requested = self.shutdown.poll_requested(cx) >= Shutdown::Drain;
                        drive.poll_until(cx, |machine, now| {
                            if is_requested {
                                machine.handle(now, Event::ShutDown);
                            }
                            None::<Infallible>
                        })
                    });
                    let Err(ended) = ended.await;
                    self.backoff.handle_end(clock.now().since(since));
                    ended.to_string()
                }
            };
            if self.shutdown.requested() >= Shutdown::Drain {
                return;
            }
            let wait = self.backoff.next();
            let now = clock.now();
            if let LogDecision::Log { suppressed } = end_log.check_unless_debugging(now) {
                warn!(
                    address = self.address,
                    suppressed,
                    server = self.server.as_deref(),
                    "{outcome}; the next attempt is in {}",
                    Time(wait)
                );
            }
            let until = now + wait;
            let sleep = poll_fn(|cx| clock.poll_until(cx, until));
            if self.shutdown.unless_requested(sleep).await.is_none() {
                return;
            }
        }
    }
}
