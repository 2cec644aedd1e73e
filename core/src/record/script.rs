//! A recorded session as a script of the testkit.

use alloc::{collections::VecDeque, format, string::String, vec, vec::Vec};
use core::{
    fmt,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;

use super::{Digest, Recording, ShrinkError, Step, What, replay::panic_of};
use crate::{
    ConnectionError, Direction, Event, Instant, Interest, Machine, Outbound, Reason, Status,
    machine::MAX_SLICES,
    proxy::{DialError, ProxyReason, Relay, RelayCall, RelaySide, Side},
};

/// An operation of a script. It means the same as the `Op` of the testkit with the same name.
/// `Display` is its source code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Receive(Bytes),
    Eof,
    Error(Direction, ConnectionError),
    Accept(usize),
    Unacknowledged(usize),
    Finished,
    Advance(Duration),
    Timeout,
    SpuriousTimeout,
    ShutDown,
    /// A call of a relay.
    Call(Call),
}

/// What happens to a relay, and not to one of its sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Connected {
        has_another: bool,
    },
    Refused(Refusal),
    /// After so many bytes to the side of the op.
    InjectReset {
        after: u64,
    },
}

/// Why a client is refused, as far as a recording tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NoUpstream,
    ConnectTimeout,
    Loop,
}

impl Refusal {
    const ALL: [Self; 3] = [Self::NoUpstream, Self::ConnectTimeout, Self::Loop];

    fn of(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.reason().label() == label)
    }

    fn reason(self) -> ProxyReason {
        match self {
            Self::NoUpstream => ProxyReason::NoUpstream(DialError::new(None)),
            Self::ConnectTimeout => {
                ProxyReason::NoUpstream(DialError::new(Some(Duration::from_secs(10))))
            }
            Self::Loop => ProxyReason::Loop { upstream: "localhost:80".into() },
        }
    }

    fn source(self) -> &'static str {
        match self {
            Self::NoUpstream => "NoUpstream(proxy::DialError::new(None))",
            Self::ConnectTimeout => {
                "NoUpstream(proxy::DialError::new(Some(Duration::from_secs(10))))"
            }
            Self::Loop => "Loop { upstream: \"localhost:80\".into() }",
        }
    }
}

impl Call {
    /// The name of its `RelayOp`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connected { .. } => "Connected",
            Self::Refused(_) => "Refused",
            Self::InjectReset { .. } => "InjectReset",
        }
    }

    /// Its `RelayOp`.
    pub(super) fn source(self, side: usize) -> String {
        let name = self.name();
        match self {
            Self::Connected { has_another } => format!("{name} {{ has_another: {has_another} }}"),
            Self::Refused(refusal) => format!("{name}(proxy::ProxyReason::{})", refusal.source()),
            Self::InjectReset { after } => {
                format!("{name} {{ to: proxy::Side::{:?}, after: {after} }}", Side::BOTH[side])
            }
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Receive(bytes) => {
                write!(f, "Op::Receive(b\"{}\".to_vec())", bytes.escape_ascii())
            }
            Self::Eof => f.write_str("Op::Eof"),
            Self::Error(direction, ConnectionError::Other { errno }) => {
                let error = format_args!("ConnectionError::Other {{ errno: {errno} }}");
                write!(f, "Op::Error(Direction::{direction:?}, {error})")
            }
            Self::Error(direction, error) => {
                write!(f, "Op::Error(Direction::{direction:?}, ConnectionError::{error:?})")
            }
            Self::Accept(usize::MAX) => f.write_str("Op::Accept(usize::MAX)"),
            Self::Accept(n) => write!(f, "Op::Accept({n})"),
            Self::Unacknowledged(n) => write!(f, "Op::Unacknowledged({n})"),
            Self::Finished => f.write_str("Op::Finished"),
            Self::Advance(time) if time.subsec_nanos() == 0 => {
                write!(f, "Op::Advance(Duration::from_secs({}))", time.as_secs())
            }
            Self::Advance(time) => {
                write!(f, "Op::Advance(Duration::from_nanos({}))", time.as_nanos())
            }
            Self::Timeout => f.write_str("Op::Timeout"),
            Self::SpuriousTimeout => f.write_str("Op::SpuriousTimeout"),
            Self::ShutDown => f.write_str("Op::ShutDown"),
            Self::Call(call) => f.write_str(&call.source(0)),
        }
    }
}

