//! A proxied connection on a runtime, as a future.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use super::{Lease, NoUpstream, Reason, Relay, Relays, Side, Upstreams};
use crate::{
    Instant,
    admission::{Admitted, Asked},
    drive::{
        Clock, Ended, Line, Sink, Turn,
        session::{Over, Rest, Session},
        turn,
    },
    runtime::{Runtime, connect_within},
    serve::{Options, Served, accept},
};

/// A proxy: its connections' limits, and where they go. Clones are the same proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// What its connections share.
    pub relays: Relays,
    /// Where they go.
    pub upstreams: Upstreams,
    /// How long all attempts to connect one client to an upstream may take, resolving names
    /// included: each gets an equal part of what is left. `None`: the operating system's own limit
    /// for each (some two minutes).
    pub connect_timeout: Option<Duration>,
}

impl Proxy {
    /// A proxy to `upstreams`, which has 10 s to connect to one of them.
    pub fn new(relays: Relays, upstreams: Upstreams) -> Self {
        Self { relays, upstreams, connect_timeout: Some(Duration::from_secs(10)) }
    }
}

/// Accepts clients and relays each to an upstream, until [`Options::stop`] is asked.
pub async fn serve<R: Runtime>(
    runtime: &R,
    listener: R::Listener,
    options: &Options,
    proxy: &Proxy,
) -> Served {
    accept(runtime, listener, options, |socket, admitted, clock| {
        Connection::new(runtime, proxy, socket, clock).admitted(admitted)
    })
    .await
}

/// Dials an upstream for a client, and relays between them until both sides have ended.
///
/// As a [`Future`] it answers why. Dropped before its end, it resets both connections, so that
/// neither peer takes what it got for all.
///
/// The bytes that the [`Admitted`] counts are the client's: received from it, and sent to it.
#[derive(Debug)]
pub struct Connection<R: Runtime> {
    relay: Relay,
    client: Socket<R::Socket>,
    upstream: Upstream<R::Socket>,
    session: Session<R::Clock>,
}

/// A connected socket, and what is to be remembered of it between turns.
#[derive(Debug)]
struct Socket<S> {
    socket: S,
    line: Line,
}

impl<S> Socket<S> {
    fn new(socket: S) -> Self {
        Self { socket, line: Line::default() }
    }
}

type Dial<S> = dyn Future<Output = Result<(S, Lease), NoUpstream>> + Send;

enum Upstream<S> {
    Dialling(Pin<Box<Dial<S>>>),
    Connected(Socket<S>, Lease),
    /// There will be none.
    Absent,
}

impl<S> fmt::Debug for Upstream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dialling(_) => "Dialling",
            Self::Connected(..) => "Connected",
            Self::Absent => "Absent",
        })
    }
}

impl<R: Runtime> Connection<R> {
    /// A client's connection to `proxy`.
    pub fn new(runtime: &R, proxy: &Proxy, client: R::Socket, clock: R::Clock) -> Self {
        let relay = proxy.relays.relay(clock.now());
        let dial = dial(runtime.clone(), proxy.upstreams.clone(), proxy.connect_timeout);
        Self {
            relay,
            client: Socket::new(client),
            upstream: Upstream::Dialling(Box::pin(dial)),
            session: Session::new(clock),
        }
    }

    /// Keeps the connection's line in its table up to date, and does what is asked there.
    pub fn admitted(mut self, admitted: Admitted) -> Self {
        self.session.set_admitted(admitted);
        self
    }

