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
mod runtime;
mod server;
mod session;
mod stream;

pub use rustls;

pub use self::{
    client::{Client, server_name},
    config::Config,
    credentials::{
        Authorities, CertificateInfo, Clients, CredentialsError, Identity, client_config,
        peer_certificate, provider, server_config,
    },
    handshake::{Handshake, HandshakeLost},
    machine::Tls,
    maybe::MaybeTls,
    reason::{Failure, TlsReason},
    runtime::{PlainListener, TlsRuntime},
    server::Server,
    stream::{MaybeTlsStream, Stream},
};
