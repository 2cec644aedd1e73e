//! What the clients of each scene do.

use std::{
    future::pending,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::mpsc,
    task::Context,
    thread,
    time::{Duration, Instant as SystemInstant},
};

use bytes::Bytes;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use wirestate_core::{
    Event, Instant, Interest, Machine, Status, echo,
    fanout::{self, Feed, Framing, Subscriber, Upstream},
    message::{self, Message, service},
    shared::{Promise, promise},
};

use super::{
    EventLoop, Factory, Scene,
    server::{Server, TIMEOUT, concurrently, connect, fail, reset, serve, until},
};
use crate::message::frames;

/// An echo with a buffer of this size.
fn echo(server: &Server, buffer: usize) -> [Factory; 1] {
    let buffer = NonZeroUsize::new(buffer).expect("a buffer is not empty");
    let config = echo::Config::default().with_buffer(buffer);
    let echo = echo::Server::new(config).expect("the configuration is valid");
    [server.checked_factory(move |now| echo.machine(now))]
}

/// A pattern in which neighbouring bytes differ.
fn bytes(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|i| ((seed * 31 + i * 7 + i / 251) % 251).to_le_bytes()[0]).collect()
}

/// Sends `bytes` in pieces of 1 to 97 bytes, and calls `sent` with the end of each.
fn send_in_pieces(stream: &mut TcpStream, seed: usize, bytes: &[u8], mut sent: impl FnMut(usize)) {
    let mut end = 0;
    for i in 1.. {
        let next = bytes.len().min(end + 1 + (seed + i * i) % 97);
        stream.write_all(&bytes[end..next]).expect("the loop accepts what a client sends");
        end = next;
        sent(end);
        if end == bytes.len() {
            return;
        }
    }
}

/// Receives `expected`.
#[track_caller]
fn receive(mut stream: &TcpStream, expected: &[u8]) {
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).expect("the bytes that the client must get");
    let differs = received.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the index of the first wrong byte");
}

/// Receives the FIN.
#[track_caller]
fn receive_fin(mut stream: &TcpStream) {
    assert_eq!(stream.read(&mut [0; 1]).expect("a FIN, and no reset"), 0, "a FIN, and no byte");
}

pub(super) fn echo_in_pieces<L: EventLoop>(scene: Scene) {
    serve::<L, _>(
        scene,
        |server| echo(server, 100),
        |[address], server| {
            concurrently(100, |seed| {
                let (mut stream, sent) = (connect(address), bytes(seed, 5_000));
                let (other, mut received) = (stream.try_clone().expect("a descriptor is free"), 0);
                send_in_pieces(&mut stream, seed, &sent, |end| {
                    if end % 3 == 0 || end == sent.len() {
                        receive(&other, &sent[received..end]);
                        received = end;
                    }
                });
                stream.shutdown(Shutdown::Write).expect("the connection is open");
                receive_fin(&stream);
            });
            until("100 connections have ended by a FIN", || {
                server.connections.ended("finished") == 100
            });
        },
    );
}

pub(super) fn half_close<L: EventLoop>(scene: Scene) {
    serve::<L, _>(
        scene,
        |server| echo(server, 16 * 1024),
        |[address], server| {
            let (stream, sent) = (connect(address), bytes(1, 8 << 20));
            set_socket_recv_buffer_size(&stream, 1 << 16).expect("a socket has this option");
            thread::scope(|scope| {
                let (mut writing, sent) = (&stream, &sent);
                scope.spawn(move || {
                    writing.write_all(sent)?;
                    writing.shutdown(Shutdown::Write)
                });
                // The kernel's buffers are full soon.
                thread::sleep(Duration::from_millis(100));
                receive(&stream, sent);
            });
            receive_fin(&stream);
            until("the connection has ended by a FIN", || {
                server.connections.ended("finished") == 1
            });
        },
    );
}

pub(super) fn replies_from_another_thread<L: EventLoop>(scene: Scene) {
    type Job = (Message<'static>, Promise<Message<'static>>);
    let (jobs, received) = mpsc::channel::<Job>();
    let service = service::asynchronous(move |request: service::Request| {
        let (reply, promised) = promise();
        // If the scene has failed, no reply comes.
        let _ = jobs.send((request.into_message(), reply));
        promised
    });
    let answering = thread::spawn(move || {
        for (request, reply) in received {
            let _ = reply.fulfil(request);
        }
    });
    let factories = move |server: &Server| {
        let message = message::Server::with_default_config(service);
        [server.factory(move |now| message.machine(now))]
    };
    serve::<L, _>(scene, factories, |[address], _| {
        concurrently(10, |seed| {
            let mut stream = connect(address);
            for round in 0..10 {
                let contents = (0..40).map(|i| bytes(seed + round, i * 20));
                let requests: Vec<_> = contents.map(Message::binary).collect();
                let requests = frames(&requests);
                if round == 0 {
                    send_in_pieces(&mut stream, seed, &requests, |_| ());
                } else {
                    stream.write_all(&requests).expect("the loop accepts requests");
                }
                receive(&stream, &requests);
            }
        });
    });
    answering.join().expect("the thread that answers does not panic");
}

