//! A relay and both of its peers.

use std::{collections::VecDeque, mem, num::NonZeroUsize, task::Context, time::Duration};

use bytes::Bytes;
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Interest, Linger, Machine, Outbound, Reason as _,
    Status,
    drive::MAX_SLICES,
    proxy::{Config, NoUpstream, ProxyReason, Relay, RelayFactory, RelaySide, Side},
};
use wirestate_testkit::{
    contract::{Checked, History},
    script::Ending,
};

/// An event at a side of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// This many bytes arrive.
    Receive(u8),
    /// A FIN arrives, behind the bytes that arrived before.
    Fin,
    /// A read error arrives, behind the bytes that arrived before.
    LostIn(ConnectionError),
    /// Writing fails, if it has not failed before and neither FIN nor RST was sent.
    LostOut(ConnectionError),
    /// The kernel takes at most this many bytes, or the FIN or RST that the relay wants.
    Take(u8),
    /// A read would block.
    Release,
    /// Time passes until the deadline, and the driver sends `Timeout` to this side.
    Timeout,
    /// This many seconds pass, and the driver sends `Timeout` to this side.
    Wait(u16),
    /// The driver sends `ShutDown` to this side.
    ShutDown,
    /// From now on bulk data from this side goes into a pipe of this many bytes; 0: no pipe.
    Pipe(u8),
}

/// What a peer has sent, and what it has received.
#[derive(Debug)]
pub(crate) struct Peer {
    /// `None` without a connection.
    history: Option<History>,
    arrived: VecDeque<Arrived>,
    /// The error of a failed write to it.
    pub(crate) broken: Option<ConnectionError>,
    /// The bytes that the relay has read.
    pub(crate) input: Vec<u8>,
    /// The bytes that the relay has sent to it.
    pub(crate) output: Vec<u8>,
    /// How the relay has ended its output to it.
    pub(crate) ending: Option<Ending>,
    /// Whether the relay has read its FIN.
    pub(crate) fin: bool,
    /// Whether the relay has seen an error of its connection.
    pub(crate) lost: bool,
    /// The size of its pipe.
    pipe: usize,
    /// The bytes in its pipe.
    in_pipe: Vec<u8>,
    /// How many bytes were received into a pipe.
    pub(crate) piped: usize,
    next: u8,
}

#[derive(Clone, Copy, Debug)]
enum Arrived {
    Byte(u8),
    Fin,
    Lost(ConnectionError),
}

impl Peer {
    fn new(first: u8, capacity: usize) -> Self {
        Self {
            // The header is queued in addition to both buffers.
            history: Some(History::new(2 * capacity + HEADER.len())),
            arrived: VecDeque::new(),
            broken: None,
            input: Vec::new(),
            output: Vec::new(),
            ending: None,
            fin: false,
            lost: false,
            pipe: 0,
            in_pipe: Vec::new(),
            piped: 0,
            next: first,
        }
    }
}

/// The PROXY header in front of the client's bytes, if one is sent.
const HEADER: &[u8] = &[0xfe; 3];

/// The result of connecting to another upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Other {
    Accepts,
    Refuses,
}

/// A relay that is connected to both of its peers.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) relay: Relay,
    capacity: usize,
    peers: [Peer; 2],
    /// Upstreams that were replaced.
    pub(crate) deserters: Vec<Peer>,
    /// The upstreams that can replace a lost one, in order.
    others: &'static [Other],
    header: &'static [u8],
    now: Instant,
    pub(crate) asked: bool,
}

impl Pair {
    pub(crate) fn new(capacity: usize) -> Self {
        Self::with_others(capacity, &[], &[])
    }

    /// With further upstreams, each of which gets a header.
    pub(crate) fn announced(capacity: usize, others: &'static [Other]) -> Self {
        Self::with_others(capacity, others, HEADER)
    }

    fn with_others(capacity: usize, others: &'static [Other], header: &'static [u8]) -> Self {
        let config = Config {
            buffer: NonZeroUsize::new(capacity).unwrap(),
            idle_buffers: 0,
            linger: Linger { bytes: 65_536, ..Linger::default() },
            ..Config::default()
        };
        let now = Instant::EPOCH;
        let mut relay = RelayFactory::new(config).relay(now);
        relay.announce(header.to_vec());
        relay.connected(now, !others.is_empty());
        let peers = [Peer::new(0, capacity), Peer::new(128, capacity)];
        let deserters = Vec::new();
        Self { relay, capacity, peers, deserters, others, header, now, asked: false }
    }

    /// With a pipe of this many bytes for either side.
    pub(crate) fn piping(mut self, pipe: usize) -> Self {
        for peer in &mut self.peers {
            peer.pipe = pipe;
        }
        self
    }

