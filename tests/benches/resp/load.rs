//! The load: one thread with epoll. Its connections send requests and compare the replies.
//!
//! Between two calls of its methods no byte is in flight, so the server sleeps and its CPU time
//! does not change.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
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

use crate::measure::socket::not_blocked;

/// Connections to one server.
pub(crate) struct Load {
    epoll: OwnedFd,
    events: Vec<Event>,
    clients: Vec<Client>,
    buffer: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    /// Batches of `in_flight` requests, each with its replies. The first follows the last one.
    batches: Vec<(Vec<u8>, Vec<u8>)>,
    in_flight: usize,
    next: usize,
    /// The received bytes of the replies to the last batch.
    received: usize,
}

impl Load {
    /// Fills the store and opens `count` connections with `in_flight` requests in flight on each.
    pub(crate) fn connect(server: SocketAddr, count: usize, in_flight: usize) -> io::Result<Self> {
        fill(server)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut clients = Vec::new();
        for number in 0..count {
            let stream = TcpStream::connect(server)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            // Closing then leaves no port in TIME_WAIT: there are too few ports.
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            epoll::add(&epoll, &stream, EventData::new_u64(number as u64), EventFlags::IN)?;
            let exchanges = (0..EXCHANGES).map(|n| exchange(number * EXCHANGES + n));
            let exchanges: Vec<_> = exchanges.collect();
            let batch = |exchanges: &[(Vec<u8>, Vec<u8>)]| {
                let (requests, replies): (Vec<_>, Vec<_>) = exchanges.iter().cloned().unzip();
                (requests.concat(), replies.concat())
            };
            let batches = exchanges.chunks_exact(in_flight).map(batch).collect();
            clients.push(Client { stream, batches, in_flight, next: 0, received: 0 });
        }
        // Space for more than expected, to find surplus bytes.
        let buffer = vec![0; EXCHANGES * 128];
        Ok(Self { epoll, events: Vec::with_capacity(1024), clients, buffer })
    }

    /// For `window`, each connection sends its requests whenever the last ones are answered. It
    /// sends them at least once. Returns the number of requests.
    pub(crate) fn request(&mut self, window: Duration) -> io::Result<u64> {
        let end = Instant::now() + window;
        let mut requests = 0;
        for client in &mut self.clients {
            requests += client.send()?;
        }
        let mut waiting = self.clients.len();
        while waiting > 0 {
            self.events.clear();
            let timeout = Timespec::try_from(RECEIVE_TIMEOUT).expect("it is short");
            let n = epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout))?;
            if n == 0 {
                return Err(ErrorKind::TimedOut.into());
            }
            let in_window = Instant::now() < end;
            for event in &self.events {
                let number = usize::try_from(event.data.u64()).expect("the token is an index");
                let client = &mut self.clients[number];
                if !client.receive(&mut self.buffer)? {
                    continue;
                }
                if in_window {
                    requests += client.send()?;
                } else {
                    waiting -= 1;
                }
            }
        }
        Ok(requests)
    }
}

impl Client {
    /// Sends the next batch, and returns the number of its requests.
    fn send(&mut self) -> io::Result<u64> {
        self.next = (self.next + 1) % self.batches.len();
        self.received = 0;
        // The socket accepts all requests, since no others are in flight.
        self.stream.write_all(&self.batches[self.next].0)?;
        Ok(self.in_flight as u64)
    }

    /// Returns true once all requests are answered.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let expected = &self.batches[self.next].1[self.received..];
        let n = match not_blocked(self.stream.read(buffer))? {
            None => return Ok(false),
            Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Some(n) => n,
        };
        if expected.get(..n) != Some(&buffer[..n]) {
            return Err(io::Error::new(ErrorKind::InvalidData, "a wrong reply"));
        }
        self.received += n;
        Ok(n == expected.len())
    }
}

/// Sets all keys.
fn fill(server: SocketAddr) -> io::Result<()> {
    let connect = || {
        // redis-server announces its port before it listens.
        let end = Instant::now() + RECEIVE_TIMEOUT;
        loop {
            match TcpStream::connect(server) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    if Instant::now() > end {
                        return Err(error);
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                other => return other,
            }
        }
    };
    let mut stream = connect()?;
    stream.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
    for keys in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let requests: Vec<u8> = keys.iter().flat_map(|key| request("SET", *key)).collect();
        stream.write_all(&requests)?;
        stream.read_exact(&mut vec![0; keys.len() * OK.len()])?;
    }
    Ok(())
}

/// A request and its reply: SET and GET in turn.
fn exchange(number: usize) -> (Vec<u8>, Vec<u8>) {
    // A prime factor spreads the keys over the store.
    let key = number * 7919 % KEYS;
    if number.is_multiple_of(2) {
        (request("SET", key), OK.into())
    } else {
        (request("GET", key), format!("$64\r\n{}\r\n", value()).into())
    }
}

fn request(command: &str, key: usize) -> Vec<u8> {
    let get = format!("\r\n$3\r\n{command}\r\n$16\r\nkey:{key:012}\r\n");
    if command == "GET" {
        format!("*2{get}").into()
    } else {
        format!("*3{get}$64\r\n{}\r\n", value()).into()
    }
}

fn value() -> String {
    "v".repeat(64)
}

const OK: &[u8] = b"+OK\r\n";
/// The keys in the store.
const KEYS: usize = 10_000;
/// The different requests of a connection.
const EXCHANGES: usize = 800;
/// The longest wait for expected bytes, after which the load fails.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(5);
