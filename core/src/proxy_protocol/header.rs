//! A header, and the limits of its length.

use core::net::SocketAddr;

/// The client that a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The header names no TCP client: the proxy has connected for itself (a health check), or does
    /// not know the client's address, or the client has none (a Unix socket, a datagram).
    Local,
    /// A TCP connection.
    Tcp {
        /// The client's address.
        source: SocketAddr,
        /// The address that the client has connected to.
        destination: SocketAddr,
    },
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Version 1: a line of text.
    V1,
    /// Version 2: binary.
    V2,
}

/// The longest header of version 2 that is accepted, in bytes; nginx has the same limit. The fixed
/// part and the addresses take at most 232 bytes. The rest is for TLVs, for example a certificate.
pub const MAX_LEN: usize = 4096;
/// The longest line of version 1, in bytes (section 2.1).
pub(super) const MAX_LINE: usize = 107;
/// The first bytes of a header of version 1 (section 2.1).
pub(super) const V1_PREFIX: &[u8] = b"PROXY ";
/// The first bytes of a header of version 2. No text protocol begins with them (section 2.2).
pub(super) const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
