//! The events of a run, and their hash.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use wirestate_core::Instant;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The end that connected.
    Client,
    /// The end that accepted.
    Server,
}

impl Side {
    /// The other end.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// An event of a trace, with its time and its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The time, by the world's clock.
    pub at: Instant,
    /// Where it happened.
    pub place: Place,
    /// What happened.
    pub event: TraceEvent,
}

/// Where an event of a trace has happened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// At one end of a connection.
    End {
        /// The name of the host that opened the connection.
        client: Arc<str>,
        /// The number of the connection, counted from 0 by the host that opened it.
        dial: u64,
        /// The end.
        side: Side,
    },
    /// On the host of this name.
    Host(Arc<str>),
}

/// An event at one end of a connection, or on a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TraceEvent {
    /// A host started to connect.
    Dialled,
    /// Connecting failed.
    Refused,
    /// Connecting succeeded.
    Connected,
    /// The connection was accepted.
    Accepted,
    /// A write took bytes.
    Sent {
        /// The number of bytes.
        bytes: u64,
        /// Their [`digest`].
        digest: u64,
        /// The first of them.
        excerpt: Excerpt,
    },
    /// A read returned bytes.
    Received {
        /// The number of bytes.
        bytes: u64,
        /// Their [`digest`].
        digest: u64,
        /// The first of them.
        excerpt: Excerpt,
    },
    /// A read found the end of the input.
    Eof,
    /// A FIN was sent.
    Finished,
    /// An RST was sent.
    Reset,
    /// A call failed; this is the error's [label](wirestate_core::ConnectionError::label).
    Error(&'static str),
    /// The socket was closed.
    Closed,
    /// A fault has struck.
    ///
    /// A fault of a plan has its name in [`Faults`](super::Faults). At an end there are also
    /// `latency_doubles`, of a segment to it ([`Latency`](super::Latency)); `lost`, a segment to
    /// it, in a partition; `backlog_full`, the server has dropped its SYN; `gave_up`, its kernel
    /// after 924 s of retransmissions; `killed`; `power_cut`.
    ///
    /// On a host there are `max_sockets`, an accept that was refused; and what was set on the
    /// [`Host`](super::Host): `faults`, `stopped`, `unplugged`, `blocked`, `latency`, `upload`,
    /// `download`, `clock_ahead`, `clock_back`, `clock_drift`, `clock_frozen`, `killed`,
    /// `power_cut`.
    Fault(&'static str, Option<Value>),
    /// A fault of a host has ended: one of those above, or `all`.
    Healed(&'static str, Option<Value>),
}

/// The size of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// A number, such as of bytes.
    Number(u64),
    /// A part of a number: a read that returns 3 of 25 bytes.
    Part(u64, u64),
    /// A time.
    Time(Duration),
    /// Another value as text.
    Text(Arc<str>),
}

impl Value {
    pub(super) fn part(part: usize, whole: usize) -> Self {
        Self::Part(part as u64, whole as u64)
    }

    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl fmt::Display for Value {
    /// Writes `3`, `3 of 25`, `20ms`, or the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Part(part, whole) => write!(f, "{part} of {whole}"),
            Self::Time(time) => write!(f, "{time:?}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A name, and its value if it has one: `short_read = 3 of 25`.
pub(super) fn setting(name: &str, value: Option<&Value>) -> String {
    value.map_or_else(|| name.to_owned(), |value| format!("{name} = {value}"))
}

/// The first bytes of a read or a write, at most 24.
///
/// It does not count in a hash, since the digest of all bytes does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Excerpt {
    bytes: [u8; MAX_EXCERPT],
    len: u8,
    is_cut: bool,
}

impl Excerpt {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let len = bytes.len().min(MAX_EXCERPT);
        let mut first = [0; MAX_EXCERPT];
        first[..len].copy_from_slice(&bytes[..len]);
        let is_cut = len < bytes.len();
        Self { bytes: first, len: u8::try_from(len).expect("it is at most 24"), is_cut }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Excerpt {
    /// Writes `b"…"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = if self.is_cut { "…" } else { "" };
        write!(f, "b\"{}{rest}\"", self.bytes().escape_ascii())
    }
}

impl Hash for Excerpt {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, bytes, digest, excerpt) = match self {
            Self::Sent { bytes, digest, excerpt } => ("Sent", bytes, digest, excerpt),
            Self::Received { bytes, digest, excerpt } => ("Received", bytes, digest, excerpt),
            Self::Error(text) => return write!(f, "Error {text}"),
            Self::Fault(name, value) => {
                return write!(f, "Fault {}", setting(name, value.as_ref()));
            }
            Self::Healed(name, value) => {
                return write!(f, "Healed {}", setting(name, value.as_ref()));
            }
            Self::Dialled
            | Self::Refused
            | Self::Connected
            | Self::Accepted
            | Self::Eof
            | Self::Finished
            | Self::Reset
            | Self::Closed => return write!(f, "{self:?}"),
        };
        write!(f, "{verb} {bytes} bytes {excerpt:?}, digest {digest:016x}")
    }
}

impl fmt::Display for Entry {
    /// Writes one line, without its end. A connection is `client/dial`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, place, event } = self;
        write!(f, "{at} {place}: {event}")
    }
}

impl fmt::Display for Place {
    /// Writes `client/0 Server`, or the name of the host.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::End { client, dial, side } => write!(f, "{client}/{dial} {side:?}"),
            Self::Host(name) => f.write_str(name),
        }
    }
}

impl Place {
    /// The end of the connection. `None` for a host.
    pub const fn side(&self) -> Option<Side> {
        match self {
            Self::End { side, .. } => Some(*side),
            Self::Host(_) => None,
        }
    }

    /// The name of the host that opened the connection, and the connection's number. `None` for a
    /// host.
    pub fn connection(&self) -> Option<(&str, u64)> {
        match self {
            Self::End { client, dial, .. } => Some((client, *dial)),
            Self::Host(_) => None,
        }
    }
}

/// The events of a run, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    entries: Vec<Entry>,
    hash: WordHash,
}

impl Trace {
    /// All events.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A hash of all events and of the order in which tasks ran. The same seed gives the same hash.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// The events of the connections that the host `client` has opened.
    pub fn of<'a>(&'a self, client: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| {
            entry.place.connection().is_some_and(|(opener, _)| opener == client)
        })
    }

    pub(super) fn push(&mut self, entry: Entry) {
        entry.hash(&mut self.hash);
        self.entries.push(entry);
    }

    pub(super) fn trace_poll(&mut self, task: u64, at: Instant) {
        (task, at).hash(&mut self.hash);
    }
}

impl fmt::Display for Trace {
    /// Writes one line an event.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.iter().try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

/// The 64-bit FNV-1a hash of `bytes`, the same in every build.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut digest = Digest::default();
    digest.write(bytes);
    digest.finish()
}

/// 64-bit FNV-1a. The hashers of the standard library may change between releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The hash of a trace, by words of 64 bits: a trace has many small numbers, for which FNV-1a of 64
/// bits takes eight times as long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct WordHash(u64);

impl Hasher for WordHash {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// The most bytes of an excerpt.
const MAX_EXCERPT: usize = 24;