/// An operation, and the number of the side to which it is played.
pub(super) type SideOp = (usize, Op);

/// What a script is played to.
pub(super) trait Subject {
    /// How many sides it has, at most two.
    const SIDES: usize;

    type Side<'a>: Machine
    where
        Self: 'a;

    fn side(&mut self, side: usize) -> Self::Side<'_>;

    /// Its interests and its status.
    fn state(&self) -> ([Interest; 2], Status);

    fn deadline(&self) -> Option<Instant>;

    /// Handles a timeout. There is a number of unacknowledged bytes for each side.
    fn expire(&mut self, now: Instant, unacknowledged: [usize; 2]);

    fn shut_down(&mut self, now: Instant);

    /// Makes `call`, which concerns `side`, if the relay allows it. Returns whether the relay has a
    /// new upstream.
    fn call(&mut self, side: usize, call: Call, now: Instant) -> bool;

    /// Whether it has ended, and the label of its reason.
    fn end(&self) -> (bool, Option<String>);
}

/// A machine, which has one side.
pub(super) struct Single<M>(pub(super) M);

impl<M: Machine> Subject for Single<M> {
    const SIDES: usize = 1;

    type Side<'a>
        = &'a mut M
    where
        M: 'a;

    fn side(&mut self, _: usize) -> &mut M {
        &mut self.0
    }

    fn state(&self) -> ([Interest; 2], Status) {
        ([self.0.interest(); 2], self.0.status())
    }

    fn deadline(&self) -> Option<Instant> {
        self.0.poll_timeout()
    }

    fn expire(&mut self, now: Instant, [unacknowledged, _]: [usize; 2]) {
        self.0.handle(now, Event::Timeout { unacknowledged });
    }

    fn shut_down(&mut self, now: Instant) {
        self.0.handle(now, Event::ShutDown);
    }

    fn call(&mut self, _: usize, _: Call, _: Instant) -> bool {
        false // only a relay has calls
    }

    fn end(&self) -> (bool, Option<String>) {
        (self.0.interest().is_done(), self.0.reason().map(|reason| reason.label().into()))
    }
}

impl Subject for Relay {
    const SIDES: usize = 2;

    type Side<'a> = RelaySide<'a>;

    fn side(&mut self, side: usize) -> RelaySide<'_> {
        Relay::side(self, Side::BOTH[side])
    }

    fn state(&self) -> ([Interest; 2], Status) {
        (Side::BOTH.map(|side| self.interest(side)), self.status())
    }

    fn deadline(&self) -> Option<Instant> {
        self.poll_timeout()
    }

    fn expire(&mut self, now: Instant, [to_client, to_upstream]: [usize; 2]) {
        self.handle_timeout(now, to_client, to_upstream);
    }

    fn shut_down(&mut self, now: Instant) {
        Relay::shut_down(self, now);
    }

    fn call(&mut self, side: usize, call: Call, now: Instant) -> bool {
        match call {
            Call::Connected { has_another } if self.is_dialling() => {
                self.handle_connected(now, has_another);
                return true;
            }
            Call::Refused(refusal) if self.is_dialling() => self.refuse(refusal.reason(), now),
            Call::InjectReset { after } if self.is_connected() => {
                self.inject_reset(Side::BOTH[side], after, now);
            }
            Call::Connected { .. } | Call::Refused(_) | Call::InjectReset { .. } => {}
        }
        false
    }

    fn end(&self) -> (bool, Option<String>) {
        (self.is_done(), self.reason().map(|reason| reason.label().into()))
    }
}

/// Translates the steps of a recording to ops, without what came from outside.
///
/// Played to the recorded machine, the ops of each step lead to the step's event at its time.
#[derive(Debug)]
pub(super) struct Translation {
    now: Instant,
    /// What the player counts, for each side.
    unacknowledged: [usize; 2],
    is_relay: bool,
}

impl Translation {
    pub(super) fn new<S: Subject>(recording: &Recording<'_>) -> Self {
        let is_relay = S::SIDES > 1;
        Self { now: recording.header().started_at, unacknowledged: [0; 2], is_relay }
    }

