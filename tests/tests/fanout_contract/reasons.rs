//! Every reason for which a connection of a fan-out can end.

use std::{
    num::NonZeroUsize,
    task::{Context, Waker},
    time::Duration,
};

use wirestate_core::{
    ConnectionError, Direction, Instant, Machine,
    fanout::{
        Client, ClientReason, Config, Feed, Framing, GapPolicy, LagPolicy, MessageSource,
        MessageSourceConfig, MessageSourceReason, Publisher, PublisherReason, Subscriber,
        SubscriberReason, Upstream, UpstreamReason,
    },
};
use wirestate_testkit::{
    contract::Checked,
    coverage::Coverage,
    script::{self, CONNECTION_ERRORS, Op},
};

const NOW: Instant = Instant::EPOCH;
/// More than any machine here queues, in bytes.
const MAX_QUEUED: usize = 1 << 20;

fn feed(config: Config) -> Feed {
    let max = NonZeroUsize::new(8).unwrap();
    Feed::new(config.with_framing(Framing::Delimited { delimiter: b'\n', max })).unwrap()
}

fn end<M: Machine>(machine: M, ops: &[Op]) -> &'static str {
    script::play_to_end(&mut Checked::new(machine, MAX_QUEUED), ops).label.unwrap()
}

fn ends_by_each_error<M: Machine>(machine: impl Fn() -> M) {
    for error in CONNECTION_ERRORS {
        assert_eq!(end(machine(), &[Op::Error(Direction::Read, error)]), error.label());
    }
}

fn receive(bytes: &str) -> Op {
    Op::Receive(bytes.into())
}

#[test]
fn every_reason_of_an_upstream_is_reached() {
    let coverage = Coverage::start();
    let idle = Duration::from_secs(5);
    let upstream = || Upstream::new(&feed(Config::default().with_upstream_idle_timeout(idle)), NOW);
    assert_eq!(end(upstream(), &[receive("ab\nc"), Op::Eof]), "upstream_closed");
    assert_eq!(end(upstream(), &[receive("a line that is too long\n")]), "message_too_long");
    assert_eq!(end(upstream(), &[Op::Timeout]), "idle_timeout");
    assert_eq!(end(upstream(), &[Op::ShutDown]), "shut_down");
    ends_by_each_error(upstream);
    coverage.demand_reasons::<UpstreamReason>();
}

#[test]
fn every_reason_of_a_publisher_is_reached() {
    let coverage = Coverage::start();
    let publisher = || Publisher::new(&feed(Config::default()), NOW);
    assert_eq!(end(publisher(), &[receive("ab\nc"), Op::Eof]), "left");
    assert_eq!(end(publisher(), &[receive("a line that is too long\n")]), "message_too_long");
    assert_eq!(end(publisher(), &[Op::Timeout]), "idle_timeout");
    assert_eq!(end(publisher(), &[receive("c"), Op::Timeout]), "message_timeout");
    assert_eq!(end(publisher(), &[Op::ShutDown]), "shut_down");
    ends_by_each_error(publisher);
    coverage.demand_reasons::<PublisherReason>();
}

#[test]
fn every_reason_of_a_subscriber_is_reached() {
    let coverage = Coverage::start();
    let subscriber = || Subscriber::new(&feed(Config::default()), NOW);
    assert_eq!(end(subscriber(), &[Op::Eof]), "left");
    assert_eq!(end(subscriber(), &[Op::ShutDown]), "shut_down");
    ends_by_each_error(subscriber);

    let feed = feed(
        Config::default()
            .with_window(1000)
            .with_on_lag(LagPolicy::Disconnect)
            .with_on_gap(GapPolicy::Disconnect),
    );
    let publish = |messages: usize| {
        for _ in 0..messages {
            feed.publish("a\n".into(), 1, NOW);
        }
    };
    let stalled = Subscriber::new(&feed, NOW);
    publish(1);
    assert_eq!(end(stalled, &[Op::Release, Op::Timeout]), "write_stalled");

    let mut lagging = Subscriber::new(&feed, NOW);
    publish(1);
    lagging.poll_shared(NOW, &mut Context::from_waker(Waker::noop()));
    publish(100);
    assert_eq!(end(lagging, &[]), "lagged");

    let waiting = Subscriber::new(&feed, NOW);
    for _ in 0..2 {
        let mut upstream = Upstream::new(&feed, NOW);
        script::play(&mut upstream, &[receive("a\n"), Op::Eof]);
    }
    assert_eq!(end(waiting, &[]), "gap");
    coverage.demand_reasons::<SubscriberReason>();
}

#[test]
fn every_reason_of_a_source_is_reached() {
    let coverage = Coverage::start();
    let source = |count: Option<u64>| {
        let config = MessageSourceConfig::default().with_count(count);
        MessageSource::new(config, NOW).unwrap()
    };
    let second = Op::Advance(Duration::from_secs(1));
    assert_eq!(end(source(Some(0)), &[]), "finished");
    let reset = Op::Error(Direction::Write, ConnectionError::Reset);
    assert_eq!(end(source(None), &[Op::Eof, reset]), "left");
    assert_eq!(end(source(None), &[Op::ShutDown]), "shut_down");
    assert_eq!(end(source(None), &[second, Op::SpuriousTimeout, Op::Timeout]), "write_stalled");
    ends_by_each_error(|| source(None));
    coverage.demand_reasons::<MessageSourceReason>();
}

#[test]
fn every_reason_of_a_client_is_reached() {
    let coverage = Coverage::start();
    assert_eq!(end(Client::new(), &[Op::Eof]), "closed");
    assert_eq!(end(Client::new(), &[Op::ShutDown]), "shut_down");
    ends_by_each_error(Client::new);
    coverage.demand_reasons::<ClientReason>();
}
