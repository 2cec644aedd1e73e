//! How a world runs its tasks and events.

use std::{panic::resume_unwind, sync::atomic::Ordering::Relaxed};

use wirestate_core::Instant;

use super::{Halted, World};
use crate::{
    failure::is_quiet,
    pages,
    sim::{
        Entry, TraceEvent,
        executor::{Polled, TaskInfo},
        report::lines,
    },
};

impl World {
    /// Runs until `ended`, or until no event is left that is due by `until`.
    pub(super) fn advance(
        &self,
        until: Option<Instant>,
        ended: impl Fn() -> bool,
    ) -> Result<(), Halted> {
        self.inner.reports.store(true, Relaxed);
        while !ended() {
            if let Some(progress) = &self.inner.progress {
                progress.step();
            }
            if self.step()? {
                continue;
            }
            let (now, event, alarm) = self.network(|network| network.next());
            let next = event.into_iter().chain(alarm).min();
            if until.is_some_and(|until| next.is_none_or(|next| next > until)) {
                return Ok(());
            }
            let Some(next) = next else {
                let unfinished = self.inner.executor.unfinished();
                let (tasks, last) = self.describe(&unfinished);
                return Err(Halted::Stalled { at: self.now(), tasks, last });
            };
            if next > now {
                self.inner.executor.advance();
                self.check_wake_ups(next, alarm == Some(next))?;
            }
            // If both are due at the same time, either may come first.
            let alarms_first =
                event != alarm || self.inner.order.with(|order| order.strikes("alarms_first", 500));
            self.network(|network| {
                if alarm == Some(next) && alarms_first {
                    network.fire_alarms(next);
                } else {
                    network.run_event();
                }
            });
        }
        Ok(())
    }

    /// Polls one of the woken tasks. False if there is none.
    fn step(&self) -> Result<bool, Halted> {
        let stopped = self.network(|network| network.stopped.clone());
        let choose = |count| self.inner.order.with(|order| order.up_to("task", count)) - 1;
        let Some(task) = self.inner.executor.take_woken(&stopped, choose) else { return Ok(false) };
        if self.inner.executor.count_poll(task) > MAX_POLLS {
            let (task, last) = self.describe(self.inner.executor.task(task).as_slice());
            return Err(Halted::Spinning { at: self.now(), task: task.concat(), last });
        }
        self.network(|network| network.count_poll(task));
        self.poll(task);
        Ok(true)
    }

    /// Polls the tasks that the next event, or the alarms if `alarms`, will wake at `next`.
    ///
    /// All tasks sleep and no time has passed, so such a poll must do nothing. A task that makes
    /// progress has missed a wake-up, which the event or the alarm would hide.
    fn check_wake_ups(&self, next: Instant, alarms: bool) -> Result<(), Halted> {
        let executor = &self.inner.executor;
        let stopped = self.network(|network| {
            network.wake_next(next, alarms);
            network.stopped.clone()
        });
        while let Some(task) = executor.take_woken(&stopped, |_| 0) {
            let before = executor.counts();
            let traced = self.network(|network| network.trace.entries().len());
            let ended = self.poll(task);
            let after = executor.counts();
            let did = self.network(|network| did(&network.trace.entries()[traced..]));
            if did.is_none() && before == after && ended.is_none() {
                continue;
            }
            let has_ended = ended.is_some();
            let Some(info) = ended.or_else(|| executor.task(task)) else { continue };
            let progress = if let Some(did) = did {
                did
            } else if after.0 > before.0 {
                "it spawned a task".to_owned()
            } else if has_ended {
                "it ended".to_owned()
            } else {
                "it woke a task".to_owned()
            };
            let (task, last) = self.describe(&[info]);
            let (at, seed) = self.network(|network| (network.now, network.seed));
            return Err(Halted::LostWakeUp { at, seed, task: task.concat(), progress, last });
        }
        Ok(())
    }

    /// Polls a task. Returns it if it has ended.
    fn poll(&self, task: u64) -> Option<TaskInfo> {
        self.network(|network| network.running = Some(task));
        let reports = self.inner.reports.swap(false, Relaxed);
        let ended = match self.inner.executor.poll(task) {
            None | Some(Polled::Pending) => None,
            Some(Polled::Ended(task)) => Some(task),
            Some(Polled::Panicked(task, panic)) => {
                if !self.network(|network| network.settings.catch_panics) {
                    let (name, last) = self.describe(std::slice::from_ref(&task));
                    pages::write_last();
                    self.report(&format!("{} has panicked", name.concat()), &last);
                    resume_unwind(panic);
                }
                self.network(|network| network.panics += 1);
                Some(task)
            }
        };
        self.inner.reports.store(reports, Relaxed);
        let is_watched = self.network(|network| {
            network.running = None;
            network.is_watched
        });
        if is_watched {
            self.call_watches();
        }
        ended
    }

    fn call_watches(&self) {
        self.inner.watches.with(|watches| {
            self.network(|network| {
                for end in std::mem::take(&mut network.changed) {
                    let record = &network.end(end).record;
                    for watch in watches.iter_mut() {
                        watch(record);
                    }
                }
            });
        });
    }

    /// The names of `tasks`, and the last events of their connections.
    pub(super) fn describe(&self, tasks: &[TaskInfo]) -> (Vec<String>, Vec<Entry>) {
        // The caller's error or panic has them.
        self.inner.reports.store(false, Relaxed);
        self.network(|network| {
            network.keep_page();
            let names = tasks.iter().map(|task| network.task_name(task)).collect();
            (names, network.last_events(tasks))
        })
    }

    pub(super) fn report(&self, what: &str, last: &[Entry]) {
        if is_quiet() {
            return;
        }
        let (now, seed) = self.network(|network| (network.now, network.seed));
        eprintln!("{what} at {now}, seed {seed}{}", lines(last));
    }
}

/// What a task has done with its sockets: the first event that is not a fault, or else the first
/// fault. An accept that was refused is no event of a socket.
fn did(traced: &[Entry]) -> Option<String> {
    let mut events =
        traced.iter().filter(|entry| entry.place.connection().is_some()).map(|entry| &entry.event);
    let is_done = |event: &&TraceEvent| !matches!(event, TraceEvent::Fault(..));
    let event = events.clone().find(is_done).or_else(|| events.next())?;
    Some(format!("it did {event:?}"))
}

/// A task that is polled more often without time passing is [`Halted::Spinning`]. A large transfer
/// without latency takes some hundreds of polls.
const MAX_POLLS: u32 = 10_000;
