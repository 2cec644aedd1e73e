//! NATS: the address of a stream, its flags, and the connections to its servers.

mod address;

pub(crate) use self::address::{Redacting, StreamAddress};
