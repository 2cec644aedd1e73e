//! The PROXY protocol, versions 1 and 2, by which a proxy sends the client's address to a server.
//!
//! In this module, "section" refers to the specification,
//! [proxy-protocol.txt](https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).
//!
//! - [`parse`] reads a header, [`encode`] writes one.
//! - [`HeaderReader`] is the machine that receives a header. A [`HeaderPolicy`] decides from which
//!   peers, and within which time.
//! - [`WithProxyHeader`] is a machine that receives a header, and then becomes another machine.
//! - [`fn@serve`] serves connections that begin with a header (feature `std`), and enters the
//!   client's address in the table of connections.
//!
//! A server that accepts headers requires one on each connection, and never guesses (section 2: the
//! receiver "must not try to guess whether the protocol header is present or not"). Otherwise a
//! client could choose its own address. For the same reason, headers are accepted only from
//! [`Config::from`].
//!
//! Limits and leniency:
//!
//! - A header of version 1 is one line of at most 107 bytes, CR and LF included (section 2.1).
//! - A header of version 2 has at most [`MAX_LEN`] bytes. Its TLVs must end where the header ends.
//!   A checksum (`PP2_TYPE_CRC32C`, section 2.2.3) must be correct. Other TLVs are skipped.
//! - With `TCP4` and `TCP6`, addresses of either family are accepted: nginx with `realip` mixes
//!   them.
//! - `LOCAL`, `UNKNOWN`, `UNSPEC`, Unix addresses and datagrams name no TCP client
//!   ([`Header::Local`]): the table of connections keeps the address of the proxy. The rest of a
//!   `LOCAL` or `UNSPEC` header is not interpreted (sections 2.1 and 2.2).

mod encode;
mod header;
mod parse;
mod policy;
mod reader;
#[cfg(feature = "std")]
mod serve;
mod with_header;

#[cfg(feature = "std")]
pub(crate) use self::encode::encode_local;
#[cfg(feature = "std")]
pub(crate) use self::serve::identify;
#[cfg(feature = "std")]
pub use self::serve::{connection, serve};
pub use self::{
    encode::encode,
    header::{Header, MAX_LEN, Version},
    parse::{Endpoint, ParseError, parse},
    policy::{Config, HeaderPolicy},
    reader::{HeaderReader, ProxyHeaderReason},
    with_header::{WithProxyHeader, WithProxyHeaderReason},
};
