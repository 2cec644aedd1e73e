//! An upstream that flaps, with subscribers that are disconnected at each gap and connect again.

use wirestate_core::{fanout::GapPolicy, runtime::Runtime as _};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, Received, act},
};

use crate::scene::{FIXED, SIZE, Scene, all, config, cut, millis, whole};

/// Connections to the upstream that carry at least one message.
const EPOCHS: usize = 4;

/// Each connection gets the rest of one epoch, whatever the kernel and the network do. A subscriber
/// that connects again at once, with a replay, gets all messages of each epoch.
#[test]
fn each_connection_carries_one_epoch() {
    for_each_seed(2, |seed| {
        let epochs = vec![
            cut(FIXED, 30 * SIZE + 37),
            whole(1000, 300),
            cut(FIXED, SIZE - 1),
            cut(FIXED, 0),
            cut(FIXED, 200 * SIZE + 1),
            whole(2000, 500),
        ];
        let config = config().with_on_gap(GapPolicy::Disconnect).with_replay(u64::MAX);
        let scene = Scene::new(seed, config, epochs);
        let faults = Faults { stall: 0, delay: millis(0)..=millis(2), ..Faults::harmless(seed) };
        scene.server.set_faults(faults);
        let subscribers: Vec<_> = (0..8_u64)
            .map(|number| {
                let host = scene.world.host(&format!("subscriber {number}"));
                let runtime = host.clone();
                // Every second one reads nothing for a while.
                let acts = match number % 2 {
                    0 => all(),
                    _ => vec![Act::Wait(millis(number * 150)), Act::ReceiveAll],
                };
                host.run(async move {
                    let mut connections = Vec::new();
                    while let Ok(socket) = runtime.connect("server:1235").await {
                        connections.push(act(runtime.clone(), socket, acts.clone()).await);
                    }
                    connections
                })
            })
            .collect();
        scene.run_for(millis(30_000));
        let counters = scene.counters();
        scene.end();
        assert_eq!(counters.epoch, EPOCHS as u64 - 1);
        assert!(counters.gap_ended >= 8 * (EPOCHS as u64 - 1), "{}", counters.gap_ended);
        assert_eq!(counters.gap_ended, scene.ended("gap"));
        let published: Vec<_> = scene
            .epochs()
            .into_iter()
            .map(|mut epoch| {
                epoch.truncate(epoch.len() / SIZE * SIZE);
                epoch
            })
            .filter(|epoch| !epoch.is_empty())
            .collect();
        for subscriber in subscribers {
            let connections: Vec<Received> = subscriber.take().unwrap();
            assert!(connections.iter().all(|received| received.fin));
            let connections: Vec<_> =
                connections.into_iter().map(|received| received.bytes).collect();
            assert!(connections.iter().all(|bytes| bytes.is_empty() || published.contains(bytes)));
            let with_bytes = connections.iter().filter(|bytes| !bytes.is_empty());
            assert!(with_bytes.eq(&published), "an epoch is missing");
        }
    });
}
