//! What the ends of connections have sent and received.

use std::{fmt, net::SocketAddr, sync::Arc};

use wirestate_core::ConnectionError;

use super::Side;
use crate::script::Ending;

/// What one end of a connection has sent and received.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// The name of the host that opened the connection.
    pub client: Arc<str>,
    /// The number of the connection, counted from 0 by the host that opened it.
    pub dial: u64,
    /// The end of the connection that this record is of.
    pub side: Side,
    /// This end's address.
    pub local: SocketAddr,
    /// The other end's address.
    pub remote: SocketAddr,
    /// The bytes that reads have returned.
    pub received: Vec<u8>,
    /// How many of them were spliced into a pipe.
    pub piped: usize,
    /// The bytes that writes have taken.
    pub sent: Vec<u8>,
    /// Whether a read has returned the other end's FIN.
    pub received_fin: bool,
    /// How this end has ended its output. Closing the socket may have sent the FIN. An RST may
    /// follow a FIN.
    pub ending: Option<Ending>,
    /// The first error of a call.
    pub error: Option<ConnectionError>,
    /// Whether the socket is closed.
    pub closed: bool,
    /// Whether the socket was open when its process was killed, or the power of its host was cut.
    pub killed: bool,
}

impl Record {
    /// Whether the connection was closed without an RST after a failed call, which is an error of
    /// the driver.
    pub fn hides_failure(&self) -> bool {
        let is_hidden = self.error.is_some() && self.ending != Some(Ending::Rst);
        self.closed && is_hidden && !self.killed
    }
}

impl fmt::Debug for Record {
    /// Shows the bytes as `b"…"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, dial, side, local, remote, received, piped, sent, .. } = self;
        let Self { received_fin, ending, error, closed, killed, .. } = self;
        f.debug_struct("Record")
            .field("client", client)
            .field("dial", dial)
            .field("side", side)
            .field("local", local)
            .field("remote", remote)
            .field("received", &format_args!("b\"{}\"", received.escape_ascii()))
            .field("piped", piped)
            .field("sent", &format_args!("b\"{}\"", sent.escape_ascii()))
            .field("received_fin", received_fin)
            .field("ending", ending)
            .field("error", error)
            .field("closed", closed)
            .field("killed", killed)
            .finish()
    }
}
