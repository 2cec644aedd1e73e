//! The processes of a tier: the source, ingests, edges and subscribers.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use wirestate_core::{
    ConnectionError, Event, Instant, Machine,
    admission::Limits,
    dial::{Layer, Servers},
    drive::{Clock as _, Drive},
    fanout::{
        self, Config as FeedConfig, Feed, MessageSource, MessageSourceConfig, Pace, Reader,
        Upstream,
        nats::{EdgeHandle, IngestHandle, LeaseWatch},
    },
    nats::{
        Config, Connection, Dial, Session,
        jetstream::{ConsumerConfig, Start},
    },
    runtime::{Listener as _, Runtime as _},
    serve::{self, ServerHandle},
    shared::Lock,
    shutdown::{Shutdown, ShutdownHandle},
};
use wirestate_testkit::{
    contract::Checked,
    sim::{Host, Task},
};

use super::{FRAMING, Message, NODES, PER_CONNECTION, SIZE, STREAM, Source, Tier, lease, stream};

/// Checks the contract of the machine of each connection.
#[derive(Clone, Copy, Debug)]
struct Checking;

impl Layer for Checking {
    type Machine<M: Machine> = Checked<M>;

    fn is_encrypted(&self) -> bool {
        false
    }

    fn wrap<M: Machine>(&self, _address: &str, inner: M, _now: Instant) -> Checked<M> {
        Checked::new(inner, MAX_QUEUED)
    }

    fn inner_mut<M: Machine>(machine: &mut Checked<M>) -> &mut M {
        machine.machine_mut()
    }
}

/// More than a client or a subscriber of these tests may queue, in bytes.
const MAX_QUEUED: usize = 4 << 20;

/// Keeps `session` connected to the cluster.
fn dial<S: Session + Send + 'static>(
    host: &Host,
    session: S,
    config: Config,
    seed: u64,
    shutdown: &ShutdownHandle,
) -> Task<()> {
    let config = config.with_ping_interval(Duration::from_secs(3));
    let servers = Servers::new(NODES, seed).unwrap();
    let dial = Dial::new(servers, config).unwrap().with_shutdown(shutdown.clone());
    let runtime = host.clone();
    host.run(async move {
        let mut connection = Connection::new(session);
        dial.keep_connected(&runtime, &Checking, &mut connection, |_| {}).await;
    })
}

impl Source {
    pub(super) fn start(host: &Host, rate: u64) -> Self {
        let connections = Arc::new(Lock::new(Vec::<ShutdownHandle>::new()));
        let (end, own, runtime) = (ShutdownHandle::new(), connections.clone(), host.clone());
        let ended = end.clone();
        host.run(async move {
            let mut listener = runtime.listen("source:1").unwrap();
            while let Some(accepted) =
                ended.unless_requested(poll_fn(|cx| listener.poll_accept(cx))).await
            {
                let (socket, _) = accepted.unwrap();
                let cut = ShutdownHandle::new();
                let number = own.with(|all| {
                    all.push(cut.clone());
                    all.len() as u64
                });
                let config = MessageSourceConfig::default()
                    .with_size(SIZE.try_into().unwrap())
                    .with_rate(rate)
                    .with_epoch(Duration::from_nanos(PER_CONNECTION * number));
                let clock = runtime.clock();
                let source = MessageSource::new(config, clock.now()).unwrap();
                let (ended, drive) = (ended.clone(), Drive::new(source, socket, clock));
                runtime.run(run_until_requested(drive, ended, cut));
            }
        });
        Self { connections, end }
    }

    /// Cuts its connections.
    pub(crate) fn cut(&self) {
        self.connections.with(|all| all.iter().for_each(ShutdownHandle::abort));
    }

    /// Ends its output.
    pub(crate) fn end(&self) {
        self.end.drain();
    }
}

/// Runs a machine to its end. A `drain` shuts it down; `cut` drops the connection.
async fn run_until_requested<M: Machine>(
    mut drive: Drive<M, wirestate_testkit::sim::Socket, wirestate_testkit::sim::Clock>,
    drain: ShutdownHandle,
    cut: ShutdownHandle,
) {
    poll_fn(|cx| {
        if cut.poll_requested(cx) == Shutdown::Immediate {
            return Poll::Ready(());
        }
        let is_draining = drain.poll_requested(cx) > Shutdown::None;
        let polled = drive.poll_until(cx, |machine, now| {
            if is_draining {
                machine.handle(now, Event::ShutDown);
            }
            None::<()>
        });
        polled.map(drop)
    })
    .await;
}

