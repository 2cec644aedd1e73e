//! Partitions: what is lost, what is repeated, and when an end gives up.

use std::io::ErrorKind;

use super::*;

#[test]
fn a_partition_in_one_direction_delivers_the_other_one() {
    let Pair { world, server, client, mut accepted, mut dialled } = Pair::new();
    client.set_blocked(&server, true);
    write(&mut dialled, b"hello").unwrap();
    write(&mut accepted, b"hi").unwrap();
    world.run_for(millis(50)).unwrap();
    assert_eq!((read(&mut accepted), read(&mut dialled)), (None, Some(Ok(2))));
    assert_eq!(accepted.unacknowledged(), 2, "the acknowledgement is lost");

    client.set_blocked(&server, false);
    world.run_for(millis(400)).unwrap();
    assert_eq!((accepted.unacknowledged(), dialled.unacknowledged()), (0, 0));
    assert_eq!(read(&mut accepted), Some(Ok(5)));
}

#[test]
fn after_a_partition_all_bytes_arrive_in_order() {
    let Pair { world, server, client, mut accepted, mut dialled } = Pair::new();
    for (number, is_blocked) in (0..).zip([false, true, true, false, true, false, false, true]) {
        client.set_blocked(&server, is_blocked);
        write(&mut dialled, &[number; 3]).unwrap();
        world.run_for(millis(77)).unwrap();
    }
    client.set_blocked(&server, false);
    let received = server.run(async move {
        let mut received = [0; 24];
        let mut length = 0;
        while length < received.len() {
            length += accepted.receive(&mut received[length..]).await.unwrap();
        }
        received
    });
    let received = world.run_until(&received).unwrap();
    let expected: Vec<u8> = (0..8).flat_map(|number| [number; 3]).collect();
    assert_eq!(received[..], expected);
}

/// The timeouts of retransmissions double: the last before 10 s is at 6.2 s, the next at 12.6 s.
#[test]
fn lost_bytes_are_repeated_at_growing_intervals() {
    let Pair { world, server, client, mut accepted, mut dialled } = Pair::new();
    client.set_blocked(&server, true);
    write(&mut dialled, b"hello").unwrap();
    world.run_for(seconds(10)).unwrap();
    client.set_blocked(&server, false);
    world.run_for(millis(2600)).unwrap();
    assert_eq!(read(&mut accepted), None);
    accepted.recheck();
    world.run_for(millis(100)).unwrap();
    assert_eq!(read(&mut accepted), Some(Ok(5)));
}

#[test]
fn a_sender_gives_up_after_a_quarter_of_an_hour_and_its_peer_learns_it_by_keepalive() {
    let Pair { world, server, client, mut accepted, mut dialled } = Pair::new();
    for host in [&server, &client] {
        host.set_unplugged(true);
    }
    write(&mut dialled, b"hello").unwrap();
    world.run_for(seconds(924)).unwrap();
    assert_eq!(read(&mut dialled), None);
    world.run_for(seconds(120)).unwrap();
    assert_eq!((read(&mut dialled), read(&mut accepted)), (Some(Err(TIMED_OUT)), None));
    for host in [&server, &client] {
        host.set_unplugged(false);
    }
    world.run_for(seconds(59)).unwrap();
    assert_eq!(read(&mut accepted), None);
    world.run_for(seconds(2)).unwrap();
    assert_eq!(read(&mut accepted), Some(Err(RESET)));
}

/// The receiver has read everything, but the sender does not learn it.
#[test]
fn a_sender_without_acknowledgements_gives_up() {
    let Pair { world, server, client, mut accepted, mut dialled } = Pair::new();
    server.set_blocked(&client, true);
    write(&mut dialled, b"hello").unwrap();
    world.run_for(seconds(1)).unwrap();
    assert_eq!((read(&mut accepted), dialled.unacknowledged()), (Some(Ok(5)), 5));
    world.run_for(seconds(1100)).unwrap();
    assert_eq!(read(&mut dialled), Some(Err(TIMED_OUT)));
}

