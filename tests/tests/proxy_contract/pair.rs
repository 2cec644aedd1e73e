//! A relay and its two peers.

use std::{collections::VecDeque, fmt, mem, num::NonZeroUsize, task::Context, time::Duration};

use bytes::Bytes;
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Interest, Linger, Machine, Outbound, Reason as _,
    Status,
    drive::MAX_SLICES,
    proxy::{Balance, Config, ProxyReason, Relay, RelayFactory, RelaySide, Side, Upstreams},
};
use wirestate_testkit::{
    contract::{Checked, History},
    script::Ending,
};

use crate::model::Model;

/// An event on one side of a relay. `Debug` prints it as source code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// This many bytes arrive.
    Receive(u8),
    /// A FIN arrives, after all earlier bytes.
    Fin,
    /// A read fails, after all earlier bytes.
    ReadError(ConnectionError),
    /// A write fails, once, if neither FIN nor RST was sent.
    WriteError(ConnectionError),
    /// The kernel accepts at most this many bytes, or the FIN or RST that is wanted.
    Accept(u8),
    /// A read would block.
    Release,
    /// Time passes up to the deadline of both sides.
    Timeout,
    /// This many seconds pass. This side gets the event.
    Wait(u16),
    /// A shutdown is requested. This side gets the event.
    ShutDown,
    /// A plan of faults resets both sides, after this many bytes to this side.
    Reset(u8),
    /// The dialler tries the next upstreams, if there is none.
    Dial,
    /// From now on, bulk bytes from this side go into a pipe of this many bytes; 0: no pipe.
    Pipe(u8),
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Act::")?;
        match self {
            Self::Receive(n) => write!(f, "Receive({n})"),
            Self::Fin => f.write_str("Fin"),
            Self::ReadError(error) => write!(f, "ReadError(ConnectionError::{error:?})"),
            Self::WriteError(error) => write!(f, "WriteError(ConnectionError::{error:?})"),
            Self::Accept(n) => write!(f, "Accept({n})"),
            Self::Release => f.write_str("Release"),
            Self::Timeout => f.write_str("Timeout"),
            Self::Wait(seconds) => write!(f, "Wait({seconds})"),
            Self::ShutDown => f.write_str("ShutDown"),
            Self::Reset(after) => write!(f, "Reset({after})"),
            Self::Dial => f.write_str("Dial"),
            Self::Pipe(n) => write!(f, "Pipe({n})"),
        }
    }
}

/// A peer: the bytes from it and to it.
#[derive(Debug)]
pub(crate) struct Peer {
    /// `None` if there is no connection.
    history: Option<History>,
    arrived: VecDeque<Arrived>,
    /// The error of the failed write.
    pub(crate) write_error: Option<ConnectionError>,
    /// The bytes that the relay has received from it.
    pub(crate) input: Vec<u8>,
    /// The bytes that the relay has sent to it.
    pub(crate) output: Vec<u8>,
    /// The FIN or RST that the relay has sent to it.
    pub(crate) ending: Option<Ending>,
    /// A buffer was lent for a read, and no read would have blocked since.
    holds_buffer: bool,
    /// The size of the pipe for its bytes; 0: no pipe.
    pipe: usize,
    /// The bytes that were received from it and are in the pipe.
    in_pipe: Vec<u8>,
    /// How many bytes were received into the pipe.
    pub(crate) piped: usize,
    next: u8,
}

#[derive(Clone, Copy, Debug)]
enum Arrived {
    Byte(u8),
    Fin,
    Error(ConnectionError),
}

impl Peer {
    fn new(first: u8, capacity: usize) -> Self {
        Self {
            // Two buffers and the header.
            history: Some(History::new(2 * capacity + HEADER.len())),
            arrived: VecDeque::new(),
            write_error: None,
            input: Vec::new(),
            output: Vec::new(),
            ending: None,
            holds_buffer: false,
            pipe: 0,
            in_pipe: Vec::new(),
            piped: 0,
            next: first,
        }
    }
}

/// A PROXY header. No peer sends its bytes.
pub(crate) const HEADER: &[u8] = &[0xfe; 3];

/// The result of the attempt to connect to the next upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    Accepts,
    Refuses,
}

/// A relay and its two peers.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) relay: Relay,
    relays: RelayFactory,
    model: Model,
    capacity: usize,
    peers: [Peer; 2],
    /// The upstreams that were replaced.
    pub(crate) replaced: Vec<Peer>,
    /// The upstreams that can be tried, in order.
    others: &'static [Next],
    /// Whether a lost upstream is replaced at once, without [`Act::Dial`].
    dials_at_once: bool,
    header: &'static [u8],
    now: Instant,
}

