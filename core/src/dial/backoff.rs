//! The back-off: how long to wait before the next attempt to connect.

use core::time::Duration;

use crate::random;

/// Exponential back-off with full jitter: a random wait below a bound that doubles with every
/// attempt, from 50 ms to 5 s.
///
/// The jitter spreads the attempts of clients that have lost the same peer. The same seed gives the
/// same waits.
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
    /// A back-off whose first wait is below 50 ms.
    pub const fn new(seed: u64) -> Self {
        Self { random: seed, bound: MIN_BOUND }
    }

    /// How long to wait before the next attempt. Doubles the bound of the following wait.
    #[expect(clippy::should_implement_trait, reason = "it is no iterator: it has no end")]
    pub fn next(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(MAX_BOUND);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.random() % nanos)
    }

    /// Restarts the back-off at 50 ms.
    ///
    /// Call it when the peer has served a request. An accepted connection is not enough: a peer
    /// that accepts and closes would be dialled without pause.
    pub fn reset(&mut self) {
        self.bound = MIN_BOUND;
    }

    /// Handles the end of a connection that lasted for `duration`: at 10 s or more, the back-off
    /// restarts.
    ///
    /// Received data does not restart it, because a full server may send an error before it closes.
    pub fn handle_end(&mut self, duration: Duration) {
        if duration >= MIN_LASTING {
            self.reset();
        }
    }

    /// A random number below `n`, or 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.random() % (n.max(1) as u64)).unwrap_or(0)
    }

    fn random(&mut self) -> u64 {
        let number = random::nth(self.random, 0);
        self.random = self.random.wrapping_add(random::STEP);
        number
    }
}

const MIN_BOUND: Duration = Duration::from_millis(50);
const MAX_BOUND: Duration = Duration::from_secs(5);
/// A connection that lasts for this long restarts the back-off.
const MIN_LASTING: Duration = Duration::from_secs(10);
