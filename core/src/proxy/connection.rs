//! A proxied connection on a runtime, as a future.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    io, mem,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{
    Choice, NoUpstream, ProxyReason, Relay, RelayFactory, Side, Upstreams,
    loops::{Loops, Open, SelfConnection},
    pipes::{Directions, Pipes},
};
use crate::{
    ConnectionError, Event, Instant, Machine, Status,
    admission::{Admitted, Peer},
    drive::{
        Clock, Ended, Readiness, Sink, Source, Splice, Transfer, Turn, deliver, flush,
        seat::Seated,
        session::{Driven, Session},
        timer::Timer,
        turn,
    },
    proxy_protocol::{self, Header, HeaderReader, Version, announce, identify},
    runtime::{Runtime, connect_within},
    serve::{DrainReport, Server},
};

/// A proxy: its connections' limits, and where they go. Clones are the same proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// What its connections share.
    pub relays: RelayFactory,
    /// Where they go.
    pub upstreams: Upstreams,
    /// How long all attempts to connect one client to an upstream may take together, resolving
    /// names included: each gets an equal part of what is left. `None`: the operating system's own
    /// limit for each (some two minutes).
    pub connect_timeout: Option<Duration>,
    /// Clients come through another proxy, and their connections begin with a PROXY header, which
    /// is received before an upstream is dialled. `None`, the default: they have none.
    pub accept: Option<proxy_protocol::Config>,
    /// Upstreams are told who the client is, by a PROXY header of this version. `None`, the
    /// default: they are not.
    pub send: Option<Version>,
}

impl Proxy {
    /// A proxy to `upstreams`, which has 10 s to connect to one of them, and no PROXY headers on
    /// either side.
    pub fn new(relays: RelayFactory, upstreams: Upstreams) -> Self {
        Self {
            relays,
            upstreams,
            connect_timeout: Some(Duration::from_secs(10)),
            accept: None,
            send: None,
        }
    }

    fn assert_buffer(&self) {
        assert!(
            self.accept.is_none() || self.relays.config().buffer.get() >= MIN_BUFFER,
            "what came behind a PROXY header must fit into a buffer"
        );
    }

    /// The way to one of the upstreams.
    fn dialler<R>(&self, runtime: R, loops: Option<Loops>) -> Dialler<R> {
        let (choice, limit) = (self.upstreams.choose(), self.connect_timeout);
        Dialler { runtime, choice, limit, left: limit, loops, open: None }
    }
}

/// Accepts clients and relays each to an upstream, until a shutdown is requested and all
/// connections have ended.
///
/// With [`Proxy::accept`], set
/// [`serve::Config::behind_proxies`](crate::serve::Config::behind_proxies) for the server.
/// Otherwise the proxies' own addresses count towards the limit per address until the headers have
/// been read.
///
/// # Panics
/// With [`Proxy::accept`], if [`Config::buffer`](super::Config::buffer) is below [`MIN_BUFFER`].
pub async fn serve<R: Runtime<Socket: Splice>>(server: Server<R>, proxy: Proxy) -> DrainReport {
    proxy.assert_buffer();
    let pipes = Pipes::new(proxy.relays.config().pipes);
    let listening = server.addresses().ok();
    let loops = listening.and_then(|addresses| Loops::new(addresses, &proxy.upstreams));
    let runtime = server.runtime().clone();
    server
        .accept(move |socket, admitted, clock| {
            let (peer, loops) = (admitted.peer(), loops.clone());
            let pipes = Some(pipes.clone());
            Connection::with(&runtime, &proxy, socket, peer, clock, loops, pipes).admitted(admitted)
        })
        .await
}

