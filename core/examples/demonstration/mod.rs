//! What the loops of the examples serve, and the clients that check it.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::mpsc::{self, Sender},
    thread,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use wirestate_core::{
    AnyReason, Erased, Instant, Machine,
    admission::{ConnectionTable, Limits},
    echo,
    fanout::{self, Feed, Framing, Subscriber, Upstream},
    message::{self, Message, service},
    shutdown::ShutdownHandle,
};

/// A machine of any protocol.
pub(crate) type Protocol = Box<dyn Machine<Reason = AnyReason>>;
/// Makes the machine of a new connection.
pub(crate) type Factory = Box<dyn FnMut(Instant) -> Protocol + Send>;

/// Runs a loop with an echo, requests and a fan-out, and clients that check every byte. Then
/// measures how much memory an idle connection needs.
///
/// `serve` makes a loop whose connections are admitted by the table, listens for each factory,
/// sends the addresses in that order, and runs the loop until the shutdown is requested and the
/// last connection has ended.
pub(crate) fn run(
    serve: impl Fn(
        ConnectionTable,
        Vec<Factory>,
        &Sender<SocketAddr>,
        &ShutdownHandle,
    ) -> io::Result<()>,
) -> io::Result<()> {
    let with_clients = |factories: Vec<Factory>, clients: fn(&[SocketAddr])| {
        let (table, shutdown) = (ConnectionTable::new(Limits::default()), ShutdownHandle::new());
        let (listening, addresses) = mpsc::channel();
        let (count, stop) = (factories.len(), shutdown.clone());
        let clients = thread::spawn(move || {
            let addresses: Vec<_> = addresses.iter().take(count).collect();
            let played = catch_unwind(AssertUnwindSafe(|| clients(&addresses)));
            stop.drain();
            played
        });
        let mut served = Ok(());
        let heap = allocation_counter::measure(|| {
            served = serve(table.clone(), factories, &listening, &shutdown);
        });
        drop(listening);
        served?;
        let played = clients.join().expect("it does not panic");
        played.unwrap_or_else(|panic| resume_unwind(panic));
        let totals = table.totals();
        assert_eq!(totals.open, 0, "every connection has ended");
        Ok::<_, io::Error>((totals.ended, heap.bytes_max))
    };

    let (ended, _) = with_clients(factories(), |addresses| {
        echoes(addresses[0]).expect("every echo arrives");
        requests(addresses[1]).expect("every request is answered");
        fan_out(addresses[2], addresses[3]).expect("every message is published");
    })?;
    println!("connections ended, by reason: {ended:?}");

    let echo = || factories().into_iter().take(1).collect();
    let (_, of_few) = with_clients(echo(), |addresses| idle(addresses[0], FEW))?;
    let (_, of_many) = with_clients(echo(), |addresses| idle(addresses[0], MANY))?;
    let bytes = (of_many - of_few) / u64::try_from(MANY - FEW).expect("it is small");
    println!("memory of an idle connection: {bytes} bytes");
    Ok(())
}

/// An echo, a server of requests, and the two sides of a fan-out: upstream and subscribers.
pub(crate) fn factories() -> Vec<Factory> {
    let echo = echo::Server::default();
    let service = service::asynchronous(async |request| request.into_message());
    let message = message::Server::with_default_config(service);
    let max = NonZeroUsize::new(100).expect("not 0");
    let framing = Framing::Delimited { delimiter: b'\n', max };
    let config = fanout::Config::default().with_framing(framing).with_replay(2);
    let feed = Feed::new(config).expect("the configuration is valid");
    let upstream = feed.clone();
    vec![
        Box::new(move |now| Box::new(Erased(echo.machine(now)))),
        Box::new(move |now| Box::new(Erased(message.machine(now)))),
        Box::new(move |now| Box::new(Erased(Upstream::new(&upstream, now)))),
        Box::new(move |now| Box::new(Erased(Subscriber::new(&feed, now)))),
    ]
}

/// A hundred connections at once send in pieces. Ninety half-close and get every byte back; ten
/// reset their connection.
fn echoes(address: SocketAddr) -> io::Result<()> {
    let mut clients = (0..100)
        .map(|i| Ok((connect(address)?, bytes(i, 5_000 + i * 1_000))))
        .collect::<io::Result<Vec<_>>>()?;
    let mut start = 0;
    for piece in 1.. {
        for (stream, sent) in &mut clients {
            let rest = sent.get(start..).unwrap_or_default();
            stream.write_all(&rest[..piece.min(rest.len())])?;
        }
        start += piece;
        if start >= 105_000 {
            break;
        }
    }
    for (i, (mut stream, sent)) in clients.into_iter().enumerate() {
        if i % 10 == 0 {
            set_socket_linger(&stream, Some(Duration::ZERO))?;
            continue;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received)?;
        assert!(received == sent, "every byte comes back on connection {i}");
    }
    Ok(())
}

/// Requests in pieces, which are answered in order.
fn requests(address: SocketAddr) -> io::Result<()> {
    let (mut stream, frames) = (connect(address)?, frames());
    for piece in frames.chunks(997) {
        stream.write_all(piece)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut replies = Vec::new();
    stream.read_to_end(&mut replies)?;
    assert!(replies == frames, "each reply equals its request");
    Ok(())
}

/// A hundred requests. Each has itself as its reply.
pub(crate) fn frames() -> Vec<u8> {
    let mut frames = Vec::new();
    for i in 0..100 {
        let request = Message::binary(bytes(i, i * 20));
        request.encode(&mut frames).expect("the header is short");
    }
    frames
}

/// Messages in pieces, which each subscriber receives.
fn fan_out(publish: SocketAddr, subscribe: SocketAddr) -> io::Result<()> {
    let subscribers = (0..20).map(|_| connect(subscribe)).collect::<io::Result<Vec<_>>>()?;
    let mut publisher = connect(publish)?;
    for piece in ["on", "e\nt", "wo", "\n"] {
        publisher.write_all(piece.as_bytes())?;
    }
    // The last one joins late, and gets both messages again.
    for mut subscriber in subscribers.into_iter().chain([connect(subscribe)?]) {
        let mut received = [0; 8];
        subscriber.read_exact(&mut received)?;
        assert_eq!(&received, b"one\ntwo\n");
    }
    Ok(())
}

/// This many connections have received an echo, and are idle.
fn idle(address: SocketAddr, count: usize) {
    let streams: Vec<_> = (0..count)
        .map(|_| {
            let mut stream = connect(address).expect("a descriptor is free");
            stream.write_all(b"hello").expect("the connection is open");
            stream.read_exact(&mut [0; 5]).expect("an echo");
            stream
        })
        .collect();
    drop(streams);
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// A pattern in which neighbouring bytes differ.
pub(crate) fn bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| ((seed * 31 + i * 7 + i / 251) % 251).to_le_bytes()[0]).collect()
}

/// How long a client waits for the loop.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The numbers of idle connections between which the memory is compared. Powers of two, because
/// collections grow to those.
pub(crate) const FEW: usize = 16;
pub(crate) const MANY: usize = 256;
