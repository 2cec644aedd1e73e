//! Deadlines, limits, and the shutdown of a server.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use wirestate_core::{
    ConnectionError, Reason as _,
    drive::Budget,
    message::{Config, service},
    serve::{DrainReport, ServerHandle},
    shared::Lock,
};
use wirestate_testkit::{
    for_each_seed,
    message::{bad_frames, golden},
    sim::{Act, Faults, Settings, World},
};

use crate::scene::{Scene, ask, bytes, itself, peer, requests, seconds, small};

/// Sends `bytes` one by one, with a pause after each.
fn byte_by_byte(bytes: &[u8], pause: Duration) -> Vec<Act> {
    let send_one = |byte: &u8| [Act::Send(Bytes::copy_from_slice(&[*byte])), Act::Wait(pause)];
    bytes.iter().flat_map(send_one).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_header_that_arrives_one_byte_a_second_is_refused_after_5_s() {
    let scene = Scene::new(1);
    let client = scene.world.host("client");
    let mut acts = byte_by_byte(&golden()[..5], seconds(1));
    acts.push(Act::ReceiveAll);
    let received = peer(&client, acts);
    scene.run_for(Duration::from_millis(4900));
    assert_eq!(scene.ended("header_timeout"), 0);
    let received = scene.world.run_until(&received).unwrap();
    assert!(text(&received.bytes).contains("of a frame's 105 bytes within 5s"), "{received:?}");
    scene.end();
    assert_eq!(scene.ended("header_timeout"), 1);
}

#[test]
fn a_content_that_arrives_one_byte_a_second_is_refused_after_30_s() {
    let scene = Scene::new(2);
    let client = scene.world.host("client");
    let request = bytes(&requests(&[1000]));
    let content = request.len() - 1000;
    let mut acts = vec![Act::Send(Bytes::copy_from_slice(&request[..content]))];
    acts.extend(byte_by_byte(&request[content..], seconds(1)));
    acts.truncate(60);
    acts.push(Act::ReceiveAll);
    let received = peer(&client, acts);
    scene.run_for(seconds(29));
    assert_eq!(scene.ended("content_timeout"), 0, "it is refused too early");
    scene.run_for(seconds(4));
    assert_eq!(scene.ended("content_timeout"), 1);
    let received = scene.world.run_until(&received).unwrap();
    assert!(text(&received.bytes).contains("bytes within 30s"), "{received:?}");
    scene.end();
}

/// A slow peer at the minimum rate is not cut off.
#[test]
fn a_content_that_arrives_at_the_minimum_rate_is_answered() {
    let scene = Scene::new(3);
    let client = scene.world.host("client");
    let request = bytes(&requests(&[60 * 1024]));
    let mut acts: Vec<Act> = request
        .chunks(1100)
        .flat_map(|piece| [Act::Send(Bytes::copy_from_slice(piece)), Act::Wait(seconds(1))])
        .collect();
    acts.extend([Act::Finish, Act::ReceiveAll]);
    let began = scene.world.now();
    let received = peer(&client, acts);
    let received = scene.world.run_until(&received).unwrap();
    assert_eq!(received.bytes, request);
    assert!(scene.world.now().since(began) > seconds(50));
    scene.end();
}

#[test]
fn a_peer_that_does_not_read_is_reset_after_10_s_and_the_others_are_not_affected() {
    let scene = Scene::new(4);
    let (client, healthy) = (scene.world.host("client"), scene.world.host("healthy"));
    let many = bytes(&requests(&[20_000; 20]));
    let received =
        peer(&client, vec![Act::Send(many.into()), Act::Wait(seconds(60)), Act::ReceiveAll]);
    scene.run_for(seconds(5));
    let asking = ask(&healthy, requests(&[10, 20_000, 10]));
    assert!(scene.world.run_until(&asking).unwrap().are_complete());
    scene.run_for(seconds(15));
    assert_eq!(scene.ended("write_stalled"), 1);
    let received = scene.world.run_until(&received).unwrap();
    assert_eq!(received.error, Some(ConnectionError::Reset), "a FIN would hide the lost replies");
    scene.end();
}

/// The kernel enlarges its send buffer while the peer's window is closed. That is no progress.
#[test]
fn a_peer_that_does_not_read_is_reset_in_time_although_the_kernel_accepts_bytes() {
    let scene = Scene::new(7);
    scene.server.set_faults(Faults { send_buffer_grows: 1000, ..Faults::NONE });
    let client = scene.world.host("client");
    let many = bytes(&requests(&[20_000; 200]));
    let received =
        peer(&client, vec![Act::Send(many.into()), Act::Wait(seconds(60)), Act::ReceiveAll]);
    scene.run_for(seconds(9));
    assert_eq!(scene.ended("write_stalled"), 0);
    scene.run_for(seconds(3));
    assert_eq!(scene.ended("write_stalled"), 1);
    assert_eq!(scene.world.run_until(&received).unwrap().error, Some(ConnectionError::Reset));
    scene.end();
}

#[test]
fn a_peer_that_reads_slowly_gets_all_replies() {
    let scene = Scene::new(5);
    let reader = scene.world.host("client");
    let all = bytes(&requests(&[20_000; 4]));
    let mut acts = vec![Act::Send(Bytes::copy_from_slice(&all[..60_000]))];
    acts.extend([Act::Wait(seconds(5)), Act::Receive(10_000)].into_iter().cycle().take(8));
    acts.extend([Act::Send(Bytes::copy_from_slice(&all[60_000..])), Act::Wait(seconds(5))]);
    acts.extend([Act::Finish, Act::ReceiveAll]);
    let received = peer(&reader, acts);
    let received = scene.world.run_until(&received).unwrap();
    assert_eq!((received.bytes == all, received.error), (true, None));
    scene.end();
}

#[test]
fn a_connection_without_a_request_is_closed_after_60_s_and_not_before() {
    let scene = Scene::new(6);
    let client = scene.world.host("client");
    let request = bytes(&requests(&[5]));
    let received = peer(&client, vec![Act::Send(request.clone().into()), Act::ReceiveAll]);
    scene.run_for(seconds(59));
    assert_eq!(scene.ended("idle_timeout"), 0);
    scene.run_for(seconds(2));
    let received = received.take().unwrap();
    assert_eq!((received.bytes, received.fin), (request, true), "it does not end with a FIN");
    scene.end();
    assert_eq!(scene.ended("idle_timeout"), 1);
}

/// An immediate close would answer further input with an RST, which discards the reply.
#[test]
fn a_peer_can_read_the_error_reply_although_more_input_follows() {
    for bad in bad_frames().into_iter().step_by(9) {
        let scene =
            Scene::with(World::new(7), small(1).with_frame_limits(Config::default().frame_limits));
        let client = scene.world.host("client");
        let truncated = bad.error.label() == "truncated";
        let mut acts = vec![Act::Send(bad.bytes.clone().into())];
        if !truncated {
            acts.extend([Act::Send(vec![b' '; 20_000].into()), Act::Wait(seconds(1))]);
            acts.push(Act::Send(vec![b' '; 20_000].into()));
        }
        acts.extend([Act::Finish, Act::ReceiveAll]);
        let received = peer(&client, acts);
        let received = scene.world.run_until(&received).unwrap();
        assert_eq!((received.error, received.fin), (None, true), "{}", bad.name);
        let reply = text(&received.bytes);
        assert!(reply.contains(r#"{"result": "Error: "#), "{}: {reply}", bad.name);
        scene.end();
        assert_eq!(scene.ended(bad.error.label()), 1, "{}", bad.name);
    }
}

/// The peer sends all of its requests before it reads a reply.
#[test]
fn an_error_reply_arrives_although_1_mib_follows_the_invalid_frame() {
    let settings = Settings { buffer: 64 * 1024, ..Settings::default() };
    let scene = Scene::with(World::with(14, settings), Config::default());
    let clients: Vec<_> = (0..20).map(|i| scene.world.host(&format!("client {i}"))).collect();
    let acts = [Act::Send(b"\0\0".as_slice().into()), Act::Send(vec![b' '; 1 << 20].into())];
    let peers: Vec<_> = clients
        .iter()
        .map(|client| peer(client, [&acts[..], &[Act::ReceiveAll]].concat()))
        .collect();
    for peer in peers {
        let received = scene.world.run_until(&peer).unwrap();
        assert_eq!((received.error, received.fin), (None, true));
        assert!(text(&received.bytes).contains("Error: a header of 0 bytes"), "{received:?}");
    }
    scene.end();
    assert_eq!(scene.ended("empty_header"), 20);
}

#[test]
fn a_drain_answers_the_requests_that_were_sent() {
    for_each_seed(10, |seed| {
        let scene = Scene::new(seed);
        let (client, idle) = (scene.world.host("client"), scene.world.host("idle"));
        let all = bytes(&requests(&[3000, 3000, 10]));
        let acts = vec![Act::Send(all.clone().into()), Act::Wait(seconds(3)), Act::ReceiveAll];
        let received = peer(&client, acts);
        let nothing = peer(&idle, vec![Act::ReceiveAll]);
        scene.run_for(seconds(1));
        let report = scene.end();
        assert_eq!(report, DrainReport { drained: 2, aborted: 0 });
        let received = received.take().unwrap();
        assert_eq!((received.bytes, received.fin, received.error), (all, true, None));
        assert!(nothing.take().unwrap().fin);
        assert_eq!(scene.ended("shut_down"), 2);
    });
}

#[test]
fn a_drain_waits_for_a_request_that_has_begun_to_arrive() {
    let scene = Scene::new(8);
    let client = scene.world.host("client");
    let all = bytes(&requests(&[10]));
    let acts = vec![
        Act::Send(Bytes::copy_from_slice(&all[..60])),
        Act::Wait(seconds(2)),
        Act::Send(Bytes::copy_from_slice(&all[60..])),
        Act::ReceiveAll,
    ];
    let received = peer(&client, acts);
    scene.run_for(seconds(1));
    scene.end();
    let received = received.take().unwrap();
    assert_eq!((received.bytes, received.fin), (all, true));
}

/// Other tasks run, although there is always more input.
#[test]
fn one_poll_answers_a_bounded_number_of_requests_although_more_have_arrived() {
    let settings = Settings { buffer: 1024 * 1024, ..Settings::default() };
    let world = World::with(10, settings);
    let server = world.host("server");
    let answered = Arc::new(Lock::new(BTreeMap::new()));
    let counting = service::function({
        let (world, answered) = (world.clone(), answered.clone());
        move |request| {
            let poll = world.polls();
            answered.with(|answered| *answered.entry(poll).or_insert(0) += 1);
            itself(request)
        }
    });
    let scene = Scene::serving(world, server, Config::default(), counting, ServerHandle::default());
    let client = scene.world.host("client");
    let flood = bytes(&requests(&[0; 2000]));
    let acts = vec![Act::Send(flood.clone().into()), Act::Finish, Act::ReceiveAll];
    let received = peer(&client, acts);
    assert_eq!(scene.world.run_until(&received).unwrap().bytes, flood);
    scene.end();
    let max = answered.with(|answered| answered.values().copied().max());
    let work = Budget::default().work;
    assert!(max.is_some_and(|max| max < 3 * work), "{max:?} with a budget of {work}");
}

#[test]
fn a_one_shot_server_closes_each_connection_after_its_reply() {
    for_each_seed(10, |seed| {
        let scene = Scene::with(World::new(seed), small(512).with_one_shot(true));
        let client = scene.world.host("client");
        let all = bytes(&requests(&[100, 200, 300]));
        let first = bytes(&requests(&[100]));
        let received = peer(&client, vec![Act::Send(all.into()), Act::ReceiveAll]);
        let received = scene.world.run_until(&received).unwrap();
        assert_eq!((received.bytes, received.fin, received.error), (first, true, None));
        scene.end();
        assert_eq!(scene.ended("answered"), 1);
    });
}

#[test]
fn a_connection_that_exceeds_the_drain_timeout_is_reset() {
    let world = World::new(9);
    let server = world.host("server");
    let slow = service::asynchronous({
        let host = server.clone();
        move |request: service::Request| {
            let sleep = host.sleep(seconds(50));
            async move {
                sleep.await;
                request.into_message()
            }
        }
    });
    let scene = Scene::serving(world, server, small(512), slow, ServerHandle::default());
    let client = scene.world.host("client");
    let received = peer(&client, vec![Act::Send(golden().into()), Act::ReceiveAll]);
    scene.run_for(seconds(1));
    assert_eq!(scene.end(), DrainReport { drained: 0, aborted: 1 });
    assert_eq!(received.take().unwrap().error, Some(ConnectionError::Reset));
}
