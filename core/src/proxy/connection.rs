//! A proxied connection on a runtime, as a future.

use std::{
    fmt,
    future::Future,
    io, mem,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use super::{
    Choice, NoUpstream, Reason, Relay, Relays, Side, Upstreams,
    loops::{Loops, Open, SelfConnection},
    pipes::{Directions, Pipes},
};
use crate::{
    ConnectionError, Event, Instant, Machine, Status,
    admission::{Admitted, Asked, Peer},
    drive::{
        Clock, Ended, Readiness, Sink, Source, Splice, Turn, feed,
        session::{Over, Rest, Session},
        turn_keeping,
    },
    proxy_protocol::{self, Header, HeaderReader, Version, announce},
    runtime::{Listener, Runtime, connect_within},
    serve::{Options, Served, accept},
};

/// A proxy: its connections' limits, and where they go. Clones are the same proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// What its connections share.
    pub relays: Relays,
    /// Where they go.
    pub upstreams: Upstreams,
    /// How long all attempts to connect one client to an upstream may take together, resolving names
    /// included: each gets an equal part of what is left. `None`: the operating system's own limit
    /// for each (some two minutes).
    pub connect_timeout: Option<Duration>,
    /// Clients come through another proxy, and their connections begin with a PROXY header, which
    /// is received before an upstream is dialled. `None`, the default: they have none.
    pub accept: Option<proxy_protocol::Config>,
    /// Upstreams are told who the client is, by a PROXY header of this version. `None`, the default:
    /// they are not.
    pub send: Option<Version>,
}

impl Proxy {
    /// A proxy to `upstreams`, which has 10 s to connect to one of them, and no PROXY headers on
    /// either side.
    pub fn new(relays: Relays, upstreams: Upstreams) -> Self {
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
            self.accept.is_none() || self.relays.config().buffer.get() >= LEAST_BUFFER,
            "what came behind a PROXY header must fit into a buffer"
        );
    }

    /// The way to one of the upstreams.
    fn dialler<R>(&self, runtime: R, loops: Option<Loops>) -> Dialler<R> {
        let (choice, limit) = (self.upstreams.choose(), self.connect_timeout);
        Dialler { runtime, choice, limit, left: limit, loops, open: None }
    }
}

/// Accepts clients and relays each to an upstream, until [`Options::stop`] is asked.
///
/// With [`Proxy::accept`], `options.table` is to be
/// [`behind_proxies`](crate::admission::Table::behind_proxies), so that not the proxies' own
/// addresses are counted.
///
/// # Panics
/// With [`Proxy::accept`], if [`Config::buffer`](super::Config::buffer) is below [`LEAST_BUFFER`].
pub async fn serve<R: Runtime>(
    runtime: &R,
    listener: impl Listener<Socket = R::Socket>,
    options: &Options,
    proxy: &Proxy,
) -> Served {
    proxy.assert_buffer();
    let pipes = Pipes::new(proxy.relays.config().pipes);
    let listening = listener.addresses().ok();
    let loops = listening.and_then(|addresses| Loops::new(addresses, &proxy.upstreams));
    accept(runtime, listener, options, |socket, admitted, clock| {
        let (peer, loops) = (admitted.peer(), loops.clone());
        let connection = Connection::watched(runtime, proxy, socket, peer, clock, loops);
        connection.through(pipes.clone()).admitted(admitted)
    })
    .await
}

