//! One client connection, shared by many tasks.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use wirestate_core::{
    ConnectionError, Reason as _,
    message::{self, Handle, Message, RequestError},
    runtime::{Listener as _, Runtime as _},
};
use wirestate_testkit::{
    for_each_seed,
    sim::{Faults, Host, Task, World},
};

use crate::scene::{SIZES, Scene, patient, requests, seconds, small};

/// A handle to a connection to the scene's server.
fn connect(world: &World, client: &Host) -> Handle {
    let runtime = client.clone();
    let connecting = client.run(async move {
        message::connect(&runtime, "server:7", Some(seconds(10)), patient()).await.unwrap()
    });
    world.run_until(&connecting).unwrap()
}

/// Makes one request after the other, and checks each reply.
fn user(client: &Host, handle: &Handle, number: usize) -> Task<Result<(), RequestError>> {
    let handle = handle.clone();
    client.run(async move {
        for (i, request) in requests(&SIZES).into_iter().enumerate() {
            let content_type = format!("user {number}, request {i}").into();
            let request = Message { content_type, ..request };
            assert_eq!(
                handle.request(request.clone()).await?,
                request,
                "it is the reply to another request"
            );
        }
        Ok(())
    })
}

#[test]
fn many_tasks_share_a_connection_and_each_gets_its_own_replies() {
    for_each_seed(10, |seed| {
        let scene = Scene::with(World::new(seed), small(512));
        scene.server.set_faults(Faults::harmless(seed));
        let client = scene.world.host("client");
        client.set_faults(Faults::harmless(seed + 1));
        let handle = connect(&scene.world, &client);
        let users: Vec<_> = (0..20).map(|i| user(&client, &handle, i)).collect();
        drop(handle);
        for user in users {
            assert_eq!(scene.world.run_until(&user).unwrap(), Ok(()));
        }
        // The connection ends when the last handle is dropped.
        scene.run_for(seconds(30));
        assert_eq!((scene.table.totals().accepted, scene.ended("finished")), (1, 1));
        scene.end();
    });
}

#[test]
fn all_requests_fail_when_the_connection_is_reset() {
    for_each_seed(20, |seed| {
        let scene = Scene::with(World::new(seed), small(512));
        let client = scene.world.host("client");
        let handle = connect(&scene.world, &client);
        let users: Vec<_> = (0..20).map(|i| user(&client, &handle, i)).collect();
        scene.run_for(std::time::Duration::from_millis(seed * 3));
        scene.server.set_faults(Faults { reset: 1000, ..Faults::NONE });
        scene.run_for(seconds(30));
        for user in users {
            match user.take().expect("no request waits for a connection that has ended") {
                // The server has received all of them.
                Ok(()) => {}
                Err(RequestError::Ended(reason)) => assert_eq!(reason.label(), "reset"),
                Err(error) => panic!("{error}"),
            }
        }
        // A new request fails at once.
        let asking = client.run(async move { handle.request(Message::binary("?")).await });
        assert!(matches!(scene.world.run_until(&asking).unwrap(), Err(RequestError::Ended(_))));
        scene.end();
    });
}

#[test]
fn requests_fail_with_their_number_when_the_server_closes() {
    let world = World::new(1);
    let (server, client) = (world.host("server"), world.host("client"));
    let mut listener = server.listen("server:7").unwrap();
    let host = server.clone();
    server.run(async move {
        let (mut socket, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
        // Read all requests, so that closing does not reset.
        let mut buf = [0; 4096];
        socket.receive(&mut buf).await.unwrap();
        host.sleep(seconds(1)).await;
        socket.finish().await.unwrap();
        while socket.receive(&mut buf).await.unwrap_or(0) > 0 {}
    });
    let handle = connect(&world, &client);
    let requests: Vec<_> = (0..3)
        .map(|_| {
            let handle = handle.clone();
            client.run(async move { handle.request(Message::binary("?")).await.unwrap_err() })
        })
        .collect();
    for request in requests {
        let error = world.run_until(&request).unwrap().to_string();
        assert_eq!(
            error,
            "the server closed the connection before it replied (requests not answered: 3)"
        );
    }
    drop(handle);
    world.run().unwrap();
}

/// Some requests are dropped. Their replies are discarded, and no other request gets them.
#[test]
fn dropped_requests_do_not_affect_the_others() {
    for_each_seed(10, |seed| {
        let scene = Scene::with(World::new(seed), small(512));
        scene.server.set_faults(Faults::harmless(seed));
        let client = scene.world.host("client");
        let handle = connect(&scene.world, &client);
        let users: Vec<_> = (0..5).map(|i| user(&client, &handle, i)).collect();
        let impatient: Vec<_> = (0..20_u64)
            .map(|i| {
                let (host, handle) = (client.clone(), handle.clone());
                client.run(async move {
                    for j in 0..10 {
                        let request = Message::binary(format!("impatient {i}, {j}"));
                        let mut request = pin!(handle.request(request));
                        let millis = std::time::Duration::from_millis((i * 7 + j) % 20);
                        let mut sleep = pin!(host.sleep(millis));
                        poll_fn(|cx| {
                            if let Poll::Ready(reply) = request.as_mut().poll(cx) {
                                let expected = format!("impatient {i}, {j}");
                                assert_eq!(&*reply.unwrap().content, expected.as_bytes());
                                return Poll::Ready(());
                            }
                            sleep.as_mut().poll(cx)
                        })
                        .await;
                    }
                })
            })
            .collect();
        drop(handle);
        for user in users {
            assert_eq!(scene.world.run_until(&user).unwrap(), Ok(()));
        }
        for user in impatient {
            scene.world.run_until(&user).unwrap();
        }
        scene.run_for(seconds(30));
        assert_eq!(scene.ended("finished"), 1, "it has not ended although all handles are dropped");
        scene.end();
    });
}

#[test]
fn a_drain_answers_the_requests_of_handles() {
    for_each_seed(10, |seed| {
        let scene = Scene::with(World::new(seed), small(512));
        let client = scene.world.host("client");
        let handle = connect(&scene.world, &client);
        let results: Vec<_> = requests(&SIZES[..6])
            .into_iter()
            .map(|request| {
                let handle = handle.clone();
                client.run(async move {
                    let reply = handle.request(request.clone()).await;
                    (request, reply)
                })
            })
            .collect();
        drop(handle);
        // The requests are sent, but have not arrived.
        scene.run_for(std::time::Duration::from_micros(10));
        let report = scene.end();
        assert_eq!(report.aborted, 0);
        for result in results {
            let (request, reply) = result.take().unwrap();
            match reply {
                Ok(reply) => assert_eq!(reply, request),
                Err(RequestError::Ended(reason)) => {
                    assert!(reason.label() != ConnectionError::Reset.label(), "{reason}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
}
