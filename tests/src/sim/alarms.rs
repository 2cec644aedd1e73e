//! The alarms of all clocks.

use std::{collections::BTreeSet, task::Waker};

use slab::Slab;
use wirestate_core::Instant;

/// The alarms of all clocks. A clock has one alarm at most.
#[derive(Default)]
pub(super) struct Alarms {
    clocks: Slab<ClockEntry>,
    /// The alarms that will go off: the world's time, and the clock.
    due: BTreeSet<(Instant, usize)>,
}

struct ClockEntry {
    host: usize,
    alarm: Option<Alarm>,
}

struct Alarm {
    /// In the time of the host's clock.
    deadline: Instant,
    /// In the world's time. `None` while it cannot go off.
    due: Option<Instant>,
    waker: Waker,
}

impl Alarms {
    /// Adds a clock of a host, and returns its id.
    pub(super) fn add_clock(&mut self, host: usize) -> usize {
        self.clocks.insert(ClockEntry { host, alarm: None })
    }

    pub(super) fn remove_clock(&mut self, clock: usize) {
        self.clear(clock);
        self.clocks.remove(clock);
    }

    /// Sets a clock's alarm. `due` is the deadline in the world's time.
    pub(super) fn set(
        &mut self,
        clock: usize,
        deadline: Instant,
        due: Option<Instant>,
        waker: &Waker,
    ) {
        match &mut self.clocks[clock].alarm {
            Some(alarm) if alarm.deadline == deadline && alarm.due == due => {
                alarm.waker.clone_from(waker);
            }
            Some(_) | None => {
                self.clear(clock);
                self.clocks[clock].alarm = Some(Alarm { deadline, due, waker: waker.clone() });
                self.due.extend(due.map(|due| (due, clock)));
            }
        }
    }

    pub(super) fn clear(&mut self, clock: usize) {
        if let Some(due) = self.clocks[clock].alarm.take().and_then(|alarm| alarm.due) {
            self.due.remove(&(due, clock));
        }
    }

    /// When the next alarm goes off.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Wakes the tasks of the alarms that go off at `at` at the latest, but keeps the alarms.
    pub(super) fn wake(&self, at: Instant) {
        for (_, clock) in self.due.range(..=(at, usize::MAX)) {
            if let Some(alarm) = &self.clocks[*clock].alarm {
                alarm.waker.wake_by_ref();
            }
        }
    }

    /// Takes the next alarm that is due at `now`, and returns its waker.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Waker> {
        let (_, clock) = *self.due.first().filter(|(due, _)| *due <= now)?;
        self.due.pop_first();
        self.clocks[clock].alarm.take().map(|alarm| alarm.waker)
    }

    /// Calculates again when the alarms of a host go off, after its clock has changed. `due` gets
    /// their deadlines.
    pub(super) fn reschedule(&mut self, host: usize, due: impl Fn(Instant) -> Option<Instant>) {
        for (clock, entry) in &mut self.clocks {
            let Some(alarm) = entry.alarm.as_mut().filter(|_| entry.host == host) else { continue };
            if let Some(due) = std::mem::replace(&mut alarm.due, due(alarm.deadline)) {
                self.due.remove(&(due, clock));
            }
            self.due.extend(alarm.due.map(|due| (due, clock)));
        }
    }

    /// How many alarms are set.
    pub(super) fn len(&self) -> usize {
        self.clocks.iter().filter(|(_, clock)| clock.alarm.is_some()).count()
    }
}
