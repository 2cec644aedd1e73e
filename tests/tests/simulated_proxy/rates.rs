//! Limits of bytes in a second, for a proxy's clients.

use std::num::NonZeroU64;

use bytes::Bytes;
use wirestate_core::{
    admission::{ByteRates, Rates},
    proxy::Config,
    serve::{self, ServerHandle},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Faults, World},
};

use crate::scene::{Scene, peer, seconds, small, tight};

fn rates() -> (Rates, Rates) {
    let limited = ByteRates::default().with_per_connection(NonZeroU64::new(4000));
    (Rates::default().with_receive(limited), Rates::default().with_send(limited))
}

fn scene(world: World, config: Config, rates: Rates) -> Scene {
    let handle = ServerHandle::new(serve::Config::default().with_rates(rates));
    Scene::with_handle(world, config, &["upstream"], handle)
}

fn pattern(n: usize) -> Bytes {
    (0..n).map(|i| u8::try_from(i * 7 % 251).expect("below 251")).collect()
}

#[test]
fn an_upload_and_a_download_have_their_rates() {
    let (receive, send) = rates();
    // The bytes of each direction, and the seconds that they take together.
    for (rates, upload, download, expected) in
        [(receive, 40_000, 200_000, 9.7..10.2), (send, 200_000, 40_000, 9.7..10.2)]
    {
        for_each_seed(6, |seed| {
            let scene = scene(World::new(seed), small(4096), rates);
            if seed > 1 {
                scene.proxy.set_faults(Faults::harmless(seed));
            }
            let answer = [Act::ReceiveAll, Act::Send(pattern(download)), Act::Finish];
            let upstream = scene.upstream("upstream", answer.into());
            let client = scene.world.host("client");
            let acts = [Act::Send(pattern(upload)), Act::Finish, Act::ReceiveAll];
            let received = peer(&client, acts.into());
            let start = scene.world.now();
            let received = scene.world.run_until(&received).unwrap();
            assert_eq!((received.bytes, received.fin), (pattern(download).to_vec(), true));
            let request = scene.world.run_until(&upstream).unwrap();
            assert_eq!((request.bytes, request.fin), (pattern(upload).to_vec(), true));
            let took = scene.world.now().since(start).as_secs_f64();
            assert!(took >= expected.start && (took < expected.end || seed > 1), "{took}");
            scene.end();
            assert_eq!(scene.ended("finished"), 1);
        });
    }
}

/// The proxy does not store what the client may not get yet.
#[test]
fn a_throttled_download_holds_the_upstream_back() {
    let (_, send) = rates();
    let scene = scene(tight(9), small(4096), send);
    scene.upstream("upstream", vec![Act::Send(pattern(1_000_000)), Act::Finish]);
    let client = scene.world.host("client");
    peer(&client, vec![Act::ReceiveAll]);
    scene.run_for(seconds(5));
    let (from_upstream, to_client) =
        (scene.dialled()[0].received.len(), scene.clients()[0].sent.len());
    assert!((18_000..22_000).contains(&to_client), "{to_client}");
    assert!(from_upstream <= to_client + 2 * 4096, "{from_upstream} {to_client}");
    scene.shutdown.abort();
    scene.end();
}

/// Each client waits longer for its turn than the idle timeout.
#[test]
fn clients_that_wait_for_a_rate_are_not_idle() {
    let limited = ByteRates::default().with_all(NonZeroU64::new(10_000));
    let config = Config::default().with_idle_timeout(std::time::Duration::from_millis(200));
    let scene = scene(World::new(3), config, Rates::default().with_receive(limited));
    scene.echo("upstream");
    let client = scene.world.host("client");
    let acts = || vec![Act::Send(pattern(2000)), Act::Finish, Act::ReceiveAll];
    let clients: Vec<_> = (0..40).map(|_| peer(&client, acts())).collect();
    for client in clients {
        assert_eq!(scene.world.run_until(&client).unwrap().bytes, pattern(2000));
    }
    scene.end();
    assert_eq!(scene.ended("finished"), 40);
}
