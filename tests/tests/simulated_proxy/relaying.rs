//! Bytes, FINs and resets from one side to the other.

use std::time::Duration;

use bytes::Bytes;
use wirestate_core::{
    ConnectionError,
    proxy::{Config, Side},
};
use wirestate_testkit::{
    for_each_seed,
    script::Ending,
    sim::{Act, Entry, Faults, TraceEvent},
};

use crate::scene::{Scene, peer, seconds, small, tight};

fn pattern(n: usize) -> Bytes {
    (0..n).map(|i| u8::try_from(i * 7 % 251).expect("below 251")).collect()
}

#[test]
fn a_reply_arrives_after_the_clients_fin() {
    for_each_seed(8, |seed| {
        let scene = Scene::with(tight(seed), small(1 << (seed % 8)), &["upstream"]);
        scene.proxy.set_faults(Faults::harmless(seed));
        let answer = [Act::ReceiveAll, Act::Wait(seconds(120)), Act::Send(pattern(5000))];
        let upstream = scene.upstream("upstream", answer.into());
        let client = scene.world.host("client");
        let received = peer(&client, vec![Act::Send(pattern(3000)), Act::Finish, Act::ReceiveAll]);
        let received = scene.world.run_until(&received).unwrap();
        assert_eq!((received.bytes, received.fin), (pattern(5000).to_vec(), true));
        let request = scene.world.run_until(&upstream).unwrap();
        assert_eq!((request.bytes, request.fin), (pattern(3000).to_vec(), true));
        scene.end();
        assert_eq!(scene.ended("finished"), 1);
    });
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    for_each_seed(8, |seed| {
        let scene = Scene::with(tight(seed), small(512), &["upstream"]);
        scene.proxy.set_faults(Faults::harmless(seed));
        scene.echo("upstream");
        let client = scene.world.host("client");
        let acts = [Act::Send(pattern(3000)), Act::Receive(3000), Act::Wait(seconds(100))];
        peer(&client, acts.into());
        scene.run_for(seconds(90));
        assert_eq!((scene.clients()[0].sent.len(), scene.relays.buffers_in_use()), (3000, 0));
        scene.end();
    });
}

/// How many bytes were received from clients into a pipe.
fn piped(scene: &Scene) -> usize {
    scene.clients().iter().map(|record| record.piped).sum()
}

#[test]
fn bulk_passes_through_a_pipe() {
    for_each_seed(8, |seed| {
        let scene = Scene::with(tight(9), small(64), &["upstream"]);
        let upstream = scene.upstream("upstream", vec![Act::ReceiveAll]);
        let client = scene.world.host("client");
        let size = 5000 + usize::try_from(seed).expect("it is small");
        peer(&client, vec![Act::Send(pattern(size)), Act::Finish, Act::ReceiveAll]);
        let received = scene.world.run_until(&upstream).unwrap();
        assert_eq!((received.bytes, received.fin), (pattern(size).to_vec(), true));
        assert!(piped(&scene) > size / 2, "{} of {size}", piped(&scene));
        scene.end();
    });
}

/// There is no pipe, or the kernel cannot splice.
#[test]
fn without_a_pipe_all_bytes_pass_through_memory() {
    let no_splice = Faults { no_splice: 1000, ..Faults::NONE };
    for (pipes, faults) in [(0, Faults::NONE), (1, no_splice)] {
        let config = small(64).with_pipes(pipes);
        let scene = Scene::with(tight(9), config, &["upstream"]);
        scene.proxy.set_faults(faults);
        let upstream = scene.upstream("upstream", vec![Act::ReceiveAll]);
        let client = scene.world.host("client");
        peer(&client, vec![Act::Send(pattern(5000)), Act::Finish, Act::ReceiveAll]);
        let received = scene.world.run_until(&upstream).unwrap();
        assert_eq!((received.bytes, received.fin), (pattern(5000).to_vec(), true));
        assert_eq!(piped(&scene), 0);
        let trace = scene.world.trace();
        let is_attempt = |entry: &&Entry| matches!(entry.event, TraceEvent::Fault("no_splice", _));
        assert_eq!(
            trace.entries().iter().filter(is_attempt).count(),
            pipes,
            "splice was not tried exactly once for each pipe"
        );
        scene.end();
    }
}