impl Pair {
    pub(crate) fn new(capacity: usize) -> Self {
        Self::with_others(capacity, &[], &[])
    }

    /// A pair in which each upstream is sent a PROXY header, and `others` can replace a lost one.
    pub(crate) fn with_header(capacity: usize, others: &'static [Next]) -> Self {
        Self::with_others(capacity, others, HEADER)
    }

    fn with_others(capacity: usize, others: &'static [Next], header: &'static [u8]) -> Self {
        let mut pair = Self::dialling(capacity, others, header);
        pair.connect();
        Self { dials_at_once: true, ..pair }
    }

    /// A pair without an upstream.
    pub(crate) fn dialling(
        capacity: usize,
        others: &'static [Next],
        header: &'static [u8],
    ) -> Self {
        let config = Config::default()
            .with_buffer(NonZeroUsize::new(capacity).unwrap())
            .with_idle_buffers(0)
            .with_drain_quiet(Duration::from_secs(2))
            .with_linger(Linger { bytes: 65_536, ..Linger::default() });
        let now = Instant::EPOCH;
        let model = Model::new(config.clone(), header.len());
        let relays = RelayFactory::new(config).unwrap();
        let mut relay = relays.relay(now);
        relay.send_proxy_header(header.to_vec());
        let peers = [Peer::new(0, capacity), Peer { history: None, ..Peer::new(128, capacity) }];
        let replaced = Vec::new();
        let dials_at_once = false;
        Self { relay, relays, model, capacity, peers, replaced, others, dials_at_once, header, now }
    }

    /// Gives each side a pipe of this many bytes.
    pub(crate) fn piping(mut self, pipe: usize) -> Self {
        for peer in &mut self.peers {
            peer.pipe = pipe;
        }
        self
    }

    pub(crate) fn peer(&self, side: Side) -> &Peer {
        &self.peers[side as usize]
    }

    /// Calls `f` with the machine of one side, and checks the contract and the model.
    fn with(&mut self, side: Side, f: impl FnOnce(&mut dyn SideDriver, &mut Peer, Instant)) {
        let [client, upstream] = &mut self.peers;
        let (peer, other) = match side {
            Side::Client => (client, upstream),
            Side::Upstream => (upstream, client),
        };
        let Some(history) = peer.history.take() else { return };
        let in_pipe = &mut other.in_pipe;
        let side =
            Piped { side: self.relay.side(side), name: side, in_pipe, model: &mut self.model };
        let mut machine = Checked::resume(side, history);
        f(&mut machine, peer, self.now);
        peer.history = Some(machine.history());
        if self.relay.upstream_lost().is_some() && self.peer(Side::Upstream).history.is_some() {
            self.remove_upstream();
        }
        self.check();
    }

    /// Removes an upstream that was lost before it got a byte of the client.
    fn remove_upstream(&mut self) {
        let upstream = &mut self.peers[Side::Upstream as usize];
        let none = Peer { history: None, ..Peer::new(128, self.capacity) };
        let lost = mem::replace(upstream, none);
        assert!(lost.input.is_empty(), "the upstream has sent a byte");
        assert!(
            self.header.starts_with(&lost.output),
            "a byte of the client was sent to the upstream"
        );
        self.replaced.push(lost);
        if self.dials_at_once {
            self.dial();
        }
    }

    /// Connects to the next upstream that accepts.
    fn dial(&mut self) {
        if !self.model.is_dialling() {
            return;
        }
        while let Some((next, others)) = self.others.split_first() {
            self.others = others;
            match next {
                Next::Accepts => return self.connect(),
                Next::Refuses => {}
            }
        }
        let none = Upstreams::new([""; 0], Balance::RoundRobin, 1).select().into_error(None);
        let reason = ProxyReason::NoUpstream(none);
        self.relay.refuse(reason.clone(), self.now);
        self.model.refuse(reason, self.now);
    }

    fn connect(&mut self) {
        self.peers[Side::Upstream as usize] = Peer::new(128, self.capacity);
        self.relay.handle_connected(self.now, !self.others.is_empty());
        self.model.connect(!self.others.is_empty(), self.now);
    }

    /// The bytes of the other side that were sent to `side`.
    pub(crate) fn relayed(&self, side: Side) -> &[u8] {
        let output = &self.peer(side).output[..];
        match side {
            Side::Client => output,
            Side::Upstream => {
                let header = self.header.len().min(output.len());
                assert_eq!(output[..header], self.header[..header], "the header comes first");
                &output[header..]
            }
        }
    }

    /// Whether bytes that were received from `side` are pending.
    fn is_pending(&self, side: Side) -> bool {
        self.peer(side).input.len() > self.relayed(side.other()).len()
    }

