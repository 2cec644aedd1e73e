//! The end of each machine: each wait has a deadline (rule 11 of
//! [`machine`](wirestate_core::machine)), and a FIN that stays pending becomes a reset.

#![expect(clippy::unwrap_used, reason = "this is how a test fails, also outside of its function")]

use std::{
    task::{Context, Waker},
    time::Duration,
};

use wirestate_command_line::load::{Load, LoadConfig};
use wirestate_core::{
    AnyReason, Erased, Event, Instant, Interest, Machine, Outbound,
    admission::Peer,
    buffer::Pool,
    drive::deliver,
    echo, fanout,
    message::{self, Message, service},
    proxy, proxy_protocol, status,
};
use wirestate_testkit::{message::frames, script};

type Any = Box<dyn Machine<Reason = AnyReason>>;

const NOW: Instant = Instant::EPOCH;
/// More than the longest wait: with its default timeout of 300 s, the echo notices a stall after at
/// most 337.5 s.
const MAX_WAIT: Duration = Duration::from_secs(338);

/// A machine, and the calls after which it waits for its peer.
struct Row {
    name: &'static str,
    make: fn() -> Any,
    /// Makes output pending; `None`: the machine has no output.
    flushes: Option<fn(&mut Any)>,
    /// Makes the machine end by a FIN, once its output is written.
    finishes: fn(&mut Any),
    /// Whether the machine lingers after its FIN. It does not if the peer has sent a FIN.
    lingers: bool,
    /// Whether an acknowledgement extends the deadline of the machine's FIN.
    extends: bool,
}

fn erased<M: Machine + 'static>(machine: M) -> Any {
    Box::new(Erased(machine))
}

fn eof(machine: &mut Any) {
    machine.handle(NOW, Event::Eof);
}

fn shut_down(machine: &mut Any) {
    machine.handle(NOW, Event::ShutDown);
}

/// Completes a drain.
fn drain(machine: &mut Any) {
    machine.handle(NOW, Event::ShutDown);
    let deadline = machine.poll_timeout().unwrap();
    machine.handle(deadline, Event::Timeout { unacknowledged: 0 });
}

/// Polls the shared state until it is unchanged.
fn poll_shared(machine: &mut impl Machine) {
    while machine.poll_shared(NOW, &mut Context::from_waker(Waker::noop())) {}
}

fn nothing(_: &mut Any) {}

fn subscriber() -> fanout::Subscriber {
    let shared = fanout::Feed::default();
    let subscriber = fanout::Subscriber::new(&shared, NOW);
    let mut upstream = fanout::Upstream::new(&shared, NOW);
    poll_shared(&mut upstream);
    deliver(&mut upstream, &mut &[7; 1024][..], NOW);
    subscriber
}

fn messages() -> Any {
    let answer = |request: Message<'_>| request.into_owned();
    let server = message::Server::with_default_config(service::function(answer));
    erased(server.machine(NOW))
}

fn requesting() -> message::Client {
    let mut client = message::Client::default();
    client.request(&Message::binary("hello"), NOW).unwrap();
    client
}

fn load(rounds: u64) -> Any {
    let config = LoadConfig::default().with_rounds(rounds);
    erased(Load::new(config, Pool::new(16, 1), NOW, |_| {}).unwrap())
}

