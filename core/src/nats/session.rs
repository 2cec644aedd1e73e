//! What uses a client, over its connections.

use alloc::string::String;
use core::{mem, task::Context};

use bytes::Bytes;

use super::{Client, ClientReason, Incoming};
use crate::{Event, Instant, Interest, Machine, Outbound, Status};

/// What uses a client and outlives its connections, such as a publisher to a stream.
///
/// A [`Connection`] calls it, and is the machine that a driver runs. Methods get the client, to
/// send by it.
///
/// ```
/// use wirestate_core::{Instant, drive};
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
/// let (mut connection, now) = (Connection::new(Collect::default()), Instant::EPOCH);
/// for payload in ["one", "two"] {
///     connection.connect(Client::new(Config::default(), now)?, now);
///     let receive = |connection: &mut Connection<Collect>, text: &str| {
///         drive::deliver(connection, &mut text.as_bytes(), now)
///     };
///     receive(&mut connection, "INFO {\"server_id\":\"S\"}\r\n");
///     drive::collect_into(&mut connection, &mut [0; 4096], now); // CONNECT and PING
///     receive(&mut connection, "PONG\r\n");
///     receive(&mut connection, &format!("MSG news 1 3\r\n{payload}\r\n"));
/// }
/// assert_eq!(connection.session().0, [b"one", b"two"]);
/// # Ok::<(), wirestate_core::ConfigError>(())
/// ```
pub trait Session {
    /// The server has accepted the client of a new connection: subscribe, and send what has to be
    /// sent first. What was sent on the last connection gets no reply.
    fn connected(&mut self, client: &mut Client, now: Instant);

    /// Handles what the server has sent. [`Incoming::Connected`], [`Incoming::Servers`] and
    /// [`Incoming::LameDuck`] are handled already.
    fn handle(&mut self, client: &mut Client, incoming: Incoming, now: Instant);

    /// Moves what can be moved: the driver calls it in every turn. Returns whether anything has
    /// changed, apart from what it has sent. Register `cx` where other tasks have something for the
    /// session. Default: nothing.
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

    /// The connection has ended, or another one begins without it. There is no client until the
    /// next [`connected`](Self::connected). Default: nothing.
    fn disconnected(&mut self, _now: Instant) {}

    /// Ends the session: a shutdown was requested. The session shuts the client down, if there is
    /// one that is connected, at once or when it has finished what it has to do. Default: at once.
    fn shut_down(&mut self, client: Option<&mut Client>, now: Instant) {
        if let Some(client) = client {
            client.handle(now, Event::ShutDown);
        }
    }

    /// Whether the session needs no further connection after [`shut_down`](Self::shut_down).
    /// Default: true.
    fn is_done(&self) -> bool {
        true
    }
}

/// A [`Session`] and its connections, one after another: the machine to drive.
///
/// [`connect`](Self::connect) begins a connection: from then on [`reason`](Machine::reason) is
/// `None` again. The machine ends with the client. When the server is about to stop
/// ([`Incoming::LameDuck`]), it shuts the client down.
///
/// [`Event::ShutDown`] ends the session, not only the connection. It may also come between two
/// connections.
///
/// It holds what the client and the session hold.
#[derive(Debug)]
pub struct Connection<S> {
    client: Option<Client>,
    session: S,
    is_connected: bool,
    /// Whether the list of servers has changed since it was taken.
    has_servers: bool,
    is_lame_duck: bool,
}

impl<S: Session> Connection<S> {
    /// A session that waits for its first connection.
    pub fn new(session: S) -> Self {
        Self { client: None, session, is_connected: false, has_servers: false, is_lame_duck: false }
    }

    /// Begins a connection by `client`, which is not connected yet. The last client has ended, or
    /// is dropped.
    pub fn connect(&mut self, client: Client, now: Instant) {
        self.set_disconnected(now);
        self.client = Some(client);
        self.has_servers = false;
        self.is_lame_duck = false;
    }

    /// Ends a connection whose driver was dropped, and drops the client.
    pub fn disconnect(&mut self, now: Instant) {
        self.client = None;
        self.set_disconnected(now);
    }