#[test]
fn small_messages_after_a_bulk_pass_through_memory() {
    let scene = Scene::with(tight(9), small(512), &["upstream"]);
    let answers = (0..10).flat_map(|_| [Act::Receive(20), Act::Send(pattern(20))]);
    let upstream = [Act::Receive(5000), Act::Send("done".into())].into_iter().chain(answers);
    let upstream = scene.upstream("upstream", upstream.collect());
    let client = scene.world.host("client");
    let questions = (0..10).flat_map(|_| [Act::Send(pattern(20)), Act::Receive(20)]);
    let received = peer(
        &client,
        [Act::Send(pattern(5000)), Act::Receive(4)].into_iter().chain(questions).collect(),
    );
    let mut after_bulk = None;
    while received.take().is_none() {
        scene.run_for(Duration::from_millis(1));
        if scene.dialled().iter().any(|record| record.received.starts_with(b"done")) {
            after_bulk.get_or_insert_with(|| piped(&scene));
        }
    }
    assert_eq!(scene.world.run_until(&upstream).unwrap().bytes.len(), 5200);
    assert!(after_bulk > Some(0));
    // The first message may still go into the pipe.
    assert!(piped(&scene) <= after_bulk.unwrap() + 20, "{} {after_bulk:?}", piped(&scene));
    scene.end();
}

/// The upload fills the buffer; after the refusal, the rest is discarded.
#[test]
fn an_upload_without_an_upstream_uses_no_pipe() {
    let scene = Scene::with(tight(9), small(64), &["silent"]);
    scene.echo("silent").set_unplugged(true);
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::Send(pattern(20_000)), Act::ReceiveAll]);
    assert!(scene.world.run_until(&received).unwrap().fin);
    assert_eq!(piped(&scene), 0);
    scene.end();
    assert_eq!(scene.ended("no_upstream"), 1);
}

#[test]
fn bytes_in_a_pipe_arrive_after_the_client_is_lost() {
    for_each_seed(20, |seed| {
        let scene = Scene::with(tight(9), small(4096), &["slow"]);
        scene.proxy.set_faults(Faults::harmless(seed));
        let slow = scene.upstream("slow", vec![Act::Wait(seconds(60)), Act::ReceiveAll]);
        let client = scene.world.host("client");
        let acts = vec![Act::Send(pattern(30_000)), Act::Wait(seconds(10)), Act::Reset];
        peer(&client, acts);
        let received = scene.world.run_until(&slow).unwrap();
        assert_eq!((received.error, received.fin), (Some(ConnectionError::Reset), false));
        let forwarded = scene.clients()[0].received.len();
        assert_eq!(received.bytes, pattern(forwarded));
        scene.end();
        assert_eq!(scene.ended("client_lost"), 1);
    });
}

/// The stalled connection keeps the only pipe; the other one uses memory.
#[test]
fn a_stalled_connection_with_a_pipe_does_not_delay_others() {
    let config = small(64).with_pipes(1);
    let scene = Scene::with(tight(9), config, &["slow", "quick"]);
    let start = scene.world.now();
    let slow = scene.upstream("slow", vec![Act::Wait(seconds(100)), Act::ReceiveAll]);
    let quick = scene.upstream("quick", vec![Act::ReceiveAll]);
    let client = scene.world.host("client");
    let acts = vec![Act::Send(pattern(50_000)), Act::Finish, Act::ReceiveAll];
    peer(&client, acts.clone());
    scene.run_for(seconds(10));
    peer(&client, acts);
    assert_eq!(scene.world.run_until(&quick).unwrap().bytes, pattern(50_000));
    let held = scene.clients()[0].piped;
    assert!((1..50_000).contains(&held), "the slow connection does not hold the pipe: {held}");
    assert_eq!(piped(&scene), held, "another connection has a pipe");
    let elapsed = scene.world.now().since(start);
    assert!(elapsed < seconds(100), "the slow connection has ended: {elapsed:?}");
    assert_eq!(scene.world.run_until(&slow).unwrap().bytes, pattern(50_000));
    scene.end();
}

#[test]
fn an_upstream_that_sends_first_and_ends_first_is_relayed() {
    let scene = Scene::new(1, &["upstream"]);
    let acts = [Act::Send("220 hello".into()), Act::Finish, Act::ReceiveAll];
    let upstream = scene.upstream("upstream", acts.into());
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::ReceiveAll, Act::Send(pattern(70_000)), Act::Finish]);
    let received = scene.world.run_until(&received).unwrap();
    assert_eq!((&*received.bytes, received.fin), (&b"220 hello"[..], true));
    assert_eq!(scene.world.run_until(&upstream).unwrap().bytes, pattern(70_000));
    scene.end();
    assert_eq!(scene.ended("finished"), 1);
}

