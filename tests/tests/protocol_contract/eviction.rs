//! A full server ends a connection for a new one.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use proptest::{collection::vec, prelude::*, sample::select};
use wirestate_core::{
    Event, Instant, Machine, Outbound,
    drive::deliver,
    idle::IdleConnections,
    protocol::{Connection, ProtocolReason, Server},
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    script::{self, Op, Player},
};

use crate::{MAX_OUTPUT, Orders, small};

const LIMIT: usize = 7;
const NOW: Instant = Instant::EPOCH;
const DUE: Event = Event::Timeout { unacknowledged: 0 };

/// A full server.
pub(crate) struct Full {
    idle: IdleConnections,
    server: Server,
    orders: Orders,
}

pub(crate) type Tested = Checked<Connection<Orders>>;

impl Full {
    pub(crate) fn new() -> Self {
        let idle = IdleConnections::new();
        let server = Server::new(small()).unwrap().with_idle_connections(idle.clone(), LIMIT);
        Self { idle, server, orders: Orders::default() }
    }

    /// A connection that has received `input`.
    pub(crate) fn connection(&self, input: &str) -> Tested {
        let machine = self.server.machine(self.orders.clone(), NOW);
        let mut machine = Checked::new(machine, MAX_OUTPUT).with_deadlines();
        deliver(&mut machine, &mut input.as_bytes(), NOW);
        machine
    }

    /// Requests the eviction of one connection. Returns which one of `machines` it is.
    pub(crate) fn evict(&self, machines: &mut [&mut Tested], now: Instant) -> Option<usize> {
        for machine in &mut *machines {
            assert!(!poll(machine, now), "its old activity counts");
        }
        let mut cx = Context::from_waker(Waker::noop());
        assert!(self.idle.poll_evict(&mut cx).is_pending(), "there is no connection");
        let evicted: Vec<bool> = machines.iter_mut().map(|machine| poll(machine, now)).collect();
        assert!(evicted.iter().filter(|evicted| **evicted).count() <= 1, "{evicted:?}");
        for machine in machines {
            assert!(!poll(machine, now), "it is evicted twice");
        }
        evicted.iter().position(|evicted| *evicted)
    }
}

fn poll(machine: &mut Tested, now: Instant) -> bool {
    machine.poll_shared(now, &mut Context::from_waker(Waker::noop()))
}

fn at(millis: u64) -> Instant {
    NOW + Duration::from_millis(millis)
}

/// Sends the pending FIN or RST. Returns the label of the reason.
fn label(machine: &mut Tested, now: Instant) -> &'static str {
    machine.handle(now, Event::Finished);
    assert!(machine.interest().is_done(), "it lingers");
    wirestate_core::Reason::label(&machine.reason().unwrap())
}

#[test]
fn input_that_has_arrived_is_read_before_an_idle_connection_ends() {
    for (arrived, output) in [("o\n", Some("hello\n")), ("o", None), ("", None)] {
        let full = Full::new();
        let mut machine = full.connection("say a\nsay hell");
        script::collect(&mut machine, NOW);
        assert_eq!(full.evict(&mut [&mut machine], NOW), Some(0));
        assert_eq!((machine.poll_timeout(), machine.interest().read), (Some(NOW), true));
        deliver(&mut machine, &mut arrived.as_bytes(), NOW);
        machine.handle(NOW, DUE);
        if let Some(output) = output {
            assert_eq!(script::collect(&mut machine, NOW), output.as_bytes());
            machine.handle(NOW, DUE);
            assert_eq!(machine.status().state, "idle", "it is not evicted");
        } else {
            assert_eq!(machine.interest().write, Outbound::Finish, "without an error reply");
            assert_eq!(label(&mut machine, NOW), "evicted");
        }
    }
}

#[test]
fn the_reason_has_the_time_since_the_last_frame_and_the_limit() {
    let full = Full::new();
    let (mut first, mut second) = (full.connection(""), full.connection(""));
    for machine in [&mut first, &mut second] {
        assert!(!poll(machine, NOW));
    }
    deliver(&mut first, &mut &b"say a\n"[..], at(100));
    script::collect(&mut first, at(100));
    assert_eq!(full.evict(&mut [&mut first, &mut second], at(130)), Some(1));
    drop(second);
    assert_eq!(full.evict(&mut [&mut first], at(150)), Some(0));
    first.handle(at(150), DUE);
    first.handle(at(150), Event::Finished);
    let waited = Duration::from_millis(20);
    let reason = first.reason().unwrap();
    assert_eq!(reason, ProtocolReason::Evicted { waited, limit: LIMIT });
    let text = "evicted for a new connection after 20ms in its last state; the limit of open \
                connections is 7";
    assert_eq!(reason.to_string(), text);
}

#[test]
fn a_new_connection_has_20_ms_for_its_first_byte() {
    let full = Full::new();
    let mut machine = full.connection("");
    assert_eq!(full.evict(&mut [&mut machine], at(5)), Some(0));
    assert_eq!(machine.poll_timeout(), Some(at(20)));
    deliver(&mut machine, &mut &b"sa"[..], at(19));
    assert!(!poll(&mut machine, at(19)), "a part of a frame withdraws the eviction");
    machine.handle(at(20), DUE);
    assert_eq!(label(&mut machine, at(20)), "evicted");

    let mut answered = full.connection("say a\n");
    script::collect(&mut answered, NOW);
    drop(machine);
    assert_eq!(full.evict(&mut [&mut answered], at(5)), Some(0));
    assert_eq!(answered.poll_timeout(), Some(at(5)));
}

