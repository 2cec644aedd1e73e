//! Scripted peers: what their acts receive, and how they wait for each other.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{future::poll_fn, time::Duration};

use wirestate_core::{
    ConnectionError,
    runtime::{Listener as _, Runtime as _},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Barrier, Faults, Host, Leftovers, Received, Task, World, act},
};

/// Two peers on one connection: the first has connected.
fn peers(world: &World, acts: [Vec<Act>; 2]) -> [Task<Received>; 2] {
    let (here, there) = (host(world, "here"), host(world, "there"));
    let mut listener = there.listen("there:7").unwrap();
    let [ours, theirs] = acts;
    let (runtime, other) = (here.clone(), there.clone());
    [
        here.run(async move {
            let socket = runtime.connect("there:7").await.unwrap();
            act(runtime, socket, ours).await
        }),
        there.run(async move {
            let (socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            act(other, socket, theirs).await
        }),
    ]
}

fn host(world: &World, name: &str) -> Host {
    let host = world.host(name);
    host.set_faults(Faults::harmless(3));
    host
}

fn send(text: &'static str) -> Act {
    Act::Send(text.into())
}

#[test]
fn receive_until_ends_with_the_delimiter_however_the_input_is_cut() {
    let cases: [(&[&'static str], &str, &str); 6] = [
        (&["+OK\r\n"], "\r\n", "+OK\r\n"),
        (&["+OK\r", "\n+NO\r\n"], "\r\n", "+OK\r\n"),
        (&["+OK\r\n+NO\r\n"], "\r\n", "+OK\r\n"),
        (&["aab", "ab", "aba"], "abab", "aabab"),
        (&["no delimiter"], "\r\n", "no delimiter"),
        (&["more"], "", ""),
    ];
    for (sent, delimiter, expected) in cases {
        for_each_seed(4, |seed| {
            let world = World::new(seed);
            let mut acts = Vec::new();
            for text in sent {
                acts.extend([send(text), Act::Wait(Duration::from_secs(seed % 2))]);
            }
            acts.push(Act::Finish);
            let reading = vec![Act::ReceiveUntil(delimiter.into())];
            let [_, received] = peers(&world, [acts, reading]);
            let received = world.run_until(&received).unwrap();
            assert_eq!(String::from_utf8(received.bytes).unwrap(), expected);
            assert_eq!(received.fin, expected == "no delimiter");
            world.run().unwrap();
        });
    }
}

#[test]
fn each_act_continues_where_the_last_has_ended() {
    let world = World::new(1);
    let reading =
        vec![Act::ReceiveLines(2), Act::Receive(2), Act::ReceiveLines(1), Act::ReceiveLines(9)];
    let sending = vec![send("one\ntwo\nthree\nfour\nfi"), Act::Finish];
    let [_, received] = peers(&world, [sending, reading]);
    let received = world.run_until(&received).unwrap();
    let expected = r#"Received { bytes: b"one\ntwo\nthree\nfour\nfi", fin: true, error: None }"#;
    assert_eq!(format!("{received:?}"), expected);

    let world = World::new(1);
    let reading = vec![Act::ReceiveLines(2), Act::Receive(2), Act::ReceiveUntil("\n".into())];
    let [_, received] = peers(&world, [vec![send("one\ntwo\nthree\nfour\n")], reading]);
    assert_eq!(world.run_until(&received).unwrap().bytes, b"one\ntwo\nthree\n");
}

#[test]
fn peers_wait_for_each_other_at_a_barrier() {
    for_each_seed(4, |seed| {
        let world = World::new(seed);
        let barrier = Barrier::new(2);
        let at = || Act::Barrier(barrier.clone());
        let second = Duration::from_secs(1);
        let [one, two] = peers(
            &world,
            [
                vec![at(), Act::Wait(second), at(), send("."), at()],
                vec![Act::Wait(second), at(), at(), Act::Receive(1), at()],
            ],
        );
        let began = world.now();
        world.run().unwrap();
        assert!((2..4).contains(&world.now().since(began).as_secs()), "each has waited once");
        assert_eq!((one.take().unwrap().error, two.take().unwrap().bytes), (None, b".".to_vec()));
        assert_eq!(world.leftovers(), Leftovers::default());
    });
}

#[test]
fn a_peer_whose_acts_end_early_holds_no_other_at_a_barrier() {
    let world = World::new(1);
    let barrier = Barrier::new(2);
    let at = || Act::Barrier(barrier.clone());
    let [_, other] =
        peers(&world, [vec![Act::Reset, at(), at()], vec![at(), Act::ReceiveAll, at(), at()]]);
    world.run().unwrap();
    assert_eq!(other.take().unwrap().error, Some(ConnectionError::Reset));
}