    /// Appends the ops of the next step.
    ///
    /// # Errors
    /// A script cannot say what happened.
    pub(super) fn add(
        &mut self,
        step: &Step<'_>,
        ops: &mut Vec<SideOp>,
    ) -> Result<(), ShrinkError> {
        let side = step.side;
        if step.at > self.now {
            ops.push((side, Op::Advance(step.at.since(self.now))));
            self.now = step.at;
        }
        let op = match step.what {
            // The player polls shared state after each op.
            What::Start | What::Shared => return Ok(()),
            What::Received { bytes, .. } => {
                Op::Receive(Bytes::copy_from_slice(bytes.ok_or(ShrinkError::NoPayloads)?))
            }
            What::Sent { len, .. } => {
                self.unacknowledged[side] = 0;
                Op::Accept(len)
            }
            What::Finished { .. } => Op::Finished,
            What::Event(Event::Eof) => Op::Eof,
            What::Event(Event::Error(direction, error)) => Op::Error(direction, error),
            What::Event(Event::Timeout { unacknowledged }) => {
                self.acknowledge(side, unacknowledged, ops);
                Op::SpuriousTimeout
            }
            What::Event(Event::ShutDown) => Op::ShutDown,
            What::Event(Event::Read(_) | Event::Written(_) | Event::Finished | Event::Release) => {
                return Err(ShrinkError::NotReproduced);
            }
            What::Note(_) if !self.is_relay => return Err(ShrinkError::Call),
            What::Note(note) => return self.add_call(call_of(note)?, ops),
        };
        ops.push((side, op));
        Ok(())
    }

    fn acknowledge(&mut self, side: usize, unacknowledged: usize, ops: &mut Vec<SideOp>) {
        if unacknowledged != self.unacknowledged[side] {
            ops.push((side, Op::Unacknowledged(unacknowledged)));
            self.unacknowledged[side] = unacknowledged;
        }
    }

    /// Appends the ops of a call of a relay.
    fn add_call(&mut self, call: RelayCall<'_>, ops: &mut Vec<SideOp>) -> Result<(), ShrinkError> {
        match call {
            RelayCall::Timeout { to_client, to_upstream } => {
                self.acknowledge(0, to_client, ops);
                self.acknowledge(1, to_upstream, ops);
                ops.push((0, Op::SpuriousTimeout));
            }
            RelayCall::ShutDown => ops.push((0, Op::ShutDown)),
            RelayCall::Connected { has_another } => {
                self.unacknowledged[Side::Upstream as usize] = 0;
                ops.push((0, Op::Call(Call::Connected { has_another })));
            }
            RelayCall::Refuse { label, .. } => {
                let refusal = Refusal::of(label);
                let unknown = ShrinkError::Relay("the reason of a refusal is not known");
                ops.push((0, Op::Call(Call::Refused(refusal.ok_or(unknown)?))));
            }
            RelayCall::InjectReset { to, after } => {
                ops.push((to as usize, Op::Call(Call::InjectReset { after })));
            }
            // The header is set before the script. A fault has changed what passes between the
            // relay and the sockets, not the relay.
            RelayCall::Header(_) | RelayCall::Fault { .. } => {}
        }
        Ok(())
    }
}

fn call_of(note: &[u8]) -> Result<RelayCall<'_>, ShrinkError> {
    RelayCall::decode(note).ok_or(ShrinkError::Relay("a record of a call has no call of a relay"))
}

/// What a machine has done, or a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// What each side has done.
    pub(super) sides: Vec<SideFacts>,
    /// Whether it has ended, and the label of its reason. `None`: not known.
    pub(super) end: Option<(bool, Option<String>)>,
}

/// What one side has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SideFacts {
    pub(super) input: usize,
    pub(super) output: u64,
    /// The lower half of the digest of the output.
    pub(super) digest: u32,
    /// Whether it has sent a FIN (false) or an RST (true).
    pub(super) ending: Option<bool>,
}

impl Facts {
    pub(super) fn new<S: Subject>() -> Self {
        Self { sides: vec![SideFacts::default(); S::SIDES], end: None }
    }

    /// Whether each side has sent a FIN (false) or an RST (true).
    pub(super) fn endings(&self) -> Vec<Option<bool>> {
        self.sides.iter().map(|side| side.ending).collect()
    }

    /// Adds what the recorded machine has done in a step.
    pub(super) fn add(&mut self, step: &Step<'_>) {
        let Some(side) = self.sides.get_mut(step.side) else { return };
        match step.what {
            What::Received { len, .. } => side.input += len,
            What::Sent { len, digest } => {
                // The length may be hostile.
                side.output = side.output.saturating_add(len as u64);
                side.digest = digest;
            }
            What::Finished { is_reset } => side.ending = Some(is_reset),
            What::Note(note) => {
                if let Some(RelayCall::Connected { .. }) = RelayCall::decode(note)
                    && let Some(upstream) = self.sides.get_mut(Side::Upstream as usize)
                {
                    upstream.ending = None;
                }
            }
            What::Start | What::Event(_) | What::Shared => {}
        }
    }
}

