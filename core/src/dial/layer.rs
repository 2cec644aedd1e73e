//! What a connection has around its machine.

use crate::{Instant, Machine};

/// What each connection that is dialled has around its machine, such as TLS.
pub trait Layer {
    /// The machine around a machine.
    type Machine<M: Machine>: Machine;

    /// Whether it encrypts.
    fn is_encrypted(&self) -> bool;

    /// Puts the layer around the machine of a connection that was made `now` to `address`.
    fn wrap<M: Machine>(&self, address: &str, inner: M, now: Instant) -> Self::Machine<M>;

    /// The inner machine, for calls beyond the contract: poll the driver afterwards.
    fn inner_mut<M: Machine>(machine: &mut Self::Machine<M>) -> &mut M;
}

/// No layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Layer for Plain {
    type Machine<M: Machine> = M;

    fn is_encrypted(&self) -> bool {
        false
    }

    fn wrap<M: Machine>(&self, _address: &str, inner: M, _now: Instant) -> M {
        inner
    }

    fn inner_mut<M: Machine>(machine: &mut M) -> &mut M {
        machine
    }
}