/// Dials an upstream for a client, and relays between them until both sides have ended. An upstream
/// that is lost before a byte has passed is replaced by one that was not tried yet.
///
/// As a [`Future`] it returns why. Dropped before its end, it resets both connections, so that
/// neither peer takes what it got for all.
///
/// The bytes that the [`Admitted`] counts are the client's: received from it, and sent to it.
///
/// ```no_run
/// use wirestate_core::{Runtime, proxy::{Connection, Proxy}};
///
/// # async fn example<R: Runtime>(runtime: R, proxy: Proxy) -> std::io::Result<()> {
/// let server = runtime.bind("127.0.0.1:9500").await?;
/// server
///     .accept(|socket, admitted, clock| {
///         Connection::new(&runtime, &proxy, socket, admitted.peer(), clock).admitted(admitted)
///     })
///     .await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Connection<R: Runtime> {
    relaying: Relaying<R>,
    session: Session,
    timer: Timer<R::Clock>,
}

impl<R: Runtime> Connection<R> {
    /// A connection of `peer` to `proxy`. All bytes go through memory; [`serve`] has pipes for what
    /// comes in bulk, and detects connections of the proxy to itself.
    ///
    /// # Panics
    /// With [`Proxy::accept`], if [`Config::buffer`](super::Config::buffer) is below
    /// [`MIN_BUFFER`].
    pub fn new(runtime: &R, proxy: &Proxy, client: R::Socket, peer: Peer, clock: R::Clock) -> Self {
        proxy.assert_buffer();
        Self::with(runtime, proxy, client, peer, clock, None, None)
    }

    fn with(
        runtime: &R,
        proxy: &Proxy,
        client: R::Socket,
        peer: Peer,
        clock: R::Clock,
        loops: Option<Loops>,
        pipes: Option<Pipes<R::Socket>>,
    ) -> Self {
        let relaying = Relaying::new(runtime, proxy, client, peer, clock.now(), loops, pipes);
        Self { relaying, session: Session::new(), timer: Timer::new(clock) }
    }

    /// Keeps the connection's line in its table up to date, and applies commands from there.
    pub fn admitted(mut self, admitted: Admitted) -> Self {
        self.session.set_admitted(admitted);
        self
    }
}

/// Nothing in it is pinned: what has to be is in a box.
impl<R: Runtime> Unpin for Connection<R> {}

impl<R: Runtime> Future for Connection<R> {
    type Output = Ended<ProxyReason>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { relaying, session, timer } = self.get_mut();
        while let Upstream::Header(pending) = &mut relaying.upstream {
            let Connected { socket, readiness } = &mut relaying.client;
            let mut seated = Seated { machine: &mut pending.reader, socket, readiness };
            let polled = timer.run(cx, |now, cx, was_woken| {
                if was_woken {
                    seated.readiness.ready(true, true);
                }
                let header = |seated: &mut Seated<'_, HeaderReader, _>, now| {
                    seated.machine.header().is_some().then_some(now)
                };
                session.poll(&mut seated, now, cx, was_woken, header)
            });
            match ready!(polled) {
                Ok(now) => relaying.identify(session.admitted(), now),
                Err(ended) => return Poll::Ready(ended.map(ProxyReason::Header)),
            }
        }
        let polled = timer.run(cx, |now, cx, was_woken| {
            if was_woken {
                relaying.ready();
            }
            session.poll(relaying, now, cx, was_woken, |_, _| None::<Infallible>)
        });
        polled.map(|Err(ended)| ended)
    }
}

impl<R: Runtime> Drop for Connection<R> {
    fn drop(&mut self) {
        self.session.dropped(&mut self.relaying);
    }
}

/// A client's connection, the one to its upstream, and the machine between them.
struct Relaying<R: Runtime> {
    relay: Relay,
    /// Before the sockets, so that the entry ends before their addresses can be reused.
    _open: Option<Box<Open>>,
    loops: Option<Loops>,
    client: Connected<R::Socket>,
    upstream: Upstream<R>,
    directions: Directions<R::Socket>,
    /// A reset that is forwarded waits for what the kernel has to send first.
    unsent: Option<Unsent>,
    /// A client that is announced as `LOCAL`: a proxy checks that a server listens.
    is_local: bool,
    /// The upstream has closed the connection first, without a byte.
    hung_up: bool,
    /// The next turn would find nothing to do.
    is_quiescent: bool,
}

/// When to look whether it is sent, and how long after that again.
#[derive(Clone, Copy, Debug)]
struct Unsent {
    look: Instant,
    pause: Duration,
}