    pub(crate) fn peer(&self, side: Side) -> &Peer {
        &self.peers[side as usize]
    }

    /// Calls `f` with the machine of one side, which `Checked` wraps.
    fn with(&mut self, side: Side, f: impl FnOnce(&mut dyn Held, &mut Peer, Instant)) {
        let [client, upstream] = &mut self.peers;
        let (peer, other) = match side {
            Side::Client => (client, upstream),
            Side::Upstream => (upstream, client),
        };
        let Some(history) = peer.history.take() else { return };
        let side = Piped { side: self.relay.side(side), in_pipe: &mut other.in_pipe };
        let mut machine = Checked::resume(side, history);
        f(&mut machine, peer, self.now);
        peer.history = Some(machine.history());
        if self.relay.upstream_lost().is_some() {
            self.replace();
        }
    }

    /// The upstream was lost before a byte was forwarded: the next one that accepts replaces it.
    fn replace(&mut self) {
        let upstream = &mut self.peers[Side::Upstream as usize];
        let deserter = mem::replace(upstream, Peer::new(128, self.capacity));
        assert!(deserter.input.is_empty(), "it has spoken");
        assert!(self.header.starts_with(&deserter.output), "the client's bytes are repeated");
        self.deserters.push(deserter);
        while let Some((next, others)) = self.others.split_first() {
            self.others = others;
            match next {
                Other::Accepts => return self.relay.connected(self.now, !others.is_empty()),
                Other::Refuses => {}
            }
        }
        let none = NoUpstream { attempts: [].into(), ran_out: None };
        self.relay.refuse(ProxyReason::NoUpstream(none), self.now);
        self.peers[Side::Upstream as usize].history = None;
    }

    /// The bytes of the other side that `side` was sent.
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

    pub(crate) fn happen(&mut self, side: Side, event: Act) {
        match event {
            Act::Receive(n) => {
                let peer = &mut self.peers[side as usize];
                for _ in 0..n {
                    peer.arrived.push_back(Arrived::Byte(peer.next));
                    peer.next = peer.next.wrapping_add(1);
                }
            }
            Act::Fin => self.peers[side as usize].arrived.push_back(Arrived::Fin),
            Act::LostIn(why) => self.peers[side as usize].arrived.push_back(Arrived::Lost(why)),
            Act::LostOut(why) => self.with(side, |machine, peer, now| {
                let is_open = match machine.write() {
                    Outbound::Idle => peer.ending.is_none() && peer.broken.is_none(),
                    Outbound::Flush | Outbound::Finish => true,
                    Outbound::Finished | Outbound::Reset => false,
                };
                if is_open {
                    peer.broken = Some(why);
                    peer.lost = true;
                    machine.lose(now, Direction::Write, why);
                }
            }),
            Act::Take(n) => self.with(side, |machine, peer, now| machine.take(now, n, peer)),
            Act::Release => self.with(side, |machine, peer, now| {
                if peer.arrived.is_empty() && machine.reads() {
                    machine.found_nothing(now);
                }
            }),
            Act::Timeout => {
                let seen = |relay: &Relay| {
                    (Side::BOTH.map(|side| relay.interest(side)), relay.status(), relay.is_done())
                };
                let before = seen(&self.relay);
                // The first timeout may only count acknowledged bytes.
                for _ in 0..=8 {
                    let Some(deadline) = self.relay.poll_timeout() else { break };
                    self.now = self.now.max(deadline);
                    self.with(side, |machine, _, now| machine.expire(now));
                    if seen(&self.relay) != before {
                        break;
                    }
                }
            }
            Act::Wait(seconds) => {
                self.now += Duration::from_secs(seconds.into());
                self.with(side, |machine, _, now| machine.expire(now));
            }
            Act::ShutDown => {
                self.asked = true;
                self.with(side, |machine, _, now| machine.stop(now));
            }
            Act::Pipe(limit) => self.peers[side as usize].pipe = limit.into(),
        }
        for side in Side::BOTH {
            self.fill_pipe(side);
            self.with(side, |machine, peer, now| machine.read(now, peer));
        }
        self.look();
    }

    /// Moves arrived bytes of a side into a pipe, if the relay allows it.
    fn fill_pipe(&mut self, side: Side) {
        let peer = &mut self.peers[side as usize];
        let mut machine = self.relay.side(side);
        let limit = machine.pipe_limit().min(peer.pipe);
        let bytes = peer.arrived.iter().map_while(|arrived| match arrived {
            Arrived::Byte(byte) => Some(*byte),
            Arrived::Fin | Arrived::Lost(_) => None,
        });
        let bytes: Vec<_> = bytes.take(limit).collect();
        if !bytes.is_empty() {
            peer.arrived.drain(..bytes.len());
            peer.input.extend(&bytes);
            peer.piped += bytes.len();
            machine.handle_piped(self.now, bytes.len());
            peer.in_pipe = bytes;
        }
    }

