//! The faults of all connections of a proxy.

use core::{array, sync::atomic::Ordering::Relaxed};

use super::{Faults, Gate, Kind, Plan, dice::Dice};
use crate::{
    ConfigError,
    proxy::Side,
    shared::{AtomicU64, Lock, Shared},
};

/// A plan of faults and a seed, for all connections of a proxy. Clones are the same injector.
#[derive(Clone, Debug)]
pub struct Injector {
    inner: Shared<Inner>,
}

#[derive(Debug)]
struct Inner {
    seed: u64,
    plan: Lock<Shared<Plan>>,
    /// For each direction and kind.
    counts: [[AtomicU64; Kind::ALL.len()]; 2],
}

impl Injector {
    /// An injector with the faults of `plan`.
    ///
    /// # Errors
    /// As [`Plan::check`].
    pub fn new(plan: Plan, seed: u64) -> Result<Self, ConfigError> {
        plan.check()?;
        let zeros = || array::from_fn(|_| AtomicU64::new(0));
        let (plan, counts) = (Lock::new(Shared::new(plan)), [zeros(), zeros()]);
        Ok(Self { inner: Shared::new(Inner { seed, plan, counts }) })
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.inner.seed
    }

    /// The plan.
    pub fn plan(&self) -> Shared<Plan> {
        self.inner.plan.with(|plan| plan.clone())
    }

    /// Sets the plan of new connections.
    ///
    /// # Errors
    /// As [`Plan::check`]. The plan has not changed then.
    pub fn set_plan(&self, plan: Plan) -> Result<(), ConfigError> {
        plan.check()?;
        let plan = Shared::new(plan);
        let earlier = self.inner.plan.with(|current| core::mem::replace(current, plan));
        drop(earlier); // outside the lock
        Ok(())
    }

    /// The faults of the bytes to one side of the connection with this number. The same seed, plan
    /// and number give the same faults.
    pub fn gate(&self, connection: u64, to: Side) -> Gate {
        let plan = self.plan();
        let faults: &Faults = match to {
            Side::Client => &plan.to_client,
            Side::Upstream => &plan.to_upstream,
        };
        Gate::new(faults, Dice::new(self.inner.seed, connection, to))
    }

    /// Counts a connection on which a fault has struck.
    pub fn count(&self, to: Side, kind: Kind) {
        self.inner.counts[to as usize][kind as usize].fetch_add(1, Relaxed);
    }

    /// The number of connections on which a fault has struck, in the direction to one side.
    pub fn counted(&self, to: Side, kind: Kind) -> u64 {
        self.inner.counts[to as usize][kind as usize].load(Relaxed)
    }
}
