//! A machine whose waker must have been woken when what it shares has moved.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Wake, Waker},
};

use bytes::Bytes;
use wirestate_core::{Event, Instant, Interest, Machine, Status};

/// A waker that remembers.
#[derive(Debug, Default)]
pub(super) struct Woken(AtomicBool);

impl Woken {
    /// Whether it was woken since the last time.
    pub(super) fn take(&self) -> bool {
        self.0.swap(false, SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

/// Polls a machine as a driver does that sleeps until it is woken: where it says that there is
/// nothing new, there may be something new later only if it was called, or its waker was woken.
#[derive(Debug)]
pub(super) struct Wakeful<M> {
    machine: M,
    woken: Arc<Woken>,
    /// It has found nothing new, and was not called since.
    asleep: bool,
}

impl<M> Wakeful<M> {
    pub(super) fn new(machine: M) -> Self {
        Self { machine, woken: Arc::default(), asleep: false }
    }

    /// The machine, to be called.
    pub(super) fn machine_mut(&mut self) -> &mut M {
        self.asleep = false;
        &mut self.machine
    }
}

#[deny(clippy::missing_trait_methods, reason = "what is not forwarded never happens")]
impl<M: Machine> Machine for Wakeful<M> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.machine.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.machine.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.machine.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], most: usize) -> usize {
        self.machine.write_owned(out, most)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.asleep &= event == Event::Release;
        self.machine.handle(now, event);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, _cx: &mut Context<'_>) -> bool {
        let woken = self.woken.take();
        let waker = Waker::from(self.woken.clone());
        let news = self.machine.poll_shared(now, &mut Context::from_waker(&waker));
        assert!(!news || woken || !self.asleep, "there is something new, and nobody was woken");
        self.asleep = !news;
        news
    }

    fn work(&self) -> u64 {
        self.machine.work()
    }

    fn status(&self) -> Status {
        self.machine.status()
    }

    fn reason(&self) -> Option<M::Reason> {
        self.machine.reason()
    }
}
