//! The load on a proxy: its clients and its upstream, with two threads for each connection.
//!
//! Between two calls of its methods no byte is in flight, so the proxy sleeps and its CPU time does
//! not change.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use wirestate_tls::rustls::ClientConfig;

use crate::load::{RECEIVE_TIMEOUT, Stream, connect, wrong_bytes};

/// Connections through one proxy.
pub(crate) struct Streams(Vec<Pair>);

struct Pair {
    client: Stream,
    upstream: TcpStream,
}

impl Streams {
    /// Opens `count` connections to `proxy`, which relays them to `upstream`.
    pub(crate) fn connect(
        proxy: SocketAddr,
        config: &Arc<ClientConfig>,
        upstream: &TcpListener,
        count: usize,
    ) -> io::Result<Self> {
        let pair = |_| {
            let client = connect(proxy, config)?;
            let (upstream, _) = upstream.accept()?;
            upstream.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
            Ok(Pair { client, upstream })
        };
        (0..count).map(pair).collect::<io::Result<_>>().map(Self)
    }

    /// For `window`, each client sends to the upstream. Returns the number of bytes.
    pub(crate) fn upload(&mut self, window: Duration) -> io::Result<u64> {
        let pairs = self.0.iter_mut();
        transfer(pairs.map(|Pair { client, upstream }| (client, upstream)), window)
    }

    /// For `window`, the upstream sends to each client. Returns the number of bytes.
    pub(crate) fn download(&mut self, window: Duration) -> io::Result<u64> {
        let pairs = self.0.iter_mut();
        transfer(pairs.map(|Pair { client, upstream }| (upstream, client)), window)
    }
}

/// Sends on all connections, and receives. Returns the number of bytes.
fn transfer<W: Write + Send, R: Read + Send>(
    connections: impl Iterator<Item = (W, R)>,
    window: Duration,
) -> io::Result<u64> {
    let end = Instant::now() + window;
    let chunk: Vec<u8> = (0..251).cycle().take(CHUNK).collect();
    let with_total = |connection| (connection, AtomicU64::new(UNKNOWN));
    let mut connections: Vec<_> = connections.map(with_total).collect();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for ((to, from), total) in &mut connections {
            let (chunk, total) = (&chunk, &*total);
            threads.push(scope.spawn(move || send(to, chunk, end, total)));
            threads.push(scope.spawn(move || receive(from, chunk, total)));
        }
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
    })
}

/// Sends chunks until `end`, at least one. Sets `total` before the last one. Returns 0.
fn send(to: &mut impl Write, chunk: &[u8], end: Instant, total: &AtomicU64) -> io::Result<u64> {
    let mut sent = 0;
    loop {
        sent += chunk.len() as u64;
        let is_last = Instant::now() >= end;
        if is_last {
            total.store(sent, Relaxed);
        }
        to.write_all(chunk)?;
        if is_last {
            to.flush()?;
            return Ok(0);
        }
    }
}

/// Receives until `total`. Returns the number of bytes.
fn receive(from: &mut impl Read, chunk: &[u8], total: &AtomicU64) -> io::Result<u64> {
    let mut buffer = vec![0; chunk.len()];
    let mut received = 0;
    let mut position = 0;
    while received < total.load(Relaxed) {
        let n = from.read(&mut buffer[position..])?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if buffer[position..position + n] != chunk[position..position + n] {
            return Err(wrong_bytes());
        }
        received += n as u64;
        position = (position + n) % chunk.len();
    }
    Ok(received)
}

/// The bytes of one write, and the most bytes of one read.
const CHUNK: usize = 256 * 1024;
/// The total before the last chunk is sent.
const UNKNOWN: u64 = u64::MAX;