impl Unsent {
    /// It is not sent, at the time of this look.
    fn again(now: Instant, last: Option<Self>) -> Self {
        let pause = last.map_or(MIN_PAUSE, |last| (last.pause * 2).min(MAX_PAUSE));
        Self { look: now + pause, pause }
    }
}

/// A connected socket, and what is to be remembered of it between turns.
#[derive(Debug)]
struct Connected<S> {
    socket: S,
    readiness: Readiness,
}

impl<S: Source + Sink> Connected<S> {
    fn new(socket: S) -> Self {
        Self { socket, readiness: Readiness::default() }
    }

    fn recheck(&mut self) {
        self.readiness.recheck(&mut self.socket);
    }

    /// Resets it if output is owed, or a FIN would not be true.
    fn reset(&mut self, owes: bool) {
        if owes || self.readiness.must_reset(&self.socket) {
            self.readiness.reset(&mut self.socket);
        }
    }
}

type Dial<R> = dyn Future<Output = Result<(<R as Runtime>::Socket, Dialler<R>), NoUpstream>> + Send;

enum Upstream<R: Runtime> {
    /// The client has to announce itself first.
    Header(Box<PendingHeader<R>>),
    Dialling(Pin<Box<Dial<R>>>),
    Connected(Connected<R::Socket>, Dialler<R>),
    /// There will be none.
    Absent,
}

/// A header that is awaited, and what is needed when it has come.
struct PendingHeader<R> {
    reader: HeaderReader,
    runtime: R,
    proxy: Proxy,
}

impl<R: Runtime> Upstream<R> {
    fn connected(&self) -> Option<&Connected<R::Socket>> {
        match self {
            Self::Connected(connected, _) => Some(connected),
            Self::Header(_) | Self::Dialling(_) | Self::Absent => None,
        }
    }

    fn connected_mut(&mut self) -> Option<&mut Connected<R::Socket>> {
        match self {
            Self::Connected(connected, _) => Some(connected),
            Self::Header(_) | Self::Dialling(_) | Self::Absent => None,
        }
    }
}

impl<R: Runtime> fmt::Debug for Upstream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header(_) => "Header",
            Self::Dialling(_) => "Dialling",
            Self::Connected(..) => "Connected",
            Self::Absent => "Absent",
        })
    }
}

impl<R: Runtime> fmt::Debug for Relaying<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { relay, upstream, .. } = self;
        f.debug_struct("Relaying")
            .field("relay", relay)
            .field("upstream", upstream)
            .finish_non_exhaustive()
    }
}

impl<R: Runtime> Relaying<R> {
    fn new(
        runtime: &R,
        proxy: &Proxy,
        client: R::Socket,
        peer: Peer,
        now: Instant,
        loops: Option<Loops>,
        pipes: Option<Pipes<R::Socket>>,
    ) -> Self {
        let open = loops.as_ref().map(|loops| loops.accepted(runtime, peer, &client));
        let (open, itself) = match open.transpose() {
            Ok(open) => (open.flatten(), None),
            Err(itself) => (None, Some(itself)),
        };
        let mut relaying = Self {
            relay: proxy.relays.relay(now),
            _open: open,
            loops,
            client: Connected::new(client),
            upstream: Upstream::Absent,
            directions: Directions::new(pipes),
            unsent: None,
            is_local: false,
            hung_up: false,
            is_quiescent: false,
        };
        if let Some(SelfConnection(upstream)) = itself {
            let upstream = proxy.upstreams.mark_as_itself(upstream, now);
            relaying.relay.refuse(ProxyReason::Loop { upstream }, now);
        } else if let Some(accept) = &proxy.accept {
            let reader = HeaderReader::new(accept, peer, now);
            let (runtime, proxy) = (runtime.clone(), proxy.clone());
            let pending = PendingHeader { reader, runtime, proxy };
            relaying.upstream = Upstream::Header(Box::new(pending));
        } else {
            let local_address = || runtime.local_address(&relaying.client.socket);
            let destination = proxy.send.and_then(|_| local_address());
            relaying.begin(runtime, proxy, peer, destination);
        }
        relaying
    }

