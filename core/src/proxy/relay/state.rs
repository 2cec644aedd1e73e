//! The states of a relay and of its two sides.

use core::ops::{Index, IndexMut};

use super::Side;
use crate::{ConnectionError, Direction, Instant};

/// The state of a relay, both sides together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// There is no upstream. If one was lost, `lost` has the direction and the error.
    Dialling { lost: Option<(Direction, ConnectionError)> },
    /// The upstream can be replaced by another one: it was sent none of the client's bytes, and
    /// nothing was received from it.
    Replaceable,
    /// The upstream cannot be replaced.
    Relaying,
    /// A shutdown was requested at `since`. The relay continues until no byte moves any more.
    Draining { since: Instant },
    /// There will be no upstream. The client is sent a FIN, and its input is discarded: `discarded`
    /// bytes so far, until the time `until` at the latest.
    Refused { discarded: usize, until: Instant },
}

/// The connection to one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SideState {
    pub(super) read: ReadState,
    pub(super) write: WriteState,
    /// How the connection ended, once it has.
    pub(super) outcome: Option<Outcome>,
}

impl SideState {
    pub(super) const OPEN: Self =
        Self { read: ReadState::Open, write: WriteState::Open, outcome: None };
}

/// What can be received from a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadState {
    Open,
    /// The side has sent a FIN.
    Fin,
    /// The input ended without a FIN, or is not read any more. The other side is reset.
    Aborted,
}

/// What can be sent to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteState {
    /// The bytes that were received from the other side; then a FIN or an RST, as the other side's
    /// [`ReadState`] says.
    Open,
    /// A FIN was sent.
    FinSent,
    /// An RST is pending. It does not wait for pending output.
    Resetting,
    /// An RST was sent, or the connection is lost.
    Closed,
}

/// How the connection to a side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// By a FIN each way.
    Finished,
    /// For the reason in the relay's `cause`.
    Caused,
}

/// One value for each side.
#[derive(Debug)]
pub(crate) struct PerSide<T> {
    pub(crate) client: T,
    pub(crate) upstream: T,
}

impl<T> PerSide<T> {
    /// The value of `side`, and the value of the other side.
    pub(crate) fn both_mut(&mut self, side: Side) -> (&mut T, &mut T) {
        match side {
            Side::Client => (&mut self.client, &mut self.upstream),
            Side::Upstream => (&mut self.upstream, &mut self.client),
        }
    }
}

impl<T> Index<Side> for PerSide<T> {
    type Output = T;

    fn index(&self, side: Side) -> &T {
        match side {
            Side::Client => &self.client,
            Side::Upstream => &self.upstream,
        }
    }
}

impl<T> IndexMut<Side> for PerSide<T> {
    fn index_mut(&mut self, side: Side) -> &mut T {
        self.both_mut(side).0
    }
}
