//! Hosts that are killed, restarted, or whose clocks drift.

use std::io::ErrorKind;

use wirestate_testkit::sim::{Act, Leftovers, act};

use super::*;

#[test]
fn a_killed_process_closes_its_sockets() {
    for unread in [false, true] {
        let Pair { world, server, mut accepted, mut dialled, .. } = Pair::new();
        write(&mut accepted, b"hello").unwrap();
        world.run_for(seconds(1)).unwrap();
        assert_eq!(read(&mut dialled), Some(Ok(5)));
        let task = server.run(async move {
            std::future::pending::<()>().await;
            drop(accepted);
        });
        if unread {
            write(&mut dialled, b"hello").unwrap();
        }
        world.run_for(seconds(1)).unwrap();
        server.kill();
        world.run_for(seconds(1)).unwrap();
        assert_eq!(read(&mut dialled), Some(if unread { Err(RESET) } else { Ok(0) }));
        assert_eq!(task.take(), None);
        assert_eq!(world.leftovers(), Leftovers { sockets: 1, ..Leftovers::default() });
        let records = world.records();
        assert_eq!((records[0].killed, records[1].killed), (false, true));
    }
}

#[test]
fn a_host_without_power_says_nothing_and_after_a_restart_resets() {
    for sends in [false, true] {
        let Pair { world, server, mut accepted, mut dialled, .. } = Pair::new();
        write(&mut accepted, b"hello").unwrap();
        world.run_for(seconds(1)).unwrap();
        assert_eq!(read(&mut dialled), Some(Ok(5)));
        server.run(async move {
            std::future::pending::<()>().await;
            drop(accepted);
        });
        server.cut_power();
        if sends {
            write(&mut dialled, b"hello").unwrap();
        }
        world.run_for(seconds(100)).unwrap();
        assert_eq!(read(&mut dialled), None);
        assert_eq!(world.leftovers(), Leftovers { sockets: 1, ..Leftovers::default() });
        server.restart();
        // The last retransmission was 51 s after the write, the next is 102 s after it.
        world.run_for(seconds(if sends { 1 } else { 59 })).unwrap();
        assert_eq!(read(&mut dialled), None);
        world.run_for(seconds(2)).unwrap();
        assert_eq!(read(&mut dialled), Some(Err(RESET)));
    }
}

/// Starts an echo server that listens on each start.
fn echo_on_start(server: &Host) {
    server.run_on_start(|server| {
        let listener = server.listen("server:7").unwrap();
        let serving = wirestate_core::serve::Server::new(server.clone(), listener);
        let echo = wirestate_core::echo::Server::default();
        server.run(serving.serve(move |_, now| echo.machine(now)));
    });
}

#[test]
fn a_restarted_host_runs_its_programs_again() {
    for power in [false, true] {
        let world = World::new(1);
        let (server, client) = (world.host("server"), world.host("client"));
        echo_on_start(&server);
        let echo = || {
            let runtime = client.clone();
            let echo = client.run(async move {
                let socket = runtime.connect("server:7").await.map_err(|error| error.kind())?;
                let acts = vec![Act::Send("hello".into()), Act::Receive(5)];
                Ok(act(runtime, socket, acts).await.bytes)
            });
            world.run_until(&echo).unwrap()
        };
        assert_eq!(echo(), Ok(b"hello".to_vec()));
        if power {
            server.cut_power();
        } else {
            server.kill();
        }
        let expected = if power { ErrorKind::TimedOut } else { ErrorKind::ConnectionRefused };
        assert_eq!(echo(), Err(expected));
        server.restart();
        assert_eq!(echo(), Ok(b"hello".to_vec()));
        server.restart();
        assert_eq!(echo(), Ok(b"hello".to_vec()), "a running host is killed before");
    }
}

/// A program may hold its listener outside its tasks.
#[test]
fn a_listener_that_outlives_a_power_cut_does_not_close_its_successor() {
    let world = World::new(1);
    let (server, client) = (world.host("server"), world.host("client"));
    let old = server.listen("server:7").unwrap();
    server.cut_power();
    server.restart();
    let _new = server.listen("server:7").unwrap();
    drop(old);
    assert!(world.run_until(&dial(&client)).unwrap().0.is_ok());
}

#[test]
#[should_panic(expected = "the host was killed")]
fn a_host_that_was_killed_runs_no_task() {
    let world = World::new(1);
    let host = world.host("host");
    host.kill();
    host.run(async {});
}

/// When an alarm of 10 s goes off, by the world's clock.
fn alarm(drift: i32, later: i32) -> Duration {
    let world = World::new(1);
    let host = world.host("host");
    host.set_clock_drift(drift);
    let began = world.now();
    let slept = host.run(host.sleep(seconds(10)));
    world.run_for(seconds(2)).unwrap();
    host.set_clock_drift(later);
    world.run_until(&slept).unwrap();
    world.now().since(began)
}

#[test]
fn the_alarms_of_a_drifting_clock_go_off_early_or_late() {
    assert_eq!(alarm(0, 0), seconds(10));
    assert_eq!(alarm(250_000, 250_000), seconds(8));
    assert_eq!(alarm(-500_000, -500_000), seconds(20));
    assert_eq!(alarm(100, 100).as_micros(), 9_999_000);
    // The clock shows 3 s after 2 s.
    assert_eq!(alarm(500_000, 0), seconds(9));
}
