//! The buckets that limit the bytes of a connection.

use alloc::collections::BTreeMap;
use core::{num::NonZeroU64, sync::atomic::Ordering::Relaxed, time::Duration};

use super::rates::{ByteRates, Rates, cost};
use crate::{
    Direction, Instant,
    shared::{AtomicU64, Lock, Shared},
    token_bucket::TokenBucket,
};

/// The limits of one connection's bytes: its own, and those that it shares with others.
///
/// The driver asks for the [`allowance`](Self::allowance) before it reads or writes, and
/// [`charge`](Self::charge)s what has moved.
#[derive(Debug)]
pub(crate) struct Throttle {
    own: Buckets,
    all: Shared<Buckets>,
    /// `None` until the peer's address is known, and for one without limits.
    address: Lock<Option<Shared<Buckets>>>,
    waits: Shared<Waits>,
}

/// How often bytes of a table's connections have waited for a rate.
#[derive(Debug, Default)]
pub(super) struct Waits {
    receive: AtomicU64,
    send: AtomicU64,
}

/// The buckets of the bytes that are received, and of those that are sent.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    receive: Option<Bucket>,
    send: Option<Bucket>,
}

/// The bytes of one direction, at a rate.
#[derive(Debug)]
struct Bucket {
    rate: NonZeroU64,
    /// The part of a second whose bytes are allowed in one read or write.
    chunk: Duration,
    state: Lock<State>,
}

#[derive(Debug, Default)]
struct State {
    bucket: TokenBucket,
    /// When the last of the connections that wait for this bucket tries again.
    last_retry: Instant,
}

impl Throttle {
    /// The limits of a new connection.
    pub(super) fn new(rates: &Rates, all: Shared<Buckets>, waits: Shared<Waits>) -> Self {
        let own = Buckets::new(rates, |rates| rates.per_connection, CHUNK);
        Self { own, all, address: Lock::new(None), waits }
    }

    pub(super) fn set_address(&self, address: Option<Shared<Buckets>>) {
        self.address.with(|current| *current = address);
    }

    /// The most bytes that may move now, at least 1.
    ///
    /// # Errors
    /// None may. The driver tries again at that time, at most about 1 s later.
    pub(crate) fn allowance(&self, direction: Direction, now: Instant) -> Result<usize, Instant> {
        let (mut allowed, mut retry) = (usize::MAX, None);
        self.each(direction, |bucket| match bucket.allowance(now) {
            Ok(bytes) => allowed = allowed.min(bytes),
            Err(at) => retry = retry.max(Some(at)),
        });
        let Some(retry) = retry else { return Ok(allowed) };
        self.waits.of(direction).fetch_add(1, Relaxed);
        Err(retry)
    }

    /// Records that `bytes` have moved.
    pub(crate) fn charge(&self, direction: Direction, bytes: usize, now: Instant) {
        self.each(direction, |bucket| bucket.charge(bytes, now));
    }

    fn each(&self, direction: Direction, mut f: impl FnMut(&Bucket)) {
        self.own.of(direction).into_iter().for_each(&mut f);
        self.all.of(direction).into_iter().for_each(&mut f);
        self.address.with(|address| {
            let bucket = address.as_ref().and_then(|address| address.of(direction));
            bucket.into_iter().for_each(f);
        });
    }
}

impl Waits {
    fn of(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Read => &self.receive,
            Direction::Write => &self.send,
        }
    }

    /// For [`Totals::rate_waits`](super::Totals::rate_waits).
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counts = [("receive", &self.receive), ("send", &self.send)];
        let counts = counts.map(|(direction, count)| (direction, count.load(Relaxed)));
        counts.into_iter().filter(|&(_, count)| count > 0).collect()
    }
}

impl Buckets {
    /// The buckets of all connections together.
    pub(super) fn of_all(rates: &Rates) -> Self {
        // Many connections take turns.
        Self::new(rates, |rates| rates.all, CHUNK / 4)
    }

    /// The buckets of one address; `None` if its bytes have no limit.
    pub(super) fn of_address(rates: &Rates) -> Option<Self> {
        let buckets = Self::new(rates, |rates| rates.per_address, CHUNK);
        (buckets.receive.is_some() || buckets.send.is_some()).then_some(buckets)
    }

    fn new(rates: &Rates, rate: fn(&ByteRates) -> Option<NonZeroU64>, chunk: Duration) -> Self {
        let bucket = |rates| rate(rates).map(|rate| Bucket { rate, chunk, state: Lock::default() });
        Self { receive: bucket(&rates.receive), send: bucket(&rates.send) }
    }

