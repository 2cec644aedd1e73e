//! Each fault that strikes, and each disturbance of a host, is an event of the trace.

use std::{
    num::NonZeroU64,
    task::{Context, Waker},
};

use wirestate_core::{Direction, drive::Splice as _};
use wirestate_testkit::sim::{Faults, TraceEvent};

use super::*;

/// The faults of a trace, each with its place.
fn faults(world: &World) -> Vec<String> {
    let trace = world.trace();
    let is_fault =
        |event: &TraceEvent| matches!(event, TraceEvent::Fault(..) | TraceEvent::Healed(..));
    let faults = trace.entries().iter().filter(|entry| is_fault(&entry.event));
    faults.map(|entry| format!("{}: {}", entry.place, entry.event)).collect()
}

/// A connection of a client with this plan, to which 64 bytes have been sent.
fn pair(plan: Faults) -> Pair {
    let mut pair = Pair::with(Settings { buffer: 64, ..Settings::default() });
    pair.client.set_faults(plan);
    write(&mut pair.accepted, &[7; 64]).unwrap();
    pair.world.run_for(seconds(1)).unwrap();
    pair
}

#[test]
fn a_cut_write_or_read_is_an_event_with_its_size() {
    let plan = Faults { short_write: 1000, short_read: 1000, ..Faults::NONE };
    let mut pair = pair(plan);
    let mut expected = vec!["client: Fault faults = short_read 1000, short_write 1000".to_owned()];
    let (mut free, mut unread) = (64, 64);
    for _ in 0..4 {
        let (written, offered) = (write(&mut pair.dialled, &[7; 20]).unwrap(), free.min(20));
        let taken = read(&mut pair.dialled).unwrap().unwrap();
        for (name, part, whole) in [("write", written, offered), ("read", taken, unread)] {
            if part < whole {
                expected.push(format!("client/0 Client: Fault short_{name} = {part} of {whole}"));
            }
        }
        (free, unread) = (free - written, unread - taken);
    }
    assert_eq!(faults(&pair.world), expected);
    assert!(expected.len() > 4, "{expected:?}");
}

/// What a client does when the fault strikes.
type Call = fn(&mut Pair);

#[test]
fn each_other_fault_of_a_plan_is_an_event() {
    let none = Faults { delay: millis(20)..=millis(20), ..Faults::NONE };
    let reads: Call = |pair| _ = read(&mut pair.dialled);
    let writes: Call = |pair| _ = write(&mut pair.dialled, b"hello");
    let waits: Call = |pair| {
        while read(&mut pair.dialled).is_some() {}
        pair.world.run_for(seconds(1)).unwrap();
    };
    let splices: Call = |pair| {
        let cx = &mut Context::from_waker(Waker::noop());
        assert_eq!(pair.dialled.poll_fill(cx, &mut [].into(), 9), Poll::Ready(Ok(None)));
    };
    let grows: Call = |pair| {
        write(&mut pair.dialled, &[7; 64]).unwrap();
        pair.dialled.recheck();
        write(&mut pair.dialled, &[7; 64]).unwrap();
    };
    for (plan, call, expected) in [
        (Faults { would_block: 1000, ..none.clone() }, reads, "would_block = 20ms"),
        (Faults { spurious_wake: 1000, ..none.clone() }, waits, "spurious_wake"),
        (Faults { interrupted: 1000, ..none.clone() }, writes, "interrupted"),
        (Faults { stall: 1000, ..none.clone() }, reads, "stall = 20ms"),
        (Faults { no_splice: 1000, ..none.clone() }, splices, "no_splice"),
        (Faults { send_buffer_grows: 1000, ..none.clone() }, grows, "send_buffer_grows = "),
        (Faults { zero_write: 1000, ..none.clone() }, writes, "zero_write"),
        (Faults { reset: 1000, ..none.clone() }, reads, "reset"),
        (Faults { timed_out: 1000, ..none.clone() }, reads, "timed_out"),
    ] {
        let mut pair = pair(plan);
        call(&mut pair);
        let faults = faults(&pair.world);
        let expected = format!("client/0 Client: Fault {expected}");
        assert!(faults.len() == 2 && faults[1].starts_with(&expected), "{expected}: {faults:?}");
    }
}