    pub(crate) fn play(&mut self, side: Side, event: Act) {
        match event {
            Act::Receive(n) => {
                let peer = &mut self.peers[side as usize];
                for _ in 0..n {
                    peer.arrived.push_back(Arrived::Byte(peer.next));
                    peer.next = peer.next.wrapping_add(1);
                }
            }
            Act::Fin => self.peers[side as usize].arrived.push_back(Arrived::Fin),
            Act::ReadError(error) => {
                self.peers[side as usize].arrived.push_back(Arrived::Error(error));
            }
            Act::WriteError(error) => self.with(side, |machine, peer, now| {
                let is_open = match machine.write() {
                    Outbound::Idle => peer.ending.is_none() && peer.write_error.is_none(),
                    Outbound::Flush | Outbound::Finish => true,
                    Outbound::Finished | Outbound::Reset => false,
                };
                if is_open {
                    peer.write_error = Some(error);
                    machine.fail(now, Direction::Write, error);
                }
            }),
            Act::Accept(n) => self.with(side, |machine, peer, now| machine.accept(now, n, peer)),
            Act::Release => {
                let is_pending = self.is_pending(side);
                self.with(side, |machine, peer, now| {
                    if peer.arrived.is_empty() && machine.reads() {
                        peer.holds_buffer = is_pending;
                        machine.release(now);
                    }
                });
            }
            Act::Timeout => {
                let visible = |relay: &Relay| {
                    (Side::BOTH.map(|side| relay.interest(side)), relay.status(), relay.is_done())
                };
                let before = visible(&self.relay);
                // At the first deadlines, the relay may only observe the acknowledged bytes.
                for _ in 0..=8 {
                    let Some(deadline) = self.relay.poll_timeout() else { break };
                    self.now = self.now.max(deadline);
                    self.relay.handle_timeout(self.now, 0, 0);
                    self.model.expire(self.now);
                    self.check();
                    if visible(&self.relay) != before {
                        break;
                    }
                }
            }
            Act::Wait(seconds) => {
                self.now += Duration::from_secs(seconds.into());
                self.with(side, |machine, _, now| machine.expire(now));
            }
            Act::ShutDown => self.with(side, |machine, _, now| machine.stop(now)),
            Act::Reset(after) => {
                if self.peer(Side::Upstream).history.is_some() {
                    self.relay.inject_reset(side, after.into(), self.now);
                    self.model.inject_reset(side, after.into());
                    self.check();
                }
            }
            Act::Dial => {
                self.dial();
                self.check();
            }
            Act::Pipe(limit) => self.peers[side as usize].pipe = limit.into(),
        }
        for side in Side::BOTH {
            self.fill_pipe(side);
            self.with(side, |machine, peer, now| machine.read(now, peer));
        }
    }

    /// Moves bytes that have arrived from a side into its pipe, as far as the relay allows.
    fn fill_pipe(&mut self, side: Side) {
        let peer = &mut self.peers[side as usize];
        let mut machine = self.relay.side(side);
        let limit = machine.pipe_limit().min(peer.pipe);
        let bytes = peer.arrived.iter().map_while(|arrived| match arrived {
            Arrived::Byte(byte) => Some(*byte),
            Arrived::Fin | Arrived::Error(_) => None,
        });
        let bytes: Vec<_> = bytes.take(limit).collect();
        if !bytes.is_empty() {
            peer.arrived.drain(..bytes.len());
            peer.input.extend(&bytes);
            peer.piped += bytes.len();
            machine.handle_piped(self.now, bytes.len());
            self.model.receive(side, self.now, bytes.len());
            peer.in_pipe = bytes;
        }
    }

    /// Accepts all output, and sends each FIN and RST, until neither side wants anything.
    pub(crate) fn play_out(&mut self) {
        loop {
            let wants = |side| {
                matches!(
                    self.relay.interest(side).write,
                    Outbound::Flush | Outbound::Finish | Outbound::Reset
                )
            };
            let Some(side) = Side::BOTH.into_iter().find(|side| wants(*side)) else { return };
            self.play(side, Act::Accept(u8::MAX));
        }
    }

    /// Asserts that the relay does what the model does, and sends the bytes that it has received.
    fn check(&mut self) {
        for side in Side::BOTH {
            assert!(
                self.peer(side).input.starts_with(self.relayed(side.other())),
                "the bytes sent are not those received from the {side}"
            );
        }
        let holds = |side: &Side| {
            let reads = self.relay.interest(*side).read;
            self.is_pending(*side) || self.peer(*side).holds_buffer && reads
        };
        let most = Side::BOTH.iter().filter(|side| holds(side)).count();
        let buffers = self.relays.buffers_in_use();
        assert!(buffers <= most, "{buffers} buffers are in use for {most} directions");
        self.model.check(&mut self.relay);
    }

