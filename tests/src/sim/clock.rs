//! The clock of a simulated host.

use std::task::{Context, Poll};

use wirestate_core::{Instant, drive};

use super::{World, network::Alarm};

/// A clock of a simulated host, with one alarm that goes off exactly at its deadline.
#[derive(Debug)]
pub struct Clock {
    world: World,
    host: usize,
    id: u64,
}

impl Clock {
    pub(super) fn new(world: World, host: usize) -> Self {
        let id = world.network(|network| {
            network.clocks += 1;
            network.clocks
        });
        Self { world, host, id }
    }
}

impl drive::Clock for Clock {
    const PERSISTENT: bool = true;

    fn now(&self) -> Instant {
        self.world.network(|network| network.hosts[self.host].clock.at(network.now))
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.world.network(|network| {
            if network.hosts[self.host].clock.at(network.now) >= deadline {
                network.alarms.remove(&self.id);
                return Poll::Ready(());
            }
            if deadline == Instant::NEVER {
                network.alarms.remove(&self.id);
                return Poll::Pending;
            }
            let alarm = Alarm { host: self.host, deadline, waker: cx.waker().clone() };
            network.alarms.insert(self.id, alarm);
            Poll::Pending
        })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.world.network(|network| network.alarms.remove(&self.id));
    }
}
