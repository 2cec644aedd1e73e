//! Two machines that are connected to each other, without a network.

use std::{collections::VecDeque, task::Waker, time::Duration};

use rand::RngExt as _;
use wirestate_core::{Direction, Event, Instant, Machine, Outbound};

/// Two machines, and the bytes between them.
pub(crate) struct Pair<A, B> {
    pub(crate) a: A,
    pub(crate) b: B,
    /// From `a` to `b`, and back.
    pub(crate) pipes: [Pipe; 2],
    pub(crate) now: Instant,
    /// The most bytes of a read or a write.
    max: usize,
    /// The most bytes on the way in a direction.
    pub(crate) capacity: usize,
    rng: rand_xorshift::XorShiftRng,
}

/// Bytes on their way.
#[derive(Default)]
pub(crate) struct Pipe {
    pub(crate) bytes: VecDeque<u8>,
    /// The FIN after the bytes.
    pub(crate) fin: bool,
    pub(crate) reset: bool,
    /// All bytes that were sent.
    pub(crate) sent: Vec<u8>,
    /// A fault, once this many bytes were sent.
    pub(crate) fault: Option<(usize, Fault)>,
}

/// A fault on the way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The bits of this mask are inverted in the next byte.
    Flip(u8),
    /// A FIN instead of the rest.
    Fin,
    /// A reset instead of the rest.
    Reset,
    /// Nothing more arrives.
    Silence,
}

impl Pipe {
    fn send(&mut self, bytes: &[u8]) {
        let start = self.sent.len();
        self.sent.extend(bytes);
        let Some((at, fault)) = self.fault.filter(|(at, _)| *at < self.sent.len()) else {
            self.bytes.extend(bytes);
            return;
        };
        if let Fault::Flip(mask) = fault {
            let bytes = bytes.iter().zip(start..);
            self.bytes.extend(bytes.map(|(byte, i)| if i == at { byte ^ mask } else { *byte }));
            return;
        }
        self.bytes.extend(&bytes[..at.saturating_sub(start)]);
        self.fin |= matches!(fault, Fault::Fin);
        self.reset |= matches!(fault, Fault::Reset);
    }

    fn is_cut(&self) -> bool {
        let (at, fault) = self.fault.unwrap_or((usize::MAX, Fault::Silence));
        !matches!(fault, Fault::Flip(_)) && at < self.sent.len()
    }
}

impl<A: Machine, B: Machine> Pair<A, B> {
    /// Reads and writes have at most `max` bytes.
    pub(crate) fn new(a: A, b: B, max: usize, seed: u64) -> Self {
        let rng = rand::SeedableRng::seed_from_u64(seed);
        Self { a, b, pipes: Default::default(), now: Instant::EPOCH, max, capacity: 1 << 20, rng }
    }

    /// Moves bytes until nothing moves any more.
    pub(crate) fn settle(&mut self) {
        let mut calls = 0;
        while self.turn() {
            calls += 1;
            assert!(calls < 1_000_000, "the machines never settle");
        }
    }

    /// Moves bytes from `a` until none moves any more.
    pub(crate) fn settle_a(&mut self) {
        let Self { a, pipes: [to_b, to_a], now, max, capacity, .. } = self;
        while turn(a, to_a, to_b, *now, *capacity, &mut || *max) {}
    }

    /// Settles again and again, and passes the time in between, until both machines have ended.
    pub(crate) fn run(&mut self) -> (A::Reason, B::Reason) {
        match self.run_for(Duration::from_secs(3600)) {
            (Some(a), Some(b)) => (a, b),
            (_, _) => panic!("they never end: {:?} {:?}", self.a.interest(), self.b.interest()),
        }
    }

    /// As [`run`](Self::run), at most until `time` has passed, or no machine has a deadline.
    pub(crate) fn run_for(&mut self, time: Duration) -> (Option<A::Reason>, Option<B::Reason>) {
        let end = self.now + time;
        for _ in 0..1000 {
            self.settle();
            let is_done = self.a.interest().is_done() && self.b.interest().is_done();
            let deadlines = [self.a.poll_timeout(), self.b.poll_timeout()];
            let deadline = deadlines.into_iter().flatten().min();
            let Some(deadline) = deadline.filter(|at| !is_done && *at <= end) else {
                return (self.a.reason(), self.b.reason());
            };
            self.now = self.now.max(deadline);
            let unacknowledged = self.pipes.each_ref().map(|pipe| pipe.bytes.len());
            let [a, b] = unacknowledged.map(|unacknowledged| Event::Timeout { unacknowledged });
            self.a.handle(self.now, a);
            self.b.handle(self.now, b);
        }
        panic!("they never end: {:?} {:?}", self.a.interest(), self.b.interest());
    }

    fn turn(&mut self) -> bool {
        let Self { a, b, pipes: [to_b, to_a], now, max, capacity, rng } = self;
        let mut step = || rng.random_range(1..=*max);
        let moved_a = turn(a, to_a, to_b, *now, *capacity, &mut step);
        let moved_b = turn(b, to_b, to_a, *now, *capacity, &mut step);
        moved_a || moved_b
    }
}

fn turn<M: Machine>(
    machine: &mut M,
    from: &mut Pipe,
    to: &mut Pipe,
    now: Instant,
    capacity: usize,
    step: &mut impl FnMut() -> usize,
) -> bool {
    let mut moved = machine.poll_shared(now, &mut std::task::Context::from_waker(Waker::noop()));
    match machine.interest().write {
        Outbound::Flush if to.bytes.len() >= capacity => {}
        Outbound::Flush => {
            let mut bufs = [&[][..]; 64];
            let count = machine.write_bufs(&mut bufs);
            let bytes = bufs[..count].concat();
            let n = bytes.len().min(step()).min(capacity - to.bytes.len());
            to.send(&bytes[..n]);
            machine.handle(now, Event::Written(n));
            moved = true;
        }
        Outbound::Finish => {
            to.fin |= !to.is_cut();
            machine.handle(now, Event::Finished);
            moved = true;
        }
        Outbound::Reset => {
            to.reset |= !to.is_cut();
            machine.handle(now, Event::Finished);
            moved = true;
        }
        Outbound::Idle | Outbound::Finished => {}
    }
    // The driver resets a connection that has ended without a FIN.
    if machine.interest().is_done() && !to.fin && !to.is_cut() {
        moved |= !std::mem::replace(&mut to.reset, true);
    }
    if !machine.interest().read {
        return moved;
    }
    if from.reset {
        let error = wirestate_core::ConnectionError::Reset;
        machine.handle(now, Event::Error(Direction::Read, error));
        return true;
    }
    if from.bytes.is_empty() {
        if from.fin {
            machine.handle(now, Event::Eof);
        }
        return moved || from.fin;
    }
    let buf = machine.read_buf();
    let n = buf.len().min(from.bytes.len()).min(step());
    for (to, byte) in buf.iter_mut().zip(from.bytes.drain(..n)) {
        *to = byte;
    }
    machine.handle(now, Event::Read(n));
    machine.handle(now, Event::Release);
    true
}
