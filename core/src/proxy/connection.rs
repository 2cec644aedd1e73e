//! A proxied connection on a runtime, as a future.

use std::{
    boxed::Box,
    convert::Infallible,
    fmt,
    future::Future,
    mem,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    vec::Vec,
};

use tracing::debug;

use super::{
    Proxy, ProxyReason, Relay, RelayFactory, Side,
    dialler::{Dialler, Dialling},
    faulty::{ConnectionFaults, Exempt},
    loop_detection::{LoopDetector, SelfConnection, TrackedConnection},
    pipes::{Directions, Pipes},
    reset_wait::{ResetWait, must_wait},
};
use crate::{
    ConnectionError, Event, Instant, Machine, Status,
    admission::{Admitted, Peer, UpstreamConnection},
    drive::{
        Clock, Direct, Ended, Readiness, Sink, Source, Transfer, Turn, deliver, flush,
        seat::Seated,
        session::{Driven, Session},
        timer::Timer,
        turn,
    },
    proxy_protocol::{self, Header, HeaderReader, identify},
    quantity::Seconds,
    record::Recorder,
    runtime::Runtime,
};

/// Dials an upstream for a client, and relays between them until both sides have ended.
///
/// An upstream that is lost before a byte was forwarded is replaced by one that was not tried yet.
///
/// As a [`Future`], it returns the reason. If it is dropped earlier, it resets both connections, so
/// that neither peer takes its input for complete.
///
/// [`Admitted`] counts the bytes that are received from the client, and those sent to it.
///
/// ```no_run
/// use wirestate_core::{Runtime, proxy::{ProxiedConnection, Proxy}};
///
/// # async fn example<R: Runtime>(runtime: R, proxy: Proxy) -> std::io::Result<()> {
/// let server = runtime.bind("127.0.0.1:9500").await?;
/// server
///     .accept(|socket, admitted, clock| {
///         let peer = admitted.peer();
///         ProxiedConnection::new(&runtime, &proxy, socket, peer, clock).admitted(admitted)
///     })
///     .await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ProxiedConnection<R: Runtime> {
    relaying: Relaying<R>,
    session: Session,
    timer: Timer<R::Clock>,
}

impl<R: Runtime> ProxiedConnection<R> {
    /// A connection of `peer` to `proxy`. All bytes go through memory. Only
    /// [`serve`](super::serve()) has pipes for bulk transfers, and detects connections of the proxy
    /// to itself.
    pub fn new(runtime: &R, proxy: &Proxy, client: R::Socket, peer: Peer, clock: R::Clock) -> Self {
        Self::with(runtime, proxy, client, peer, clock, Additions::default())
    }

    /// A connection whose upstream is connected already, for a proxy whose clients name their
    /// upstream in a handshake (SOCKS, HTTP CONNECT). `input` is what the client has sent after the
    /// handshake: it is forwarded first.
    ///
    /// The upstream is not replaced if it is lost. All bytes go through memory. A connection of the
    /// proxy to itself is not detected. The settings of `relays` for PROXY headers do not apply.
    /// Beyond the memory of its [`Relay`], the connection holds `input`.
    pub fn connected(
        relays: &RelayFactory,
        client: R::Socket,
        upstream: R::Socket,
        input: Vec<u8>,
        clock: R::Clock,
    ) -> Self {
        let now = clock.now();
        let mut relay = relays.relay(now);
        // The relay sends these bytes before those that it receives from the client.
        relay.send_proxy_header(input);
        relay.handle_connected(now, false);
        let mut relaying = Relaying::with(relay, client, None, None, None);
        relaying.upstream = Upstream::Connected(Connected::new(upstream), None);
        Self::relaying(relaying, clock)
    }

    pub(super) fn with(
        runtime: &R,
        proxy: &Proxy,
        client: R::Socket,
        peer: Peer,
        clock: R::Clock,
        additions: Additions<R::Socket>,
    ) -> Self {
        // A replay begins at the time of the recording.
        let now = additions.recorder.as_ref().map_or_else(|| clock.now(), Recorder::now);
        let relaying = Relaying::new(runtime, proxy, client, peer, now, additions);
        Self::relaying(relaying, clock)
    }

