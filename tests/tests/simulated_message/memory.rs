//! The limit on large contents of all connections together, checked at every step.

use std::time::Duration;

use bytes::Bytes;
use wirestate_core::{
    message::{
        Message, Server,
        service::{self, Service},
    },
    serve::ServerHandle,
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Received, Settings, World},
};

use crate::scene::{Scene, ask, bytes, itself, peer, requests, seconds, small};

const MAX_MEMORY: usize = 160_000;
const CONTENT: usize = 39_000;

/// A server that holds at most 160,000 bytes of contents, checked at every step.
fn serving<S>(world: World, service: S) -> (Scene, Server<S>)
where
    S: Service + Clone + Send + Unpin + 'static,
    S::Pending: Send,
{
    let messages = Server::new(small(4096).with_max_memory(MAX_MEMORY), service).unwrap();
    let server = messages.clone();
    world.watch(move |_| assert!(server.memory() <= MAX_MEMORY, "{} bytes", server.memory()));
    let host = world.host("server");
    (Scene::unchecked(world, host, messages.clone(), ServerHandle::default()), messages)
}

/// How many of `all` have received `expected`. Asserts that the others have received an error reply
/// that names the memory limit.
fn served(all: &[Received], expected: &[u8]) -> usize {
    let served = |received: &&Received| received.bytes == expected;
    for refused in all.iter().filter(|received| !served(received)) {
        let error = String::from_utf8_lossy(&refused.bytes);
        assert!(error.contains("Error: no memory for a frame or reply: "), "{refused:?}");
        assert!(error.contains(" of 160000 are reserved"), "{error}");
        assert_eq!((refused.fin, refused.error), (true, None));
    }
    all.iter().filter(served).count()
}

/// Contents are sent in two halves, so that all are in flight at the same time.
#[test]
fn requests_that_exceed_max_memory_are_refused_and_the_others_answered() {
    for_each_seed(4, |seed| {
        let (scene, messages) = serving(World::new(seed), service::function(itself));
        let request = Bytes::from(bytes(&requests(&[CONTENT])));
        let acts = [
            Act::Send(request.slice(..CONTENT / 2)),
            Act::Wait(seconds(1)),
            Act::Send(request.slice(CONTENT / 2..)),
            Act::Finish,
            Act::ReceiveAll,
        ];
        let healthy = scene.world.host("healthy");
        let clients: Vec<_> = (0..20)
            .map(|i| peer(&scene.world.host(&format!("client {i}")), acts.to_vec()))
            .collect();
        scene.run_for(Duration::from_millis(500));
        assert!(messages.memory() > MAX_MEMORY / 2, "{} bytes", messages.memory());
        let asking = ask(&healthy, requests(&[10, 4000, 10]));
        assert!(
            scene.world.run_until(&asking).unwrap().are_complete(),
            "small requests need memory"
        );
        let received: Vec<_> =
            clients.iter().map(|client| scene.world.run_until(client).unwrap()).collect();
        let served = served(&received, &request);
        assert!((3..20).contains(&served), "{served} of 20");
        let again = ask(&healthy, requests(&[CONTENT; 4]));
        assert!(scene.world.run_until(&again).unwrap().are_complete(), "memory was not released");
        scene.end();
        assert_eq!((scene.ended("memory"), messages.memory()), (20 - served as u64, 0));
    });
}

#[test]
fn replies_that_no_client_reads_are_bounded_by_max_memory() {
    let answer = |_: Message<'_>| Message::binary(vec![7; CONTENT]);
    let world = World::with(5, Settings { buffer: 4096, ..Settings::default() });
    let (scene, messages) = serving(world, service::function(answer));
    let request = Bytes::from(bytes(&requests(&[5])));
    let acts = [Act::Send(request), Act::Wait(seconds(2)), Act::Finish, Act::ReceiveAll];
    let clients: Vec<_> =
        (0..20).map(|i| peer(&scene.world.host(&format!("client {i}")), acts.to_vec())).collect();
    scene.run_for(seconds(1));
    assert_eq!(messages.memory(), 4 * CONTENT);
    let received: Vec<_> =
        clients.iter().map(|client| scene.world.run_until(client).unwrap()).collect();
    let mut reply = Vec::new();
    answer(Message::binary("")).encode(&mut reply).unwrap();
    assert_eq!(served(&received, &reply), 4);
    scene.end();
    assert_eq!((scene.ended("memory"), messages.memory()), (16, 0));
}

