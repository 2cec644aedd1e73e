//! Scenarios that every event loop must pass.

use std::{
    future::pending,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    num::NonZeroUsize,
    sync::mpsc,
    task::Context,
    thread,
    time::{Duration, Instant as SystemInstant},
};

use bytes::Bytes;
use rustix::net::sockopt::set_socket_linger;
use tokio::sync::oneshot;
use wirestate_core::{
    Erased, Event, Instant, Interest, Machine, Status,
    admission::{ConnectionTable, Limits},
    echo,
    fanout::{self, Feed, Framing, Subscriber, Upstream},
    message::{self, Message, service},
    shutdown::ShutdownHandle,
};
use wirestate_testkit::message::frames;

use crate::EventLoop;

/// The server's parts that clients use without a socket.
struct Server {
    table: ConnectionTable,
    shutdown: ShutdownHandle,
}

/// Shuts the loop down when the clients end or panic.
impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.drain();
        if thread::panicking() {
            self.table.abort();
        }
    }
}

/// Calls `listen` with a new loop, and runs the loop until `clients` and the last connection have
/// ended. Returns how often the loop has waited.
fn serve<L: EventLoop, T: Send>(
    listen: impl FnOnce(&mut L) -> io::Result<T>,
    clients: impl FnOnce(T, &Server) + Send,
) -> u64 {
    let (table, shutdown) = (ConnectionTable::new(Limits::default()), ShutdownHandle::new());
    let mut event_loop = L::new(table.clone()).unwrap();
    let listening = listen(&mut event_loop).unwrap();
    let server = Server { table: table.clone(), shutdown: shutdown.clone() };
    let rounds = thread::scope(|scope| {
        scope.spawn(move || clients(listening, &server));
        let mut rounds = 0;
        while event_loop.goes_on(&shutdown) {
            event_loop.round().unwrap();
            rounds += 1;
        }
        rounds
    });
    assert_eq!(table.totals().open, 0);
    rounds
}

