//! Drivers that own the buffers: they deliver received input, and send owned output later.

use std::{
    collections::VecDeque,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use wirestate_core::{
    Event, Instant, Machine,
    drive::{collect_owned, deliver as receive},
    fanout::{Config, Feed, LagPolicy, Subscriber, Upstream},
};
use wirestate_testkit::{contract::Checked, script};

use crate::messages::{fixed, is_subsequence, parse};

const NOW: Instant = Instant::EPOCH;

fn poll_shared<M: Machine>(machine: &mut M) {
    while machine.poll_shared(NOW, &mut Context::from_waker(Waker::noop())) {}
}

#[test]
fn an_upstream_accepts_only_bytes_that_fit_into_the_window() {
    for on_lag in [LagPolicy::Block, LagPolicy::Disconnect, LagPolicy::Skip] {
        let feed = Feed::new(
            Config::default().with_framing(fixed(64)).with_window(8192).with_on_lag(on_lag),
        )
        .unwrap();
        let mut upstream = Checked::new(Upstream::new(&feed, NOW), 0);
        let mut subscriber = Subscriber::new(&feed, NOW);
        let input: Vec<u8> = (0..=250).cycle().take(64 * 1024).collect();
        let (mut rest, mut output) = (&input[..], Vec::new());
        receive(&mut upstream, &mut rest, NOW);
        assert_eq!(rest.len(), input.len(), "bytes are read before the feed has granted capacity");
        while !rest.is_empty() {
            let cx = &mut Context::from_waker(Waker::noop());
            assert!(
                upstream.poll_shared(NOW, cx) && upstream.interest().read,
                "it does not read although all output is sent"
            );
            receive(&mut upstream, &mut rest, NOW);
            poll_shared(&mut subscriber);
            output.extend(script::collect(&mut subscriber, NOW));
            poll_shared(&mut subscriber);
            assert_eq!(subscriber.status().state, "open");
        }
        assert!(output == input, "bytes are missing");
    }
}

#[test]
fn owned_output_is_not_copied() {
    let feed = Feed::new(Config::default().with_framing(fixed(4))).unwrap();
    let mut subscriber = Checked::new(Subscriber::new(&feed, NOW), 12);
    let published = [Bytes::from("one.two.".to_owned()), Bytes::from("thr.".to_owned())];
    feed.publish(published[0].clone(), 2, NOW);
    feed.publish(published[1].clone(), 1, NOW);
    poll_shared(&mut subscriber);
    let mut out = [const { Bytes::new() }; 3];
    assert_eq!(subscriber.write_owned(&mut out[..1], 100), 1);
    assert_eq!(out[0], published[0]);
    assert_eq!(subscriber.write_owned(&mut out, 10), 2);
    assert_eq!((&out[0][..], &out[1][..]), (&b"one.two."[..], &b"th"[..]));
    assert_eq!([out[0].as_ptr(), out[1].as_ptr()], published.each_ref().map(|it| it.as_ptr()));
    subscriber.handle(NOW, Event::Written(10));
    assert_eq!(subscriber.write_owned(&mut out, 100), 1);
    assert_eq!((&out[0][..], out[0].as_ptr()), (&b"r."[..], published[1][2..].as_ptr()));
}

/// Messages are skipped while the sink holds others that it has not sent yet.
#[test]
fn writes_that_complete_late_send_complete_messages_although_others_are_skipped() {
    for (max, slots) in (1..=12).flat_map(|max| [(max, 1), (max, 3)]) {
        let feed = Feed::new(
            Config::default()
                .with_framing(fixed(4))
                .with_window(3 * (4 + 128))
                .with_on_lag(LagPolicy::Skip)
                .with_lag_wait(Duration::ZERO),
        )
        .unwrap();
        let mut subscriber = Checked::new(Subscriber::new(&feed, NOW), usize::MAX);
        let (mut messages, mut output) = (Vec::new(), Vec::new());
        let mut in_flight = VecDeque::new();
        let mut submit = |subscriber: &mut Checked<_>, completed: usize| {
            let mut bufs = vec![Bytes::new(); slots];
            let n = collect_owned(subscriber, &mut bufs, max, NOW);
            in_flight.extend(bufs.into_iter().take(n));
            let n = completed.min(in_flight.len());
            output.extend(in_flight.drain(..n).flatten());
            n > 0
        };
        for round in 0..100 {
            for _ in 0..round % 7 {
                let message = format!("{:03}.", messages.len());
                feed.publish(message.clone().into(), 1, NOW);
                messages.push(message.into_bytes());
            }
            poll_shared(&mut subscriber);
            submit(&mut subscriber, round % 3);
        }
        while submit(&mut subscriber, usize::MAX) {
            poll_shared(&mut subscriber);
        }
        let (sent, begun) = parse(fixed(4), &output);
        let messages: Vec<_> = messages.iter().map(Vec::as_slice).collect();
        assert!(is_subsequence(&sent, &messages) && begun.is_empty(), "{}", output.escape_ascii());
        let counters = feed.counters();
        assert_eq!(counters.delivered, sent.len() as u64);
        assert_eq!(counters.delivered + counters.skipped, messages.len() as u64);
        assert!(counters.skipped > 0, "no message was skipped with {max} bytes per write");
    }
}
