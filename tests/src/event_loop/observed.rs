//! A machine whose end the scene sees.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    task::Context,
};

use bytes::Bytes;
use wirestate_core::{AnyReason, Event, Instant, Interest, Machine, Reason, Status};

use super::Protocol;

/// The connections of a loop, so far. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    ended: BTreeMap<&'static str, usize>,
}

impl Connections {
    /// How many machines were made and are not dropped.
    pub(super) fn open(&self) -> usize {
        self.with(|counts| counts.open)
    }

    /// How many machines were dropped with a reason of this label.
    pub(super) fn ended(&self, label: &str) -> usize {
        self.with(|counts| counts.ended.get(label).copied().unwrap_or(0))
    }

    /// All labels, with how many machines ended with each.
    pub(super) fn all_ended(&self) -> BTreeMap<&'static str, usize> {
        self.with(|counts| counts.ended.clone())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Counts) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A machine that counts as open until it is dropped.
pub(super) struct Observed {
    machine: Protocol,
    connections: Connections,
}

impl Observed {
    pub(super) fn new(machine: Protocol, connections: &Connections) -> Self {
        connections.with(|counts| counts.open += 1);
        Self { machine, connections: connections.clone() }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let label = self.machine.reason().map_or("dropped", |reason| reason.label());
        self.connections.with(|counts| {
            counts.open -= 1;
            *counts.ended.entry(label).or_default() += 1;
        });
    }
}

#[deny(clippy::missing_trait_methods, reason = "a default method would hide the machine's own")]
impl Machine for Observed {
    type Reason = AnyReason;

    fn interest(&self) -> Interest {
        self.machine.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.machine.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.machine.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.machine.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.machine.handle(now, event);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.machine.poll_shared(now, cx)
    }

    fn work(&self) -> u64 {
        self.machine.work()
    }

    fn status(&self) -> Status {
        self.machine.status()
    }

    fn reason(&self) -> Option<AnyReason> {
        self.machine.reason()
    }
}
