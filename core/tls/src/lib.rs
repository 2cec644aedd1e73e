//! TLS as a machine around a machine, on [rustls].
//!
//! [`Tls`] puts TLS 1.2 and 1.3 (RFC 5246, RFC 8446) around any [`Machine`]: the inner machine
//! receives and sends plaintext, and the driver sees a machine that receives and sends records. So
//! TLS runs wherever machines run: on every runtime, in your own event loop, in the simulator, or
//! between two buffers as here:
//!
//! ```
//! use std::task::{Context, Waker};
//! use wirestate_core::{Instant, Machine, drive, echo};
//! use wirestate_tls::{
//!     Authorities, Client, Clients, Config, Identity, Server, client_config, server_config,
//! };
//!
//! let now = Instant::EPOCH;
//! let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
//! let (certificate, key) = (signed.cert.pem(), signed.signing_key.serialize_pem());
//!
//! // A server makes a machine for each connection. All of them share limits and certificates.
//! let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes())?;
//! let credentials = server_config(vec![identity], Clients::Anonymous, &[])?;
//! let tls = Server::new(Config::default(), credentials)?;
//! let mut server = tls.machine(echo::Server::default().machine(now), now);
//!
//! // A client expects a certificate for its name, from one of its authorities.
//! let authorities = Authorities::from_pem(certificate.as_bytes())?;
//! let credentials = client_config(authorities, None, &[])?;
//! let tls = Client::new(Config::default(), credentials, "localhost".try_into()?)?;
//! let mut echo = echo::Client::new(echo::ClientConfig::default());
//! echo.send("hello".into(), now);
//! let mut client = tls.machine(echo, now);
//!
//! let reply = loop {
//!     pass(&mut client, &mut server, now);
//!     pass(&mut server, &mut client, now);
//!     if let Some(reply) = client.inner_mut().take_reply() {
//!         break reply;
//!     }
//! };
//! assert_eq!(reply, "hello");
//!
//! /// Delivers what `from` sends to `to`.
//! fn pass(from: &mut impl Machine, to: &mut impl Machine, now: Instant) {
//!     let mut records = [0; 16 * 1024];
//!     let n = drive::collect_into(from, &mut records, now);
//!     drive::deliver(to, &mut &records[..n], now);
//!     while to.poll_shared(now, &mut Context::from_waker(Waker::noop())) {}
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is where
//!
//! | type | what it is |
//! |---|---|
//! | [`Server`], [`Client`] | limits and certificates of many connections; they make the machines |
//! | [`Config`] | limits and deadlines |
//! | [`server_config`], [`client_config`] | a configuration of rustls; your own works too |
//! | [`Identity`], [`Authorities`], [`Clients`] | certificates and keys in PEM, and whom to trust |
//! | [`CertificateInfo`], [`peer_certificate`] | what a certificate says |
//! | [`Tls`], [`MaybeTls`] | the machine, and the machine in a program where TLS is a setting |
//! | [`TlsReason`], [`Failure`] | why a connection ended |
//! | [`Stream`], [`MaybeTlsStream`], [`Handshake`] | a socket with TLS, for a proxy's relay |
//! | [`TlsRuntime`] | a runtime whose sockets can have TLS, for the proxy |
//!
//! [`Tls`] documents how ends, failures, deadlines and memory map.
//!
//! # Time and randomness
//!
//! Both come from rustls: keys from its cryptography ([`provider`]), and the wall clock, which
//! certificates are checked against, from its `TimeProvider`. Deadlines use the time of the driver.
//! Keys are random, so the ciphertext of two runs differs: only what the inner machine sees can be
//! repeated, and only that belongs into a recording.
//!
//! # Why aws-lc-rs
//!
//! It is the default of rustls, has key exchange that resists quantum computers (X25519MLKEM768),
//! and builds with a C compiler alone on the targets that are tested. AES-GCM uses AVX-512 where
//! the processor has it.
//!
//! # What is missing
//!
//! - Early data (0-RTT; RFC 8446, section 2.3), which an attacker can replay. [`Server::new`] and
//!   [`Client::new`] refuse it.
//! - Sessions are resumed from the memory of rustls' configuration: not across processes, and not
//!   after [`Server::set_credentials`].
//! - Revocation lists and OCSP, unless your own configuration has a verifier for them.
//!
//! With debug assertions in rustls, a record that is not valid panics if it arrives after this side
//! has sent `close_notify` (rustls 0.23 asserts that it sends one alert only). Compile rustls
//! without them, as release builds do:
//!
//! ```toml
//! [profile.dev.package.rustls]
//! debug-assertions = false
//! ```
//!
//! [`Machine`]: wirestate_core::Machine
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