/// The reset arrives as an RST, not a FIN, after all bytes.
#[test]
fn a_clients_reset_arrives_at_the_upstream() {
    for_each_seed(20, |seed| {
        let scene = Scene::with(tight(seed), small(1 << (seed % 8)), &["upstream"]);
        scene.proxy.set_faults(Faults::harmless(seed));
        let upstream = scene.upstream("upstream", vec![Act::ReceiveAll]);
        let client = scene.world.host("client");
        let acts = vec![Act::Send(pattern(2000)), Act::Wait(seconds(60)), Act::Reset];
        peer(&client, acts);
        let received = scene.world.run_until(&upstream).unwrap();
        assert_eq!((received.error, received.fin), (Some(ConnectionError::Reset), false));
        assert_eq!(received.bytes, pattern(2000));
        scene.end();
        assert_eq!(scene.ended("client_lost"), 1);
    });
}

#[test]
fn an_upstreams_reset_arrives_at_the_client() {
    for_each_seed(20, |seed| {
        let scene = Scene::with(tight(seed), small(1 << (seed % 8)), &["upstream"]);
        scene.proxy.set_faults(Faults::harmless(seed));
        let acts = vec![Act::Send(pattern(2000)), Act::Wait(seconds(60)), Act::Reset];
        scene.upstream("upstream", acts);
        let client = scene.world.host("client");
        let received = peer(&client, vec![Act::ReceiveAll]);
        let received = scene.world.run_until(&received).unwrap();
        assert_eq!((received.error, received.fin), (Some(ConnectionError::Reset), false));
        assert_eq!(received.bytes, pattern(2000));
        scene.end();
        assert_eq!(scene.ended("upstream_lost"), 1);
    });
}

#[test]
fn a_reset_after_a_fin_reaches_an_upstream_that_still_replies() {
    let scene = Scene::new(3, &["upstream"]);
    let endless = vec![Act::ReceiveAll, Act::Send(pattern(300_000)), Act::Send(pattern(300_000))];
    let upstream = scene.upstream("upstream", endless);
    let client = scene.world.host("client");
    peer(&client, vec![Act::Send("?".into()), Act::Finish, Act::Receive(5), Act::Reset]);
    let received = scene.world.run_until(&upstream).unwrap();
    assert_eq!((received.error, received.fin), (Some(ConnectionError::Reset), true));
    scene.end();
    assert_eq!(scene.ended("client_lost"), 1);
}

#[test]
fn an_idle_connection_is_reset_on_both_sides() {
    let scene = Scene::new(4, &["upstream"]);
    let upstream = scene.upstream("upstream", vec![Act::Receive(1), Act::ReceiveAll]);
    let client = scene.world.host("client");
    let received =
        peer(&client, vec![Act::Wait(seconds(590)), Act::Send("x".into()), Act::ReceiveAll]);
    scene.run_for(seconds(1180));
    assert_eq!(scene.table.totals().open, 1, "the byte after 590 s has not restarted the timeout");
    scene.run_for(seconds(20));
    assert_eq!(scene.ended("idle_timeout"), 1);
    for received in [received, upstream] {
        assert_eq!(scene.world.run_until(&received).unwrap().error, Some(ConnectionError::Reset));
    }
    scene.end();
}

/// The bytes that arrived meanwhile are read before the idle timeout counts as elapsed.
#[test]
fn a_process_that_was_stopped_relays_what_had_arrived_before_a_deadline_ends_the_connection() {
    for_each_seed(10, |seed| {
        for sender in Side::BOTH {
            let scene = Scene::new(seed, &["upstream"]);
            let (mut client_acts, mut upstream_acts) = (vec![], vec![]);
            let (sends, reads) = match sender {
                Side::Client => (&mut client_acts, &mut upstream_acts),
                Side::Upstream => (&mut upstream_acts, &mut client_acts),
            };
            sends.extend([
                Act::Send("before".into()),
                Act::Wait(seconds(100)),
                Act::Send(" meanwhile".into()),
                Act::Finish,
                Act::ReceiveAll,
            ]);
            reads.extend([Act::Receive(16), Act::Finish, Act::ReceiveAll]);
            let upstream = scene.upstream("upstream", upstream_acts);
            let client = peer(&scene.world.host("client"), client_acts);
            scene.run_for(seconds(50));
            scene.proxy.stop_for(seconds(700));
            let received = match sender {
                Side::Client => scene.world.run_until(&upstream),
                Side::Upstream => scene.world.run_until(&client),
            };
            let received = received.unwrap();
            assert_eq!((&*received.bytes, received.fin), (&b"before meanwhile"[..], true));
            scene.end();
            assert_eq!(scene.ended("finished"), 1);
        }
    });
}

