//! What happened in a run, and its hash.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use wirestate_core::Instant;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The one that connected.
    Client,
    /// The one that accepted.
    Server,
}

impl Side {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// When, by the world's own clock.
    pub at: Instant,
    /// The name of the host whose connection it concerns: the one that connected.
    pub client: Arc<str>,
    /// Which of that host's connections, counted from 0.
    pub dial: u64,
    /// At which end of it.
    pub side: Side,
    /// What.
    pub what: What,
}

/// What happened at one end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A connection was asked for.
    Dialled,
    /// It came to nothing.
    Refused,
    /// It was made.
    Connected,
    /// It was accepted.
    Accepted,
    /// A write took bytes.
    Sent {
        /// How many.
        bytes: u64,
        /// Their [`digest`].
        digest: u64,
    },
    /// A read found bytes.
    Received {
        /// How many.
        bytes: u64,
        /// Their [`digest`].
        digest: u64,
    },
    /// A read found the end of the input.
    Ended,
    /// A FIN was sent.
    Finished,
    /// An RST was sent.
    Reset,
    /// A call failed, under this [label](wirestate_core::ConnectionError::label).
    Lost(&'static str),
    /// The socket was closed.
    Closed,
    /// A fault struck: its name in [`Faults`](super::Faults).
    Fault(&'static str),
}

/// What happened in a run, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    entries: Vec<Entry>,
    hash: Digest,
}

impl Trace {
    /// All of it.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A hash of all of it, and of the order in which tasks ran. The same seed gives the same one.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// What happened on the connections that the host `client` asked for.
    pub fn of<'a>(&'a self, client: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| &*entry.client == client)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        entry.hash(&mut self.hash);
        self.entries.push(entry);
    }

    pub(super) fn polled(&mut self, task: u64, at: Instant) {
        (task, at).hash(&mut self.hash);
    }
}

impl fmt::Display for Trace {
    /// A line per entry.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries.iter().try_for_each(|Entry { at, client, dial, side, what }| {
            writeln!(f, "{at} {client}/{dial} {side:?}: {what:?}")
        })
    }
}

/// A hash of `bytes` that is the same in every build: FNV-1a of 64 bits.
pub fn digest(bytes: &[u8]) -> u64 {
    let mut digest = Digest::default();
    digest.write(bytes);
    digest.finish()
}

/// FNV-1a of 64 bits. The standard library's hashers promise no value.
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
