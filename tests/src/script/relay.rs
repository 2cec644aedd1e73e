//! Scripts for a relay, which has two sides.

use std::mem;

use wirestate_core::proxy::{Relay, RelaySide, Side};

use super::{Op, Peer, Player, Transcript};

/// Plays `ops` to the sides of `relay`. They have one clock, which starts at `Instant::EPOCH`.
/// Returns the transcripts of the client's side and of the upstream's.
///
/// A deadline of a relay is one of both sides. An [`Op::Timeout`] or [`Op::SpuriousTimeout`] has
/// the bytes that its side's peer has not acknowledged, and none of the other.
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
        with(relay, &mut peers, *side, |player| player.play(op));
        peers[side.other() as usize].now = peers[*side as usize].now;
        // The op may let the other side read.
        with(relay, &mut peers, side.other(), |player| player.read());
    }
    Side::BOTH.map(|side| {
        let peer = mem::take(&mut peers[side as usize]);
        Player { machine: &mut relay.side(side), peer }.transcript()
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
