//! The load on an echo server: one thread with epoll and rustls.
//!
//! Between two calls of its methods no byte is in flight, so the server sleeps and its CPU time
//! does not change.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    net::sockopt,
};
use wirestate_tls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::{
    credentials,
    measure::{figures::ratio, process::Process, socket::not_blocked},
};

/// A connection with TLS.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// Connects, and completes the handshake.
pub(crate) fn connect(server: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Stream> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
    // Closing then leaves no port in TIME_WAIT: there are too few ports.
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    let connection = ClientConnection::new(config.clone(), credentials::name());
    let mut stream = StreamOwned::new(connection.map_err(io::Error::other)?, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// For `window`, opens one connection after the other, which echoes a byte and closes. Opens at
/// least one. Returns their number.
pub(crate) fn handshakes(
    server: SocketAddr,
    config: &Arc<ClientConfig>,
    window: Duration,
) -> io::Result<u64> {
    let end = Instant::now() + window;
    let mut count: u64 = 0;
    while count == 0 || Instant::now() < end {
        let mut stream = connect(server, config)?;
        let sent = count.to_le_bytes()[0];
        let mut received = [0];
        stream.write_all(&[sent])?;
        stream.read_exact(&mut received)?;
        stream.conn.send_close_notify();
        stream.flush()?;
        // Without the server's `close_notify` this is an error.
        let rest = stream.read(&mut [0])?;
        if received != [sent] || rest != 0 {
            return Err(wrong_bytes());
        }
        count += 1;
    }
    Ok(count)
}

/// Connections to one server.
pub(crate) struct Load {
    server: SocketAddr,
    config: Arc<ClientConfig>,
    epoll: OwnedFd,
    events: Vec<Event>,
    clients: Vec<Client>,
}

struct Client {
    stream: Stream,
    message: [u8; MESSAGE],
    /// Received bytes of the message.
    received: usize,
}

impl Load {
    /// Opens `count` connections.
    pub(crate) fn connect(
        server: SocketAddr,
        config: Arc<ClientConfig>,
        count: usize,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let (events, clients) = (Vec::with_capacity(1024), Vec::new());
        let mut load = Self { server, config, epoll, events, clients };
        load.add(count)?;
        Ok(load)
    }

    fn add(&mut self, count: usize) -> io::Result<()> {
        for _ in 0..count {
            let stream = connect(self.server, &self.config)?;
            stream.sock.set_nonblocking(true)?;
            let number = self.clients.len();
            let data = EventData::new_u64(number as u64);
            epoll::add(&self.epoll, &stream.sock, data, EventFlags::IN)?;
            let mut message = [b'.'; MESSAGE];
            message[..8].copy_from_slice(&number.to_be_bytes());
            self.clients.push(Client { stream, message, received: 0 });
        }
        Ok(())
    }

    /// For `window`, each connection sends a message whenever the last one is back. It sends at
    /// least one. Returns the number of messages.
    pub(crate) fn lockstep(&mut self, window: Duration) -> io::Result<u64> {
        let end = Instant::now() + window;
        let mut messages = 0;
        for client in &mut self.clients {
            client.send(messages)?;
            messages += 1;
        }
        let mut waiting = self.clients.len();
        while waiting > 0 {
            let timeout = Timespec::try_from(RECEIVE_TIMEOUT).expect("it is short");
            self.events.clear();
            let n = epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout))?;
            if n == 0 {
                return Err(ErrorKind::TimedOut.into());
            }
            let in_window = Instant::now() < end;
            for event in &self.events {
                let number = usize::try_from(event.data.u64()).expect("the token is an index");
                let client = &mut self.clients[number];
                if !client.receive()? {
                    continue;
                }
                if in_window {
                    client.send(messages)?;
                    messages += 1;
                } else {
                    waiting -= 1;
                }
            }
        }
        Ok(messages)
    }

    /// Opens `count` connections, which send one message each and stay open. Returns the server's
    /// memory for each of them in bytes, and whether the server then sleeps.
    pub(crate) fn memory_per_connection(
        server: &Process,
        config: Arc<ClientConfig>,
        count: usize,
    ) -> io::Result<(f64, bool)> {
        // Memory that only the first connection needs is not counted.
        let mut load = Self::connect(server.address(), config, 1)?;
        load.lockstep(Duration::ZERO)?;
        thread::sleep(SETTLE);
        let before = server.memory()?;
        load.add(count)?;
        load.lockstep(Duration::ZERO)?;
        thread::sleep(SETTLE);
        let grown = server.memory()?.saturating_sub(before);
        let (_, asleep) = server.wait_until_asleep()?;
        load.lockstep(Duration::ZERO)?;
        Ok((ratio(grown, count as u64), asleep))
    }
}

impl Client {
    /// Sends a message that differs from the last one and from those of other connections.
    fn send(&mut self, index: u64) -> io::Result<()> {
        self.message[8..16].copy_from_slice(&index.to_be_bytes());
        self.received = 0;
        // The socket accepts the whole message, since no other is in flight.
        self.stream.write_all(&self.message)?;
        self.stream.flush()
    }

    /// Returns true once the whole message is back.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; MESSAGE + 1];
        let n = match not_blocked(self.stream.read(&mut buffer))? {
            None => return Ok(false),
            Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Some(n) => n,
        };
        if self.message[self.received..].get(..n) != Some(&buffer[..n]) {
            return Err(wrong_bytes());
        }
        self.received += n;
        Ok(self.received == MESSAGE)
    }
}

pub(crate) fn wrong_bytes() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "the received bytes are not those that were sent")
}

/// The size of a message in lockstep, in bytes.
const MESSAGE: usize = 64;
/// The longest wait for expected bytes, after which the load fails.
pub(crate) const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The time without load before the server's memory is measured.
const SETTLE: Duration = Duration::from_millis(200);