/// What `ops` lead to.
pub(super) struct Played {
    /// An error is the message of a panic.
    pub(super) facts: Result<Facts, String>,
    /// More bytes were not acknowledged than were sent.
    pub(super) has_invented_bytes: bool,
}

/// Plays `ops` to `subject`.
pub(super) fn play<S: Subject>(subject: S, ops: &[SideOp]) -> Played {
    with_player(subject, |player| {
        let facts = player.play(ops).and_then(|()| player.facts(true));
        let has_invented_bytes = player.peers.iter().any(|peer| peer.has_invented_bytes);
        Played { facts, has_invented_bytes }
    })
}

/// Calls `f` with a player of `subject`.
pub(super) fn with_player<S: Subject, T>(subject: S, f: impl FnOnce(&mut Player<S>) -> T) -> T {
    let mut player = Player { subject, now: Instant::EPOCH, peers: Default::default() };
    let result = f(&mut player);
    // After a panic, even its drop may panic.
    panic_of(|| drop(player));
    result
}

/// Plays ops to a machine or a relay, as `script::play` and `script::play_relay` of the testkit do.
pub(super) struct Player<S> {
    subject: S,
    now: Instant,
    peers: [Peer; 2],
}

impl<S: Subject> Player<S> {
    /// Plays `ops`. An error is the message of a panic.
    pub(super) fn play(&mut self, ops: &[SideOp]) -> Result<(), String> {
        let panic = panic_of(|| {
            for (side, op) in ops {
                match op {
                    Op::Timeout => self.time_out(),
                    Op::SpuriousTimeout => self.expire(),
                    Op::ShutDown => self.subject.shut_down(self.now),
                    Op::Call(call) => {
                        if self.subject.call(*side, *call, self.now) {
                            self.peers[Side::Upstream as usize].reconnect();
                        }
                    }
                    Op::Receive(_)
                    | Op::Eof
                    | Op::Error(..)
                    | Op::Accept(_)
                    | Op::Unacknowledged(_)
                    | Op::Finished
                    | Op::Advance(_) => self.side(*side).play(op),
                }
                for side in 0..S::SIDES {
                    self.side(side).read();
                }
            }
        });
        panic.map_or(Ok(()), Err)
    }

    fn side(&mut self, side: usize) -> SidePlayer<'_, S::Side<'_>> {
        let Self { subject, now, peers } = self;
        SidePlayer { machine: subject.side(side), now, peer: &mut peers[side] }
    }

    fn time_out(&mut self) {
        let before = self.subject.state();
        for _ in 0..=MAX_OBSERVATIONS {
            let Some(deadline) = self.subject.deadline() else { break };
            self.now = self.now.max(deadline);
            self.expire();
            if self.subject.state() != before {
                break;
            }
        }
    }

    fn expire(&mut self) {
        let unacknowledged = [0, 1].map(|side| self.peers[side].unacknowledged);
        self.subject.expire(self.now, unacknowledged);
    }

    /// What it has done. With `end`, also whether it has ended. An error is the message of a panic.
    pub(super) fn facts(&self, end: bool) -> Result<Facts, String> {
        let sides = self.peers[..S::SIDES].iter().map(|peer| SideFacts {
            input: peer.input,
            output: peer.digest.len(),
            digest: peer.digest.short(),
            ending: peer.ending,
        });
        let mut facts = Facts { sides: sides.collect(), end: None };
        let panic = panic_of(|| facts.end = end.then(|| self.subject.end()));
        panic.map_or(Ok(facts), Err)
    }

    /// The bytes that each side has sent.
    pub(super) fn outputs(&self) -> Vec<Vec<u8>> {
        self.peers[..S::SIDES].iter().map(|peer| peer.output.clone()).collect()
    }
}

/// What is around one side.
#[derive(Default)]
struct Peer {
    /// Input that has arrived and was not read yet.
    arrived: VecDeque<Arrived>,
    write_error: Option<ConnectionError>,
    unacknowledged: usize,
    has_invented_bytes: bool,
    input: usize,
    output: Vec<u8>,
    digest: Digest,
    ending: Option<bool>,
}