    /// Takes all output and sends each wanted FIN or RST, until neither side wants anything.
    pub(crate) fn play_out(&mut self) {
        loop {
            let wants = |side| {
                matches!(
                    self.relay.interest(side).write,
                    Outbound::Flush | Outbound::Finish | Outbound::Reset
                )
            };
            let Some(side) = Side::BOTH.into_iter().find(|side| wants(*side)) else { return };
            self.happen(side, Act::Take(u8::MAX));
        }
    }

    /// Checks what holds at every step in each direction.
    fn look(&self) {
        for side in Side::BOTH {
            let (from, to) = (self.peer(side), self.peer(side.other()));
            let relayed = self.relayed(side.other());
            assert!(from.input.starts_with(relayed), "from the {side}: not what was received");
            if to.ending == Some(Ending::Fin) && !self.asked && self.label() != Some("no_upstream")
            {
                let told = self.relay.status().state == "lingering" || from.fin;
                assert!(told, "the {} was sent a FIN that nobody had sent", side.other());
                assert_eq!(from.input, relayed, "the {} lacks bytes before a FIN", side.other());
            }
        }
        let [client, upstream] = &self.peers;
        let unsent = |side: Side| self.peer(side.other()).input.len() - self.relayed(side).len();
        let header = self.header.len().saturating_sub(upstream.output.len());
        let undelivered = unsent(Side::Client) + unsent(Side::Upstream) + header;
        let queued = self.relay.status().queued;
        assert!(queued <= undelivered, "it holds what it has sent already");
        let discards = client.lost
            || upstream.lost
            || matches!(self.relay.status().state, "closing" | "lingering")
            || self.relay.is_done();
        assert!(discards || queued == undelivered, "it threw bytes away, and nothing had happened");
        assert_eq!(self.relay.is_done(), self.relay.reason().is_some());
    }

    pub(crate) fn label(&self) -> Option<&'static str> {
        self.relay.reason().map(|reason: ProxyReason| reason.label())
    }
}

/// A side of a relay, with the pipe that it sends from. As a machine it offers the bytes in the
/// pipe or in memory.
struct Piped<'a> {
    side: RelaySide<'a>,
    in_pipe: &'a mut Vec<u8>,
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
                assert_eq!(count, 0, "it offers memory for {len} bytes in a pipe");
                assert_eq!(self.in_pipe.len(), len);
                out[0] = self.in_pipe;
                1
            }
        }
    }

    fn write_owned(&self, out: &mut [Bytes], most: usize) -> usize {
        self.side.write_owned(out, most)
    }

    fn handle(&mut self, now: Instant, event: Event) {
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

/// A borrowed machine, wrapped in `Checked` for one call.
trait Held {
    fn reads(&self) -> bool;
    fn write(&self) -> Outbound;
    fn read(&mut self, now: Instant, peer: &mut Peer);
    fn take(&mut self, now: Instant, n: u8, peer: &mut Peer);
    fn lose(&mut self, now: Instant, way: Direction, why: ConnectionError);
    fn found_nothing(&mut self, now: Instant);
    fn expire(&mut self, now: Instant);
    fn stop(&mut self, now: Instant);
}

impl<M: Machine> Held for Checked<M> {
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
            match (arrived, peer.broken) {
                (Arrived::Byte(first), _) => {
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
                (Arrived::Fin, None) => {
                    peer.fin = true;
                    self.handle(now, Event::Eof);
                }
                (Arrived::Fin, Some(why)) | (Arrived::Lost(why), _) => {
                    peer.lost = true;
                    self.handle(now, Event::Error(Direction::Read, why));
                }
            }
        }
    }

    fn take(&mut self, now: Instant, n: u8, peer: &mut Peer) {
        match self.interest().write {
            Outbound::Idle | Outbound::Finished => {}
            Outbound::Flush => {
                let mut bufs = [&[][..]; MAX_SLICES];
                let count = self.write_bufs(&mut bufs);
                let before = peer.output.len();
                peer.output.extend(bufs[..count].iter().copied().flatten().take(n.into()));
                let taken = peer.output.len() - before;
                self.handle(now, Event::Written(taken));
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

    fn lose(&mut self, now: Instant, way: Direction, why: ConnectionError) {
        self.handle(now, Event::Error(way, why));
    }

    fn found_nothing(&mut self, now: Instant) {
        self.handle(now, Event::Release);
    }

    fn expire(&mut self, now: Instant) {
        self.handle(now, Event::Timeout { unacknowledged: 0 });
    }

    fn stop(&mut self, now: Instant) {
        self.handle(now, Event::ShutDown);
    }
}
