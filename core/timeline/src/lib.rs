//! The events of a run of network connections, and an HTML page that shows them.
//!
//! A [`Timeline`] has a lane for each end of each connection, and events in these lanes.
//! [`Timeline::write_html`] writes one file, which needs no network and no other file. A browser
//! draws bytes, FINs, RSTs, timers, faults and states in it, and moves through them by time.
//!
//! ```
//! use std::time::Duration;
//! use wirestate_timeline::{Event, Payload, Timeline};
//!
//! let mut timeline = Timeline::new("an echo");
//! timeline.add_fact("seed", "42");
//! let client = timeline.add_lane("client/0", "client");
//! let server = timeline.add_lane("client/0", "server");
//! timeline.connect(client, server);
//!
//! let at = Duration::from_micros;
//! timeline.push(at(0), client, Event::Dialled);
//! timeline.push(at(90), server, Event::Accepted);
//! timeline.push(at(180), client, Event::Connected);
//! timeline.push(at(181), client, Event::Sent(Payload::new(b"hello")));
//! timeline.push(at(270), server, Event::Received(Payload::new(b"hello")));
//! timeline.push(at(271), server, Event::Fault("reset".into()));
//!
//! let mut html = Vec::new();
//! timeline.write_html(&mut html)?;
//! assert!(html.starts_with(b"<!DOCTYPE html>"));
//! # Ok::<(), std::io::Error>(())
//! ```

#![forbid(unsafe_code)]

mod page;

use std::{borrow::Cow, time::Duration};

/// The events of a run. See the [crate's documentation](crate).
///
/// It holds at most [`MAX_EVENTS`](Self::MAX_EVENTS) events of 64 bytes and an excerpt, which is at
/// most [`Payload::MAX_EXCERPT`] bytes long, and all lanes and facts.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    title: String,
    facts: Vec<(String, String)>,
    lanes: Vec<LaneRow>,
    entries: Vec<Entry>,
    left_out: u64,
}

#[derive(Clone, Debug)]
struct LaneRow {
    connection: String,
    end: String,
    /// The lane of the connection's other end.
    peer: Option<Lane>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Nanoseconds since the clock's epoch.
    at: u64,
    lane: Lane,
    event: Event,
}

/// A lane of a [`Timeline`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane(u32);

/// What happened at one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It started to connect.
    Dialled,
    /// Connecting failed.
    Refused,
    /// Connecting succeeded.
    Connected,
    /// The connection was accepted.
    Accepted,
    /// A write took bytes.
    Sent(Payload),
    /// A read returned bytes.
    Received(Payload),
    /// A read found the end of the input.
    Eof,
    /// A FIN was sent.
    Finished,
    /// An RST was sent.
    Reset,
    /// The socket was closed.
    Closed,
    /// The next deadline was set, to this time since the clock's epoch, or removed.
    Deadline(Option<Duration>),
    /// A deadline has passed.
    Timeout,
    /// A graceful end was requested.
    ShutDown,
    /// State that is shared with other connections has changed this one.
    Shared,
    /// A fault was injected.
    Fault(Cow<'static, str>),
    /// A call failed.
    Error(Cow<'static, str>),
    /// The machine has entered a state.
    State(Cow<'static, str>),
    /// The machine has ended for this reason.
    Reason(Cow<'static, str>),
    /// Anything else that helps to understand the run.
    Note(Cow<'static, str>),
}

/// The bytes of a read or a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    count: u64,
    digest: Option<u64>,
    excerpt: Box<[u8]>,
}

impl Timeline {
    /// The most events. Further ones are counted and left out, and the page says so.
    pub const MAX_EVENTS: usize = 1_000_000;

    /// Creates a timeline without lanes. The page shows `title` as its title.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// Adds a fact about the run, such as its seed, which the page shows below its title.
    pub fn add_fact(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.facts.push((name.into(), value.into()));
    }

    /// Adds a lane for one end of `connection`, or for a host.
    ///
    /// The page shows the lanes of one connection one below the other, in the order in which they
    /// were added.
    ///
    /// # Panics
    /// If there are 2³² lanes.
    pub fn add_lane(&mut self, connection: impl Into<String>, end: impl Into<String>) -> Lane {
        let lane = Lane(u32::try_from(self.lanes.len()).expect("lanes are fewer than 2^32"));
        let (connection, end) = (connection.into(), end.into());
        self.lanes.push(LaneRow { connection, end, peer: None });
        lane
    }

    /// Declares that two lanes are the ends of one connection. The page then draws an arrow from
    /// each write at one end to the reads that return its bytes at the other, and from a FIN or an
    /// RST to its arrival.
    ///
    /// # Panics
    /// If a lane is of another timeline that has more lanes.
    pub fn connect(&mut self, one: Lane, other: Lane) {
        self.row(one).peer = Some(other);
        self.row(other).peer = Some(one);
    }

    /// Adds an event that happened at `at`, the time since the clock's epoch. It saturates after
    /// 584 years.
    ///
    /// The events of different lanes may be added in any order, such as the recordings of a proxy's
    /// two sides one after the other. Events of the same time stay in the order in which they were
    /// added.
    ///
    /// # Panics
    /// If the lane is of another timeline that has more lanes.
    pub fn push(&mut self, at: Duration, lane: Lane, event: Event) {
        self.row(lane);
        if self.entries.len() == Self::MAX_EVENTS {
            self.left_out += 1;
            return;
        }
        self.entries.push(Entry { at: nanos(at), lane, event });
    }

    /// The number of events, without those that were left out.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn row(&mut self, lane: Lane) -> &mut LaneRow {
        let count = self.lanes.len();
        let row = self.lanes.get_mut(lane.0 as usize);
        row.unwrap_or_else(|| panic!("lane {} is not one of the {count} lanes", lane.0))
    }
}

impl Payload {
    /// The most bytes of an excerpt. The page shows no others.
    pub const MAX_EXCERPT: usize = 1024;

    /// The payload `bytes`, without a digest.
    pub fn new(bytes: &[u8]) -> Self {
        Self::cut(bytes.len() as u64, bytes)
    }

    /// `count` bytes of which only the first are known.
    pub fn cut(count: u64, first: &[u8]) -> Self {
        let excerpt = first[..first.len().min(Self::MAX_EXCERPT)].into();
        Self { count, digest: None, excerpt }
    }

    /// Adds a digest of all bytes.
    pub fn with_digest(self, digest: u64) -> Self {
        Self { digest: Some(digest), ..self }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_beyond_the_limit_are_counted() {
        let mut timeline = Timeline::new("long");
        let lane = timeline.add_lane("client/0", "client");
        for _ in 0..Timeline::MAX_EVENTS + 3 {
            timeline.push(Duration::ZERO, lane, Event::Eof);
        }
        assert_eq!((timeline.len(), timeline.left_out), (Timeline::MAX_EVENTS, 3));
    }

    #[test]
    fn an_excerpt_is_cut_and_the_count_is_not() {
        let payload = Payload::new(&[b'x'; 5000]);
        assert_eq!((payload.count, payload.excerpt.len()), (5000, Payload::MAX_EXCERPT));
    }

    #[test]
    #[should_panic(expected = "lane 1 is not one of the 1 lanes")]
    fn a_lane_of_another_timeline_is_refused() {
        let mut other = Timeline::default();
        let [_, lane] = ["client", "server"].map(|end| other.add_lane("client/0", end));
        let mut timeline = Timeline::default();
        timeline.add_lane("client/0", "client");
        timeline.push(Duration::ZERO, lane, Event::Eof);
    }
}