fn machines() -> Vec<Row> {
    let row = |name, make, flushes, finishes| Row {
        name,
        make,
        flushes,
        finishes,
        lingers: false,
        extends: false,
    };
    let echo = || erased(echo::Server::default().machine(NOW));
    let status = || {
        let config = status::Config::default();
        erased(
            status::Server::new(config, status::Services::default(), None, NOW)
                .unwrap()
                .machine(NOW),
        )
    };
    let client = || erased(echo::Client::new(echo::ClientConfig::default()));
    let request_sent = || {
        let mut client = echo::Client::new(echo::ClientConfig::default());
        client.send("hello".into(), NOW);
        erased(client)
    };
    let stream = || {
        let config = echo::StreamConfig::default();
        let mut client = echo::StreamClient::new(config).unwrap();
        client.send("hello".into(), NOW);
        erased(client)
    };
    let header = || {
        let peer = Peer::Ip("127.0.0.1:4000".parse().unwrap());
        let config = proxy_protocol::Config::default().with_timeout(None);
        let policy = proxy_protocol::HeaderPolicy::new(config).unwrap();
        erased(proxy_protocol::HeaderReader::new(&policy, peer, NOW))
    };
    let hello = |machine: &mut Any| deliver(machine, &mut &b"hello"[..], NOW);
    let request = |machine: &mut Any| {
        deliver(machine, &mut &frames([&Message::binary("hello")])[..], NOW);
    };
    let bad_frame = |machine: &mut Any| deliver(machine, &mut &b"\0\0"[..], NOW);
    let bad_request = |machine: &mut Any| deliver(machine, &mut &b"no request\r\n\r\n"[..], NOW);
    let source =
        || erased(fanout::MessageSource::new(fanout::MessageSourceConfig::default(), NOW).unwrap());
    let upstream = || {
        let feed = fanout::Feed::default();
        erased(fanout::Upstream::new(&feed, NOW))
    };
    vec![
        Row { extends: true, ..row("echo that finishes", echo, Some(hello), eof) },
        Row { lingers: true, extends: true, ..row("echo", echo, None, drain) },
        Row { extends: true, ..row("message server", messages, Some(request), eof) },
        Row {
            lingers: true,
            extends: true,
            ..row("message server, refusing", messages, Some(bad_frame), nothing)
        },
        Row { lingers: true, extends: true, ..row("status", status, Some(bad_request), nothing) },
        Row {
            lingers: true,
            extends: true,
            ..row("status without a request", status, None, drain)
        },
        Row { lingers: true, extends: true, ..row("source", source, Some(nothing), shut_down) },
        Row { extends: true, ..row("source whose client closed", source, Some(eof), shut_down) },
        Row {
            lingers: true,
            extends: true,
            ..row("subscriber", || erased(subscriber()), Some(poll_shared), shut_down)
        },
        Row {
            extends: true,
            ..row("subscriber whose peer closed", || erased(subscriber()), Some(poll_shared), eof)
        },
        row("upstream that closed", upstream, None, eof),
        row("upstream", upstream, None, shut_down),
        row("fan-out client whose server closed", || erased(fanout::Client::new()), None, eof),
        row("fan-out client", || erased(fanout::Client::new()), None, shut_down),
        row("header, truncated", header, None, eof),
        row("header", header, None, shut_down),
        row("echo client", request_sent, Some(nothing), shut_down),
        row("echo client whose server closed", client, None, eof),
        row("stream client", stream, Some(nothing), shut_down),
        row("stream client whose server closed", stream, None, |client| {
            script::collect(client, NOW);
            client.handle(NOW, Event::Eof);
        }),
        row("message client", || erased(message::Client::default()), None, shut_down),
        row("message client whose server closed", || erased(message::Client::default()), None, eof),
        row(
            "message client with a request",
            || erased(requesting()),
            Some(nothing),
            |client| {
                script::collect(client, NOW);
                client.handle(NOW, Event::Eof);
            },
        ),
        Row { lingers: true, ..row("load without messages", || load(0), None, nothing) },
    ]
}

impl Row {
    /// The machine with its FIN pending.
    fn finishing(&self) -> Any {
        let mut machine = (self.make)();
        if let Some(flushes) = self.flushes {
            flushes(&mut machine);
        }
        (self.finishes)(&mut machine);
        script::collect(&mut machine, NOW);
        assert_eq!(machine.interest().write, Outbound::Finish, "{}", self.name);
        machine
    }

