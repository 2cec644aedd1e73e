//! The end of every machine: each wait has a deadline (rule 11 of
//! [`machine`](wirestate_core::machine)), and a FIN that stays pending ends in a reset.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

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
    proxy, proxy_protocol,
    serve::ServerHandle,
    status,
};
use wirestate_testkit::{message::frames, script};

type Any = Box<dyn Machine<Reason = AnyReason>>;

const NOW: Instant = Instant::EPOCH;
/// Longer than every default: the echo's 300 s, and the eighth by which a stall may be detected
/// late.
const MAX_LEN: Duration = Duration::from_secs(338);

/// A machine, and how to bring it into the states in which it waits for its peer.
struct Row {
    name: &'static str,
    make: fn() -> Any,
    /// Gives it output. `None`: it never has any.
    flushes: Option<fn(&mut Any)>,
    /// Makes it end with a FIN, once its output is taken.
    finishes: fn(&mut Any),
    /// Whether it lingers after that FIN. It does not linger after the peer's FIN: then both
    /// directions are closed.
    lingers: bool,
    /// Whether an acknowledgement extends the deadline of its FIN.
    counts: bool,
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

/// With nothing more on its way.
fn drain(machine: &mut Any) {
    machine.handle(NOW, Event::ShutDown);
    let quiet = machine.poll_timeout().unwrap();
    machine.handle(quiet, Event::Timeout { unacknowledged: 0 });
}

/// At what it shares.
fn look(machine: &mut impl Machine) {
    while machine.poll_shared(NOW, &mut Context::from_waker(Waker::noop())) {}
}

fn nothing(_: &mut Any) {}

fn subscriber() -> fanout::Subscriber {
    let shared = fanout::Feed::new(fanout::Config::default());
    let subscriber = fanout::Subscriber::new(&shared, NOW);
    let mut upstream = fanout::Upstream::new(shared, None, NOW);
    look(&mut upstream);
    deliver(&mut upstream, &mut &[7; 1024][..], NOW);
    subscriber
}

fn messages() -> Any {
    let answer = |request: Message<'_>| request.into_owned();
    let server = message::Server::new(message::Config::default(), service::function(answer));
    erased(server.machine(NOW))
}

fn request() -> message::Client {
    let mut client = message::Client::new(message::ClientConfig::default());
    client.request(&Message::binary("hello"), NOW).unwrap();
    client
}

fn load(rounds: u64) -> Any {
    let config = LoadConfig { rounds, ..LoadConfig::default() };
    erased(Load::new(config, Pool::new(16, 1), NOW, |_| {}))
}

fn machines() -> Vec<Row> {
    let row = |name, make, flushes, finishes| Row {
        name,
        make,
        flushes,
        finishes,
        lingers: false,
        counts: false,
    };
    let echo = || erased(echo::Server::default().machine(NOW));
    let status = || {
        let config = status::Config::new("echo-server");
        erased(
            status::Server::new(config, &ServerHandle::default(), None, NOW).unwrap().machine(NOW),
        )
    };
    let client = || erased(echo::Client::new(echo::ClientConfig::default()));
    let said = || {
        let mut client = echo::Client::new(echo::ClientConfig::default());
        client.say("hello".into(), NOW);
        erased(client)
    };
    let header = || {
        let peer = Peer::Ip("127.0.0.1:4000".parse().unwrap());
        let config = proxy_protocol::Config { timeout: None, ..proxy_protocol::Config::default() };
        erased(proxy_protocol::HeaderReader::new(&config, peer, NOW))
    };
    let hello = |machine: &mut Any| deliver(machine, &mut &b"hello"[..], NOW);
    let asks = |machine: &mut Any| {
        deliver(machine, &mut &frames([&Message::binary("hello")])[..], NOW);
    };
    let bad_frame = |machine: &mut Any| deliver(machine, &mut &b"\0\0"[..], NOW);
    let bad_request = |machine: &mut Any| deliver(machine, &mut &b"no request\r\n\r\n"[..], NOW);
    let source = || erased(fanout::Source::new(fanout::SourceConfig::default(), NOW));
    let upstream = || {
        let feed = fanout::Feed::new(fanout::Config::default());
        erased(fanout::Upstream::new(feed, None, NOW))
    };
    vec![
        Row { counts: true, ..row("echo that finishes", echo, Some(hello), eof) },
        Row { lingers: true, counts: true, ..row("echo", echo, None, drain) },
        Row { counts: true, ..row("message server", messages, Some(asks), eof) },
        Row {
            lingers: true,
            counts: true,
            ..row("message server, refusing", messages, Some(bad_frame), nothing)
        },
        Row { lingers: true, counts: true, ..row("status", status, Some(bad_request), nothing) },
        Row { counts: true, ..row("status without a request", status, None, shut_down) },
        Row { lingers: true, counts: true, ..row("source", source, Some(nothing), shut_down) },
        Row { counts: true, ..row("source whose client closed", source, Some(eof), shut_down) },
        Row {
            lingers: true,
            counts: true,
            ..row("subscriber", || erased(subscriber()), Some(look), shut_down)
        },
        Row {
            counts: true,
            ..row("subscriber that left", || erased(subscriber()), Some(look), eof)
        },
        row("upstream that closed", upstream, None, eof),
        row("upstream", upstream, None, shut_down),
        row("receiver whose server closed", || erased(fanout::Receiver::new()), None, eof),
        row("receiver", || erased(fanout::Receiver::new()), None, shut_down),
        row("header, truncated", header, None, eof),
        row("header", header, None, shut_down),
        row("echo client", said, Some(nothing), shut_down),
        row("echo client whose server closed", client, None, eof),
        row(
            "message client",
            || erased(message::Client::new(message::ClientConfig::default())),
            None,
            shut_down,
        ),
        row(
            "message client whose server closed",
            || erased(message::Client::new(message::ClientConfig::default())),
            None,
            eof,
        ),
        row(
            "message client that asks",
            || erased(request()),
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
    /// The machine with a pending FIN, and the time.
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

    /// Lets time pass until the machine wants something else, and returns how long that took. At
    /// the n-th deadline, `unacknowledged(n)` bytes are not acknowledged.
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
            if machine.interest() != before || now > NOW + 2 * MAX_LEN {
                break;
            }
        }
        now.since(NOW)
    }

    /// Asserts that it ends with a reset, and has a reason.
    fn is_reset(&self, machine: &mut Any) {
        let reset = Interest { read: false, write: Outbound::Reset };
        assert_eq!(machine.interest(), reset, "{}", self.name);
        assert_eq!(machine.poll_timeout(), None, "{}", self.name);
        machine.handle(NOW + MAX_LEN, Event::Finished);
        assert!(machine.interest().is_done() && machine.reason().is_some(), "{}", self.name);
    }
}

#[test]
fn a_peer_that_takes_no_output_is_reset() {
    for row in machines() {
        let Some(flushes) = row.flushes else { continue };
        for ends in [nothing, row.finishes] {
            let mut machine = (row.make)();
            flushes(&mut machine);
            ends(&mut machine);
            if machine.interest().write != Outbound::Flush {
                continue; // its output is not sent
            }
            let waited = row.wait(&mut machine, |_| 100);
            assert!(waited <= MAX_LEN, "{}: {waited:?}", row.name);
            row.is_reset(&mut machine);
        }
    }
}

#[test]
fn a_fin_that_stays_pending_ends_in_a_reset() {
    for row in machines() {
        for unacknowledged in [0, 100] {
            let mut machine = row.finishing();
            let waited = row.wait(&mut machine, |_| unacknowledged);
            assert!(waited <= MAX_LEN, "{}: {waited:?}", row.name);
            row.is_reset(&mut machine);
        }
    }
}

/// The FIN waits behind output that a sink buffers and that the peer reads slowly.
#[test]
fn a_fin_is_not_given_up_while_the_peer_acknowledges_output() {
    for row in machines().into_iter().filter(|row| row.counts) {
        let mut machine = row.finishing();
        let waited = row.wait(&mut machine, |n| 1_000_000 - n);
        assert!(waited > MAX_LEN, "{}: {waited:?}", row.name);
        assert_eq!(machine.interest().write, Outbound::Finish, "{}", row.name);
    }
}

#[test]
fn a_machine_that_lingers_ends_in_time() {
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
    let mut relay = proxy::RelayFactory::new(proxy::Config::default()).relay(now);
    relay.refuse(proxy::ProxyReason::ShutDown, now);
    assert_eq!(relay.interest(proxy::Side::Client).write, Outbound::Finish);
    let deadline = relay.poll_timeout().unwrap();
    relay.handle_timeout(deadline, 0, 0);
    assert_eq!(relay.interest(proxy::Side::Client).write, Outbound::Reset);
}
