//! The servers in worlds with several hosts that a swarm disturbs: partitions, slow paths, stopped
//! hosts, wrong clocks, killed processes, power cuts.
//!
//! Each server has two tests. Under disturbances that break no connection, every client gets all of
//! its bytes. Under all disturbances, no byte is wrong; when the faults are over, a new client is
//! served, and every connection ends.
//!
//! `WIRESTATE_SEEDS=100 cargo test --release --test swarm` tries more seeds.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod echo;
#[path = "../simulated_echo/scene.rs"]
#[expect(dead_code, reason = "the scene is for another test")]
mod echo_scene;
mod fanout;
#[path = "../simulated_fanout/scene.rs"]
#[expect(dead_code, reason = "the scene is for another test")]
mod fanout_scene;
mod message;
#[path = "../simulated_message/scene.rs"]
#[expect(dead_code, reason = "the scene is for another test")]
mod message_scene;
#[path = "../simulated_fanout/meter.rs"]
#[expect(dead_code, reason = "the meter is for another test")]
mod meter;
mod proxy;

use std::{sync::Arc, time::Duration};

use wirestate_core::{runtime::Runtime as _, serve::ServerHandle, shared::Lock};
use wirestate_testkit::sim::{Disturbance, Host, Leftovers, Settings, Socket, Swarm, World};

/// The handles of the servers of a world: one for each start.
#[derive(Clone, Default)]
struct Starts {
    handles: Arc<Lock<Vec<ServerHandle>>>,
}

impl Starts {
    /// The handle of a server that starts.
    fn handle(&self) -> ServerHandle {
        let handle = ServerHandle::default();
        self.handles.with(|handles| handles.push(handle.clone()));
        handle
    }

    /// Drains the servers, and asserts that nothing is left when all tasks have ended.
    fn end(&self, world: &World) {
        let handles = self.handles.with(std::mem::take);
        handles.iter().for_each(ServerHandle::drain);
        world.run().unwrap();
        assert_eq!(world.leftovers(), Leftovers::default());
        for handle in handles {
            let totals = handle.table().totals();
            assert_eq!((totals.open, totals.accepted), (0, totals.ended.values().sum()));
        }
    }
}

/// A world whose sockets have small buffers.
fn world(seed: u64) -> World {
    World::with(seed, Settings { buffer: 1 << (6 + seed % 8), ..Settings::default() })
}

/// Disturbs the hosts for 20 s, and then ends all faults.
fn disturb(world: &World, hosts: &[&Host], kinds: &[Disturbance]) {
    Swarm::new(world, hosts, kinds).disturb(seconds(20)).unwrap();
    world.heal();
}

/// Connects, however often it takes.
async fn connect(host: &Host, address: &str) -> Socket {
    loop {
        match host.connect(address).await {
            Ok(socket) => return socket,
            Err(_unreachable) => host.sleep(seconds(1)).await,
        }
    }
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