#[test]
fn the_faults_of_accepts_are_events() {
    let world = World::new(3);
    let (server, client) = (world.host("server"), world.host("client"));
    server.set_faults(Faults { accept_order: 1000, accept_aborted: 500, ..Faults::NONE });
    server.set_max_sockets(0);
    let mut listener = server.listen("server:7").unwrap();
    let dials: Vec<_> = (0..5).map(|_| dial(&client)).collect();
    world.run_for(seconds(1)).unwrap();
    let mut accept = || {
        let cx = &mut Context::from_waker(Waker::noop());
        drop(listener.poll_accept(cx));
    };
    accept();
    server.set_max_sockets(9);
    (0..5).for_each(|_| accept());
    let faults = faults(&world);
    assert_eq!(faults[1], "server: Fault max_sockets = 0");
    for part in [" Server: Fault accept_order = ", " of 5", " Server: Fault accept_aborted"] {
        assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:?}");
    }
    drop(dials);
}

#[test]
fn what_is_lost_or_slow_is_an_event_of_the_end_that_waits() {
    let Pair { world, server, client, mut accepted, mut dialled } = Pair::new();
    client.set_blocked(&server, true);
    write(&mut dialled, b"hello").unwrap();
    let refused = dial(&client);
    world.run_for(millis(1500)).unwrap();
    client.set_blocked(&server, false);
    world.run_for(seconds(1)).unwrap();
    let usual = millis(1)..=millis(40);
    let slow = Latency::LongTailed { usual, doubles: 1000, max: millis(40) };
    server.set_latency(&client, Some(slow));
    write(&mut accepted, b"hi").unwrap();
    assert_eq!(
        faults(&world),
        [
            "client: Fault blocked = to server",
            "client/0 Server: Fault lost",
            "client/1 Client: Fault lost",
            "client/1 Client: Fault lost",
            "client: Healed blocked = to server",
            "server: Fault latency = to client, \
             LongTailed { usual: 1ms..=40ms, doubles: 1000, max: 40ms }",
            "client/0 Client: Fault latency_doubles = 40ms",
        ]
    );
    drop(refused);
}

#[test]
fn a_full_backlog_is_an_event_of_the_client() {
    let world = World::with(1, Settings { backlog: 1, ..Settings::default() });
    let (server, client) = (world.host("server"), world.host("client"));
    let _listener = server.listen("server:7").unwrap();
    let _dials = [dial(&client), dial(&client)];
    world.run_for(millis(500)).unwrap();
    let faults = faults(&world);
    assert!(faults.len() == 1 && faults[0].ends_with(" Client: Fault backlog_full"), "{faults:?}");
}

#[test]
fn what_is_done_to_a_host_is_an_event_of_the_host() {
    let world = World::new(1);
    let host = world.host("host");
    host.set_faults(Faults { stall: 20, reset: 3, ..Faults::NONE });
    host.set_faults(Faults::NONE);
    host.set_unplugged(true);
    host.set_unplugged(false);
    host.set_bandwidth(Direction::Write, NonZeroU64::new(500));
    host.set_bandwidth(Direction::Write, None);
    host.set_clock_ahead(seconds(3));
    host.set_clock_back(millis(5));
    host.set_clock_drift(-12);
    host.set_clock_drift(0);
    host.freeze_clock(millis(1));
    host.stop_for(millis(20));
    world.run_for(seconds(1)).unwrap();
    host.kill();
    host.restart();
    host.cut_power();
    host.set_unplugged(true);
    world.heal();
    assert_eq!(
        faults(&world),
        [
            "host: Fault faults = stall 20, reset 3, delay 1µs..=500ms",
            "host: Healed faults",
            "host: Fault unplugged",
            "host: Healed unplugged",
            "host: Fault upload = 500",
            "host: Healed upload",
            "host: Fault clock_ahead = 3s",
            "host: Fault clock_back = 5ms",
            "host: Fault clock_drift = -12 ppm",
            "host: Healed clock_drift",
            "host: Fault clock_frozen = 1ms",
            "host: Fault stopped = 20ms",
            "host: Healed clock_frozen",
            "host: Healed stopped",
            "host: Fault killed",
            "host: Healed killed",
            "host: Fault power_cut",
            "host: Fault unplugged",
            "host: Healed all",
            "host: Healed power_cut",
        ]
    );
}

#[test]
fn what_was_not_wrong_is_not_healed() {
    let Pair { world, server, client, .. } = Pair::new();
    client.set_faults(Faults { delay: millis(1)..=millis(2), ..Faults::NONE });
    client.set_unplugged(false);
    client.set_blocked(&server, false);
    client.set_latency(&server, None);
    client.set_bandwidth(Direction::Read, None);
    client.set_clock_drift(0);
    world.heal();
    assert!(faults(&world).is_empty(), "{:?}", faults(&world));
    client.set_blocked(&server, true);
    world.heal();
    world.heal();
    assert_eq!(faults(&world), ["client: Fault blocked = to server", "client: Healed all"]);
}
