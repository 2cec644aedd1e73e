//! The PROXY protocol, versions 1 and 2: how a proxy tells a server who its client is
//! ([proxy-protocol.txt](https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt)).
//!
//! - [`parse`] reads a header, [`announce`] writes one.
//! - [`HeaderReader`] is the machine that receives one: from peers that may send one, whole within a
//!   time.
//! - [`WithProxyHeader`] puts it in front of any other machine, which begins with the bytes behind the header.
//! - [`fn@serve`] does so for a server (feature `std`), and tells its table of connections who the
//!   client really is.
//!
//! A header is required where it is accepted at all, and never guessed (section 2: a receiver "must
//! not try to guess whether the protocol header is present or not"): whoever could choose would be
//! whoever it likes to be. For the same reason it is accepted only from [`Config::from`].
//!
//! | what | is |
//! |---|---|
//! | version 1 | one line of at most 107 bytes, carriage return and line feed included (section 2.1) |
//! | version 2 | at most [`MAX_LEN`] bytes in all |
//! | … its TLVs | have to end where the header does; a checksum (`PP2_TYPE_CRC32C`, section 2.2.3) has to be right; the others are skipped |
//! | `TCP4`, `TCP6` | addresses may be of either family, whichever is named (nginx with `realip` mixes them) |
//! | `LOCAL`, `UNKNOWN`, `UNSPEC`, a Unix address, a datagram | says nothing of a client: the connection stands for itself; what comes with `LOCAL` or `UNSPEC` is discarded unread (sections 2.1 and 2.2) |
//!
//! The parser is our own. Of the crates there are, `ppp` (2.3) takes a port of `+80`, never finds the
//! end of an `UNKNOWN` line of more words than four, and takes datagrams; `proxy-header` (0.1) has one
//! error for all that can be wrong, waits for more where `POST` is no header already, takes `UNKNOWNS`
//! for `UNKNOWN`, and datagrams. Both need the standard library.

mod header;
mod reader;
#[cfg(feature = "std")]
mod serve;
mod with_header;

#[cfg(feature = "std")]
pub(crate) use self::serve::identify;
#[cfg(feature = "std")]
pub use self::serve::serve;
pub use self::{
    header::{Field, Header, MAX_LEN, Malformed, Version, announce, parse},
    reader::{Config, HeaderReader, ProxyHeaderReason},
    with_header::{WithProxyHeader, WithProxyHeaderReason},
};