/// A process that publishes what the source sends.
pub(crate) struct Ingest {
    pub(crate) host: Host,
    pub(crate) feed: Feed,
    pub(crate) handle: IngestHandle,
    /// Ends the connection to the source; then the ingest is shut down.
    pub(crate) end: ShutdownHandle,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) has_ended: Task<()>,
}

impl Ingest {
    /// As `SIGKILL` does.
    pub(crate) fn kill(&self) {
        self.end.abort();
        self.shutdown.abort();
    }

    /// As `SIGTERM` does.
    pub(crate) fn drain(&self) {
        self.end.drain();
    }
}

/// A process that reads the stream, and serves subscribers.
pub(crate) struct Edge {
    pub(crate) host: Host,
    pub(crate) feed: Feed,
    pub(crate) handle: EdgeHandle,
    pub(crate) server: ServerHandle,
    pub(crate) shutdown: ShutdownHandle,
    /// What its feed has had: messages, and the epoch of each.
    pub(crate) published: Arc<Lock<Vec<(u64, Message)>>>,
}

/// A subscriber of one edge, which connects again after each end of its connection.
pub(crate) struct Subscriber {
    pub(crate) edge: usize,
    pub(crate) log: Arc<Lock<Vec<Subscription>>>,
}

/// What one connection of a subscriber has received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscription {
    pub(crate) messages: Vec<Message>,
    /// When each was generated and received.
    pub(crate) times: Vec<(Instant, Instant)>,
    /// Its end: by a FIN, or by an error.
    pub(crate) end: Option<Result<(), ConnectionError>>,
    /// Bytes of an incomplete message.
    pub(crate) tail: usize,
}

/// Processes are started.
impl Tier {
    pub(crate) fn ingest(&mut self) -> &Ingest {
        let number = self.ingests.len();
        let host = self.world.host(&format!("ingest {number}"));
        self.ingest_on(host)
    }

    /// Starts an ingest on a host, such as after the one before was killed.
    pub(crate) fn ingest_on(&mut self, host: Host) -> &Ingest {
        let Self { settings, seed, .. } = self;
        let seed = *seed * 100 + self.ingests.len() as u64;
        let config = FeedConfig::default().with_framing(FRAMING).with_window(settings.window);
        let feed = Feed::new(config).unwrap();
        let lease = lease("ingest");
        let ingest =
            fanout::nats::Ingest::new(&feed, settings.pace, stream(), &lease, seed).unwrap();
        let handle = ingest.handle();
        let (end, shutdown) = (ShutdownHandle::new(), ShutdownHandle::new());
        // A standby that never blocks may stay connected to the source.
        let lease = (settings.pace == Pace::Blocks).then(|| handle.watch_lease());
        host.run(upstream(host.clone(), feed.clone(), lease, end.clone(), shutdown.clone()));
        let config = fanout::nats::Ingest::client_config(Config::default());
        let has_ended = dial(&host, ingest, config, seed, &shutdown);
        self.ingests.push(Ingest { host, feed, handle, end, shutdown, has_ended });
        &self.ingests[self.ingests.len() - 1]
    }

    /// Starts an edge that begins with the first message of the stream.
    pub(crate) fn edge(&mut self) -> &Edge {
        let number = self.edges.len();
        let host = self.world.host(&format!("edge {number}"));
        let seed = self.seed * 1000 + number as u64;
        let feed = Feed::new(self.settings.edge.clone()).unwrap();
        let published = Arc::new(Lock::new(Vec::new()));
        host.run(tap(Reader::join(&feed, Pace::Blocks), published.clone()));
        let config = ConsumerConfig::new(STREAM, "feed").with_start(Start::Sequence(1));
        let edge = fanout::nats::Edge::new(&feed, config.with_seed(seed)).unwrap();
        let (handle, shutdown) = (edge.handle(), ShutdownHandle::new());
        dial(&host, edge, Config::default(), seed, &shutdown);
        let limits = Limits { per_address: None, ..Limits::default() };
        let server = ServerHandle::new(serve::Config::default().with_limits(limits));
        let listener = host.listen(&format!("edge {number}:2")).unwrap();
        let serving = serve::Server::new(host.clone(), listener).with_handle(&server);
        let own = feed.clone();
        host.run(async move {
            let machine = |_: &_, now| {
                Checked::new(fanout::Subscriber::new(&own, now), MAX_QUEUED).with_deadlines()
            };
            serving.serve(machine).await
        });
        self.edges.push(Edge { host, feed, handle, server, shutdown, published });
        &self.edges[number]
    }

