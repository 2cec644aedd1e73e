//! Every reason for which a connection can end.

use std::num::NonZeroUsize;

use wirestate_core::{
    Direction, Instant,
    message::{
        Client, ClientConfig, ClientReason, Config, FrameLimits, Message, MessageReason, Server,
        service::{self, RequestQueue, Service},
    },
};
use wirestate_testkit::{
    contract::Checked,
    coverage::Coverage,
    message::frames,
    script::{self, CONNECTION_ERRORS, Op},
};

use crate::itself;

/// A header of 200 bytes and a content of 50,000 fit, also into the buffers, without a quota.
const LIMITS: FrameLimits = FrameLimits::new(200, 50_000);
const MAX_QUEUED: usize = 1 << 20;

fn frame(size: usize) -> Vec<u8> {
    frames([&Message::binary(vec![1; size])])
}

/// The header alone.
fn head() -> Vec<u8> {
    let mut frame = frame(10);
    frame.truncate(frame.len() - 10);
    frame
}

fn receive(bytes: impl Into<Vec<u8>>) -> Op {
    Op::Receive(bytes.into())
}

/// Input that is no frame, and its label.
fn bad_input() -> [(Op, &'static str); 4] {
    [
        (receive([0, 0]), "empty_header"),
        (receive([1, 0]), "header_too_long"),
        (receive([0, 1, b'x']), "bad_header"),
        (receive(frame(50_001)), "content_too_long"),
    ]
}

#[test]
fn every_reason_of_a_server_is_reached() {
    fn end<S: Service + Clone>(config: Config, service: S, ops: &[Op]) -> &'static str {
        let config = config.with_frame_limits(LIMITS).with_buffer(NonZeroUsize::MIN);
        let server = Server::new(config, service).unwrap();
        let mut machine = Checked::new(server.machine(Instant::EPOCH), MAX_QUEUED);
        script::play_to_end(&mut machine, ops).label.unwrap()
    }
    let coverage = Coverage::start();
    let accept = Op::Accept(usize::MAX);
    for (op, label) in bad_input() {
        assert_eq!(end(Config::default(), service::function(itself), &[op]), label);
    }
    for (ops, label) in [
        (vec![receive(frame(10)), Op::Eof], "finished"),
        (vec![Op::ShutDown], "shut_down"),
        (vec![receive(frame(10)), accept.clone(), Op::Timeout], "idle_timeout"),
        (vec![receive([0]), Op::Eof], "truncated"),
        (vec![receive([0]), Op::Timeout], "header_timeout"),
        (vec![receive(head()), Op::Timeout], "content_timeout"),
        (vec![receive(frame(10)), Op::Timeout], "write_stalled"),
    ] {
        assert_eq!(end(Config::default(), service::function(itself), &ops), label, "{ops:?}");
    }
    let one_shot = Config::default().with_one_shot(true);
    assert_eq!(end(one_shot, service::function(itself), &[receive(frame(10))]), "answered");
    let scarce = Config::default().with_max_memory(1000);
    assert_eq!(end(scarce, service::function(itself), &[receive(frame(40_000))]), "memory");
    let queue = RequestQueue::default();
    assert_eq!(end(Config::default(), queue, &[receive(frame(10))]), "service_timeout");
    for error in CONNECTION_ERRORS {
        let ops = [Op::Error(Direction::Read, error)];
        assert_eq!(end(Config::default(), service::function(itself), &ops), error.label());
    }
    // A server evicts no connection, and the decoder has the limits of a frame.
    coverage.demand_reasons_except::<MessageReason>(["evicted", "frame_too_long"]);
}

#[test]
fn every_reason_of_a_client_is_reached() {
    let coverage = Coverage::start();
    let client = || {
        let config = ClientConfig::default().with_frame_limits(LIMITS);
        Client::new(config.with_buffer(NonZeroUsize::MIN)).unwrap()
    };
    let end = |has_request: bool, ops: &[Op]| {
        let mut client = client();
        if has_request {
            client.request(&Message::binary(vec![1; 10]), Instant::EPOCH).unwrap();
        }
        script::play_to_end(&mut Checked::new(client, MAX_QUEUED), ops).label.unwrap()
    };
    let accept = Op::Accept(usize::MAX);
    for (op, label) in bad_input() {
        assert_eq!(end(true, &[accept.clone(), op]), label);
    }
    for (has_request, ops, label) in [
        (false, vec![Op::ShutDown], "shut_down"),
        (false, vec![Op::Eof], "closed"),
        (true, vec![accept.clone(), Op::Eof], "closed_early"),
        (true, vec![accept.clone(), receive([0]), Op::Eof], "truncated"),
        (false, vec![receive(frame(10))], "unexpected_reply"),
        (true, vec![accept.clone(), Op::Timeout], "reply_timeout"),
        (true, vec![accept.clone(), receive([0]), Op::Timeout], "header_timeout"),
        (true, vec![accept.clone(), receive(head()), Op::Timeout], "content_timeout"),
        (true, vec![Op::Timeout], "write_stalled"),
    ] {
        assert_eq!(end(has_request, &ops), label, "{ops:?}");
    }
    for error in CONNECTION_ERRORS {
        assert_eq!(end(false, &[Op::Error(Direction::Read, error)]), error.label());
    }
    // The reason that a handle gives, when the machine no longer exists.
    coverage.demand_reasons_except::<ClientReason>(["dropped"]);
}