    /// The client is known: an upstream is dialled for it.
    fn begin(&mut self, runtime: &R, proxy: &Proxy, peer: Peer, destination: Option<SocketAddr>) {
        if let Some(version) = proxy.send {
            self.relay.announce(announce(version, peer, destination));
        }
        let dialler = proxy.dialler(runtime.clone(), self.loops.clone());
        self.upstream = Upstream::Dialling(Box::pin(dialler.dial()));
    }

    /// There is a header: who the client is, and what came behind it.
    fn identify(&mut self, admitted: Option<&Admitted>, now: Instant) {
        let Upstream::Header(pending) = &mut self.upstream else { return };
        let Some((header, rest)) = pending.reader.header() else { return };
        let length = pending.reader.header_len();
        if let Some(admitted) = admitted
            && let Err(refused) = identify(admitted.table(), admitted, header, length)
        {
            pending.reader.refuse(refused);
            return;
        }
        self.is_local = header == Header::Local;
        let (peer, destination) = match header {
            Header::Local => (Peer::Local, None),
            Header::Tcp { source, destination } => (Peer::Ip(source), Some(destination)),
        };
        let rest = rest.to_vec();
        let (runtime, proxy) = (pending.runtime.clone(), pending.proxy.clone());
        self.begin(&runtime, &proxy, peer, destination);
        let mut left = &rest[..];
        deliver(&mut self.relay.side(Side::Client), &mut left, now);
        debug_assert!(left.is_empty(), "the buffer has room for it");
    }

    /// The sockets may have become ready.
    fn ready(&mut self) {
        self.client.readiness.ready(true, true);
        if let Some(upstream) = self.upstream.connected_mut() {
            upstream.readiness.ready(true, true);
        }
    }

    fn dial(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Upstream::Dialling(dial) = &mut self.upstream else { return };
        if !self.relay.owes(Side::Upstream) {
            // The client is gone, or we were asked to stop: the attempt is given up.
            self.upstream = Upstream::Absent;
            return;
        }
        match dial.as_mut().poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok((socket, dialler))) => {
                self.relay.connected(now, dialler.has_another());
                self.upstream = Upstream::Connected(Connected::new(socket), dialler);
            }
            Poll::Ready(Err(none)) => {
                self.upstream = Upstream::Absent;
                self.relay.refuse(ProxyReason::NoUpstream(none), now);
            }
        }
    }

    fn turn_client(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Self { relay, directions, unsent, client, .. } = self;
        let waits = relay.forwards_reset(Side::Client) && must_wait(unsent, &client.socket, now);
        let mut transfer = directions.of(Side::Client, relay, &mut client.socket);
        turn_or_wait(&mut transfer, &mut client.readiness, waits, now, cx)
    }

    fn turn_upstream(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Self { relay, directions, unsent, upstream, .. } = self;
        let Upstream::Connected(Connected { socket, readiness }, dialler) = upstream else {
            return Turn::Blocked;
        };
        let waits = relay.forwards_reset(Side::Upstream) && must_wait(unsent, socket, now);
        let header = relay.unsent_header();
        let mut transfer = directions.of(Side::Upstream, relay, socket);
        let turn = turn_or_wait(&mut transfer, readiness, waits, now, cx);
        if let Turn::Moved { read, written } = turn {
            let own = header.saturating_sub(self.relay.unsent_header());
            dialler.choice.moved(read, written - own, now);
        }
        if self.relay.half_closed_by_upstream() {
            self.hung_up = true;
            dialler.choice.hung_up(now);
        }
        if let Some(why) = self.relay.upstream_lost() {
            self.dial_another(why, now);
        }
        turn
    }

    /// The upstream was lost untouched: that was one more attempt that has failed.
    fn dial_another(&mut self, why: ConnectionError, now: Instant) {
        let lost = mem::replace(&mut self.upstream, Upstream::Absent);
        if let Upstream::Connected(mut lost, mut dialler) = lost {
            lost.readiness.reset(&mut lost.socket);
            dialler.choice.failed(format!("{why}, before a byte had passed"), now);
            self.upstream = Upstream::Dialling(Box::pin(dialler.dial()));
        }
    }

    /// A loss is held against the upstream.
    fn blame(&mut self, reason: &ProxyReason, now: Instant) {
        if let Upstream::Connected(_, dialler) = &mut self.upstream
            && let ProxyReason::Lost { side: Side::Upstream, why, .. } = reason
        {
            dialler.choice.blame(&why.to_string(), now);
        }
    }
}