    fn relaying(relaying: Relaying<R>, clock: R::Clock) -> Self {
        Self { relaying, session: Session::new(), timer: Timer::new(clock) }
    }

    /// Updates the entry in the table of connections, and applies commands and limits of bytes a
    /// second from there. The limits apply to the client's side; the upstream's follows by
    /// backpressure.
    ///
    /// A [proxy with faults](Proxy::with_faults) injects those of the entry's number.
    pub fn admitted(mut self, admitted: Admitted) -> Self {
        if let Some(faults) = &mut self.relaying.faults {
            faults.set_number(admitted.id());
        }
        if let Some(throttle) = admitted.throttle() {
            self.relaying.client.readiness.set_throttle(throttle);
            // A pipe is drained as a whole.
            self.relaying.directions = Directions::new(None);
        }
        self.session.set_admitted(admitted);
        self
    }
}

/// The only inner future, the dialler's, is pinned in a box.
impl<R: Runtime> Unpin for ProxiedConnection<R> {}

impl<R: Runtime> Future for ProxiedConnection<R> {
    type Output = Ended<ProxyReason>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { relaying, session, timer } = self.get_mut();
        while let Upstream::Header(unidentified) = &mut relaying.upstream {
            let Connected { socket, readiness } = &mut relaying.client;
            let mut seated = Seated { machine: &mut unidentified.reader, socket, readiness };
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
                relaying.mark_ready();
            }
            session.poll(relaying, now, cx, was_woken, |_, _| None::<Infallible>)
        });
        polled.map(|Err(ended)| ended)
    }
}

impl<R: Runtime> Drop for ProxiedConnection<R> {
    fn drop(&mut self) {
        self.session.dropped(&mut self.relaying);
    }
}

/// What [`serve`](super::serve()) adds to a connection.
pub(super) struct Additions<S> {
    pub(super) loops: Option<LoopDetector>,
    pub(super) pipes: Option<Pipes<S>>,
    pub(super) recorder: Option<Recorder>,
}

impl<S> Default for Additions<S> {
    fn default() -> Self {
        Self { loops: None, pipes: None, recorder: None }
    }
}

/// A client's connection, the one to its upstream, and the machine between them.
struct Relaying<R: Runtime> {
    relay: Relay,
    /// The client's entry in `loops`. It is declared before the sockets, so that it is removed
    /// before their addresses can be reused.
    _tracked: Option<Box<TrackedConnection>>,
    loops: Option<LoopDetector>,
    client: Connected<R::Socket>,
    upstream: Upstream<R>,
    directions: Directions<R::Socket>,
    faults: Option<Box<ConnectionFaults>>,
    /// Set while a forwarded reset waits until the output before it is acknowledged. Boxed, since
    /// most connections never need it.
    reset_wait: Option<Box<ResetWait>>,
    /// The PROXY header names no client, for example in the health check of another proxy.
    is_local: bool,
    /// The upstream has sent a FIN before the client has.
    upstream_closed_first: bool,
    /// The next turn would do nothing.
    is_quiescent: bool,
}

/// A connected socket, and its state between turns.
#[derive(Debug)]
struct Connected<S> {
    socket: S,
    readiness: Readiness,
}

/// The state of the connection to an upstream.
enum Upstream<R: Runtime> {
    /// No upstream is dialled before the PROXY header of the client is complete.
    Header(Box<UnidentifiedClient<R>>),
    Dialling(Dialling<R>),
    /// The dialler can replace the upstream; `None` if nothing else may be dialled.
    Connected(Connected<R::Socket>, Option<Dialler<R>>),
    /// No upstream is connected, and none will be.
    Absent,
}

/// A client whose PROXY header is awaited.
struct UnidentifiedClient<R> {
    reader: HeaderReader,
    runtime: R,
    proxy: Proxy,
}

impl<S: Source + Sink> Connected<S> {
    fn new(socket: S) -> Self {
        Self { socket, readiness: Readiness::default() }
    }

    fn recheck(&mut self) {
        self.readiness.recheck(&mut self.socket);
    }