/// Dials an upstream for a client, and relays between them until both sides have ended. An upstream that
/// is lost before a byte has passed is replaced by one that was not tried yet.
///
/// As a [`Future`] it answers why. Dropped before its end, it resets both connections, so that
/// neither peer takes what it got for all.
///
/// The bytes that the [`Admitted`] counts are the client's: received from it, and sent to it.
#[derive(Debug)]
pub struct Connection<R: Runtime> {
    relay: Relay,
    /// Before the sockets, so that the entry ends before their addresses can be reused.
    _open: Option<Box<Open>>,
    loops: Option<Loops>,
    client: Socket<R::Socket>,
    upstream: Upstream<R>,
    directions: Directions<PipeOf<R>>,
    session: Session<R::Clock>,
    /// A reset that is passed on waits for what the kernel has to send first.
    unsent: Option<Unsent>,
    /// A client that is announced as `LOCAL`: a proxy checks that a server listens.
    is_local: bool,
    /// The upstream has closed the connection first, without a byte.
    hung_up: bool,
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
        let pause = last.map_or(SHORTEST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
        Self { look: now + pause, pause }
    }
}

/// A connected socket, and what is to be remembered of it between turns.
#[derive(Debug)]
struct Socket<S> {
    socket: S,
    line: Readiness,
}

impl<S: Source> Socket<S> {
    fn new(socket: S) -> Self {
        Self { socket, line: Readiness::default() }
    }

    fn recheck(&mut self) {
        self.line.recheck(&mut self.socket);
    }
}

type PipeOf<R> = <<R as Runtime>::Socket as Splice>::Pipe;

type Dial<R> = dyn Future<Output = Result<(<R as Runtime>::Socket, Dialler<R>), NoUpstream>> + Send;

enum Upstream<R: Runtime> {
    /// The client has to announce itself first.
    Header(Box<Awaited<R>>),
    Dialling(Pin<Box<Dial<R>>>),
    Connected(Socket<R::Socket>, Dialler<R>),
    /// There will be none.
    Absent,
}

/// A header that is awaited, and what is needed when it has come.
struct Awaited<R> {
    reader: HeaderReader,
    runtime: R,
    proxy: Proxy,
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

impl<R: Runtime> Connection<R> {
    /// A connection of `peer`'s to `proxy`. All bytes go through memory; [`serve`] has pipes for what comes
    /// in bulk, and detects connections of the proxy to itself.
    ///
    /// # Panics
    /// With [`Proxy::accept`], if [`Config::buffer`](super::Config::buffer) is below [`LEAST_BUFFER`].
    pub fn new(runtime: &R, proxy: &Proxy, client: R::Socket, peer: Peer, clock: R::Clock) -> Self {
        proxy.assert_buffer();
        Self::watched(runtime, proxy, client, peer, clock, None)
    }

    fn watched(
        runtime: &R,
        proxy: &Proxy,
        client: R::Socket,
        peer: Peer,
        clock: R::Clock,
        loops: Option<Loops>,
    ) -> Self {
        let now = clock.now();
        let open = loops.as_ref().map(|loops| loops.accepted(runtime, peer, &client));
        let (open, itself) = match open.transpose() {
            Ok(open) => (open.flatten(), None),
            Err(itself) => (None, Some(itself)),
        };
        let mut connection = Self {
            relay: proxy.relays.relay(now),
            _open: open,
            loops,
            client: Socket::new(client),
            upstream: Upstream::Absent,
            directions: Directions::new(None),
            session: Session::new(clock),
            unsent: None,
            is_local: false,
            hung_up: false,
        };
        if let Some(SelfConnection(upstream)) = itself {
            let upstream = proxy.upstreams.mark_as_itself(upstream, now);
            connection.relay.refuse(Reason::Loop { upstream }, now);
        } else if let Some(accept) = &proxy.accept {
            let reader = HeaderReader::new(accept, peer, now);
            let (runtime, proxy) = (runtime.clone(), proxy.clone());
            connection.upstream = Upstream::Header(Box::new(Awaited { reader, runtime, proxy }));
        } else {
            let destination = proxy.send.and_then(|_| connection.local_address(runtime));
            connection.begin(runtime, proxy, peer, destination);
        }
        connection
    }

    fn local_address(&self, runtime: &R) -> Option<SocketAddr> {
        runtime.local_address(&self.client.socket)
    }

