//! The page of a recorded session.

use std::{
    collections::BTreeMap,
    panic::{self, AssertUnwindSafe},
};

use wirestate_core::{
    Event as MachineEvent, Instant, Status,
    proxy::{self, RelayFactory},
    record::{self, Difference, Ended, Recordable, Recording, Replay, Step, What},
};
use wirestate_timeline::{Event, Lane, Payload, Timeline};

use super::machine::Use;

/// Replays a recording, and draws what its machine does.
pub(super) struct Drawing<'a>(pub(super) &'a Recording<'a>);

/// The state and the deadline of a machine after each step, by the step's place in the recording.
type Observed = BTreeMap<usize, (&'static str, Option<Instant>)>;

impl Use for Drawing<'_> {
    type Output = (Timeline, Option<Difference>);

    fn machine<M: Recordable>(
        self,
        make: impl Fn() -> M,
        _: impl Fn() -> M,
        _: &str,
        _: &str,
    ) -> Self::Output {
        let (mut machine, mut observed) = (make(), Observed::new());
        let replay = record::replay_observed(&mut machine, self.0, observing(&mut observed));
        // After a panic, even its drop may panic.
        let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(machine)));
        (timeline(self.0, Some(&replay), &observed), replay.difference)
    }

    fn relay(self, relays: &RelayFactory) -> Self::Output {
        let mut relay = relays.relay(self.0.header().started_at);
        let mut observed = Observed::new();
        let result = proxy::replay_observed(&mut relay, self.0, observing(&mut observed));
        (timeline(self.0, Some(&result), &observed), result.difference)
    }
}

fn observing(observed: &mut Observed) -> impl FnMut(&Step<'_>, Status, Option<Instant>) {
    |step, status, deadline| {
        observed.insert(step.offset, (status.state, deadline));
    }
}

/// The page of a recording without payloads, which cannot be replayed.
pub(super) fn without_replay(recording: &Recording<'_>) -> Timeline {
    timeline(recording, None, &Observed::new())
}

fn timeline(recording: &Recording<'_>, replay: Option<&Replay>, observed: &Observed) -> Timeline {
    let header = recording.header();
    let field = |name| header.field(name).unwrap_or("-");
    let name = format!("{} {}", field("machine"), field("connection"));
    let mut timeline = Timeline::new(format!("{name} of {}", field("server")));
    timeline.add_fact("peer", field("peer"));
    timeline.add_fact("recorded on", field("runtime"));
    let words: Vec<_> = header.values("word").collect();
    timeline.add_fact("command", words.join(" "));
    let client = timeline.add_lane(&name, "client");
    let mut upstream = None;
    let (mut last_state, mut last_deadline) = ("", None);
    for step in recording.steps() {
        let lane = if step.side == 0 {
            client
        } else {
            *upstream.get_or_insert_with(|| timeline.add_lane(&name, "upstream"))
        };
        let at = step.at.since_epoch();
        timeline.push(at, lane, event(&step));
        let Some(&(state, deadline)) = observed.get(&step.offset) else { continue };
        if std::mem::replace(&mut last_state, state) != state {
            timeline.push(at, client, Event::State(state.into()));
        }
        if std::mem::replace(&mut last_deadline, deadline) != deadline {
            timeline.push(at, client, Event::Deadline(deadline.map(Instant::since_epoch)));
        }
    }
    add_end(&mut timeline, client, recording, replay);
    timeline
}

/// Adds how the session and its replay have ended.
fn add_end(
    timeline: &mut Timeline,
    client: Lane,
    recording: &Recording<'_>,
    replay: Option<&Replay>,
) {
    let last = recording.steps().last().map_or(recording.header().started_at, |step| step.at);
    let at = last.since_epoch();
    if let Some(difference) = replay.and_then(|replay| replay.difference.as_ref()) {
        let text = format!("the replay differs {difference}");
        timeline.push(difference.at.since_epoch(), client, Event::Error(text.into()));
    }
    if let Some(stop) = recording.stop() {
        timeline.push(at, client, Event::Note(format!("the recording stops: {stop}").into()));
    } else if let Some(end) = recording.end() {
        let event = match end.ended {
            Ended::Reason(_) => Event::Reason(end.label.to_owned().into()),
            Ended::Dropped => Event::Reason("aborted".into()),
            Ended::Panicked => Event::Error("the machine has panicked".into()),
        };
        timeline.push(at, client, event);
    }
}

fn event(step: &Step<'_>) -> Event {
    match step.what {
        What::Start => Event::Accepted,
        What::Received { bytes: Some(bytes), .. } => Event::Received(Payload::new(bytes)),
        What::Received { len, bytes: None } => Event::Received(Payload::cut(len as u64, &[])),
        What::Sent { len, .. } => Event::Sent(Payload::cut(len as u64, &[])),
        What::Finished { is_reset: false } => Event::Finished,
        What::Finished { is_reset: true } => Event::Reset,
        What::Event(MachineEvent::Eof) => Event::Eof,
        What::Event(MachineEvent::Error(direction, error)) => {
            Event::Error(format!("while {direction}: {error}").into())
        }
        What::Event(MachineEvent::Timeout { .. }) => Event::Timeout,
        What::Event(MachineEvent::ShutDown) => Event::ShutDown,
        What::Event(other) => Event::Note(format!("{other:?}").into()),
        What::Shared => Event::Shared,
        What::Note(note) => Event::Note(note.escape_ascii().to_string().into()),
    }
}
