//! A trace as a timeline, for a page that shows it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
};

use wirestate_timeline::{Event, Payload, Timeline};

use super::{Excerpt, Place, Trace, TraceEvent, network::Network, trace::setting};
use crate::seeds::is_quiet;

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
    /// Writes the page of the trace to the folder that the environment variable
    /// `WIRESTATE_TIMELINE` names, if it is set, and prints the file's path to standard error. Not
    /// for the attempts at a smaller world.
    pub(super) fn write_page(&self) {
        let folder = env::var_os(FOLDER).filter(|folder| !folder.is_empty() && !is_quiet());
        let Some(folder) = folder else { return };
        match self.write_page_to(folder.as_ref()) {
            Ok(path) => eprintln!("the timeline is in {}", path.display()),
            Err(error) => eprintln!("{FOLDER}={}: {error}", folder.display()),
        }
    }

    fn write_page_to(&self, folder: &Path) -> io::Result<PathBuf> {
        let (seed, thread) = (self.seed, thread::current());
        // Of a test, this is its name.
        let test = thread.name().unwrap_or("world");
        let mut timeline = self.trace.timeline(test);
        timeline.add_fact("seed", seed.to_string());
        timeline.add_fact("ended at", self.now.to_string());
        if let Some(failure) = FAILURE.with_borrow(Clone::clone) {
            timeline.add_fact("failure", failure);
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = test.replace(|c| !is_plain(c), "-");
        fs::create_dir_all(folder)?;
        let world = match self.number {
            0 => String::new(),
            number => format!("-world-{number}"),
        };
        let path = folder.join(format!("{name}-seed-{seed}{world}.html"));
        timeline.write_html(io::BufWriter::new(File::create(&path)?))?;
        Ok(path)
    }
}

thread_local! {
    /// How the world that runs will fail, if it is known.
    static FAILURE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Calls `run`, which fails in a known way, so that the page of its world has the failure.
pub(crate) fn with_failure(failure: String, run: impl FnOnce()) {
    FAILURE.set(Some(failure));
    run();
    FAILURE.set(None);
}

pub(crate) const FOLDER: &str = "WIRESTATE_TIMELINE";
