//! Scripts for a relay, which has two sides.

use std::mem;

use wirestate_core::{
    Reason,
    proxy::{ProxyReason, Relay, RelaySide, Side},
};
use wirestate_timeline::Event;

use super::{MAX_OBSERVATIONS, Op, Peer, Player, Transcript, timeline::Log};

/// An operation of a script for a relay.
///
/// A deadline and a shutdown concern both sides: play them to either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayOp {
    /// An op of the client's side.
    Client(Op),
    /// An op of the upstream's side.
    Upstream(Op),
    /// An upstream is connected ([`Relay::handle_connected`]): the first one, or another one after
    /// a replaceable upstream was lost. Bytes that have arrived from the lost one are lost, too.
    Connected {
        /// Whether there is another one to try if this one is lost.
        has_another: bool,
    },
    /// The client is refused ([`Relay::refuse`]), if the relay has no upstream.
    Refused(ProxyReason),
    /// A plan of faults resets both sides ([`Relay::inject_reset`]), if an upstream was connected.
    InjectReset {
        /// The side whose bytes the plan counts.
        to: Side,
        /// How many of them were sent.
        after: u64,
    },
}

/// Plays `ops` to `relay`, which begins without an upstream. Its sides have one clock, which starts
/// at `Instant::EPOCH`. Returns the transcripts of the client's side and of the upstream's, both
/// with the reason of the relay. If it has had several upstreams, the transcript has the bytes of
/// all, and the ending of the last one.
///
/// ```
/// use wirestate_core::{Instant, proxy::RelayFactory};
/// use wirestate_testkit::script::{
///     self, Ending, Op,
///     RelayOp::{Client, Connected, Upstream},
/// };
///
/// let mut relay = RelayFactory::default().relay(Instant::EPOCH);
/// let ops = [
///     Client(Op::Receive(b"a request".to_vec())),
///     Client(Op::Eof),
///     Connected { has_another: false },
///     Upstream(Op::Accept(usize::MAX)),
///     Upstream(Op::Finished),
///     Upstream(Op::Receive(b"a reply".to_vec())),
///     Client(Op::Accept(2)),
/// ];
/// let [client, upstream] = script::play_relay(&mut relay, &ops);
/// assert_eq!((&*upstream.output, upstream.ending), (&b"a request"[..], Some(Ending::Fin)));
/// assert_eq!((&*client.output, client.ending, client.done), (&b"a "[..], None, false));
/// ```
#[track_caller]
pub fn play_relay(relay: &mut Relay, ops: &[RelayOp]) -> [Transcript; 2] {
    let logs = Log::rows("relay", ["client", "upstream"]);
    let mut peers = logs.map(|log| Peer { log, ..Peer::default() });
    for op in ops {
        let now = peers[0].now;
        match op {
            RelayOp::Client(op) => play(relay, &mut peers, Side::Client, op),
            RelayOp::Upstream(op) => play(relay, &mut peers, Side::Upstream, op),
            RelayOp::Connected { has_another } if relay.is_dialling() => {
                announce(&peers, &Event::Note("an upstream is connected".into()));
                relay.handle_connected(now, *has_another);
                let Peer { transcript, log, .. } = mem::take(&mut peers[Side::Upstream as usize]);
                let transcript = Transcript { ending: None, ..transcript };
                peers[Side::Upstream as usize] = Peer { now, transcript, log, ..Peer::default() };
            }
            RelayOp::Refused(reason) if relay.is_dialling() => {
                announce(&peers, &Event::Note(format!("the client is refused: {reason}").into()));
                relay.refuse(reason.clone(), now);
            }
            RelayOp::InjectReset { to, after } if relay.is_connected() => {
                announce(&peers, &Event::Note("a plan of faults resets both sides".into()));
                relay.inject_reset(*to, *after, now);
            }
            RelayOp::Connected { .. } | RelayOp::Refused(_) | RelayOp::InjectReset { .. } => {}
        }
        for side in Side::BOTH {
            with(relay, &mut peers, side, |player| {
                player.read();
                player.observe();
                player.peer.log.set_playing(player.now(), false);
            });
        }
    }
    let (done, reason) = (relay.is_done(), relay.reason());
    peers.map(|peer| Transcript {
        done,
        reason: reason.as_ref().map(ToString::to_string),
        label: reason.as_ref().map(Reason::label),
        ..peer.transcript
    })
}

/// Plays an op to one side, or to both if it concerns them.
#[track_caller]
fn play(relay: &mut Relay, peers: &mut [Peer; 2], side: Side, op: &Op) {
    match op {
        Op::Timeout => time_out(relay, peers),
        Op::SpuriousTimeout => expire(relay, peers),
        Op::ShutDown => {
            announce(peers, &Event::ShutDown);
            relay.shut_down(peers[side as usize].now);
        }
        Op::Receive(_)
        | Op::Eof
        | Op::Error(..)
        | Op::Accept(_)
        | Op::Buffer(_)
        | Op::Unacknowledged(_)
        | Op::Finished
        | Op::Advance(_)
        | Op::Release => with(relay, peers, side, |player| player.play(op)),
    }
    peers[side.other() as usize].now = peers[side as usize].now;
}

/// Calls `f` with the player of one side.
fn with(
    relay: &mut Relay,
    peers: &mut [Peer; 2],
    side: Side,
    f: impl FnOnce(&mut Player<'_, RelaySide<'_>>),
) {
    let peer = &mut peers[side as usize];
    let mut machine = relay.side(side);
    let mut player = Player { machine: &mut machine, peer: mem::take(peer) };
    f(&mut player);
    *peer = player.peer;
}

/// As [`Op::Timeout`].
fn time_out(relay: &mut Relay, peers: &mut [Peer; 2]) {
    let state = |relay: &Relay| (Side::BOTH.map(|side| relay.interest(side)), relay.status());
    let before = state(relay);
    for _ in 0..=MAX_OBSERVATIONS {
        let Some(deadline) = relay.poll_timeout() else { break };
        for peer in &mut *peers {
            peer.now = peer.now.max(deadline);
        }
        expire(relay, peers);
        if state(relay) != before {
            break;
        }
    }
}

fn expire(relay: &mut Relay, peers: &[Peer; 2]) {
    let [client, upstream] = peers;
    announce(peers, &Event::Timeout);
    relay.handle_timeout(client.now, client.unacknowledged, upstream.unacknowledged);
}

/// Records an event of both sides.
fn announce(peers: &[Peer; 2], event: &Event) {
    for peer in peers {
        peer.log.push(peer.now, || event.clone());
        peer.log.set_playing(peer.now, true);
    }
}
