//! What uses a client, over its connections.

use core::task::Context;

use bytes::Bytes;

use super::{Client, ClientReason, Incoming};
use crate::{Event, Instant, Interest, Machine, Status};

/// What uses a client and outlives its connections, such as a publisher to a stream.
///
/// A [`Connection`] calls it, and is the machine that a driver runs: one for each connection.
/// Methods get the client, to send by it.
///
/// ```
/// use wirestate_core::{Instant, Machine, drive};
/// use wirestate_core::nats::{Client, Config, Connection, Incoming, Session};
///
/// /// Collects the messages of one subject, over all connections.
/// #[derive(Default)]
/// struct Collect(Vec<Vec<u8>>);
///
/// impl Session for Collect {
///     fn connected(&mut self, client: &mut Client, now: Instant) {
///         client.subscribe("news", None, now).expect("it has just connected");
///     }
///
///     fn handle(&mut self, _client: &mut Client, incoming: Incoming, _now: Instant) {
///         if let Incoming::Message(message) = incoming {
///             self.0.push(message.payload().to_vec());
///         }
///     }
/// }
///
/// let (mut collect, now) = (Collect::default(), Instant::EPOCH);
/// for payload in ["one", "two"] {
///     let client = Client::new(Config::default(), now)?;
///     let mut connection = Connection::new(client, &mut collect);
///     let mut receive = |text: &str| drive::deliver(&mut connection, &mut text.as_bytes(), now);
///     receive("INFO {\"server_id\":\"S\"}\r\n");
///     drive::collect_into(&mut connection, &mut [0; 4096], now); // CONNECT and PING
///     let mut receive = |text: &str| drive::deliver(&mut connection, &mut text.as_bytes(), now);
///     receive("PONG\r\n");
///     receive(&format!("MSG news 1 3\r\n{payload}\r\n"));
/// }
/// assert_eq!(collect.0, [b"one", b"two"]);
/// # Ok::<(), wirestate_core::ConfigError>(())
/// ```
pub trait Session {
    /// The server has accepted the client of a new connection: subscribe, and send what has to be
    /// sent first. Whatever was sent on the last connection has no reply.
    fn connected(&mut self, client: &mut Client, now: Instant);

    /// Handles what the server has sent. [`Incoming::Connected`], [`Incoming::Servers`] and
    /// [`Incoming::LameDuck`] are handled already.
    fn handle(&mut self, client: &mut Client, incoming: Incoming, now: Instant);

    /// Moves what can be moved: the driver calls it in every turn. Returns whether anything has
    /// changed. Register `cx` where other tasks have something for the session. Default: nothing.
    fn poll_shared(&mut self, _client: &mut Client, _now: Instant, _cx: &mut Context<'_>) -> bool {
        false
    }

    /// The next time at which [`handle_timeout`](Self::handle_timeout) has something to do.
    /// Default: `None`.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Handles a deadline of [`poll_timeout`](Self::poll_timeout) that may have passed. Default:
    /// nothing.
    fn handle_timeout(&mut self, _client: &mut Client, _now: Instant) {}

    /// Ends the session: a shutdown was requested. The session shuts the client down, at once or
    /// when it has finished what it has to do. Default: at once.
    fn shut_down(&mut self, client: &mut Client, now: Instant) {
        client.handle(now, Event::ShutDown);
    }

    /// The connection has ended. There is no client until the next [`connected`](Self::connected).
    /// Default: nothing.
    fn disconnected(&mut self) {}
}

/// One connection of a [`Session`]: the machine to drive.
///
/// It ends with its client. When the server is about to stop ([`Incoming::LameDuck`]), it shuts the
/// client down.
#[derive(Debug)]
pub struct Connection<'a, S: Session> {
    client: Client,
    session: &'a mut S,
    /// Whether the client was accepted.
    is_connected: bool,
    /// Whether the client's list of servers was not read since it has changed.
    has_servers: bool,
}

impl<'a, S: Session> Connection<'a, S> {
    /// A connection of `session` by `client`.
    pub fn new(client: Client, session: &'a mut S) -> Self {
        Self { client, session, is_connected: false, has_servers: false }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The session.
    pub fn session(&self) -> &S {
        self.session
    }

    /// Whether the server has accepted the client.
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// The addresses of the cluster's servers, if they have changed since the last call: see
    /// [`Servers::learn`](crate::dial::Servers::learn).
    pub fn take_servers(&mut self) -> Option<&[alloc::string::String]> {
        core::mem::take(&mut self.has_servers).then(|| &*self.client.info().connect_urls)
    }

    /// Gives the session what the client has received. Returns whether there was anything.
    fn deliver(&mut self, now: Instant) -> bool {
        let mut has_changed = false;
        while let Some(incoming) = self.client.take_incoming(now) {
            has_changed = true;
            match incoming {
                Incoming::Connected => {
                    self.is_connected = true;
                    self.has_servers = true;
                    self.session.connected(&mut self.client, now);
                }
                Incoming::Servers => self.has_servers = true,
                Incoming::LameDuck => self.client.handle(now, Event::ShutDown),
                Incoming::Message(_)
                | Incoming::Reply { .. }
                | Incoming::Flushed(_)
                | Incoming::Error(_) => self.session.handle(&mut self.client, incoming, now),
            }
        }
        has_changed
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Session> Machine for Connection<'_, S> {
    type Reason = ClientReason;

    fn interest(&self) -> Interest {
        self.client.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.client.read_buf()
    }

    fn write_bufs<'b>(&'b self, out: &mut [&'b [u8]]) -> usize {
        self.client.write_bufs(out)
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.client.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Release => return self.client.handle(now, event),
            Event::ShutDown if self.is_connected => self.session.shut_down(&mut self.client, now),
            Event::ShutDown
            | Event::Read(_)
            | Event::Eof
            | Event::Written(_)
            | Event::Finished
            | Event::Error(..) => self.client.handle(now, event),
            Event::Timeout { .. } => {
                self.client.handle(now, event);
                if self.is_connected {
                    self.session.handle_timeout(&mut self.client, now);
                }
            }
        }
        self.deliver(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let client = self.client.poll_timeout();
        let is_open = self.is_connected && self.client.is_open();
        let session = if is_open { self.session.poll_timeout() } else { None };
        [client, session].into_iter().flatten().min()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut has_changed = self.client.poll_shared(now, cx);
        has_changed |= self.deliver(now);
        if self.is_connected {
            has_changed |= self.session.poll_shared(&mut self.client, now, cx);
        }
        has_changed
    }

    fn work(&self) -> u64 {
        self.client.work()
    }

    fn status(&self) -> Status {
        self.client.status()
    }

    fn reason(&self) -> Option<ClientReason> {
        self.client.reason()
    }
}

impl<S: Session> Drop for Connection<'_, S> {
    fn drop(&mut self) {
        self.session.disconnected();
    }
}