pub(super) fn fan_out<L: EventLoop>(scene: Scene) {
    let max = NonZeroUsize::new(100).expect("not 0");
    let framing = Framing::Delimited { delimiter: b'\n', max };
    let feed = Feed::new(fanout::Config::default().with_framing(framing)).expect("valid");
    let (subscribers, upstreams) = (feed.clone(), feed.clone());
    let factories = |server: &Server| {
        [
            server.factory(move |now| Subscriber::new(&subscribers, now)),
            server.factory(move |now| Upstream::new(&upstreams, now)),
        ]
    };
    serve::<L, _>(scene, factories, move |[subscribe, publish], _| {
        let subscribers: Vec<_> = (0..20).map(|_| connect(subscribe)).collect();
        until("20 clients have subscribed", || feed.counters().subscribers == 20);
        let mut publisher = connect(publish);
        let receive_all = |expected: &[u8]| {
            for subscriber in &subscribers {
                receive(subscriber, expected);
            }
        };
        for round in 0..50 {
            // Published by another connection of the loop, in pieces.
            let lines: Vec<_> = (0..50).map(|number| format!("{round}: {number}\n")).collect();
            let lines = lines.concat();
            send_in_pieces(&mut publisher, round, lines.as_bytes(), |_| ());
            receive_all(lines.as_bytes());
            // Published by another thread.
            let line = format!("{round}\n");
            feed.publish(line.clone().into(), 1, Instant::EPOCH);
            receive_all(line.as_bytes());
        }
    });
}

pub(super) fn resets<L: EventLoop>(scene: Scene) {
    serve::<L, _>(
        scene,
        |server| echo(server, 100),
        |[address], server| {
            let mut healthy = connect(address);
            for length in 1..50 {
                let mut client = connect(address);
                // With this timeout, a long message is written only partly.
                let timeout = Some(Duration::from_millis(5));
                client.set_write_timeout(timeout).expect("the timeout is not 0");
                let _ = client.write(&vec![0; (length * length) << 10]);
                let _ = client.read(&mut vec![0; length * 100]);
                reset(client);
                healthy.write_all(&[7; 10]).expect("another connection is open");
                receive(&healthy, &[7; 10]);
            }
            until("all but one connection have ended", || server.connections.open() == 1);
        },
    );
}

pub(super) fn flood_beside_another<L: EventLoop>(scene: Scene) {
    serve::<L, _>(
        scene,
        |server| echo(server, 16 * 1024),
        |[address], _| {
            let (flooding, mut other) = (connect(address), connect(address));
            thread::scope(|scope| {
                let (mut writing, mut reading) = (&flooding, &flooding);
                scope.spawn(move || while writing.write_all(&[1; 1 << 14]).is_ok() {});
                scope.spawn(move || while reading.read(&mut [0; 1 << 14]).is_ok_and(|n| n > 0) {});
                let served = catch_unwind(AssertUnwindSafe(|| {
                    for round in 0..100 {
                        other.write_all(&[round; 10]).expect("another connection is open");
                        receive(&other, &[round; 10]);
                    }
                }));
                // Both threads end.
                flooding.shutdown(Shutdown::Both).expect("the flooding connection is open");
                served.unwrap_or_else(|panic| resume_unwind(panic));
            });
        },
    );
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

/// A feed with more in its window than the kernel's buffers hold, once someone has subscribed.
fn large_feed() -> Feed {
    let config = fanout::Config::default()
        .with_window(32 << 20)
        .with_write_timeout(Duration::from_millis(300));
    Feed::new(config).expect("the configuration is valid")
}

fn publish_to_one(feed: &Feed) {
    until("the client has subscribed", || feed.counters().subscribers == 1);
    feed.publish(vec![0; 24 << 20].into(), 24 << 10, Instant::EPOCH);
}

pub(super) fn flood_past_deadline<L: EventLoop>(scene: Scene) {
    let feed = large_feed();
    let subscribers = feed.clone();
    let factories = |server: &Server| {
        [server.factory(move |now| ByteByByte(Subscriber::new(&subscribers, now)))]
    };
    serve::<L, _>(scene, factories, move |[address], server| {
        let mut subscriber = connect(address);
        publish_to_one(&feed);
        let (began, flood) = (SystemInstant::now(), vec![1; 1 << 20]);
        while subscriber.write_all(&flood).is_ok() {
            assert!(began.elapsed() < TIMEOUT, "the subscriber is reset within {TIMEOUT:?}");
        }
        let ended = || server.connections.ended("write_stalled") == 1;
        until("the connection has ended at its write deadline", ended);
    });
}

pub(super) fn reset_at_deadline<L: EventLoop>(scene: Scene) {
    let feed = large_feed();
    let subscribers = feed.clone();
    let factories =
        |server: &Server| [server.factory(move |now| Subscriber::new(&subscribers, now))];
    serve::<L, _>(scene, factories, move |[address], server| {
        let mut subscriber = connect(address);
        publish_to_one(&feed);
        let ended = || server.connections.ended("write_stalled") == 1;
        until("the connection has ended at its write deadline", ended);
        let end = io::copy(&mut subscriber, &mut io::sink()).map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset), "the end is a reset, and no FIN");
    });
}