    /// The client; `None` before the first connection.
    pub fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// The session.
    pub fn session(&self) -> &S {
        &self.session
    }

    /// The session, for calls between two turns of the driver.
    pub fn session_mut(&mut self) -> &mut S {
        &mut self.session
    }

    /// Whether the server has accepted the client, and the connection has not ended.
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Whether the server has announced its end.
    pub fn is_lame_duck(&self) -> bool {
        self.is_lame_duck
    }

    /// The addresses of the cluster's servers, if they were received since the last call: see
    /// [`Servers::learn`](crate::dial::Servers::learn).
    pub fn take_servers(&mut self) -> Option<&[String]> {
        mem::take(&mut self.has_servers).then_some(())?;
        Some(&self.client.as_ref()?.info().connect_urls)
    }

    /// Gives the session what the client has received. Returns whether there was anything.
    fn deliver(&mut self, now: Instant) -> bool {
        let Some(client) = &mut self.client else { return false };
        let mut has_changed = false;
        while let Some(incoming) = client.take_incoming(now) {
            has_changed = true;
            match incoming {
                Incoming::Connected => {
                    self.is_connected = true;
                    self.has_servers = true;
                    self.session.connected(client, now);
                }
                Incoming::Servers => self.has_servers = true,
                Incoming::LameDuck => {
                    self.is_lame_duck = true;
                    client.handle(now, Event::ShutDown);
                }
                Incoming::Message(_)
                | Incoming::Reply { .. }
                | Incoming::Flushed(_)
                | Incoming::Error(_) => self.session.handle(client, incoming, now),
            }
        }
        if client.reason().is_some() {
            self.set_disconnected(now);
        }
        has_changed
    }

    fn set_disconnected(&mut self, now: Instant) {
        if mem::take(&mut self.is_connected) {
            self.session.disconnected(now);
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Session> Machine for Connection<S> {
    type Reason = ClientReason;

    fn interest(&self) -> Interest {
        let idle = Interest { read: false, write: Outbound::Idle };
        self.client.as_ref().map_or(idle, Client::interest)
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.client.as_mut().map_or(&mut [], Client::read_buf)
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        self.client.as_ref().map_or(0, |client| client.write_bufs(out))
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.client.as_ref().map_or(0, |client| client.write_owned(out, max))
    }

    fn handle(&mut self, now: Instant, event: Event) {
        let is_connected = self.is_connected;
        match (&mut self.client, event) {
            (Some(client), Event::Release) => return client.handle(now, event),
            (client, Event::ShutDown) => {
                // A client that is not connected has nothing to complete.
                if let Some(client) = client.as_mut().filter(|_| !is_connected) {
                    client.handle(now, event);
                }
                let client = client.as_mut().filter(|_| is_connected);
                self.session.shut_down(client, now);
            }
            (Some(client), event) => client.handle(now, event),
            (None, _) => {}
        }
        if let (Some(client), Event::Timeout { .. }) = (&mut self.client, event)
            && is_connected
        {
            self.session.handle_timeout(client, now);
        }
        self.deliver(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let client = self.client.as_ref().and_then(Client::poll_timeout);
        let is_open = self.is_connected && self.client.as_ref().is_some_and(Client::is_open);
        let session = if is_open { self.session.poll_timeout() } else { None };
        [client, session].into_iter().flatten().min()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let Some(client) = &mut self.client else { return false };
        let mut has_changed = client.poll_shared(now, cx);
        has_changed |= self.deliver(now);
        if self.is_connected
            && let Some(client) = &mut self.client
        {
            let queued = client.queued();
            has_changed |= self.session.poll_shared(client, now, cx);
            has_changed |= client.queued() != queued;
        }
        has_changed
    }

    fn work(&self) -> u64 {
        self.client.as_ref().map_or(0, Client::work)
    }

    fn status(&self) -> Status {
        self.client.as_ref().map_or_else(Status::default, Client::status)
    }

    fn reason(&self) -> Option<ClientReason> {
        self.client.as_ref()?.reason()
    }
}
