//! The page of a recorded session.

use std::borrow::Cow;

use wirestate_core::{
    Event as MachineEvent, Instant,
    proxy::{self, RelayCall, RelayFactory},
    record::{Difference, Ended, Observed, Recordable, Recording, Replay, Step, What},
};
use wirestate_timeline::{Event, Lane, Payload, Timeline};

use super::{
    machine::{Maker, Use},
    recorded_end, replayed, verdict, words,
};

/// Replays a recording, and draws what its machine does.
pub(super) struct Drawing<'a> {
    pub(super) recording: &'a Recording<'a>,
    /// Whether the file is cut or wrong behind it.
    pub(super) has_mistake: bool,
}

/// What the replay shows of a step that is the same.
struct Shown {
    state: &'static str,
    deadline: Option<Instant>,
    /// The first bytes of what was sent.
    sent: Box<[u8]>,
}

impl Use for Drawing<'_> {
    type Output = (Timeline, Option<Difference>);

    fn machine<M: Recordable>(self, maker: Maker<impl Fn() -> M, impl Fn() -> M>) -> Self::Output {
        let mut shown = Vec::new();
        let replay = replayed((maker.make)(), self.recording, observing(&mut shown));
        self.draw(replay, &shown)
    }

    fn relay(self, relays: &RelayFactory, _: &str) -> Self::Output {
        let mut relay = relays.relay(self.recording.header().started_at);
        let mut shown = Vec::new();
        let result = proxy::replay_observed(&mut relay, self.recording, observing(&mut shown));
        self.draw(result, &shown)
    }
}

impl Drawing<'_> {
    fn draw(&self, replay: Replay, shown: &[Shown]) -> (Timeline, Option<Difference>) {
        let replayed = match &replay.difference {
            Some(difference) => format!("it differs {difference}"),
            None => verdict(self.recording, &replay, self.has_mistake).to_owned(),
        };
        let page = timeline(self.recording, replay.difference.as_ref(), replayed, shown);
        (page, replay.difference)
    }
}

fn observing(shown: &mut Vec<Shown>) -> impl FnMut(&Step<'_>, Observed<'_>) {
    |_, Observed { status, deadline, sent }| {
        let sent = sent[..sent.len().min(Payload::MAX_EXCERPT)].into();
        shown.push(Shown { state: status.state, deadline, sent });
    }
}

/// The page of a recording without payloads, which cannot be replayed.
pub(super) fn without_replay(recording: &Recording<'_>) -> Timeline {
    timeline(recording, None, "not: it has no payloads".to_owned(), &[])
}

fn timeline(
    recording: &Recording<'_>,
    difference: Option<&Difference>,
    replayed: String,
    shown: &[Shown],
) -> Timeline {
    let header = recording.header();
    let field = |name| header.field(name).unwrap_or("-");
    let name = format!("{} {}", field("machine"), field("connection"));
    let mut timeline = Timeline::new(format!("{name} of {}", field("server")));
    timeline.add_fact("ended", recorded_end(recording));
    timeline.add_fact("replayed", replayed);
    timeline.add_fact("peer", field("peer"));
    timeline.add_fact("recorded on", field("runtime"));
    let words: Vec<_> = header.values("word").collect();
    timeline.add_fact("command", words.join(" "));
    let has_seed = words.iter().any(|word| word.starts_with("--seed"));
    if let Some(seed) = header.field("seed").filter(|_| !has_seed) {
        timeline.add_fact("seed of the faults", seed);
    }
    let client = if field("machine") == "upstream" { "source" } else { "client" };
    let client = timeline.add_lane(&name, client);
    let mut upstream = None;
    let (mut last_state, mut last_deadline) = ("", None);
    for (index, step) in recording.steps().enumerate() {
        let at = step.at.since_epoch();
        let shown = shown.get(index);
        let outside = words::of_outside(field("machine"), &step);
        let (is_of_upstream, event) = event(&step, shown);
        let lane = if is_of_upstream {
            *upstream.get_or_insert_with(|| timeline.add_lane(&name, "upstream"))
        } else {
            client
        };
        // The words say that shared state has changed.
        if outside.is_none() || step.what != What::Shared {
            timeline.push(at, lane, event);
        }
        if let Some(outside) = outside {
            timeline.push(at, client, Event::Note(outside.into()));
        }
        let Some(&Shown { state, deadline, .. }) = shown else { continue };
        if std::mem::replace(&mut last_state, state) != state {
            timeline.push(at, client, Event::State(state.into()));
        }
        if std::mem::replace(&mut last_deadline, deadline) != deadline {
            timeline.push(at, client, Event::Deadline(deadline.map(Instant::since_epoch)));
        }
    }
    add_end(&mut timeline, client, recording, difference);
    timeline
}

/// Adds how the session and its replay have ended.
fn add_end(
    timeline: &mut Timeline,
    client: Lane,
    recording: &Recording<'_>,
    difference: Option<&Difference>,
) {
    let last = recording.steps().last().map_or(recording.header().started_at, |step| step.at);
    let at = last.since_epoch();
    if let Some(difference) = difference {
        let text = format!("the replay differs {difference}");
        timeline.push(difference.at.since_epoch(), client, Event::Error(text.into()));
    }
    let text = Cow::from(recorded_end(recording));
    let event = match recording.end().filter(|_| recording.stop().is_none()) {
        Some(end) if end.ended == Ended::Panicked => Event::Error(text),
        Some(_) => Event::Reason(text),
        None => Event::Note(text),
    };
    timeline.push(at, client, event);
}

/// The event of a step, and whether it is in the lane of the upstream.
fn event(step: &Step<'_>, shown: Option<&Shown>) -> (bool, Event) {
    let mut is_of_upstream = step.side == 1;
    let event = match step.what {
        What::Start => Event::Accepted,
        What::Received { bytes: Some(bytes), .. } => Event::Received(Payload::new(bytes)),
        What::Received { len, bytes: None } => Event::Received(Payload::cut(len as u64, &[])),
        What::Sent { len, .. } => {
            Event::Sent(Payload::cut(len as u64, shown.map_or(&[], |shown| &shown.sent)))
        }
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
        What::Note(note) => match RelayCall::decode(note) {
            Some(RelayCall::Timeout { .. }) => Event::Timeout,
            Some(RelayCall::ShutDown) => Event::ShutDown,
            Some(RelayCall::InjectReset { to, .. }) => {
                is_of_upstream = to == proxy::Side::Upstream;
                Event::Fault(words::of_note(note).into())
            }
            Some(RelayCall::Fault { to, text }) => {
                is_of_upstream = to == proxy::Side::Upstream;
                Event::Fault(text.to_owned().into())
            }
            call => {
                is_of_upstream =
                    matches!(call, Some(RelayCall::Header(_) | RelayCall::Connected { .. }));
                Event::Note(words::of_note(note).into())
            }
        },
    };
    (is_of_upstream, event)
}