fn echo<L: EventLoop>(buffer: usize) -> impl FnOnce(&mut L) -> io::Result<SocketAddr> {
    let buffer = NonZeroUsize::new(buffer).unwrap();
    let echo = echo::Server::new(echo::Config::default().with_buffer(buffer)).unwrap();
    move |event_loop| event_loop.listen(move |now| Box::new(Erased(echo.machine(now))))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// A machine that reads one byte at a time, so that its peer sends faster than it reads.
struct ByteByByte<M>(M);

#[deny(clippy::missing_trait_methods, reason = "a default method would hide the machine's own")]
impl<M: Machine> Machine for ByteByByte<M> {
    type Reason = M::Reason;

    fn interest(&self) -> Interest {
        self.0.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        &mut self.0.read_buf()[..1]
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

    fn reason(&self) -> Option<M::Reason> {
        self.0.reason()
    }
}

/// Waits until `condition` returns true.
fn until(mut condition: impl FnMut() -> bool) {
    let began = SystemInstant::now();
    while !condition() {
        assert!(began.elapsed() < TEST_TIMEOUT, "the condition is false after {TEST_TIMEOUT:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A pattern in which neighbouring bytes differ.
fn bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((seed * 31 + i * 7 + i / 251) % 251).unwrap()).collect()
}

fn ended(table: &ConnectionTable, label: &str) -> u64 {
    table.totals().ended.get(label).copied().unwrap_or(0)
}

pub(crate) fn every_byte_comes_back_in_any_chunks<L: EventLoop>() {
    serve::<L, _>(echo(100), |address, server| {
        thread::scope(|scope| {
            for seed in 0..100 {
                scope.spawn(move || {
                    let mut stream = connect(address);
                    let sent = bytes(seed, 5_000);
                    let (mut received, mut end) = (Vec::new(), 0);
                    for size in (1_usize..).map(|i| 1 + (seed + i * i) % 97) {
                        let next = sent.len().min(end + size);
                        stream.write_all(&sent[end..next]).unwrap();
                        end = next;
                        if size % 3 == 0 || end == sent.len() {
                            let mut chunk = vec![0; end - received.len()];
                            stream.read_exact(&mut chunk).unwrap();
                            received.extend(chunk);
                        }
                        if end == sent.len() {
                            break;
                        }
                    }
                    stream.shutdown(Shutdown::Write).unwrap();
                    stream.read_to_end(&mut received).unwrap();
                    assert!(received == sent, "the bytes of connection {seed}");
                });
            }
        });
        until(|| ended(&server.table, "finished") == 100);
    });
}

pub(crate) fn a_half_closed_client_gets_all_bytes_back<L: EventLoop>() {
    serve::<L, _>(echo(16 * 1024), |address, server| {
        let stream = connect(address);
        let sent = bytes(1, 8 << 20);
        let received = thread::scope(|scope| {
            let (mut writing, mut reading, sent) = (&stream, &stream, &sent);
            let (sender, part_is_sent) = mpsc::channel();
            scope.spawn(move || {
                // More than the echo's buffer holds, less than the kernel's buffers hold.
                writing.write_all(&sent[..100_000]).unwrap();
                sender.send(()).unwrap();
                writing.write_all(&sent[100_000..]).unwrap();
                writing.shutdown(Shutdown::Write).unwrap();
            });
            part_is_sent.recv().unwrap();
            let mut received = Vec::new();
            reading.read_to_end(&mut received).unwrap();
            received
        });
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        until(|| ended(&server.table, "finished") == 1);
    });
}

pub(crate) fn a_subscriber_that_sends_without_pause_and_reads_nothing_is_reset<L: EventLoop>() {
    let feed = Feed::new(
        fanout::Config::default().with_window(64 << 20).with_write_timeout(Duration::from_secs(1)),
    )
    .unwrap();
    let subscribers = feed.clone();
    let listen = |event_loop: &mut L| {
        event_loop
            .listen(move |now| Box::new(Erased(ByteByByte(Subscriber::new(&subscribers, now)))))
    };
    serve(listen, |address, server| {
        let mut subscriber = connect(address);
        until(|| feed.counters().subscribers == 1);
        // More than the kernel's buffers hold.
        feed.publish(vec![0; 48 << 20].into(), 48 << 10, Instant::EPOCH);
        let began = SystemInstant::now();
        let flood = vec![1; 1 << 20];
        while subscriber.write_all(&flood).is_ok() {
            assert!(began.elapsed() < TEST_TIMEOUT / 3, "the subscriber is not reset");
        }
        until(|| ended(&server.table, "write_stalled") == 1);
    });
}

/// A server whose service takes one request at a time and never replies.
/// It notifies `requests` of each request.
fn silent<L: EventLoop>(
    requests: mpsc::Sender<()>,
) -> impl FnOnce(&mut L) -> io::Result<SocketAddr> {
    let config = message::Config::default()
        .with_max_in_flight(NonZeroUsize::MIN)
        .with_service_timeout(Duration::from_millis(500));
    let service = service::asynchronous(move |_| {
        requests.send(()).unwrap();
        pending()
    });
    let server = message::Server::new(config, service).unwrap();
    move |event_loop| event_loop.listen(move |now| Box::new(Erased(server.machine(now))))
}

pub(crate) fn a_reset_during_a_request_does_not_keep_the_loop_busy<L: EventLoop>() {
    let (sender, requests) = mpsc::channel();
    let rounds = serve::<L, _>(silent(sender), move |address, server| {
        let mut client = connect(address);
        client.write_all(&frames([&Message::binary("ping")])).unwrap();
        requests.recv_timeout(TEST_TIMEOUT).unwrap();
        reset(client);
        // The connection neither reads nor writes until the service times out.
        until(|| server.table.totals().open == 0);
    });
    assert!(rounds < 50, "the loop has waited {rounds} times");
}

pub(crate) fn a_shutdown_during_a_request_does_not_keep_the_loop_busy<L: EventLoop>() {
    let (sender, requests) = mpsc::channel();
    let rounds = serve::<L, _>(silent(sender), move |address, server| {
        let mut client = connect(address);
        client.write_all(&frames([&Message::binary("ping")])).unwrap();
        requests.recv_timeout(TEST_TIMEOUT).unwrap();
        server.shutdown.drain();
        let mut reply = Vec::new();
        client.read_to_end(&mut reply).unwrap();
        assert!(!reply.is_empty(), "the service timeout has an error reply");
    });
    assert!(rounds < 50, "the loop has waited {rounds} times");
}

pub(crate) fn connections_that_are_reset_at_any_time_end_alone<L: EventLoop>() {
    serve::<L, _>(echo(100), |address, server| {
        let mut healthy = connect(address);
        for length in 1..50 {
            let mut client = connect(address);
            // With this timeout, a long message is written only partly.
            client.set_write_timeout(Some(Duration::from_millis(5))).unwrap();
            let _ = client.write(&vec![0; (length * length) << 10]);
            let _ = client.read(&mut vec![0; length * 100]);
            reset(client);
            healthy.write_all(&[7; 10]).unwrap();
            healthy.read_exact(&mut [0; 10]).unwrap();
        }
        until(|| server.table.totals().open == 1);
    });
}

pub(crate) fn published_messages_reach_every_subscriber<L: EventLoop>() {
    let framing = Framing::Delimited { delimiter: b'\n', max: NonZeroUsize::new(100).unwrap() };
    let feed = Feed::new(fanout::Config::default().with_framing(framing)).unwrap();
    let (subscribers, upstreams) = (feed.clone(), feed.clone());
    let listen = |event_loop: &mut L| {
        let subscribe =
            event_loop.listen(move |now| Box::new(Erased(Subscriber::new(&subscribers, now))))?;
        let publish =
            event_loop.listen(move |now| Box::new(Erased(Upstream::new(&upstreams, now))))?;
        Ok((subscribe, publish))
    };
    serve(listen, |(subscribe, publish), _| {
        let mut subscribers: Vec<_> = (0..20).map(|_| connect(subscribe)).collect();
        until(|| feed.counters().subscribers == 20);
        let mut publisher = connect(publish);
        let mut receive = |expected: &[u8]| {
            for subscriber in &mut subscribers {
                let mut received = vec![0; expected.len()];
                subscriber.read_exact(&mut received).unwrap();
                assert!(received == expected, "the messages differ from the published ones");
            }
        };
        for round in 0..100 {
            // Published by another connection of the loop. Every subscriber gets the messages
            // before the next publication.
            let lines: Vec<_> = (0..50).map(|number| format!("{round}: {number}\n")).collect();
            let lines = lines.concat();
            publisher.write_all(lines.as_bytes()).unwrap();
            receive(lines.as_bytes());
            // Published by another thread.
            let line = format!("{round}\n");
            feed.publish(line.clone().into(), 1, Instant::EPOCH);
            receive(line.as_bytes());
        }
    });
}

pub(crate) fn a_reply_from_another_thread_wakes_its_connection<L: EventLoop>() {
    let (requests, received) =
        mpsc::channel::<(Message<'static>, oneshot::Sender<Message<'static>>)>();
    let service = service::asynchronous(move |request: service::Request| {
        let (reply, replied) = oneshot::channel();
        requests.send((request.into_message(), reply)).unwrap();
        async { replied.await.unwrap() }
    });
    let answering = thread::spawn(move || {
        for (request, reply) in received {
            let _ = reply.send(request);
        }
    });
    let listen = move |event_loop: &mut L| {
        let server = message::Server::with_default_config(service);
        event_loop.listen(move |now| Box::new(Erased(server.machine(now))))
    };
    serve(listen, |address, _| {
        thread::scope(|scope| {
            for seed in 0..10 {
                scope.spawn(move || {
                    let mut client = connect(address);
                    for round in 0..20 {
                        let contents = (0..40).map(|i| bytes(seed + round, i * 20));
                        let requests: Vec<_> = contents.map(Message::binary).collect();
                        let requests = frames(&requests);
                        client.write_all(&requests).unwrap();
                        let mut replies = vec![0; requests.len()];
                        client.read_exact(&mut replies).unwrap();
                        assert!(replies == requests, "the replies differ from the requests");
                    }
                });
            }
        });
    });
    answering.join().unwrap();
}

pub(crate) fn a_shutdown_ends_idle_connections<L: EventLoop>() {
    serve::<L, _>(echo(100), |address, server| {
        let mut clients: Vec<_> = (0..10).map(|_| connect(address)).collect();
        for client in &mut clients {
            client.write_all(b"hello").unwrap();
            client.read_exact(&mut [0; 5]).unwrap();
        }
        server.shutdown.drain();
        for client in &mut clients {
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "a FIN");
        }
    });
}

/// How long a test waits for an event. Longer than it takes on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);