impl Peer {
    /// There is another connection. What was read and sent before still counts.
    fn reconnect(&mut self) {
        self.arrived.clear();
        (self.write_error, self.ending, self.unacknowledged) = (None, None, 0);
    }
}

enum Arrived {
    Bytes(Bytes),
    /// `None`: the end of the input.
    End(Option<ConnectionError>),
}

/// Plays ops to one side.
struct SidePlayer<'a, M> {
    machine: M,
    now: &'a mut Instant,
    peer: &'a mut Peer,
}

impl<M: Machine> SidePlayer<'_, M> {
    fn play(&mut self, op: &Op) {
        match op {
            Op::Receive(bytes) if bytes.is_empty() => {}
            Op::Receive(bytes) => self.peer.arrived.push_back(Arrived::Bytes(bytes.clone())),
            Op::Eof => self.peer.arrived.push_back(Arrived::End(None)),
            Op::Error(Direction::Read, error) => {
                self.peer.arrived.push_back(Arrived::End(Some(*error)));
            }
            Op::Error(Direction::Write, error) => {
                let can_fail = match self.machine.interest().write {
                    Outbound::Idle => self.peer.ending.is_none() && self.peer.write_error.is_none(),
                    Outbound::Flush | Outbound::Finish => true,
                    Outbound::Finished | Outbound::Reset => false,
                };
                if can_fail {
                    self.peer.write_error = Some(*error);
                    self.handle(Event::Error(Direction::Write, *error));
                }
            }
            Op::Accept(n) => {
                self.accept(*n);
                self.peer.unacknowledged = 0;
            }
            Op::Unacknowledged(n) => {
                self.peer.unacknowledged = *n;
                // A FIN counts as a byte.
                self.peer.has_invented_bytes |=
                    *n > self.peer.output.len() + usize::from(self.peer.ending.is_some());
            }
            Op::Finished => match self.machine.interest().write {
                Outbound::Idle | Outbound::Flush | Outbound::Finished => {}
                wanted @ (Outbound::Finish | Outbound::Reset) => {
                    self.peer.ending = Some(wanted == Outbound::Reset);
                    self.handle(Event::Finished);
                }
            },
            Op::Advance(time) => *self.now += *time,
            // They are not played to one side.
            Op::Timeout | Op::SpuriousTimeout | Op::ShutDown | Op::Call(_) => {}
        }
    }

    fn handle(&mut self, event: Event) {
        self.machine.handle(*self.now, event);
    }

    fn accept(&mut self, n: usize) {
        if n == 0 || self.machine.interest().write != Outbound::Flush {
            return;
        }
        let mut bufs = [&[][..]; MAX_SLICES];
        let count = self.machine.write_bufs(&mut bufs);
        let before = self.peer.output.len();
        self.peer.output.extend(bufs[..count].iter().copied().flatten().take(n));
        self.peer.digest.write(&self.peer.output[before..]);
        self.handle(Event::Written(self.peer.output.len() - before));
    }

    fn poll_shared(&mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..MAX_POLLS {
            if !self.machine.poll_shared(*self.now, cx) {
                return;
            }
        }
        panic!("poll_shared has returned true {MAX_POLLS} times in a row");
    }

    /// Polls shared state, and reads what has arrived.
    fn read(&mut self) {
        self.poll_shared();
        while self.machine.interest().read {
            let event = match self.peer.arrived.pop_front() {
                None => return,
                Some(Arrived::Bytes(mut bytes)) => {
                    let buf = self.machine.read_buf();
                    let n = buf.len().min(bytes.len());
                    buf[..n].copy_from_slice(&bytes.split_to(n));
                    self.peer.input += n;
                    if !bytes.is_empty() {
                        self.peer.arrived.push_front(Arrived::Bytes(bytes));
                    }
                    Event::Read(n)
                }
                Some(Arrived::End(error)) => error
                    .or(self.peer.write_error)
                    .map_or(Event::Eof, |error| Event::Error(Direction::Read, error)),
            };
            self.handle(event);
            self.poll_shared();
        }
    }
}

/// The most timeouts that a machine spends on counting acknowledged bytes before it reports a
/// stall.
const MAX_OBSERVATIONS: usize = 8;
/// The most times in a row that `poll_shared` may return true.
const MAX_POLLS: usize = 10_000;