    /// The client is known: an upstream is dialled for it.
    fn begin(&mut self, runtime: &R, proxy: &Proxy, peer: Peer, destination: Option<SocketAddr>) {
        if let Some(version) = proxy.send {
            self.relay.announce(announce(version, peer, destination));
        }
        let dialler = proxy.dialler(runtime.clone(), self.loops.clone());
        self.upstream = Upstream::Dialling(Box::pin(dialler.dial()));
    }

    /// Keeps the connection's line in its table up to date, and does what is asked there.
    pub fn admitted(mut self, admitted: Admitted) -> Self {
        self.session.set_admitted(admitted);
        self
    }

    /// What comes in bulk goes through one of these, if there is one; otherwise it goes through memory.
    fn through(mut self, pipes: Pipes<PipeOf<R>>) -> Self {
        self.directions = Directions::new(Some(pipes));
        self
    }

    fn take_turns(&mut self, cx: &mut Context<'_>, mut now: Instant) -> Poll<Ended<Reason>> {
        self.client.line.clear();
        if let Upstream::Connected(upstream, _) = &mut self.upstream {
            upstream.line.clear();
        }
        loop {
            if self.obey(now) {
                return Poll::Ready(Ended::Aborted);
            }
            self.dial(cx, now);
            let client = self.turn_client(cx, now);
            let upstream = self.turn_upstream(cx, now);
            let ((read, written), waits) = match client {
                Turn::Moved { read, written } => ((read, written), self.client.line.is_quiescent()),
                Turn::Blocked | Turn::Done => ((0, 0), true),
            };
            // The work of a relay is proportional to its bytes.
            let in_budget = self.session.spend(read, written, 0, now);
            if let Some(reason) = self.reason() {
                self.blame(&reason, now);
                let left = self.client_has_left(&reason);
                self.session.end(Over::Ended, &reason, left, now);
                return Poll::Ready(Ended::Reason(reason));
            }
            // A turn of one side changes what the other one wants, and the upstream's came last.
            if waits && !matches!(upstream, Turn::Moved { .. }) {
                self.release(now);
                let (deadline, status) = (self.poll_timeout(), self.status());
                match self.session.rest(cx, deadline, || status) {
                    Rest::Recheck(time) => {
                        now = time;
                        self.recheck();
                    }
                    Rest::Expired(time) => {
                        now = time;
                        self.expire(now);
                    }
                    Rest::Asked => continue,
                    Rest::Sleep => return Poll::Pending,
                }
            }
            if !in_budget {
                let deadline = self.poll_timeout();
                if self.session.is_overdue(deadline) {
                    self.expire(now);
                }
                let status = self.status();
                self.session.yield_now(cx, || status);
                return Poll::Pending;
            }
        }
    }

    fn recheck(&mut self) {
        self.client.recheck();
        if let Upstream::Connected(upstream, _) = &mut self.upstream {
            upstream.recheck();
        }
    }

    /// Gives buffers back that hold nothing.
    fn release(&mut self, now: Instant) {
        match &mut self.upstream {
            Upstream::Header(awaited) => awaited.reader.handle(now, Event::Release),
            Upstream::Dialling(_) | Upstream::Connected(..) | Upstream::Absent => {
                for side in Side::BOTH {
                    self.relay.side(side).handle(now, Event::Release);
                }
            }
        }
    }

    /// When there is something to do although nothing moves.
    fn poll_timeout(&self) -> Option<Instant> {
        let look = self.unsent.map(|unsent| unsent.look);
        self.deadline().into_iter().chain(look).min()
    }

    /// The machine's own.
    fn deadline(&self) -> Option<Instant> {
        match &self.upstream {
            Upstream::Header(awaited) => awaited.reader.poll_timeout(),
            Upstream::Dialling(_) | Upstream::Connected(..) | Upstream::Absent => {
                self.relay.poll_timeout()
            }
        }
    }

