//! Echo.

use wirestate_command_line::load::{Load, LoadReason};
use wirestate_core::{
    buffer::Pool,
    drive::{Clock as _, Drive, Ended},
    echo,
    runtime::Runtime as _,
    serve,
};
use wirestate_testkit::{
    contract::Checked,
    for_each_seed,
    sim::{Disturbance, Host, Task, World, act, misbehaving},
};

use super::{Starts, connect, disturb, seconds, world};
use crate::echo_scene::{graceful_ends_are_complete, only_echoes, patient, small};

/// Starts an echo server on port 7 of the host, and again with each start of the host.
pub(crate) fn serve(host: &Host, starts: &Starts, buffer: u64) {
    let (starts, address) = (starts.clone(), format!("{}:7", host.ip()));
    host.run_on_start(move |host| {
        let listener = host.listen(&address).unwrap();
        let echo = echo::Server::new(small(buffer)).unwrap();
        let server = serve::Server::new(host.clone(), listener).with_handle(&starts.handle());
        let limit = usize::try_from(buffer).unwrap();
        let machine = move |_: &_, now| Checked::new(echo.machine(now), limit);
        host.run_named("echo server", server.serve(machine));
    });
}

/// Loads of one round, three seconds apart.
pub(crate) fn load(
    client: &Host,
    address: &'static str,
    count: u32,
) -> Task<Vec<Ended<LoadReason>>> {
    let runtime = client.clone();
    client.run(async move {
        let mut ended = Vec::new();
        for _ in 0..count {
            let socket = connect(&runtime, address).await;
            let clock = runtime.clock();
            let load = Load::new(patient(1), Pool::new(512, 1), clock.now(), |_| {}).unwrap();
            ended.push(Drive::new(load, socket, clock).await);
            runtime.sleep(seconds(3)).await;
        }
        ended
    })
}

/// Clients that send as they should not, from a host of their own.
pub(crate) fn misbehave(world: &World, seed: u64, address: &'static str) {
    let host = world.host("misbehaving");
    for i in 0..4 {
        let runtime = host.clone();
        host.run(async move {
            let socket = connect(&runtime, address).await;
            act(runtime, socket, misbehaving(seed * 100 + i)).await
        });
    }
}

pub(crate) const COMPLETE: Ended<LoadReason> = Ended::Reason(LoadReason::Complete { bytes: 3723 });

/// Runs until the loads have ended, and asserts that no byte was wrong.
///
/// A connection that was broken ends by its idle timeout at the latest.
pub(crate) fn end_uncorrupted(client: &Host, loads: &[Task<Vec<Ended<LoadReason>>>]) {
    client.world().finish_within(seconds(1000), &[client]).unwrap();
    let ended: Vec<_> = loads.iter().flat_map(|load| load.take().unwrap()).collect();
    let is_corrupted = |ended: &Ended<LoadReason>| {
        matches!(ended, Ended::Reason(LoadReason::Mismatch { .. } | LoadReason::Surplus { .. }))
    };
    assert!(!ended.iter().any(is_corrupted), "{ended:?}");
}

#[test]
fn every_byte_comes_back_under_disturbances_that_break_no_connection() {
    for_each_seed(4, |seed| {
        let (world, starts) = (world(seed), Starts::default());
        let (server, clients) = (world.host("server"), [world.host("a"), world.host("b")]);
        world.watch(only_echoes());
        serve(&server, &starts, 1 << (seed % 12));
        let loads = clients.each_ref().map(|client| load(client, "server:7", 5));
        let [a, b] = &clients;
        disturb(&world, &[&server, a, b], &Disturbance::HARMLESS);
        world.finish_within(seconds(120), &[a, b]).unwrap();
        for load in loads {
            assert_eq!(load.take().unwrap(), vec![COMPLETE; 5]);
        }
        graceful_ends_are_complete(&world);
        starts.end(&world);
    });
}

#[test]
fn under_all_disturbances_no_byte_is_wrong_and_afterwards_clients_are_served() {
    for_each_seed(4, |seed| {
        let (world, starts) = (world(seed), Starts::default());
        let (server, client) = (world.host("server"), world.host("client"));
        let late = world.host("late");
        world.watch(only_echoes());
        serve(&server, &starts, 512);
        let loads = [load(&client, "server:7", 4), load(&client, "server:7", 4)];
        misbehave(&world, seed, "server:7");
        disturb(&world, &[&server, &client], &Disturbance::ALL);

        let late_load = load(&late, "server:7", 1);
        world.finish_within(seconds(30), &[&late]).unwrap();
        assert_eq!(late_load.take().unwrap(), [COMPLETE]);
        end_uncorrupted(&client, &loads);
        world.run_for(seconds(3600)).unwrap();
        graceful_ends_are_complete(&world);
        starts.end(&world);
    });
}