/// The writer learns only after the partition that the reader has made room.
#[test]
fn a_lost_window_update_is_repeated() {
    let latency = Latency::Constant(millis(10));
    let Pair { world, server, client, mut accepted, mut dialled } =
        Pair::with(Settings { buffer: 5, latency, ..Settings::default() });
    write(&mut dialled, b"hello").unwrap();
    world.run_for(seconds(1)).unwrap();
    let sent = client.run(async move { dialled.send(b"there").await.map(|()| dialled) });
    world.run_for(seconds(1)).unwrap();
    server.set_blocked(&client, true);
    assert_eq!(read(&mut accepted), Some(Ok(5)));
    world.run_for(seconds(10)).unwrap();
    assert!(sent.take().is_none());
    server.set_blocked(&client, false);
    world.run_for(seconds(10)).unwrap();
    assert!(sent.take().unwrap().is_ok());
}

#[test]
fn a_lost_reset_is_found_by_the_next_segment_or_by_keepalive() {
    for sends in [true, false] {
        let Pair { world, server, client, mut accepted, mut dialled } = Pair::new();
        client.set_blocked(&server, true);
        dialled.reset();
        world.run_for(seconds(1)).unwrap();
        client.set_blocked(&server, false);
        world.run_for(seconds(1)).unwrap();
        assert_eq!(read(&mut accepted), None);
        if sends {
            write(&mut accepted, b"hello").unwrap();
        }
        world.run_for(seconds(1)).unwrap();
        assert_eq!(read(&mut accepted), sends.then_some(Err(RESET)));
        world.run_for(seconds(60)).unwrap();
        let expected = if sends { Ok(0) } else { Err(RESET) };
        assert_eq!(read(&mut accepted), Some(expected));
    }
}

#[test]
fn a_fin_is_repeated() {
    let Pair { world, server, client, mut accepted, dialled } = Pair::new();
    client.set_blocked(&server, true);
    write_and_close(dialled);
    world.run_for(seconds(1)).unwrap();
    assert_eq!(read(&mut accepted), None);
    client.set_blocked(&server, false);
    world.run_for(seconds(2)).unwrap();
    assert_eq!((read(&mut accepted), read(&mut accepted)), (Some(Ok(5)), Some(Ok(0))));
}

fn write_and_close(mut socket: Socket) {
    write(&mut socket, b"hello").unwrap();
}

/// A lost SYN, and a lost answer to it, are repeated each second, six times.
#[test]
fn a_dial_succeeds_if_the_partition_ends_in_time() {
    for is_answer_lost in [false, true] {
        for (duration, expected) in [(5, None), (20, Some(ErrorKind::TimedOut))] {
            let latency = Latency::Constant(millis(10));
            let world = World::with(1, Settings { latency, ..Settings::default() });
            let (server, client) = (world.host("server"), world.host("client"));
            let _listener = server.listen("server:7").unwrap();
            let dialling = dial(&client);
            let began = world.now();
            if is_answer_lost {
                world.run_for(millis(15)).unwrap();
                server.set_blocked(&client, true);
            } else {
                client.set_blocked(&server, true);
            }
            world.run_for(seconds(duration)).unwrap();
            client.set_blocked(&server, false);
            server.set_blocked(&client, false);
            let (dialled, ended) = world.run_until(&dialling).unwrap();
            assert_eq!(dialled.as_ref().err(), expected.as_ref());
            assert!((5..8).contains(&ended.since(began).as_secs()));
        }
    }
}

#[test]
fn an_unplugged_host_reaches_only_itself() {
    let world = World::new(1);
    let (server, client) = (world.host("server"), world.host("client"));
    let _listener = server.listen("server:7").unwrap();
    server.set_unplugged(true);
    let (itself, other) = (dial(&server), dial(&client));
    assert!(world.run_until(&itself).unwrap().0.is_ok());
    assert_eq!(world.run_until(&other).unwrap().0.unwrap_err(), ErrorKind::TimedOut);
}