    /// Starts a subscriber of an edge. It waits for `pause` after each read.
    pub(crate) fn subscriber(&mut self, edge: usize, pause: Duration) {
        let number = self.subscribers.len();
        let host = self.world.host(&format!("subscriber {number}"));
        let log = Arc::new(Lock::new(Vec::new()));
        host.run(subscribe(host.clone(), format!("edge {edge}:2"), pause, log.clone()));
        self.subscribers.push(Subscriber { edge, log });
    }
}

/// Keeps an ingest's feed connected to the source, while the ingest holds the lease. At its end it
/// shuts the ingest down.
async fn upstream(
    host: Host,
    feed: Feed,
    lease: Option<LeaseWatch>,
    end: ShutdownHandle,
    shutdown: ShutdownHandle,
) {
    let is_active = |cx: &mut Context<'_>| lease.as_ref().is_none_or(|lease| lease.poll(cx));
    loop {
        let activated = poll_fn(|cx| if is_active(cx) { Poll::Ready(()) } else { Poll::Pending });
        if end.unless_requested(activated).await.is_none() {
            break;
        }
        if let Some(Ok(socket)) = end.unless_requested(host.connect("source:1")).await {
            let clock = host.clock();
            let upstream = Checked::new(Upstream::new(&feed, clock.now()), 0);
            let mut drive = Drive::new(upstream, socket, clock);
            poll_fn(|cx| {
                let requested = end.poll_requested(cx);
                if requested == Shutdown::Immediate {
                    return Poll::Ready(());
                }
                let ends = requested > Shutdown::None || !is_active(cx);
                let polled = drive.poll_until(cx, |upstream, now| {
                    if ends {
                        upstream.handle(now, Event::ShutDown);
                    }
                    None::<()>
                });
                polled.map(drop)
            })
            .await;
        }
        if end.unless_requested(host.sleep(Duration::from_millis(250))).await.is_none() {
            break;
        }
    }
    shutdown.drain();
}

/// Records what a feed has.
async fn tap(mut reader: Reader, published: Arc<Lock<Vec<(u64, Message)>>>) {
    let mut chunks = VecDeque::new();
    loop {
        poll_fn(|cx| {
            reader.fetch(&mut chunks, 64, cx);
            if chunks.is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
        for chunk in chunks.drain(..) {
            assert_eq!(chunk.bytes.len(), SIZE * usize::try_from(chunk.messages).unwrap());
            let messages =
                chunk.bytes.chunks(SIZE).map(|bytes| (chunk.epoch, Message::parse(bytes).0));
            published.with(|published| published.extend(messages));
            reader.acknowledge(&chunk);
        }
    }
}

async fn subscribe(
    host: Host,
    address: String,
    pause: Duration,
    log: Arc<Lock<Vec<Subscription>>>,
) {
    let clock = host.clock();
    loop {
        if let Ok(mut socket) = host.connect(&address).await {
            log.with(|log| log.push(Subscription::default()));
            let (mut buffer, mut filled) = ([0; 64 * SIZE], 0);
            let end = loop {
                let n = match socket.receive(&mut buffer[filled..]).await {
                    Ok(0) => break Ok(()),
                    Ok(n) => n,
                    Err(error) => break Err(error),
                };
                let (now, len) = (clock.now(), filled + n);
                log.with(|log| {
                    let subscription = log.last_mut().unwrap();
                    for bytes in buffer[..len].chunks_exact(SIZE) {
                        let (message, generated) = Message::parse(bytes);
                        subscription.messages.push(message);
                        subscription.times.push((generated, now));
                    }
                });
                filled = len % SIZE;
                buffer.copy_within(len - filled..len, 0);
                if !pause.is_zero() {
                    host.sleep(pause).await;
                }
            };
            log.with(|log| {
                let subscription = log.last_mut().unwrap();
                subscription.end = Some(end);
                subscription.tail = mem::take(&mut filled);
            });
        }
        host.sleep(Duration::from_millis(20)).await;
    }
}