impl<R: Runtime> Driven for Relaying<R> {
    type Reason = ProxyReason;

    /// One of each side. The bytes are the client's.
    fn turn(&mut self, now: Instant, cx: &mut Context<'_>) -> Turn {
        self.dial(cx, now);
        let client = self.turn_client(cx, now);
        // A turn of one side changes what the other one wants, and this one comes last.
        let upstream = self.turn_upstream(cx, now);
        let upstream_moved = matches!(upstream, Turn::Moved { .. });
        self.is_quiescent = !upstream_moved && self.client.readiness.is_quiescent();
        match client {
            Turn::Moved { .. } => client,
            Turn::Blocked | Turn::Done if upstream_moved => Turn::Moved { read: 0, written: 0 },
            Turn::Done if upstream == Turn::Done || self.upstream.connected().is_none() => {
                match self.relay.reason() {
                    Some(reason) => {
                        self.blame(&reason, now);
                        Turn::Done
                    }
                    None => Turn::Blocked,
                }
            }
            Turn::Blocked | Turn::Done => Turn::Blocked,
        }
    }

    fn is_quiescent(&self) -> bool {
        self.is_quiescent && !self.relay.is_done()
    }

    fn deadline(&self) -> Option<Instant> {
        let flush = |connected: &Connected<_>| connected.readiness.flush_deadline();
        let flushes = [flush(&self.client), self.upstream.connected().and_then(flush)];
        let look = self.unsent.map(|unsent| unsent.look);
        flushes.into_iter().chain([self.relay.poll_timeout(), look]).flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        let Self { relay, client, upstream, .. } = self;
        let mut unacknowledged = |connected: &mut Connected<_>, side| {
            let Connected { socket, readiness } = connected;
            readiness.handle_timeout(&mut relay.side(side), socket, now)
        };
        let to_client = unacknowledged(client, Side::Client);
        let to_upstream =
            upstream.connected_mut().map_or(0, |upstream| unacknowledged(upstream, Side::Upstream));
        relay.handle_timeout(now, to_client, to_upstream);
        debug_assert!(
            relay.poll_timeout().is_none_or(|deadline| deadline > now),
            "after a timeout, the deadline must lie ahead"
        );
    }

    fn shut_down(&mut self, now: Instant) {
        self.relay.shut_down(now);
    }

    fn recheck(&mut self) {
        self.client.recheck();
        if let Some(upstream) = self.upstream.connected_mut() {
            upstream.recheck();
        }
    }

    fn release(&mut self, now: Instant) {
        for side in Side::BOTH {
            self.relay.side(side).handle(now, Event::Release);
        }
    }

    fn has_ended(&self) -> bool {
        let holds = |connected: &Connected<R::Socket>| connected.readiness.holds(&connected.socket);
        self.relay.is_done()
            && !holds(&self.client)
            && !self.upstream.connected().is_some_and(holds)
    }

    /// Resets the sides that are not over: what they got is not all.
    fn reset(&mut self) {
        self.client.reset(self.relay.owes(Side::Client));
        if let Some(upstream) = self.upstream.connected_mut() {
            upstream.reset(self.relay.owes(Side::Upstream));
        }
    }

    fn must_reset(&self) -> bool {
        true
    }

    /// The work of a relay is proportional to its bytes.
    fn work(&self) -> u64 {
        0
    }

    fn status(&self) -> Status {
        self.relay.status()
    }

    fn reason(&self) -> ProxyReason {
        self.relay.reason().expect("the relay has ended")
    }