    fn of(&self, direction: Direction) -> Option<&Bucket> {
        match direction {
            Direction::Read => self.receive.as_ref(),
            Direction::Write => self.send.as_ref(),
        }
    }

    /// Whether all buckets are full, as new ones are: no byte has moved for a while.
    pub(super) fn are_full(&self, now: Instant) -> bool {
        let is_full = |bucket: &Bucket| bucket.state.with(|state| state.bucket.is_full(now));
        self.receive.iter().chain(&self.send).all(is_full)
    }
}

impl Bucket {
    fn allowance(&self, now: Instant) -> Result<usize, Instant> {
        self.state.with(|state| {
            let wait = state.bucket.wait(self.chunk, BURST, now);
            if wait.is_zero() {
                let bytes = u128::from(self.rate.get()) * self.chunk.as_nanos() / 1_000_000_000;
                return Ok(usize::try_from(bytes).unwrap_or(usize::MAX).max(1));
            }
            // Each that waits tries again when another chunk is regained. If all tried when the
            // first one is, one would succeed, and the others would have been woken for nothing.
            // Retries are spread over 1 s at most, so those of connections that have ended since
            // do not make others wait.
            let first = now + wait;
            let next = first.max(state.last_retry + self.chunk);
            state.last_retry = if next > first + MAX_SPREAD { first } else { next };
            Err(state.last_retry)
        })
    }

    fn charge(&self, bytes: usize, now: Instant) {
        self.state.with(|state| state.bucket.borrow(cost(bytes as u64, self.rate), now));
    }
}

/// The part of a second whose bytes may move at once.
const BURST: Duration = Duration::from_millis(250);
/// The part of a second whose bytes are allowed in one read or write, for one connection alone.
const CHUNK: Duration = Duration::from_nanos(62_500_000);
/// How far the retries of the connections that wait for one bucket are spread.
const MAX_SPREAD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn rate(rate: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(rate)
    }

    fn at(millis: u64) -> Instant {
        Instant::from_epoch(Duration::from_millis(millis))
    }

    /// Moves as many bytes as possible until `end`, of connections that always have some. Returns
    /// the bytes of each, and how often one has asked.
    fn run(throttles: &[Throttle], end: Instant) -> (Vec<usize>, usize) {
        let mut moved: Vec<_> = throttles.iter().map(|_| 0).collect();
        let mut due: Vec<_> = throttles.iter().map(|_| at(0)).collect();
        let mut asked = 0;
        loop {
            let (next, now) = due.iter().copied().enumerate().min_by_key(|&(_, at)| at).unwrap();
            if now >= end {
                return (moved, asked);
            }
            asked += 1;
            match throttles[next].allowance(Direction::Read, now) {
                Ok(bytes) => {
                    throttles[next].charge(Direction::Read, bytes, now);
                    moved[next] += bytes;
                }
                Err(retry) => {
                    assert!(retry > now && retry.since(now) < Duration::from_secs(2));
                    due[next] = retry;
                }
            }
        }
    }

    #[test]
    fn a_connection_moves_a_burst_and_then_its_rate() {
        for per_connection in [1, 100, 1024, 1 << 20, 1 << 40] {
            let receive = ByteRates::default().with_per_connection(rate(per_connection));
            let rates = Rates::default().with_receive(receive);
            let throttle =
                [Throttle::new(&rates, Shared::new(Buckets::of_all(&rates)), Shared::default())];
            let (moved, asked) = run(&throttle, at(10_000));
            let moved = 10 * moved[0] as u64 / per_connection;
            assert!((90..=113).contains(&moved), "{moved} tenths of a second at {per_connection}");
            assert!(asked < 500, "{asked}");
            assert_eq!(throttle[0].allowance(Direction::Write, at(0)), Ok(usize::MAX));
        }
    }

    #[test]
    fn connections_share_a_rate_fairly_and_are_not_woken_in_vain() {
        let rates = Rates::default().with_receive(ByteRates::default().with_all(rate(1 << 20)));
        for connections in [2, 10, 64] {
            let all = Shared::new(Buckets::of_all(&rates));
            let new = |_| Throttle::new(&rates, all.clone(), Shared::default());
            let (moved, asked) = run(&(0..connections).map(new).collect::<Vec<_>>(), at(20_000));
            let all: usize = moved.iter().sum();
            assert!((19 << 20..=21 << 20).contains(&all), "{all}");
            let fair = all / connections;
            for bytes in moved {
                assert!((fair / 2..=fair * 2).contains(&bytes), "{bytes} of {fair}");
            }
            assert!(asked < 64 * 20 * 3, "{asked}");
        }
    }
}
