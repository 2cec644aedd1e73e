//! Scripts for a relay, which has two sides.

use std::mem;

use wirestate_core::{
    Reason,
    proxy::{Relay, RelaySide, Side},
};

use super::{MAX_OBSERVATIONS, Op, Peer, Player, Transcript};

/// Plays `ops` to the sides of `relay`. They have one clock, which starts at `Instant::EPOCH`.
/// Returns the transcripts of the client's side and of the upstream's, both with the reason of the
/// relay.
///
/// A deadline and a shutdown concern both sides: play them to either.
///
/// ```
/// use wirestate_core::{Instant, proxy::{RelayFactory, Side::{Client, Upstream}}};
/// use wirestate_testkit::script::{self, Ending, Op};
///
/// let mut relay = RelayFactory::default().relay(Instant::EPOCH);
/// relay.handle_connected(Instant::EPOCH, false);
/// let ops = [
///     (Client, Op::Receive(b"a request".to_vec())),
///     (Client, Op::Eof),
///     (Upstream, Op::Accept(usize::MAX)),
///     (Upstream, Op::Finished),
///     (Upstream, Op::Receive(b"a reply".to_vec())),
///     (Client, Op::Accept(2)),
/// ];
/// let [client, upstream] = script::play_relay(&mut relay, &ops);
/// assert_eq!((&*upstream.output, upstream.ending), (&b"a request"[..], Some(Ending::Fin)));
/// assert_eq!((&*client.output, client.ending, client.done), (&b"a "[..], None, false));
/// ```
#[track_caller]
pub fn play_relay(relay: &mut Relay, ops: &[(Side, Op)]) -> [Transcript; 2] {
    let mut peers = [Peer::default(), Peer::default()];
    for (side, op) in ops {
        match op {
            Op::Timeout => time_out(relay, &mut peers),
            Op::SpuriousTimeout => expire(relay, &peers),
            Op::ShutDown => relay.shut_down(peers[*side as usize].now),
            Op::Receive(_)
            | Op::Eof
            | Op::Error(..)
            | Op::Accept(_)
            | Op::Buffer(_)
            | Op::Unacknowledged(_)
            | Op::Finished
            | Op::Advance(_)
            | Op::Release => with(relay, &mut peers, *side, |player| player.play(op)),
        }
        peers[side.other() as usize].now = peers[*side as usize].now;
        for side in Side::BOTH {
            with(relay, &mut peers, side, |player| player.read());
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

fn expire(relay: &mut Relay, [client, upstream]: &[Peer; 2]) {
    relay.handle_timeout(client.now, client.unacknowledged, upstream.unacknowledged);
}
