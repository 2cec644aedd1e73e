//! How many bytes lingering connections discard: enough for a peer that reads late, and bounded for
//! all connections of one server together.

#![expect(clippy::unwrap_used, reason = "this is how a test fails, also outside of its function")]

use wirestate_core::{
    Event, Instant, Machine, Outbound, drive::deliver, echo, fanout, message, message::service,
    proxy, status,
};
use wirestate_testkit::script;

const NOW: Instant = Instant::EPOCH;
const MIB: usize = 1024 * 1024;
/// The bytes that each connection may discard regardless of the others, plus one read.
const EACH: usize = 2 * 64 * 1024;

/// Lets the machine send its FIN while its peer sends without end. Returns how many bytes are read.
fn flood(mut machine: impl Machine) -> usize {
    script::collect(&mut machine, NOW);
    assert_eq!(machine.interest().write, Outbound::Finish);
    machine.handle(NOW, Event::Finished);
    let mut read = 0;
    while machine.interest().read {
        let n = machine.read_buf().len();
        machine.handle(NOW, Event::Read(n));
        read += n;
    }
    assert!(machine.interest().is_done());
    read
}

/// Asserts the limits. Each call of `lingering` floods another lingering connection of one server.
fn assert_bounded(lingering: impl FnMut() -> usize) {
    let read: Vec<usize> = std::iter::repeat_with(lingering).take(20).collect();
    assert!(read[0] >= 16 * MIB, "enough for a peer that reads late: {read:?}");
    assert!(read.iter().all(|read| *read <= 16 * MIB + EACH), "each: {read:?}");
    assert!(read.iter().all(|read| *read >= 64 * 1024), "regardless of the others: {read:?}");
    let all: usize = read.iter().sum();
    assert!(all <= 64 * MIB + 20 * EACH, "all together: {read:?}");
}

fn shut_down<M: Machine>(mut machine: M) -> M {
    machine.handle(NOW, Event::ShutDown);
    machine
}

/// Completes a drain.
fn drained<M: Machine>(mut machine: M) -> M {
    machine.handle(NOW, Event::ShutDown);
    let deadline = machine.poll_timeout().unwrap();
    machine.handle(deadline, Event::Timeout { unacknowledged: 0 });
    machine
}

#[test]
fn echoes_after_a_shutdown_are_bounded_together() {
    let server = echo::Server::default();
    assert_bounded(|| flood(drained(server.machine(NOW))));
}

#[test]
fn messages_after_bad_frames_are_bounded_together() {
    let answer = |request: message::Message<'_>| request.into_owned();
    let server = message::Server::with_default_config(service::function(answer));
    assert_bounded(|| {
        let mut machine = server.machine(NOW);
        deliver(&mut machine, &mut &b"\0\0"[..], NOW);
        flood(machine)
    });
}

#[test]
fn bad_requests_to_the_status_are_bounded_together() {
    let config = status::Config::default();
    let server = status::Server::new(config, status::Services::default(), None, NOW).unwrap();
    assert_bounded(|| {
        let mut machine = server.machine(NOW);
        deliver(&mut machine, &mut &b"no request\r\n\r\n"[..], NOW);
        flood(machine)
    });
}

#[test]
fn subscribers_after_a_shutdown_are_bounded_together() {
    let feed = fanout::Feed::default();
    assert_bounded(|| flood(shut_down(fanout::Subscriber::new(&feed, NOW))));
}

/// A source has one client at a time.
#[test]
fn the_client_of_a_source_is_bounded() {
    let source = fanout::MessageSource::new(fanout::MessageSourceConfig::default(), NOW).unwrap();
    let read = flood(shut_down(source));
    assert!((16 * MIB..=16 * MIB + EACH).contains(&read), "{read}");
}

#[test]
fn clients_without_an_upstream_are_bounded_together() {
    let relays = proxy::RelayFactory::default();
    assert_bounded(|| {
        let mut relay = relays.relay(NOW);
        relay.refuse(proxy::ProxyReason::ShutDown, NOW);
        flood(relay.side(proxy::Side::Client))
    });
}