/// A paused download and a paused upload are healthy.
#[test]
fn a_side_that_does_not_read_pauses_the_other_one() {
    for sender in Side::BOTH {
        let scene = Scene::new(5, &["upstream"]);
        let sends = vec![Act::Send(pattern(1_000_000))];
        let pauses = vec![Act::Wait(seconds(500)), Act::ReceiveAll];
        let (client, upstream) = match sender {
            Side::Client => (sends, pauses),
            Side::Upstream => (pauses, sends),
        };
        let upstream = scene.upstream("upstream", upstream);
        let client = peer(&scene.world.host("client"), client);
        let (sending, reading) = match sender {
            Side::Client => (client, upstream),
            Side::Upstream => (upstream, client),
        };
        scene.run_for(seconds(400));
        assert!(sending.take().is_none(), "{sender} is paused");
        let queued = scene.table.connections()[0].status().queued;
        assert!((32 * 1024..=64 * 1024).contains(&queued), "{queued} bytes in a buffer of 64 KiB");
        assert_eq!(scene.world.run_until(&reading).unwrap().bytes.len(), 1_000_000);
        scene.end();
    }
}

#[test]
fn a_drain_ends_quiet_connections_and_lets_busy_ones_continue() {
    let scene = Scene::new(6, &["upstream"]);
    scene.echo("upstream");
    let client = scene.world.host("client");
    let quiet = peer(&client, vec![Act::Send("x".into()), Act::ReceiveAll]);
    let talk = [Act::Send("hello".into()), Act::Receive(5), Act::Wait(seconds(1) / 2)];
    let mut acts: Vec<_> = (0..8).flat_map(|_| talk.clone()).collect();
    acts.extend([Act::Finish, Act::ReceiveAll]);
    let busy = peer(&client, acts);
    scene.run_for(seconds(1));
    scene.shutdown.drain();
    let quiet = scene.world.run_until(&quiet).unwrap();
    assert_eq!((&*quiet.bytes, quiet.fin, quiet.error), (&b"x"[..], true, None));
    let busy = scene.world.run_until(&busy).unwrap();
    assert_eq!((busy.bytes.len(), busy.fin, busy.error), (40, true, None));
    assert_eq!(scene.end().aborted, 0);
    assert_eq!((scene.ended("shut_down"), scene.ended("finished")), (1, 1));
}

#[test]
fn connections_that_are_open_after_the_drain_timeout_are_reset_on_both_sides() {
    let scene = Scene::new(7, &["upstream"]);
    let upstream = scene.upstream("upstream", vec![Act::Send(pattern(1_000_000))]);
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::Wait(seconds(60)), Act::ReceiveAll]);
    scene.run_for(seconds(1));
    assert_eq!(scene.end().aborted, 1);
    assert_eq!(received.take().unwrap().error, Some(ConnectionError::Reset));
    assert_eq!(upstream.take().unwrap().error, Some(ConnectionError::Reset));
    assert!(scene.clients().iter().all(|record| record.ending == Some(Ending::Rst)));
}

/// The kernel enlarges its send buffer while the client's window is closed. So a write at the
/// deadline succeeds, and makes room for a read from the upstream.
#[test]
fn a_client_that_acknowledges_nothing_is_idle_although_writes_succeed() {
    for_each_seed(10, |seed| {
        let limit = seconds(3);
        let config = Config::default().with_idle_timeout(limit);
        let scene = Scene::with(tight(seed), config, &["upstream"]);
        scene.proxy.set_faults(Faults { send_buffer_grows: 1000, ..Faults::NONE });
        let upstream = scene.upstream("upstream", vec![Act::Send(pattern(2_000_000))]);
        let client = scene.world.host("client");
        let received = peer(&client, vec![Act::Wait(seconds(60)), Act::ReceiveAll]);
        scene.run_for(limit);
        assert_eq!(scene.ended("idle_timeout"), 0);
        scene.run_for(limit / 5);
        assert_eq!(scene.ended("idle_timeout"), 1);
        for received in [received, upstream] {
            assert_eq!(
                scene.world.run_until(&received).unwrap().error,
                Some(ConnectionError::Reset)
            );
        }
        scene.end();
    });
}

/// An acknowledged byte restarts the idle timeout, even if no byte can be written.
#[test]
fn a_client_that_reads_slowly_is_not_idle() {
    for_each_seed(10, |seed| {
        let config = Config::default().with_idle_timeout(seconds(3));
        let scene = Scene::with(tight(seed), config, &["upstream"]);
        scene.proxy.set_faults(Faults { send_buffer_grows: 1000, ..Faults::NONE });
        let sent = pattern(500_000);
        scene.upstream("upstream", vec![Act::Send(sent.clone())]);
        let client = scene.world.host("client");
        let reads = [Act::Receive(1), Act::Wait(seconds(2))];
        let mut acts: Vec<_> = reads.into_iter().cycle().take(40).collect();
        acts.extend([Act::Finish, Act::ReceiveAll]);
        let received = scene.world.run_until(&peer(&client, acts)).unwrap();
        assert_eq!((received.bytes == sent, received.error), (true, None));
        scene.end();
    });
}