pub(super) fn idle_deadline<L: EventLoop>(scene: Scene) {
    let config = echo::Config::default().with_idle_timeout(Duration::from_millis(100));
    let echo = echo::Server::new(config).expect("the configuration is valid");
    let factories = |server: &Server| [server.checked_factory(move |now| echo.machine(now))];
    serve::<L, _>(scene, factories, |[address], server| {
        let client = connect(address);
        until("the connection was accepted", || {
            server.connections.open() + server.connections.all_ended().len() > 0
        });
        receive_fin(&client);
        drop(client);
        until("the connection has ended", || server.connections.open() == 0);
    });
}

/// A server whose service takes one request at a time, reports it, and never replies.
fn silent(server: &Server, requests: mpsc::Sender<()>) -> [Factory; 1] {
    let config = message::Config::default()
        .with_max_in_flight(NonZeroUsize::MIN)
        .with_service_timeout(SERVICE_TIMEOUT);
    let service = service::asynchronous(move |_| {
        let _ = requests.send(());
        pending()
    });
    let message = message::Server::new(config, service).expect("the configuration is valid");
    [server.factory(move |now| message.machine(now))]
}

/// Plays a scene in which the loop waits for the service timeout, and does not work meanwhile.
fn wait_for_service<L: EventLoop>(
    scene: Scene,
    client: impl FnOnce(TcpStream, &Server) + Send + 'static,
) {
    let (sender, requests) = mpsc::channel();
    let clients = move |[address]: [SocketAddr; 1], server: &Server| {
        let mut stream = connect(address);
        stream.write_all(&frames([&Message::binary("ping")])).expect("the loop accepts requests");
        requests.recv_timeout(TIMEOUT).expect("the request reaches the service");
        client(stream, server);
    };
    let cpu_time = serve::<L, _>(scene, |server| silent(server, sender), clients);
    if cpu_time > MAX_CPU_TIME {
        let failure = format!(
            "in {SERVICE_TIMEOUT:?} of waiting the loop has used {cpu_time:?} of CPU time, more \
             than {MAX_CPU_TIME:?}"
        );
        fail(scene, &failure);
    }
}

pub(super) fn reset_during_request<L: EventLoop>(scene: Scene) {
    wait_for_service::<L>(scene, |stream, server| {
        reset(stream);
        // The connection neither reads nor writes until the service times out.
        until("the connection has ended", || server.connections.open() == 0);
    });
}

pub(super) fn shutdown_during_request<L: EventLoop>(scene: Scene) {
    wait_for_service::<L>(scene, |mut stream, server| {
        server.shutdown.drain();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).expect("an error reply, then a FIN");
        assert!(!reply.is_empty(), "the service timeout has an error reply");
    });
}

pub(super) fn backlog_at_shutdown<L: EventLoop>(scene: Scene) {
    let (entered, is_accepting) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let factories = move |server: &Server| {
        let [echoes] = echo(server, 100);
        // While the loop accepts from the second listener, the first one has a backlog.
        let second = server.factory(move |now| {
            let _ = (entered.send(()), released.recv_timeout(TIMEOUT));
            echo::Server::default().machine(now)
        });
        [echoes, second]
    };
    serve::<L, _>(scene, factories, move |[address, second], server| {
        let second = connect(second);
        is_accepting.recv_timeout(TIMEOUT).expect("the loop accepts from the second listener");
        let mut clients: Vec<_> = (0..3).map(|_| connect(address)).collect();
        for client in &mut clients {
            client.write_all(b"hello").expect("the kernel accepts it");
        }
        server.shutdown.drain();
        drop(release);
        for client in &mut clients {
            let mut reply = [0; 5];
            client.read_exact(&mut reply).expect("a client in the backlog is served");
        }
        drop((clients, second));
        until("the connections have ended", || server.connections.open() == 0);
    });
}

pub(super) fn shutdown_while_idle<L: EventLoop>(scene: Scene) {
    serve::<L, _>(
        scene,
        |server| echo(server, 100),
        |[address], server| {
            let mut clients: Vec<_> = (0..10).map(|_| connect(address)).collect();
            for client in &mut clients {
                client.write_all(b"hello").expect("the connection is open");
                receive(client, b"hello");
            }
            server.shutdown.drain();
            clients.iter().for_each(receive_fin);
            // A connection lingers, and discards what arrives. An RST would fail the second write.
            for _ in 0..2 {
                for client in &mut clients {
                    client.write_all(b"late").expect("the connection is half-closed");
                }
                thread::sleep(Duration::from_millis(20));
            }
        },
    );
}

/// How long a request is in progress.
const SERVICE_TIMEOUT: Duration = Duration::from_millis(500);
/// The most CPU time that a loop may use in that time.
const MAX_CPU_TIME: Duration = Duration::from_millis(100);
