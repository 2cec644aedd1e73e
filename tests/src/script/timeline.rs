//! The page of a script that fails: a lane for each machine.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wirestate_core::{Event, Instant, Machine};
use wirestate_timeline::{Event as Shown, Lane, Payload, Timeline};

use crate::pages::{self, Run};

/// The events of the machines that are played together.
#[derive(Clone, Debug)]
pub(crate) struct Recording(Arc<Mutex<Played>>);

#[derive(Debug)]
struct Played {
    timeline: Timeline,
    machines: usize,
    now: Instant,
    /// The lane of the machine that is being called.
    playing: Option<Lane>,
}

impl Recording {
    fn new() -> Self {
        let played = Played {
            timeline: Timeline::new(pages::test_name("a script")),
            machines: 0,
            now: Instant::EPOCH,
            playing: None,
        };
        Self(Arc::new(Mutex::new(played)))
    }

    /// The recording of a machine that is played from now on: the one of the machines that are
    /// still played, or a new one. `None` if this thread writes no page.
    fn of_machine() -> Option<Self> {
        if let Some(Run::Script(recording)) = pages::last() {
            // One is the thread's, and one is this copy.
            if Arc::strong_count(&recording.0) > 2 && pages::are_on() {
                return Some(recording);
            }
        }
        let recording = pages::are_on().then(Self::new)?;
        pages::keep(Some(Run::Script(recording.clone())));
        Some(recording)
    }

    /// Its timeline, with what has failed. It is an event of the machine that was called, if one
    /// was.
    pub(crate) fn page(&self, failure: &str) -> Timeline {
        let played = self.played();
        let mut timeline = played.timeline.clone();
        timeline.add_fact("failure", failure);
        timeline.add_fact("ended at", played.now.to_string());
        if let Some(lane) = played.playing {
            let event = Shown::Error(format!("panicked: {failure}").into());
            timeline.push(played.now.since_epoch(), lane, event);
        }
        timeline
    }

    fn played(&self) -> MutexGuard<'_, Played> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records what happens to one machine, if this thread writes a page.
#[derive(Debug, Default)]
pub(super) struct Log(Option<Row>);

/// A lane of a recording, with what was last seen of its machine.
#[derive(Debug)]
struct Row {
    recording: Recording,
    lane: Lane,
    state: &'static str,
    deadline: Option<Instant>,
    has_reason: bool,
}

impl Log {
    /// The log of the next machine.
    pub(super) fn start() -> Self {
        let [log] = Self::rows("machine", [""]);
        log
    }

    /// The logs of the sides of the next machine, `name`.
    pub(super) fn rows<const N: usize>(name: &str, sides: [&str; N]) -> [Self; N] {
        let Some(recording) = Recording::of_machine() else { return sides.map(|_| Self(None)) };
        let mut played = recording.played();
        let name = format!("{name} {}", played.machines);
        played.machines += 1;
        let lanes = sides.map(|side| played.timeline.add_lane(&name, side));
        drop(played);
        lanes.map(|lane| {
            let recording = recording.clone();
            Self(Some(Row { recording, lane, state: "", deadline: None, has_reason: false }))
        })
    }

    /// Adds an event.
    pub(super) fn push(&self, now: Instant, event: impl FnOnce() -> Shown) {
        if let Some(row) = &self.0 {
            row.push(now, event());
        }
    }

    pub(super) fn note<T: Into<Cow<'static, str>>>(&self, now: Instant, note: impl FnOnce() -> T) {
        self.push(now, || Shown::Note(note().into()));
    }

    pub(super) fn received(&self, now: Instant, bytes: &[u8]) {
        self.push(now, || Shown::Received(Payload::new(bytes)));
    }

    pub(super) fn sent(&self, now: Instant, bytes: &[u8]) {
        self.push(now, || Shown::Sent(Payload::new(bytes)));
    }

    /// Adds an event that `machine` will handle, except those with bytes. `Finished` is the
    /// caller's, too.
    pub(super) fn handles<M: Machine>(&self, machine: &M, now: Instant, event: Event) {
        let Some(row) = &self.0 else { return };
        let shown = match event {
            Event::Read(_) | Event::Written(_) | Event::Finished => return,
            Event::Eof => Shown::Eof,
            Event::Error(direction, error) => {
                Shown::Error(format!("while {direction}: {error}").into())
            }
            Event::Timeout { .. } if machine.poll_timeout().is_some_and(|at| at <= now) => {
                Shown::Timeout
            }
            Event::Timeout { .. } => Shown::Note("a timeout before the deadline".into()),
            Event::ShutDown => Shown::ShutDown,
            Event::Release => Shown::Note("release".into()),
        };
        row.push(now, shown);
    }

    /// Marks whether the machine is being called: a panic is then its event.
    pub(super) fn set_playing(&self, now: Instant, is_playing: bool) {
        if let Some(row) = &self.0 {
            let mut played = row.recording.played();
            (played.now, played.playing) = (now, is_playing.then_some(row.lane));
        }
    }

    /// Adds what has changed of `machine`: its state, its deadline, and its reason.
    pub(super) fn observe<M: Machine>(&mut self, machine: &M, now: Instant) {
        let Some(row) = &mut self.0 else { return };
        let (state, deadline) = (machine.status().state, machine.poll_timeout());
        if !state.is_empty() && state != row.state {
            row.state = state;
            row.push(now, Shown::State(state.into()));
        }
        if deadline != row.deadline {
            row.deadline = deadline;
            row.push(now, Shown::Deadline(deadline.map(Instant::since_epoch)));
        }
        if let Some(reason) = machine.reason().filter(|_| !row.has_reason) {
            row.has_reason = true;
            row.push(now, Shown::Reason(reason.to_string().into()));
        }
    }
}

impl Row {
    fn push(&self, now: Instant, event: Shown) {
        let mut played = self.recording.played();
        played.now = now;
        played.timeline.push(now.since_epoch(), self.lane, event);
    }
}
