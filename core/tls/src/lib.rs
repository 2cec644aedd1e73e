//! TLS as a machine around a machine, on [rustls].
#![forbid(unsafe_code)]

mod buffer;
mod client;
mod config;
mod credentials;
mod handshake;
mod machine;
mod maybe;
mod reason;
mod server;
mod session;
mod stream;

pub use rustls;

pub use self::{
    client::Client,
    config::Config,
    credentials::{
        Authorities, CertificateInfo, Clients, CredentialsError, Identity, client_config, provider,
        server_config,
    },
    handshake::{Handshake, HandshakeLost},
    machine::Tls,
    maybe::MaybeTls,
    reason::{Failure, TlsReason},
    server::Server,
    stream::{MaybeTlsStream, Stream},
};
