//! NATS: the address of a stream, its flags, and the connections to its servers.

mod address;
mod connector;
mod credentials;
mod flags;
mod gate;
mod link_state;

pub(crate) use self::{
    address::{Redacting, StreamAddress, redacted},
    connector::Connector,
    flags::{PublishOnLag, StreamFlags},
    gate::Gate,
    link_state::LinkState,
};
