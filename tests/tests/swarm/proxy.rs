//! A proxy in front of two echo servers.

use wirestate_core::{
    proxy::{self, Balance, Config, Proxy, Upstreams},
    runtime::Runtime as _,
    serve,
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Disturbance, Host, World},
};

use super::{
    Starts, disturb,
    echo::{self, COMPLETE, end_uncorrupted, load, misbehave},
    seconds, world,
};

/// A proxy and its upstreams.
fn serve(world: &World, starts: &Starts) -> [Host; 3] {
    let hosts = [world.host("proxy"), world.host("upstream a"), world.host("upstream b")];
    let starts_of_proxy = starts.clone();
    hosts[0].run_on_start(move |host| {
        let listener = host.listen("proxy:9500").unwrap();
        let addresses = ["upstream a:7", "upstream b:7"].map(str::to_owned);
        let upstreams = Upstreams::new(addresses, Balance::RoundRobin, 1);
        let config = Config::default().with_buffer(64.try_into().unwrap());
        let proxy = Proxy::new(config, upstreams).unwrap();
        let server = serve::Server::new(host.clone(), listener);
        let server = server.with_handle(&starts_of_proxy.handle());
        host.run_named("proxy", proxy::serve(server, proxy));
    });
    for host in &hosts[1..] {
        echo::serve(host, starts, 512);
    }
    hosts
}

#[test]
fn every_byte_is_forwarded_under_disturbances_that_break_no_connection() {
    for_each_seed(4, |seed| {
        let (world, starts) = (world(seed), Starts::default());
        let [proxy, a, b] = serve(&world, &starts);
        let client = world.host("client");
        // Before the disturbances, since the proxy ends a client whose upstream it cannot reach.
        let loads = [(); 3].map(|()| load(&client, "proxy:9500", 1));
        world.run_for(seconds(1) / 20).unwrap();
        disturb(&world, &[&proxy, &a, &b, &client], &Disturbance::HARMLESS);
        world.finish_within(seconds(120), &[&client]).unwrap();
        for load in loads {
            assert_eq!(load.take().unwrap(), [COMPLETE]);
        }
        starts.end(&world);
    });
}

#[test]
fn under_all_disturbances_no_byte_is_wrong_and_afterwards_clients_are_served() {
    for_each_seed(4, |seed| {
        let (world, starts) = (world(seed), Starts::default());
        let [proxy, a, b] = serve(&world, &starts);
        let (client, late) = (world.host("client"), world.host("late"));
        let loads = [(); 3].map(|()| load(&client, "proxy:9500", 4));
        misbehave(&world, seed, "proxy:9500");
        disturb(&world, &[&proxy, &a, &b, &client], &Disturbance::ALL);

        // The connections of before may hold the upstreams' back-off.
        world.run_for(seconds(10)).unwrap();
        let late_load = load(&late, "proxy:9500", 1);
        world.finish_within(seconds(30), &[&late]).unwrap();
        assert_eq!(late_load.take().unwrap(), [COMPLETE]);
        end_uncorrupted(&client, &loads);
        world.run_for(seconds(3600)).unwrap();
        starts.end(&world);
    });
}