    fn take_turns(&mut self, cx: &mut Context<'_>, mut now: Instant) -> Poll<Ended<Reason>> {
        self.client.line.unblock();
        if let Upstream::Connected(upstream, _) = &mut self.upstream {
            upstream.line.unblock();
        }
        loop {
            if self.obey(now) {
                return Poll::Ready(Ended::Aborted);
            }
            let before = self.interests();
            self.dial(cx, now);
            let Socket { socket, line } = &mut self.client;
            let client = turn(&mut self.relay.side(Side::Client), socket, line, now, cx);
            let upstream = self.turn_upstream(cx, now);
            if let Some(reason) = self.relay.reason() {
                self.session.end(Over::Ended, &reason, now);
                return Poll::Ready(Ended::Reason(reason));
            }
            let (mut read, mut written) = (0, 0);
            if let Turn::Moved { read: from_client, written: to_client } = client {
                (read, written) = (from_client, to_client);
            } else if !matches!(upstream, Turn::Moved { .. }) && self.interests() == before {
                // A turn of one side changes what the other wants, so both are looked at.
                let relay = &self.relay;
                match self.session.rest(cx, relay.poll_timeout(), || relay.status()) {
                    Rest::Expired(time) => {
                        now = time;
                        self.expire(now);
                    }
                    Rest::Asked => continue,
                    Rest::Sleep => return Poll::Pending,
                }
            }
            if !self.session.spend(read, written, now) {
                if self.session.is_overdue(self.relay.poll_timeout()) {
                    self.expire(now);
                }
                let relay = &self.relay;
                self.session.yield_now(cx, || relay.status());
                return Poll::Pending;
            }
        }
    }

    fn interests(&self) -> [crate::Interest; 2] {
        Side::BOTH.map(|side| self.relay.interest(side))
    }

    fn dial(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Upstream::Dialling(dial) = &mut self.upstream else { return };
        match dial.as_mut().poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Ok((socket, lease))) => {
                self.upstream = Upstream::Connected(Socket::new(socket), lease);
                self.relay.connected(now);
            }
            Poll::Ready(Err(none)) => {
                self.upstream = Upstream::Absent;
                self.relay.refuse(Reason::NoUpstream(none));
            }
        }
    }

    fn turn_upstream(&mut self, cx: &mut Context<'_>, now: Instant) -> Turn {
        let Upstream::Connected(Socket { socket, line }, lease) = &mut self.upstream else {
            return Turn::Blocked;
        };
        let turn = turn(&mut self.relay.side(Side::Upstream), socket, line, now, cx);
        if matches!(turn, Turn::Moved { read, .. } if read > 0) {
            lease.delivered();
        }
        turn
    }

    /// Does what was asked by way of the table; true if that was the connection's end.
    fn obey(&mut self, now: Instant) -> bool {
        match self.session.news() {
            Asked::Nothing => {}
            Asked::ShutDown => self.relay.shut_down(now),
            Asked::Abort => {
                self.reset();
                self.session.end(Over::Aborted, &Ended::<Reason>::Aborted, now);
            }
        }
        self.session.over() == Some(Over::Aborted)
    }

    fn expire(&mut self, now: Instant) {
        self.relay.handle_timeout(now);
        debug_assert!(
            self.relay.poll_timeout().is_none_or(|deadline| deadline > now),
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

/// Connects to one upstream after the other, within `limit` in all.
async fn dial<R: Runtime>(
    runtime: R,
    upstreams: Upstreams,
    limit: Option<Duration>,
) -> Result<(R::Socket, Lease), NoUpstream> {
    let clock = runtime.clock();
    let deadline = limit.map(|limit| clock.now() + limit);
    let ran_out = |now| deadline.is_some_and(|deadline| now >= deadline);
    let mut choice = upstreams.choose();
    while !ran_out(clock.now())
        && let Some(address) = choice.next(clock.now())
    {
        // An equal part of what is left: one that does not answer must not use up all of it.
        let parts = u32::try_from(choice.left()).unwrap_or(u32::MAX).saturating_add(1);
        let part = deadline.map(|deadline| deadline.since(clock.now()) / parts);
        match connect_within(&runtime, &address, part).await {
            Ok(socket) => return Ok((socket, choice.connected())),
            Err(error) => choice.failed(error.to_string(), clock.now()),
        }
    }
    Err(choice.give_up(limit.filter(|_| ran_out(clock.now()))))
}