    pub(crate) fn label(&self) -> Option<&'static str> {
        self.relay.reason().map(|reason: ProxyReason| reason.label())
    }
}

/// A side of a relay together with the pipe that it sends from. Its output is in the pipe or in
/// memory. The model gets the same events.
struct Piped<'a> {
    side: RelaySide<'a>,
    name: Side,
    in_pipe: &'a mut Vec<u8>,
    model: &'a mut Model,
}

#[deny(clippy::missing_trait_methods)]
impl Machine for Piped<'_> {
    type Reason = ProxyReason;

    fn interest(&self) -> Interest {
        self.side.interest()
    }

    fn read_buf(&mut self) -> &mut [u8] {
        self.side.read_buf()
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        let count = self.side.write_bufs(out);
        match self.side.in_pipe() {
            0 => count,
            len => {
                assert_eq!(count, 0, "memory is offered for {len} bytes in a pipe");
                assert_eq!(self.in_pipe.len(), len);
                out[0] = self.in_pipe;
                1
            }
        }
    }

    fn write_owned(&self, out: &mut [Bytes], max: usize) -> usize {
        self.side.write_owned(out, max)
    }

    fn handle(&mut self, now: Instant, event: Event) {
        self.model.handle(self.name, now, event);
        if let Event::Written(n) = event
            && self.side.in_pipe() > 0
        {
            self.in_pipe.drain(..n);
            self.side.handle_drained(now, n);
        } else {
            self.side.handle(now, event);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.side.poll_timeout()
    }

    fn poll_shared(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        self.side.poll_shared(now, cx)
    }

    fn work(&self) -> u64 {
        self.side.work()
    }

    fn status(&self) -> Status {
        self.side.status()
    }

    fn reason(&self) -> Option<ProxyReason> {
        self.side.reason()
    }
}

/// Drives the machine of one side.
trait SideDriver {
    fn reads(&self) -> bool;
    fn write(&self) -> Outbound;
    fn read(&mut self, now: Instant, peer: &mut Peer);
    fn accept(&mut self, now: Instant, n: u8, peer: &mut Peer);
    fn fail(&mut self, now: Instant, direction: Direction, error: ConnectionError);
    fn release(&mut self, now: Instant);
    fn expire(&mut self, now: Instant);
    fn stop(&mut self, now: Instant);
}

impl<M: Machine> SideDriver for Checked<M> {
    fn reads(&self) -> bool {
        self.interest().read
    }

    fn write(&self) -> Outbound {
        self.interest().write
    }

    fn read(&mut self, now: Instant, peer: &mut Peer) {
        while self.interest().read
            && let Some(arrived) = peer.arrived.pop_front()
        {
            match (arrived, peer.write_error) {
                (Arrived::Byte(first), _) => {
                    peer.holds_buffer = true;
                    let buf = self.read_buf();
                    buf[0] = first;
                    peer.input.push(first);
                    let mut n = 1;
                    while n < buf.len()
                        && let Some(Arrived::Byte(byte)) = peer.arrived.front().copied()
                    {
                        peer.arrived.pop_front();
                        buf[n] = byte;
                        peer.input.push(byte);
                        n += 1;
                    }
                    self.handle(now, Event::Read(n));
                }
                (Arrived::Fin, None) => self.handle(now, Event::Eof),
                (Arrived::Fin, Some(error)) | (Arrived::Error(error), _) => {
                    self.handle(now, Event::Error(Direction::Read, error));
                }
            }
        }
    }

    fn accept(&mut self, now: Instant, n: u8, peer: &mut Peer) {
        match self.interest().write {
            Outbound::Idle | Outbound::Finished => {}
            Outbound::Flush => {
                let mut bufs = [&[][..]; MAX_SLICES];
                let count = self.write_bufs(&mut bufs);
                let before = peer.output.len();
                peer.output.extend(bufs[..count].iter().copied().flatten().take(n.into()));
                let written = peer.output.len() - before;
                self.handle(now, Event::Written(written));
            }
            Outbound::Finish => {
                peer.ending = Some(Ending::Fin);
                self.handle(now, Event::Finished);
            }
            Outbound::Reset => {
                peer.ending = Some(Ending::Rst);
                self.handle(now, Event::Finished);
            }
        }
    }

    fn fail(&mut self, now: Instant, direction: Direction, error: ConnectionError) {
        self.handle(now, Event::Error(direction, error));
    }

    fn release(&mut self, now: Instant) {
        self.handle(now, Event::Release);
    }

    fn expire(&mut self, now: Instant) {
        self.handle(now, Event::Timeout { unacknowledged: 0 });
    }

    fn stop(&mut self, now: Instant) {
        self.handle(now, Event::ShutDown);
    }
}