    /// Lets time pass until the machine's interest changes, and returns that time. At the n-th
    /// deadline, `unacknowledged(n)` bytes are not acknowledged.
    fn wait(&self, machine: &mut Any, unacknowledged: impl Fn(usize) -> usize) -> Duration {
        let (before, mut now) = (machine.interest(), NOW);
        for n in 0.. {
            let Some(deadline) = machine.poll_timeout() else {
                panic!("{}: no deadline in {before:?}", self.name)
            };
            now = deadline.max(now);
            machine.handle(now, Event::Timeout { unacknowledged: unacknowledged(n) });
            let next = machine.poll_timeout();
            assert!(next.is_none_or(|next| next > now), "{}: {next:?} at {now}", self.name);
            if machine.interest() != before || now > NOW + 2 * MAX_WAIT {
                break;
            }
        }
        now.since(NOW)
    }

    /// Asserts that the machine ends by a reset, and has a reason.
    fn assert_reset(&self, machine: &mut Any) {
        let reset = Interest { read: false, write: Outbound::Reset };
        assert_eq!(machine.interest(), reset, "{}", self.name);
        assert_eq!(machine.poll_timeout(), None, "{}", self.name);
        machine.handle(NOW + MAX_WAIT, Event::Finished);
        assert!(machine.interest().is_done() && machine.reason().is_some(), "{}", self.name);
    }
}

#[test]
fn a_peer_that_accepts_no_output_is_reset() {
    for row in machines() {
        let Some(flushes) = row.flushes else { continue };
        for ends in [nothing, row.finishes] {
            let mut machine = (row.make)();
            flushes(&mut machine);
            ends(&mut machine);
            if machine.interest().write != Outbound::Flush {
                continue; // the pending output was discarded
            }
            let waited = row.wait(&mut machine, |_| 100);
            assert!(waited <= MAX_WAIT, "{}: {waited:?}", row.name);
            row.assert_reset(&mut machine);
        }
    }
}

#[test]
fn a_fin_that_stays_pending_becomes_a_reset() {
    for row in machines() {
        for unacknowledged in [0, 100] {
            let mut machine = row.finishing();
            let waited = row.wait(&mut machine, |_| unacknowledged);
            assert!(waited <= MAX_WAIT, "{}: {waited:?}", row.name);
            row.assert_reset(&mut machine);
        }
    }
}

/// The FIN waits for output that a sink holds and the peer acknowledges slowly.
#[test]
fn a_pending_fin_stays_while_the_peer_acknowledges_output() {
    for row in machines().into_iter().filter(|row| row.extends) {
        let mut machine = row.finishing();
        let waited = row.wait(&mut machine, |n| 1_000_000 - n);
        assert!(waited > MAX_WAIT, "{}: {waited:?}", row.name);
        assert_eq!(machine.interest().write, Outbound::Finish, "{}", row.name);
    }
}

#[test]
fn a_lingering_machine_ends_within_3_s() {
    for row in machines() {
        let mut machine = row.finishing();
        machine.handle(NOW, Event::Finished);
        assert_eq!(!machine.interest().is_done(), row.lingers, "{}", row.name);
        if row.lingers {
            let lingering = Interest { read: true, write: Outbound::Finished };
            assert_eq!(machine.interest(), lingering, "{}", row.name);
            let waited = row.wait(&mut machine, |_| 100);
            assert!(waited <= Duration::from_secs(3), "{}: {waited:?}", row.name);
            assert!(machine.interest().is_done(), "{}", row.name);
        }
        assert!(machine.reason().is_some(), "{}", row.name);
    }
}

#[test]
fn a_client_without_an_upstream_is_reset_when_its_fin_stays_pending() {
    let now = Instant::EPOCH;
    let mut relay = proxy::RelayFactory::default().relay(now);
    relay.refuse(proxy::ProxyReason::ShutDown, now);
    assert_eq!(relay.interest(proxy::Side::Client).write, Outbound::Finish);
    let deadline = relay.poll_timeout().unwrap();
    relay.handle_timeout(deadline, 0, 0);
    assert_eq!(relay.interest(proxy::Side::Client).write, Outbound::Reset);
}