    fn status(&self) -> Status {
        match &self.upstream {
            Upstream::Header(awaited) => awaited.reader.status(),
            Upstream::Dialling(_) | Upstream::Connected(..) | Upstream::Absent => {
                self.relay.status()
            }
        }
    }

    fn reason(&self) -> Option<Reason> {
        match &self.upstream {
            Upstream::Header(awaited) => awaited.reader.reason().map(Reason::Header),
            Upstream::Dialling(_) | Upstream::Connected(..) | Upstream::Absent => {
                self.relay.reason()
            }
        }
    }

    /// Whether the client left by itself, not because of the upstream. The lack of an upstream is
    /// no failure towards a proxy's health check; it is logged for the upstream.
    fn client_has_left(&self, reason: &Reason) -> bool {
        if let Reason::NoUpstream(_) = reason {
            return self.is_local;
        }
        let by_upstream = matches!(reason, Reason::Lost { side: Side::Upstream, .. });
        self.client.line.peer_has_left() && !by_upstream && !self.hung_up
    }

    fn turn_client(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Socket { socket, line } = &mut self.client;
        let Upstream::Header(awaited) = &mut self.upstream else {
            if self.relay.passes_reset_on(Side::Client) && must_wait(&mut self.unsent, socket, now)
            {
                return Turn::Blocked;
            }
            let is_bulk = self.relay.is_bulk(Side::Client);
            let mut socket = self.directions.through(Side::Client, is_bulk, socket);
            return turn_keeping(&mut self.relay.side(Side::Client), &mut socket, line, now, cx);
        };
        let turn = turn_keeping(&mut awaited.reader, socket, line, now, cx);
        if awaited.reader.header().is_some() {
            self.identify(now);
        }
        turn
    }

