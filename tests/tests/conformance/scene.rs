//! A scene: what the peers of a server do, and what each of them receives.

use std::fmt;

use bytes::Bytes;
use wirestate_testkit::sim::Act;

/// What happens to a server, and what its peers must see.
pub(crate) struct Scene {
    /// The name in the table of known differences. Unique in its list.
    pub(crate) name: &'static str,
    /// They connect to the server at the same time.
    pub(crate) clients: Vec<Peer>,
    /// The peer that the server gets by connecting to its upstream. If there is none, no socket
    /// listens there; such scenes come last.
    pub(crate) upstream: Option<Peer>,
}

impl Scene {
    /// A scene of a server without an upstream, or whose upstream is away.
    pub(crate) fn of(name: &'static str, clients: impl Into<Vec<Peer>>) -> Self {
        Self { name, clients: clients.into(), upstream: None }
    }

    /// All peers, the upstream last, with their names: `client`, `client 1`, `upstream`.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (String, &Peer)> {
        let alone = self.clients.len() == 1;
        let name = move |i| if alone { "client".to_owned() } else { format!("client {}", i + 1) };
        let clients = self.clients.iter().enumerate().map(move |(i, peer)| (name(i), peer));
        clients.chain(self.upstream.iter().map(|peer| ("upstream".to_owned(), peer)))
    }
}

/// A peer of the server. At the end of its acts it closes its connection.
pub(crate) struct Peer {
    pub(crate) acts: Vec<Act>,
    /// What it must receive.
    pub(crate) expected: Transcript,
}

/// A peer that performs `acts`, and must receive `bytes` and the `end`.
pub(crate) fn peer(acts: impl Into<Vec<Act>>, bytes: impl AsRef<[u8]>, end: End) -> Peer {
    let expected = Transcript { bytes: bytes.as_ref().to_vec(), end };
    Peer { acts: acts.into(), expected }
}

/// What a peer has received, without what depends on time or on how the bytes were cut.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Transcript {
    /// All bytes, joined.
    pub(crate) bytes: Vec<u8>,
    /// How its input has ended.
    pub(crate) end: End,
}

impl Transcript {
    /// Shows the transcript, and where its bytes differ from the `expected`.
    pub(crate) fn show(&self, expected: &[u8]) -> String {
        let Self { bytes, end } = self;
        let pairs = bytes.iter().zip(expected);
        let same = pairs.take_while(|(byte, expected)| byte == expected).count();
        let from = if bytes == expected { 0 } else { same };
        let shown = &bytes[from..bytes.len().min(from + 100)];
        let (count, shown) = (bytes.len(), shown.escape_ascii());
        format!("{count} bytes, {end}; from byte {from}: b\"{shown}\"")
    }
}

/// How the input of a peer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By a FIN.
    Fin,
    /// By an RST.
    Rst,
    /// The peer has closed the connection first.
    Open,
    /// The peer has waited for an event that did not come.
    Stuck,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fin => "FIN",
            Self::Rst => "RST",
            Self::Open => "open",
            Self::Stuck => "nothing more",
        })
    }
}

/// Sends `bytes`.
pub(crate) fn send(bytes: impl Into<Bytes>) -> Act {
    Act::Send(bytes.into())
}

/// Waits for this many milliseconds.
pub(crate) fn wait(milliseconds: u64) -> Act {
    Act::Wait(std::time::Duration::from_millis(milliseconds))
}

/// `size` bytes in which neighbours differ.
pub(crate) fn pattern(size: usize) -> Bytes {
    (0..size).map(|i| ((i * 7 + i / 251) % 251).to_le_bytes()[0]).collect()
}

/// Sends pieces of `size` bytes, with a pause after each.
pub(crate) fn in_pieces(bytes: &[u8], size: usize) -> Vec<Act> {
    bytes.chunks(size).flat_map(|piece| [send(piece.to_vec()), wait(1)]).collect()
}
