//! A trace as a timeline, for a page that shows it.

use std::collections::BTreeMap;

use wirestate_timeline::{Event, Payload, Timeline};

use super::{Excerpt, Place, Trace, TraceEvent, network::Network, trace::setting};
use crate::pages;

impl Trace {
    /// The events as a [`Timeline`] with a lane for each end of each connection and
    /// for each host with events of its own, titled `title`.
    ///
    /// ```
    /// use wirestate_core::runtime::Runtime;
    /// use wirestate_testkit::sim::{Act, World, act};
    ///
    /// let world = World::new(42);
    /// let client = world.host("client");
    /// let _listener = world.host("server").listen("server:7")?;
    /// let runtime = client.clone();
    /// client.run(async move {
    ///     let socket = runtime.connect("server:7").await.unwrap();
    ///     act(runtime, socket, vec![Act::Send("hello".into()), Act::Reset]).await
    /// });
    /// world.run().unwrap();
    ///
    /// let mut page = Vec::new();
    /// world.trace().timeline("a reset after five bytes").write_html(&mut page)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn timeline(&self, title: &str) -> Timeline {
        let mut timeline = Timeline::new(title);
        timeline.add_fact("hash of the trace", format!("{:016x}", self.hash()));
        let (mut hosts, mut connections) = (BTreeMap::new(), BTreeMap::new());
        for entry in self.entries() {
            let lane = match &entry.place {
                Place::Host(name) => {
                    *hosts.entry(name).or_insert_with(|| timeline.add_lane(&**name, "host"))
                }
                Place::End { client, dial, side } => {
                    let ends = connections.entry((client, dial)).or_insert_with(|| {
                        let name = format!("{client}/{dial}");
                        let ends = ["client", "server"].map(|end| timeline.add_lane(&name, end));
                        timeline.connect(ends[0], ends[1]);
                        ends
                    });
                    ends[*side as usize]
                }
            };
            timeline.push(entry.at.since_epoch(), lane, Event::from(&entry.event));
        }
        timeline
    }
}

impl From<&TraceEvent> for Event {
    fn from(event: &TraceEvent) -> Self {
        let payload = |bytes: u64, digest: u64, excerpt: &Excerpt| {
            Payload::cut(bytes, excerpt.bytes()).with_digest(digest)
        };
        match event {
            TraceEvent::Dialled => Self::Dialled,
            TraceEvent::Refused => Self::Refused,
            TraceEvent::Connected => Self::Connected,
            TraceEvent::Accepted => Self::Accepted,
            TraceEvent::Sent { bytes, digest, excerpt } => {
                Self::Sent(payload(*bytes, *digest, excerpt))
            }
            TraceEvent::Received { bytes, digest, excerpt } => {
                Self::Received(payload(*bytes, *digest, excerpt))
            }
            TraceEvent::Eof => Self::Eof,
            TraceEvent::Finished => Self::Finished,
            TraceEvent::Reset => Self::Reset,
            TraceEvent::Error(label) => Self::Error((*label).into()),
            TraceEvent::Closed => Self::Closed,
            TraceEvent::Fault(name, value) => Self::Fault(setting(name, value.as_ref()).into()),
            TraceEvent::Healed(name, value) => {
                Self::Note(format!("healed: {}", setting(name, value.as_ref())).into())
            }
        }
    }
}

impl Network {
    /// Keeps the page of the trace, in case that the thread panics.
    pub(super) fn keep_page(&self) {
        if !pages::are_on() {
            return;
        }
        let mut timeline = self.trace.timeline(&pages::test_name("world"));
        timeline.add_fact("seed", self.seed.to_string());
        timeline.add_fact("ended at", self.now.to_string());
        let name = match self.number {
            0 => format!("seed-{}", self.seed),
            number => format!("seed-{}-world-{number}", self.seed),
        };
        pages::keep(Some(pages::Run::World { name, timeline }));
    }
}