    /// There is a header: who the client is, and what came behind it.
    fn identify(&mut self, now: Instant) {
        let Upstream::Header(awaited) = &mut self.upstream else { return };
        let Some((header, rest)) = awaited.reader.header() else { return };
        let rest = rest.to_vec();
        self.is_local = header == Header::Local;
        if let Some(admitted) = self.session.admitted() {
            admitted.set_header(awaited.reader.header_len());
        }
        let (peer, destination) = match header {
            Header::Local => (Peer::Local, None),
            Header::Tcp { source, destination } => (Peer::Ip(source), Some(destination)),
        };
        if header != Header::Local
            && let Some(admitted) = self.session.admitted()
            && let Err(refused) = admitted.identify(peer)
        {
            awaited.reader.refuse(refused);
            return;
        }
        let (runtime, proxy) = (awaited.runtime.clone(), awaited.proxy.clone());
        self.begin(&runtime, &proxy, peer, destination);
        let mut left = &rest[..];
        feed(&mut self.relay.side(Side::Client), &mut left, now);
        debug_assert!(left.is_empty(), "the buffer has room for it");
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
                self.upstream = Upstream::Connected(Socket::new(socket), dialler);
            }
            Poll::Ready(Err(none)) => {
                self.upstream = Upstream::Absent;
                self.relay.refuse(Reason::NoUpstream(none), now);
            }
        }
    }

    fn turn_upstream(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Upstream::Connected(Socket { socket, line }, dialler) = &mut self.upstream else {
            return Turn::Blocked;
        };
        if self.relay.passes_reset_on(Side::Upstream) && must_wait(&mut self.unsent, socket, now) {
            return Turn::Blocked;
        }
        let is_bulk = self.relay.is_bulk(Side::Upstream);
        let header = self.relay.unsent_header();
        let mut socket = self.directions.through(Side::Upstream, is_bulk, socket);
        let turn = turn_keeping(&mut self.relay.side(Side::Upstream), &mut socket, line, now, cx);
        if let Turn::Moved { read, written } = turn {
            let own = header.saturating_sub(self.relay.unsent_header());
            dialler.choice.moved(read, written - own, now);
        }
        if self.relay.has_hung_up() {
            self.hung_up = true;
            dialler.choice.hung_up(now);
        }
        if let Some(why) = self.relay.deserted() {
            self.dial_another(why, now);
        }
        turn
    }

    /// The upstream was lost untouched: that was one more attempt that has failed.
    fn dial_another(&mut self, why: ConnectionError, now: Instant) {
        let lost = mem::replace(&mut self.upstream, Upstream::Absent);
        if let Upstream::Connected(Socket { mut socket, .. }, mut dialler) = lost {
            socket.reset();
            dialler.choice.failed(format!("{why}, before a byte had passed"), now);
            self.upstream = Upstream::Dialling(Box::pin(dialler.dial()));
        }
    }

    /// A loss is held against the upstream.
    fn blame(&mut self, reason: &Reason, now: Instant) {
        if let Upstream::Connected(_, dialler) = &mut self.upstream
            && let Reason::Lost { side: Side::Upstream, why, .. } = reason
        {
            dialler.choice.blame(&why.to_string(), now);
        }
    }

    /// Does what was asked by way of the table; true if that was the connection's end.
    fn obey(&mut self, now: Instant) -> bool {
        match self.session.news() {
            Asked::Nothing => {}
            Asked::ShutDown => {
                match &mut self.upstream {
                    Upstream::Header(awaited) => awaited.reader.handle(now, Event::ShutDown),
                    Upstream::Dialling(_) | Upstream::Connected(..) | Upstream::Absent => {
                        self.relay.shut_down(now);
                    }
                }
                self.recheck();
            }
            Asked::Abort => {
                self.reset();
                self.session.end(Over::Aborted, &Ended::<Reason>::Aborted, false, now);
            }
        }
        self.session.over() == Some(Over::Aborted)
    }

    fn expire(&mut self, now: Instant) {
        match &mut self.upstream {
            Upstream::Header(awaited) => {
                awaited.reader.handle(
                    now,
                    Event::Timeout { unacknowledged: self.client.socket.unacknowledged() },
                );
            }
            Upstream::Dialling(_) | Upstream::Connected(..) | Upstream::Absent => {
                let to_upstream = match &self.upstream {
                    Upstream::Connected(upstream, _) => upstream.socket.unacknowledged(),
                    Upstream::Header(_) | Upstream::Dialling(_) | Upstream::Absent => 0,
                };
                let to_client = self.client.socket.unacknowledged();
                self.relay.handle_timeout(now, to_client, to_upstream);
            }
        }
        debug_assert!(
            self.deadline().is_none_or(|deadline| deadline > now),
            "a deadline that was handled must lie ahead"
        );
    }
}

impl<R: Runtime> Connection<R> {
    /// Resets the sides that are not over: what they got is not all.
    fn reset(&mut self) {
        if self.relay.owes(Side::Client) {
            self.client.socket.reset();
        }
        if let Upstream::Connected(upstream, _) = &mut self.upstream
            && self.relay.owes(Side::Upstream)
        {
            upstream.socket.reset();
        }
    }
}

/// Nothing in it is pinned: what has to be is in a box.
impl<R: Runtime> Unpin for Connection<R> {}

impl<R: Runtime> Future for Connection<R> {
    type Output = Ended<Reason>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let now = this.session.begin_poll();
        let polled = this.take_turns(cx, now);
        this.session.polled();
        polled
    }
}

impl<R: Runtime> Drop for Connection<R> {
    fn drop(&mut self) {
        if self.session.over().is_none() {
            self.session.panicked();
            self.reset();
        }
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

/// Whether this process or this machine has run out of something that a connection takes (socket(2)):
/// `ENOMEM`, `ENFILE`, `EMFILE`, `ENOBUFS`.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(12 | 23 | 24 | 105))
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The smallest [`Config::buffer`](super::Config::buffer) with [`Proxy::accept`], in bytes: it holds what
/// came behind the header (255 at most).
pub const LEAST_BUFFER: usize = 256;
