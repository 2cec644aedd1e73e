//! Keeping a connection up: when to dial again.

use core::time::Duration;

/// How long to wait before the next attempt: a random time below a bound that doubles with every
/// attempt ("full jitter"), so that many who lost the same peer do not come back all at once.
///
/// The same seed gives the same times.
///
/// ```
/// # use wirestate_core::dial::Backoff;
/// # use std::time::Duration;
/// let mut backoff = Backoff::new(7);
/// let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
/// assert!(waits[0] < Duration::from_millis(50));
/// assert!(waits.iter().all(|wait| *wait < Duration::from_secs(5)));
/// assert!(waits.iter().any(|wait| *wait > Duration::from_secs(1)));
/// ```
#[derive(Clone, Debug)]
pub struct Backoff {
    random: u64,
    bound: Duration,
}

impl Backoff {
    /// Waits below 50 ms at first, below 5 s at last.
    pub const fn new(seed: u64) -> Self {
        Self { random: seed, bound: FIRST }
    }

    /// How long to wait now.
    #[expect(clippy::should_implement_trait, reason = "it is no iterator: it has no end")]
    pub fn next(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(LAST);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random() % nanos)
    }

    /// Begins anew. For when the peer has been of use, not for when it has merely accepted: one
    /// that accepts and drops would be dialled without pause.
    pub fn reset(&mut self) {
        self.bound = FIRST;
    }

    /// Records that a connection has ended after `lasted`. The back-off begins anew if that is at
    /// least 10 s. Data that was received on a shorter one makes no difference: a server that is
    /// full sends an error and closes.
    pub fn ended(&mut self, lasted: Duration) {
        if lasted >= LASTING {
            self.reset();
        }
    }

    /// `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(5);
/// After this time a connection resets the back-off.
const LASTING: Duration = Duration::from_secs(10);

#[cfg(feature = "std")]
pub use self::keep::Dial;

#[cfg(feature = "std")]
mod keep {
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
        drive::{Clock, Drive},
        log_limit::{LogDecision, LogLimit},
        runtime::{Runtime, connect_within},
        shutdown::{Shutdown, ShutdownHandle},
    };

    /// A peer that is dialled again whenever the connection to it has ended.
    #[derive(Clone, Debug)]
    pub struct Dial {
        /// Who: a `host:port`.
        pub address: String,
        /// How long one attempt may take; `None`: the operating system's own limit.
        pub connect_timeout: Option<Duration>,
        /// How long to wait between attempts.
        pub backoff: Backoff,
        /// Ends it: a connection that is open by asking its machine to shut down.
        pub shutdown: ShutdownHandle,
    }

    impl Dial {
        /// Connects, runs a machine on the connection, and does so again when that has ended, until
        /// it is stopped.
        ///
        /// The back-off begins anew when a connection has lasted for 10 s. Each connection's
        /// end and each attempt that fails is logged, with the reason and the wait; of the latter
        /// `failed` is told.
        pub async fn keep_connected<R, M>(
            mut self,
            runtime: &R,
            mut failed: impl FnMut(),
            mut machine: impl FnMut(Instant) -> M,
        ) where
            R: Runtime,
            M: Machine,
        {
            let mut clock = runtime.clock();
            let (mut connects, mut ends) = (LogLimit::default(), LogLimit::default());
            loop {
                let connect = connect_within(runtime, &self.address, self.connect_timeout);
                let Some(connected) = self.shutdown.unless_requested(connect).await else { return };
                let ended = match connected {
                    Err(error) => {
                        failed();
                        format!("cannot connect: {error}")
                    }
                    Ok(socket) => {
                        let since = clock.now();
                        let verdict = connects.check_unless_debugging(since);
                        if let LogDecision::Log { suppressed } = verdict {
                            info!(address = self.address, suppressed, "connected");
                        }
                        let mut drive = Drive::new(machine(since), socket, runtime.clock());
                        let ended = poll_fn(|cx| {
                            let stopped = self.shutdown.poll_requested(cx) > Shutdown::None;
                            drive.poll_until(cx, |machine, now| {
                                if stopped {
                                    machine.handle(now, Event::ShutDown);
                                }
                                None::<Infallible>
                            })
                        });
                        let Err(ended) = ended.await;
                        self.backoff.ended(clock.now().since(since));
                        ended.to_string()
                    }
                };
                if self.shutdown.requested() > Shutdown::None {
                    return;
                }
                let wait = self.backoff.next();
                let now = clock.now();
                if let LogDecision::Log { suppressed } = ends.check_unless_debugging(now) {
                    warn!(
                        address = self.address,
                        suppressed, "{ended}; the next attempt is in {wait:.0?}"
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
}