    /// Resets the connection if it `is_open`, or if output was lost.
    fn reset(&mut self, is_open: bool) {
        if is_open || self.readiness.must_reset(&self.socket) {
            self.readiness.reset(&mut self.socket);
        }
    }
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
        additions: Additions<R::Socket>,
    ) -> Self {
        let Additions { loops, pipes, recorder } = additions;
        let tracked = loops.as_ref().map(|loops| loops.accepted(runtime, peer, &client));
        let (tracked, self_connection) = match tracked.transpose() {
            Ok(tracked) => (tracked.flatten(), None),
            Err(self_connection) => (None, Some(self_connection)),
        };
        let mut relay = proxy.relays().relay(now);
        let pipes = pipes.filter(|_| recorder.is_none());
        if let Some(recorder) = recorder {
            relay.record(recorder);
        }
        let mut relaying = Self::with(relay, client, tracked, loops, pipes);
        relaying.faults = proxy.faults().cloned().map(ConnectionFaults::new).map(Box::new);
        if let Some(SelfConnection(upstream)) = self_connection {
            let upstream = proxy.upstreams().mark_as_self(upstream, now);
            relaying.relay.refuse(ProxyReason::Loop { upstream }, now);
        } else if let Some(policy) = &proxy.relays().config().accept_proxy {
            let reader = HeaderReader::new(policy, peer, now);
            let (runtime, proxy) = (runtime.clone(), proxy.clone());
            let client = UnidentifiedClient { reader, runtime, proxy };
            relaying.upstream = Upstream::Header(Box::new(client));
        } else {
            let local_address = || runtime.local_address(&relaying.client.socket);
            let destination = proxy.relays().config().send_proxy.and_then(|_| local_address());
            relaying.start_dialling(runtime, proxy, peer, destination);
        }
        relaying
    }

    /// A relay without an upstream.
    fn with(
        relay: Relay,
        client: R::Socket,
        tracked: Option<Box<TrackedConnection>>,
        loops: Option<LoopDetector>,
        pipes: Option<Pipes<R::Socket>>,
    ) -> Self {
        Self {
            relay,
            _tracked: tracked,
            loops,
            client: Connected::new(client),
            upstream: Upstream::Absent,
            directions: Directions::new(pipes),
            faults: None,
            reset_wait: None,
            is_local: false,
            upstream_closed_first: false,
            is_quiescent: false,
        }
    }

    /// Dials an upstream for the client at `peer`, which has connected to `destination`.
    fn start_dialling(
        &mut self,
        runtime: &R,
        proxy: &Proxy,
        peer: Peer,
        destination: Option<SocketAddr>,
    ) {
        if let Some(version) = proxy.relays().config().send_proxy {
            self.relay.send_proxy_header(proxy_protocol::encode(version, peer, destination));
        }
        let dialler = Dialler::new(runtime.clone(), proxy, self.loops.clone());
        self.upstream = Upstream::Dialling(Box::pin(dialler.dial()));
    }

    /// The PROXY header is complete: identifies the client, and relays the bytes that were received
    /// with the header.
    fn identify(&mut self, admitted: Option<&Admitted>, now: Instant) {
        let Upstream::Header(unidentified) = &mut self.upstream else { return };
        let Some((header, rest)) = unidentified.reader.header() else { return };
        let length = unidentified.reader.header_len();
        if let Some(admitted) = admitted
            && let Err(refused) = identify(admitted.table(), admitted, header, length)
        {
            unidentified.reader.refuse(refused);
            return;
        }
        self.is_local = header == Header::Local;
        let (peer, destination) = match header {
            Header::Local => (Peer::Local, None),
            Header::Tcp { source, destination } => (Peer::Ip(source), Some(destination)),
        };
        let rest = rest.to_vec();
        let (runtime, proxy) = (unidentified.runtime.clone(), unidentified.proxy.clone());
        self.start_dialling(&runtime, &proxy, peer, destination);
        let mut undelivered = &rest[..];
        deliver(&mut self.relay.side(Side::Client), &mut undelivered, now);
        if let Some(faults) = &mut self.faults {
            faults.received(Side::Client, rest.len(), now);
        }
        debug_assert!(undelivered.is_empty(), "a buffer of at least MIN_BUFFER has room for it");
    }

    /// A waker was woken: either socket may have become ready.
    fn mark_ready(&mut self) {
        self.client.readiness.ready(true, true);
        if let Some(upstream) = self.upstream.connected_mut() {
            upstream.readiness.ready(true, true);
        }
    }

    fn dial(&mut self, admitted: Option<&Admitted>, now: Instant, cx: &mut Context<'_>) {
        let Upstream::Dialling(dial) = &mut self.upstream else { return };
        if !self.relay.is_open(Side::Upstream) {
            // The client is lost, or a shutdown was requested: cancels the attempt.
            self.upstream = Upstream::Absent;
            return;
        }
        match dial.as_mut().poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok((socket, dialler))) => {
                self.relay.handle_connected(now, dialler.has_another());
                if let (Some(admitted), Some(upstream)) = (admitted, dialler.upstream()) {
                    record_upstream(upstream, admitted);
                }
                self.upstream = Upstream::Connected(Connected::new(socket), Some(dialler));
            }
            Poll::Ready(Err(error)) => {
                self.upstream = Upstream::Absent;
                self.relay.refuse(ProxyReason::NoUpstream(error), now);
            }
        }
    }

    fn turn_client(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Self { relay, directions, faults, reset_wait, client, upstream, .. } = self;
        let Connected { socket, readiness } = client;
        let is_waiting = relay.forwards_reset(Side::Client) && must_wait(reset_wait, socket, now);
        let Some(faults) = faults else {
            let mut transfer = directions.side(Side::Client, relay, socket);
            return turn_or_wait(&mut transfer, readiness, is_waiting, now, cx);
        };
        let exempt = upstream.connected().map_or(Exempt::All, |_| Exempt::Bytes(0));
        let socket = &mut faults.socket(Side::Client, socket, exempt, now);
        let mut transfer = Direct { machine: &mut relay.side(Side::Client), socket };
        let turn = turn_or_wait(&mut transfer, readiness, is_waiting, now, cx);
        faults.without_discarded(turn)
    }

    fn turn_upstream(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Self { relay, directions, faults, reset_wait, upstream, .. } = self;
        let Upstream::Connected(Connected { socket, readiness }, dialler) = upstream else {
            return Turn::Blocked;
        };
        let is_waiting = relay.forwards_reset(Side::Upstream) && must_wait(reset_wait, socket, now);
        let header = relay.unsent_header();
        let turn = match faults {
            None => {
                let mut transfer = directions.side(Side::Upstream, relay, socket);
                turn_or_wait(&mut transfer, readiness, is_waiting, now, cx)
            }
            Some(faults) => {
                let exempt = Exempt::Bytes(header);
                let socket = &mut faults.socket(Side::Upstream, socket, exempt, now);
                let mut transfer = Direct { machine: &mut relay.side(Side::Upstream), socket };
                let turn = turn_or_wait(&mut transfer, readiness, is_waiting, now, cx);
                faults.without_discarded(turn)
            }
        };
        if let (Turn::Moved { read, written }, Some(dialler)) = (turn, &mut *dialler) {
            let header = header.saturating_sub(self.relay.unsent_header());
            dialler.selection.handle_transfer(read, written - header, now);
        }
        if self.relay.half_closed_by_upstream() {
            self.upstream_closed_first = true;
            if let Some(dialler) = dialler {
                dialler.selection.handle_fin(now);
            }
        }
        if let Some(error) = self.relay.upstream_lost() {
            self.dial_another(error, now);
        }
        turn
    }

    /// Does what the faults have decided in this turn. Returns true if that changed the relay.
    fn apply_faults(&mut self, admitted: Option<&Admitted>, now: Instant) -> bool {
        let Some(faults) = &mut self.faults else { return false };
        let mut has_reset = false;
        if self.upstream.connected().is_some() {
            for to in Side::BOTH {
                if self.relay.is_open(to)
                    && let Some(after) = faults.take_reset(to, now)
                {
                    self.relay.inject_reset(to, after, now);
                    has_reset = true;
                }
            }
        }
        faults.report(&mut self.relay, admitted, now);
        has_reset
    }

    /// The upstream was lost before a byte was forwarded: dials another one.
    fn dial_another(&mut self, error: ConnectionError, now: Instant) {
        let lost = mem::replace(&mut self.upstream, Upstream::Absent);
        if let Upstream::Connected(mut lost, Some(mut dialler)) = lost {
            lost.readiness.reset(&mut lost.socket);
            let error = format!("{error}, before a byte was forwarded");
            dialler.selection.handle_failure(error, now);
            self.upstream = Upstream::Dialling(Box::pin(dialler.dial()));
        }
    }

    /// Reports the loss of the upstream to its health check.
    fn report_loss(&mut self, reason: &ProxyReason, now: Instant) {
        if let Upstream::Connected(_, Some(dialler)) = &mut self.upstream
            && let ProxyReason::Lost { side: Side::Upstream, error, .. } = reason
        {
            dialler.selection.handle_loss(&error.to_string(), now);
        }
    }
}