#[test]
fn a_connection_that_waits_for_its_next_reply_is_evicted_at_once_and_one_without_a_reply_is_not() {
    for order in ["wait 100\n", "later x\n"] {
        let full = Full::new();
        let mut first = full.connection(order);
        assert_eq!(full.evict(&mut [&mut first], NOW), None);
        let until = first.poll_timeout().unwrap();
        if order.starts_with("later") {
            full.orders.answer(0);
            assert!(poll(&mut first, NOW));
        } else {
            first.handle(until, DUE);
        }
        assert!(!script::collect(&mut first, until).is_empty());

        deliver(&mut first, &mut order.as_bytes(), until);
        let mut idle = full.connection("say a\n");
        script::collect(&mut idle, NOW);
        assert_eq!(full.evict(&mut [&mut idle, &mut first], until), Some(1));
        assert_eq!(first.interest().write, Outbound::Finish);
        assert_eq!(label(&mut first, until), "evicted");
    }
}

#[test]
fn output_that_the_kernel_accepts_is_written_before_a_connection_ends() {
    for (input, closes) in [("say a\n", false), ("bye\n", true)] {
        let full = Full::new();
        let mut reader = full.connection(input);
        assert_eq!(full.evict(&mut [&mut reader], NOW), Some(0));
        assert_eq!((reader.poll_timeout(), reader.interest().write), (Some(NOW), Outbound::Flush));
        script::collect(&mut reader, NOW);
        reader.handle(NOW, DUE);
        let write = if closes { Outbound::Finish } else { Outbound::Idle };
        assert_eq!(reader.interest().write, write);

        let mut stalled = full.connection(input);
        drop(reader);
        assert_eq!(full.evict(&mut [&mut stalled], NOW), Some(0));
        stalled.handle(NOW, DUE);
        assert_eq!(stalled.interest().write, Outbound::Reset);
        assert_eq!(label(&mut stalled, NOW), "evicted");
    }
}

#[test]
fn a_connection_whose_peer_acknowledges_nothing_in_time_is_reset_even_if_it_is_evicted() {
    let full = Full::new();
    let mut stalled = full.connection("say a\n");
    script::collect(&mut stalled, NOW);
    assert_eq!(full.evict(&mut [&mut stalled], at(10_000)), Some(0));
    stalled.handle(at(10_000), Event::Timeout { unacknowledged: 2 });
    assert_eq!(stalled.interest().write, Outbound::Reset);
    assert_eq!(label(&mut stalled, at(10_000)), "write_stalled");
}

#[test]
fn a_lingering_connection_ends_at_once() {
    let full = Full::new();
    let (mut idle, mut machine) = (full.connection(""), full.connection("bye\n"));
    script::collect(&mut machine, NOW);
    machine.handle(NOW, Event::Finished);
    assert_eq!(machine.status().state, "lingering");
    assert_eq!(full.evict(&mut [&mut idle, &mut machine], NOW), Some(1));
    assert!(machine.interest().is_done());
}

#[test]
fn a_connection_that_is_never_idle_is_evicted_after_those_that_are() {
    let full = Full::new();
    let (mut subscribed, mut idle) = (full.connection("subscribe\n"), full.connection(""));
    assert!(!poll(&mut subscribed, NOW));
    assert_eq!(full.evict(&mut [&mut subscribed, &mut idle], at(500)), Some(1));
    drop(idle);
    assert_eq!(full.evict(&mut [&mut subscribed], at(500)), Some(0));
    subscribed.handle(at(500), DUE);
    assert_eq!(subscribed.interest().write, Outbound::Finish);
    assert_eq!(label(&mut subscribed, at(500)), "evicted");
}

#[test]
fn without_an_order_of_eviction_no_connection_is_evicted() {
    let server = Server::new(small()).unwrap();
    let full = Full::new();
    let mut machine = server.machine(Orders::default(), NOW);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(full.idle.poll_evict(&mut cx).is_ready());
    assert!(!machine.poll_shared(NOW, &mut cx));
}

/// A connection that is evicted at any time keeps the contract, and ends once its output is
/// accepted, the waits are over and its peer does nothing.
#[test]
fn the_contract_is_kept_by_an_evicted_connection() {
    for_each_case(
        256,
        (
            script::ops(30),
            vec(
                select(vec![
                    "say hello\n",
                    "later x\n",
                    "wait 20\n",
                    "big 5000\n",
                    "bye\n",
                    "subscribe\n",
                    "nonsense\n",
                    "say",
                ]),
                0..12,
            ),
            vec(any::<bool>(), 30),
        ),
        |(ops, orders, evictions)| {
            let full = Full::new();
            let mut machine = full.connection("");
            let mut player = Player::new(&mut machine);
            let mut orders = orders.into_iter();
            let mut cx = Context::from_waker(Waker::noop());
            for (mut op, evicts) in ops.into_iter().zip(evictions) {
                if let Op::Receive(bytes) = &mut op {
                    *bytes = orders.next().unwrap_or("").into();
                }
                if evicts {
                    let _ = full.idle.poll_evict(&mut cx);
                }
                player.play(&op);
            }
            for index in 0..full.orders.deferred() {
                full.orders.answer(index);
            }
            for _ in 0..8 {
                let _ = full.idle.poll_evict(&mut cx);
                player.play(&Op::Accept(usize::MAX));
                player.play(&Op::Timeout);
                player.play(&Op::Finished);
            }
            assert!(player.machine().interest().is_done(), "{:?}", player.machine().status());
        },
    );
}
