//! The close behind which a peer may still be sending.

use core::time::Duration;

/// A lingering close: behind our FIN, what the peer still sends is read and thrown away for a
/// while. Closing the socket at once would answer those bytes with a reset, and a reset may
/// destroy output that the peer has not read yet (RFC 9112, section 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linger {
    /// How many bytes are thrown away at most.
    pub bytes: usize,
    /// How long at most.
    pub time: Duration,
}

impl Default for Linger {
    /// 64 KiB or 2 s.
    fn default() -> Self {
        Self { bytes: 64 * 1024, time: Duration::from_secs(2) }
    }
}