impl<R: Runtime> Driven for Relaying<R> {
    type Reason = ProxyReason;

    /// Runs a turn of each side. The byte counts that it returns are those of the client's side.
    fn turn(&mut self, admitted: Option<&Admitted>, now: Instant, cx: &mut Context<'_>) -> Turn {
        self.dial(admitted, now, cx);
        let client = self.turn_client(cx, now);
        // The upstream's turn is the last one: if it moved bytes, the client's interest may have
        // changed.
        let upstream = self.turn_upstream(cx, now);
        let has_reset = self.apply_faults(admitted, now);
        let upstream_moved = matches!(upstream, Turn::Moved { .. }) || has_reset;
        self.is_quiescent = !upstream_moved && self.client.readiness.is_quiescent();
        match client {
            Turn::Moved { .. } => client,
            Turn::Blocked | Turn::Done if upstream_moved => Turn::Moved { read: 0, written: 0 },
            Turn::Done if upstream == Turn::Done || self.upstream.connected().is_none() => {
                match self.relay.reason() {
                    Some(reason) => {
                        self.report_loss(&reason, now);
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
        let reset = self.reset_wait.as_ref().map(|wait| wait.next_poll);
        let relay = self.client.readiness.throttled(self.relay.poll_timeout());
        let faults = self.faults.as_ref().and_then(|faults| faults.poll_timeout());
        flushes.into_iter().chain([relay, reset, faults]).flatten().min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        let Self { relay, client, upstream, faults, .. } = self;
        if let Some(faults) = faults {
            faults.handle_timeout(now);
        }
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
            "the deadline after a timeout must be later than now"
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

    /// Resets each side that has not ended, so that its peer does not take its input for complete.
    fn reset(&mut self) {
        self.client.reset(self.relay.is_open(Side::Client));
        if let Some(upstream) = self.upstream.connected_mut() {
            upstream.reset(self.relay.is_open(Side::Upstream));
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

    /// Whether the client closed its connection first, and not because of the upstream.
    ///
    /// If there is no upstream, this is true only if the PROXY header names no client, for example
    /// in the health check of another proxy. The failure is logged for the upstream.
    fn peer_has_left(&self) -> bool {
        match self.relay.reason() {
            Some(ProxyReason::NoUpstream(_)) => self.is_local,
            Some(ProxyReason::Lost { side: Side::Upstream, .. }) => false,
            Some(_) | None => self.client.readiness.peer_has_left() && !self.upstream_closed_first,
        }
    }
}

/// Records the upstream in the table of connections and in the log.
fn record_upstream(upstream: UpstreamConnection, admitted: &Admitted) {
    debug!(
        id = admitted.id(),
        upstream = &**upstream.endpoint.upstream(),
        upstream_address = &**upstream.endpoint.address(),
        connect_seconds = Seconds(upstream.connect_time).to_field(),
        server = admitted.table().name(),
        "connected to the upstream"
    );
    admitted.set_upstream(upstream);
}

/// Runs one turn of a side. It only flushes if `is_waiting`: a reset waits for the output before
/// it.
fn turn_or_wait(
    transfer: &mut impl Transfer,
    readiness: &mut Readiness,
    is_waiting: bool,
    now: Instant,
    cx: &mut Context<'_>,
) -> Turn {
    if !is_waiting {
        return turn(transfer, readiness, now, cx);
    }
    readiness.begin_turn();
    if flush(transfer, readiness, now, cx) {
        return Turn::Moved { read: 0, written: 0 };
    }
    Turn::Blocked
}