/// A content that all replies share is counted once.
#[test]
fn a_content_that_replies_share_does_not_count() {
    let shared = Bytes::from(vec![7; CONTENT]);
    let answer = move |_: Message<'_>| Message::binary(shared.clone());
    let (scene, messages) = serving(World::new(6), service::function(answer));
    let request = Bytes::from(bytes(&requests(&[5])));
    let acts = [Act::Send(request), Act::Wait(seconds(2)), Act::Finish, Act::ReceiveAll];
    let clients: Vec<_> =
        (0..20).map(|i| peer(&scene.world.host(&format!("client {i}")), acts.to_vec())).collect();
    scene.run_for(seconds(1));
    assert_eq!(messages.memory(), 0);
    for client in clients {
        assert!(scene.world.run_until(&client).unwrap().bytes.len() > CONTENT);
    }
    scene.end();
}

/// Handlers hold their requests.
#[test]
fn requests_with_pending_replies_are_bounded_by_max_memory() {
    let world = World::new(7);
    let clock = world.host("clock");
    let slow = service::asynchronous(move |request: service::Request| {
        let sleep = clock.sleep(seconds(3));
        async move {
            sleep.await;
            request.into_message()
        }
    });
    let (scene, messages) = serving(world, slow);
    let all = bytes(&requests(&[5000; 8]));
    let clients: Vec<_> = (0..20)
        .map(|i| {
            let acts = vec![Act::Send(all.clone().into()), Act::Finish, Act::ReceiveAll];
            peer(&scene.world.host(&format!("client {i}")), acts)
        })
        .collect();
    scene.run_for(seconds(2));
    assert!(messages.memory() > MAX_MEMORY / 2, "{} bytes", messages.memory());
    let received: Vec<_> =
        clients.iter().map(|client| scene.world.run_until(client).unwrap()).collect();
    let served = served(&received, &all);
    assert!((1..20).contains(&served), "{served} of 20");
    scene.end();
    assert_eq!((scene.ended("memory"), messages.memory()), (20 - served as u64, 0));
}

/// A connection may end by a reset, a FIN, a shutdown, or a panic of the service.
#[test]
fn memory_is_released_by_a_reset_a_fin_a_shutdown_and_a_panic() {
    let settings = Settings { catch_panics: true, ..Settings::default() };
    let planted = |request: Message<'_>| {
        assert_ne!(request.content.first(), Some(&b'!'), "planted");
        request.into_owned()
    };
    let (scene, messages) = serving(World::with(8, settings), service::function(planted));
    let half = Bytes::copy_from_slice(&bytes(&requests(&[CONTENT]))[..CONTENT / 2]);
    let panics = Message::binary(vec![b'!'; CONTENT]);
    let wait = Act::Wait(Duration::from_millis(500));
    let hosts: Vec<_> = (0..4).map(|i| scene.world.host(&format!("client {i}"))).collect();
    let [reset, left, stays, panicking] = &hosts[..] else { panic!("there are four") };
    peer(reset, vec![Act::Send(half.clone()), wait.clone(), Act::Reset]);
    peer(left, vec![Act::Send(half.clone()), wait.clone(), Act::Finish, Act::ReceiveAll]);
    peer(panicking, vec![wait, Act::Send(bytes(&[panics]).into()), Act::ReceiveAll]);
    let stays = peer(stays, vec![Act::Send(half), Act::ReceiveAll]);
    scene.run_for(Duration::from_millis(300));
    assert!(
        messages.memory() > CONTENT,
        "{} bytes are held by three connections",
        messages.memory()
    );
    scene.run_for(seconds(2));
    assert!(messages.memory() <= CONTENT, "{} bytes are held by one connection", messages.memory());
    assert_eq!((scene.world.panics(), scene.ended("panicked")), (1, 1));
    scene.shutdown.abort();
    scene.world.run().unwrap();
    assert!(stays.take().unwrap().error.is_some());
    assert_eq!(messages.memory(), 0);
}

/// At the minimum rate, each connection would keep its memory for 38 s.
#[test]
fn slow_senders_do_not_exhaust_the_memory_for_long() {
    let (scene, messages) = serving(World::new(9), service::function(itself));
    let request = bytes(&requests(&[CONTENT]));
    let slowly: Vec<_> = request
        .chunks(1040)
        .flat_map(|piece| [Act::Send(Bytes::copy_from_slice(piece)), Act::Wait(seconds(1))])
        .chain([Act::Finish, Act::ReceiveAll])
        .collect();
    let slow: Vec<_> =
        (0..20).map(|i| peer(&scene.world.host(&format!("slow {i}")), slowly.clone())).collect();
    scene.run_for(seconds(29));
    assert!(messages.memory() > MAX_MEMORY / 2, "{} bytes", messages.memory());
    scene.run_for(seconds(4));
    assert!(scene.ended("content_timeout") > 0);
    let asking = ask(&scene.world.host("healthy"), requests(&[CONTENT]));
    assert!(scene.world.run_until(&asking).unwrap().are_complete());
    for slow in slow {
        scene.world.run_until(&slow).unwrap();
    }
    scene.end();
}