    /// Whether the client left by itself, not because of the upstream. The lack of an upstream is
    /// no failure towards a proxy's health check; it is logged for the upstream.
    fn peer_has_left(&self) -> bool {
        match self.relay.reason() {
            Some(ProxyReason::NoUpstream(_)) => self.is_local,
            Some(ProxyReason::Lost { side: Side::Upstream, .. }) => false,
            Some(_) | None => self.client.readiness.peer_has_left() && !self.hung_up,
        }
    }
}

/// A turn; only a flush while the reset that comes next `waits` for what was written before.
fn turn_or_wait(
    transfer: &mut impl Transfer,
    readiness: &mut Readiness,
    waits: bool,
    now: Instant,
    cx: &mut Context<'_>,
) -> Turn {
    match waits {
        false => turn(transfer, readiness, now, cx),
        true if flush(transfer, readiness, now, cx) => Turn::Moved { read: 0, written: 0 },
        true => Turn::Blocked,
    }
}

/// Whether the reset of `socket` has to wait, for what was written there.
fn must_wait(unsent: &mut Option<Unsent>, socket: &impl Sink, now: Instant) -> bool {
    if unsent.is_none_or(|unsent| unsent.look <= now) {
        *unsent = (socket.unacknowledged() > 0).then(|| Unsent::again(now, *unsent));
    }
    unsent.is_some()
}

/// The way to an upstream.
struct Dialler<R> {
    runtime: R,
    choice: Choice,
    /// The time for all attempts together, and what is left of it.
    limit: Option<Duration>,
    left: Option<Duration>,
    loops: Option<Loops>,
    /// The entry of the connection to the upstream in `loops`.
    open: Option<Box<Open>>,
}

impl<R> Dialler<R> {
    /// Whether there is another upstream to be tried, and the time for it.
    fn has_another(&self) -> bool {
        self.choice.left() > 0 && self.left != Some(Duration::ZERO)
    }
}

impl<R: Runtime> Dialler<R> {
    /// Connects to one upstream after the other, in the time that is left. It comes back with the
    /// connection, for when that is lost.
    async fn dial(mut self) -> Result<(R::Socket, Self), NoUpstream> {
        self.open = None;
        let clock = self.runtime.clock();
        let deadline = self.left.map(|left| clock.now() + left);
        let ran_out = |now| deadline.is_some_and(|deadline| now >= deadline);
        while !ran_out(clock.now())
            && let Some(address) = self.choice.next(clock.now())
        {
            // An equal part of what is left: one that does not answer must not use up all of it.
            let parts = u32::try_from(self.choice.left()).unwrap_or(u32::MAX).saturating_add(1);
            let part = deadline.map(|deadline| deadline.since(clock.now()) / parts);
            let connected = connect_within(&self.runtime, &address, part).await;
            let now = clock.now();
            match connected {
                Ok(socket) => {
                    let Ok(open) = self.watch(&socket) else {
                        self.choice.mark_as_itself(now);
                        continue;
                    };
                    self.open = open;
                    self.choice.connected(now);
                    self.left = deadline.map(|deadline| deadline.since(now));
                    return Ok((socket, self));
                }
                Err(error) if is_exhausted(&error) => self.choice.not_made(error.to_string()),
                Err(error) => self.choice.failed(error.to_string(), now),
            }
        }
        Err(self.choice.give_up(self.limit.filter(|_| ran_out(clock.now()))))
    }

    /// Checks whether the upstream that was connected to is the proxy itself.
    fn watch(&self, socket: &R::Socket) -> Result<Option<Box<Open>>, SelfConnection> {
        match (&self.loops, self.choice.present()) {
            (Some(loops), Some(upstream)) => loops.dialled(&self.runtime, upstream, socket),
            (None, _) | (_, None) => Ok(None),
        }
    }
}

/// Whether this process or this machine has run out of something that a connection takes
/// (socket(2)): `ENOMEM`, `ENFILE`, `EMFILE`, `ENOBUFS`.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(12 | 23 | 24 | 105))
}

const MIN_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// The smallest [`Config::buffer`](super::Config::buffer) with [`Proxy::accept`], in bytes: it
/// holds what came behind the header (255 at most).
pub const MIN_BUFFER: usize = 256;
