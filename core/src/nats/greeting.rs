//! The machine that receives INFO before the TLS handshake.

use core::task::Context;

use bytes::Bytes;

use super::{Client, ClientReason, Config, Info, client::Mode};
use crate::{ConfigError, Event, Instant, Interest, Machine, Status};

/// Receives the first INFO in plain text, and nothing after it. Another machine takes the
/// connection for the TLS handshake.
///
/// Drive it with a borrowed socket until [`info`](Self::info) returns INFO. Then call
/// [`Drive::hand_over`](crate::drive::Drive::hand_over), and drive the machine around
/// [`Client::after_greeting`] on the same socket. If INFO does not say
/// [`tls_required`](Info::tls_required) or [`tls_available`](Info::tls_available), the server has
/// no TLS.
///
/// Bytes that arrive with INFO end the connection: they are not authenticated
/// ([`ClientReason::InputBeforeTls`]). If nothing takes the connection within
/// [`Config::info_timeout`], it is reset.
///
/// ```
/// use wirestate_core::{Instant, drive::deliver, nats::{Client, Config, Greeting}};
///
/// let (config, now) = (Config::default().with_encrypted(true), Instant::EPOCH);
/// let mut greeting = Greeting::new(config.clone(), now)?;
/// deliver(&mut greeting, &mut &b"INFO {\"tls_required\":true}\r\n"[..], now);
/// let info = greeting.info().unwrap().clone();
/// let client = Client::after_greeting(config, info, now)?; // for the machine around TLS
/// assert!(client.pending() > 0, "CONNECT");
/// # Ok::<(), wirestate_core::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Greeting(Client);

impl Greeting {
    /// The machine for a connection that was made `now`.
    ///
    /// # Errors
    /// A timeout in `config` is zero, or a size is below its minimum.
    pub fn new(config: Config, now: Instant) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self(Client::with_valid(config, Mode::HandOver, now)))
    }

    /// INFO, once it was received.
    pub fn info(&self) -> Option<&Info> {
        self.0.greeted()
    }
}

#[deny(clippy::missing_trait_methods, reason = "a wrapper forwards every method")]
impl Machine for Greeting {
    type Reason = ClientReason;

    fn interest(&self) -> Interest {
        self.0.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.0.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.0.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.0.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.0.handle(now, event);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.0.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.0.poll_shared(now, cx)
    }

    fn work(&self) -> u64 {
        self.0.work()
    }

    fn status(&self) -> Status {
        self.0.status()
    }

    fn reason(&self) -> Option<ClientReason> {
        self.0.reason()
    }
}
