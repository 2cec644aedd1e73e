//! Every deadline, with a manual clock.

use std::time::Duration;

use wirestate_core::{
    Event, Fault, Instant, Machine, Outbound,
    drive::deliver,
    message::{
        Client, ClientReason, Config, Connection, Message, MessageReason, Server,
        service::{self, RequestQueue, Service},
    },
};
use wirestate_testkit::{
    contract::Checked,
    message::{frames, golden},
    script,
};

use crate::{itself, services::Counting};

const MILLI: Duration = Duration::from_millis(1);
/// More output than any machine here queues, in bytes.
const MAX_QUEUED: usize = 3 << 20;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn at(time: Duration) -> Instant {
    Instant::EPOCH + time
}

fn serving<S: Service + Clone>(service: S) -> Checked<Connection<S>> {
    let config = Config::default().with_max_in_flight(2.try_into().unwrap());
    Checked::new(Server::new(config, service).unwrap().machine(Instant::EPOCH), MAX_QUEUED)
}

fn echoing() -> Checked<Connection<impl Service + Clone>> {
    serving(service::function(itself))
}

fn receive<M: Machine>(machine: &mut M, bytes: &[u8], time: Duration) {
    let mut rest = bytes;
    deliver(machine, &mut rest, at(time));
    assert!(rest.is_empty(), "the machine does not read");
}

fn sent<M: Machine>(machine: &mut M, time: Duration) -> Vec<u8> {
    script::collect(machine, at(time))
}

/// The kernel accepts `n` bytes.
fn accept<M: Machine>(machine: &mut M, n: usize, now: Instant) {
    machine.write_bufs(&mut [&[][..]; 64]);
    machine.handle(now, Event::Written(n));
}

/// Asserts that the machine's state changes at `time`, and not a millisecond before.
fn expires_at<M: Machine>(machine: &mut M, time: Duration) {
    let state = machine.status().state;
    machine.handle(at(time.checked_sub(MILLI).unwrap()), Event::Timeout { unacknowledged: 0 });
    assert_eq!(machine.status().state, state, "it has expired too early");
    assert_eq!(machine.poll_timeout(), Some(at(time)), "in {state}");
    machine.handle(at(time), Event::Timeout { unacknowledged: 0 });
    assert_ne!(machine.status().state, state, "it has not expired");
}

/// The content of the error reply that `output` ends with.
fn error_reply(output: &[u8]) -> String {
    let at = output.windows(10).position(|window| window == b"{\"result\":");
    String::from_utf8(output[at.expect("there is an error reply")..].to_vec()).unwrap()
}

#[test]
fn a_header_must_arrive_within_5_s_however_often_a_byte_arrives() {
    let mut machine = echoing();
    for (byte, time) in golden().into_iter().zip(10..15) {
        receive(&mut machine, &[byte], secs(time));
    }
    expires_at(&mut machine, secs(15));
    let reply = sent(&mut machine, secs(15));
    assert_eq!(
        error_reply(&reply),
        r#"{"result": "Error: received 5 of a frame's 105 bytes within 5s"}"#
    );
    assert_eq!(machine.interest().write, Outbound::Finish);
}

/// Header and content have separate deadlines.
#[test]
fn a_frame_has_30_s_or_a_second_for_each_kib_whichever_is_later() {
    let mut machine = echoing();
    let request = frames([&Message::binary(vec![1; 100_000])]);
    let (head, content) = request.split_at(request.len() - 100_000);
    receive(&mut machine, head, secs(1));
    assert_eq!(machine.poll_timeout(), Some(at(secs(31))));
    // Half a KiB a second is half of the minimum rate.
    let mut received = head.len() as u64;
    let mut pieces = content.chunks(512).zip(2..);
    for (piece, time) in pieces.by_ref().take(29) {
        receive(&mut machine, piece, secs(time));
        received += 512;
    }
    expires_at(&mut machine, secs(31));
    let reply = sent(&mut machine, secs(31));
    let expected = format!("received {received} of a frame's {} bytes within 30s", request.len());
    assert_eq!(error_reply(&reply), format!(r#"{{"result": "Error: {expected}"}}"#));
}

#[test]
fn a_content_that_arrives_at_the_minimum_rate_has_no_time_limit() {
    let mut machine = echoing();
    let request = frames([&Message::binary(vec![1; 100 * 1024])]);
    for (piece, time) in request.chunks(1100).zip(0..) {
        receive(&mut machine, piece, secs(time));
        machine.handle(at(secs(time)), Event::Timeout { unacknowledged: 0 });
    }
    assert_eq!(sent(&mut machine, secs(95)), request, "it is not answered after 95 s");
    // The deadline grows with the received bytes: 60 KiB are due in 60 s, and no more arrive.
    let mut machine = echoing();
    receive(&mut machine, &request[..60 * 1024], secs(20));
    expires_at(&mut machine, secs(80));
}

#[test]
fn the_chunks_of_a_streamed_content_do_not_extend_its_time() {
    let mut machine = serving(Counting::default());
    let request = frames([&Message::binary(vec![1; 300])]);
    for (byte, time) in request[..300].chunks(100).zip(0..) {
        receive(&mut machine, byte, secs(14 * time));
        assert_eq!(machine.work(), 0, "a chunk is no request");
    }
    expires_at(&mut machine, secs(30));
    let reply = error_reply(&sent(&mut machine, secs(30)));
    assert!(reply.contains("received 300 of a frame's"), "{reply}");
}

/// The deadline of the second frame counts from the first byte of that frame.
#[test]
fn the_time_of_a_frame_begins_with_its_first_byte() {
    let mut machine = echoing();
    receive(&mut machine, &golden()[..10], secs(0));
    receive(&mut machine, &[&golden()[10..], &golden()[..10]].concat(), secs(4));
    let _ = sent(&mut machine, secs(4));
    receive(&mut machine, &golden()[10..11], secs(7));
    expires_at(&mut machine, secs(9));
}

#[test]
fn the_time_of_a_frame_stands_still_while_the_machine_does_not_read() {
    let mut machine = serving(RequestQueue::default());
    let (first, rest) = (golden(), golden());
    let input = [&first[..], &first, &rest[..50]].concat();
    receive(&mut machine, &input, secs(0));
    assert!(!machine.interest().read, "two are in flight");
    assert_eq!(machine.poll_timeout(), Some(at(secs(60))), "the frame has a deadline");
    let request = machine.machine_mut().service_mut().take().unwrap();
    request.reply(Message::binary("x"));
    let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
    machine.poll_shared(at(secs(40)), cx);
    let _ = sent(&mut machine, secs(40));
    assert!(machine.interest().read, "one is in flight");
    receive(&mut machine, &rest[50..60], secs(44));
    expires_at(&mut machine, secs(45));
}

#[test]
fn the_service_must_reply_within_60_s() {
    let mut machine = serving(RequestQueue::default());
    receive(&mut machine, &golden(), secs(1));
    receive(&mut machine, &golden(), secs(50));
    expires_at(&mut machine, secs(61));
    let reply = sent(&mut machine, secs(61));
    assert_eq!(
        error_reply(&reply),
        r#"{"result": "Error: no reply within 1m; requests not answered: 2"}"#
    );
    assert_eq!(machine.interest().write, Outbound::Finish);
}

#[test]
fn a_peer_must_acknowledge_a_byte_within_10_s() {
    let with_replies = || {
        let mut machine = echoing();
        receive(&mut machine, &golden(), secs(1));
        receive(&mut machine, &golden(), secs(2));
        machine
    };
    expires_at(&mut with_replies(), secs(11));
    let mut machine = with_replies();
    accept(&mut machine, 1, at(secs(10)));
    machine.handle(at(secs(10)), Event::Timeout { unacknowledged: 0 });
    expires_at(&mut machine, secs(20));
    assert_eq!(machine.interest().write, Outbound::Reset);
    machine.handle(at(secs(20)), Event::Finished);
    let Some(MessageReason::WriteStalled { limit, unacknowledged }) = machine.reason() else {
        panic!()
    };
    assert_eq!((limit, unacknowledged), (secs(10), 2 * 146 - 1));
}

/// The kernel enlarges its send buffer while the peer's window is closed.
#[test]
fn bytes_that_only_the_kernel_accepts_do_not_extend_the_deadline() {
    let mut machine = echoing();
    receive(&mut machine, &golden(), secs(1));
    let mut unacknowledged = 0;
    while machine.status().state == "open" {
        let now = machine.poll_timeout().unwrap();
        accept(&mut machine, 10, now);
        unacknowledged += 10;
        machine.handle(now, Event::Timeout { unacknowledged });
        assert!(now <= at(secs(11)));
    }
    machine.handle(at(secs(11)), Event::Finished);
    assert!(matches!(machine.reason(), Some(MessageReason::WriteStalled { .. })));

    // Not even if the kernel takes all bytes at once.
    let mut machine = echoing();
    receive(&mut machine, &golden(), secs(1));
    let unacknowledged = sent(&mut machine, secs(1)).len();
    while machine.status().state == "idle" {
        let now = machine.poll_timeout().unwrap();
        machine.handle(now, Event::Timeout { unacknowledged });
        assert!(now <= at(secs(11)));
    }
    machine.handle(at(secs(11)), Event::Finished);
    assert!(matches!(
        machine.reason(),
        Some(MessageReason::WriteStalled { unacknowledged: 146, .. })
    ));

    // One acknowledged byte moves the deadline.
    let mut machine = echoing();
    receive(&mut machine, &golden(), secs(1));
    accept(&mut machine, 100, at(secs(1)));
    for unacknowledged in (0..100).rev() {
        let now = machine.poll_timeout().unwrap();
        machine.handle(now, Event::Timeout { unacknowledged });
        assert_eq!(machine.status().state, "open");
    }
}

#[test]
fn a_connection_without_a_request_is_closed_after_60_s() {
    let mut machine = echoing();
    assert_eq!(machine.poll_timeout(), Some(at(secs(60))));
    receive(&mut machine, &golden(), secs(50));
    let _ = sent(&mut machine, secs(51));
    expires_at(&mut machine, secs(111));
    assert_eq!(machine.interest().write, Outbound::Finish, "it does not send a FIN");
    machine.handle(at(secs(111)), Event::Finished);
    // Later requests are read but not answered, for 2 s.
    receive(&mut machine, &golden(), secs(112));
    assert_eq!(machine.interest().write, Outbound::Finished);
    expires_at(&mut machine, secs(113));
    assert_eq!(
        machine.reason(),
        Some(MessageReason::IdleTimeout { limit: secs(60), fault: Fault::Time })
    );
}

/// The peer is not idle while it waits for a reply.
#[test]
fn a_connection_with_a_pending_reply_is_not_idle() {
    let mut machine = serving(RequestQueue::default());
    receive(&mut machine, &golden(), secs(50));
    assert_eq!(
        machine.poll_timeout(),
        Some(at(secs(110))),
        "the deadline must be that of the pending reply"
    );
}

#[test]
fn a_clock_that_steps_past_all_deadlines_ends_the_connection_once() {
    let mut machine = serving(RequestQueue::default());
    receive(&mut machine, &[&golden()[..], &golden()[..7]].concat(), secs(0));
    machine.handle(at(secs(3600)), Event::Timeout { unacknowledged: 0 });
    assert_eq!(machine.status().state, "closing");
    let reply = sent(&mut machine, secs(3600));
    assert_eq!(error_reply(&reply).matches("result").count(), 1);
}

fn client_with_requests() -> Checked<Client> {
    let mut client = Client::default();
    for time in [1, 2] {
        client.request(&Message::binary("?"), at(secs(time))).unwrap();
    }
    Checked::new(client, MAX_QUEUED)
}

#[test]
fn a_client_waits_10_s_for_its_request_to_be_acknowledged() {
    let mut client = client_with_requests();
    expires_at(&mut client, secs(11));
    client.handle(at(secs(11)), Event::Finished);
    let reason = client.reason();
    assert!(
        matches!(reason, Some(ClientReason::WriteStalled { limit, .. }) if limit == secs(10)),
        "{reason:?}"
    );
}

#[test]
fn a_client_waits_30_s_for_each_reply() {
    let mut client = client_with_requests();
    let _ = sent(&mut client, secs(2));
    let reply = frames([&Message::binary("!")]);
    receive(&mut client, &reply, secs(20));
    // The time counts from the last reply.
    expires_at(&mut client, secs(50));
    assert_eq!(
        client.interest().write,
        Outbound::Reset,
        "a missing reply does not lead to a reset"
    );
    client.handle(at(secs(50)), Event::Finished);
    assert_eq!(client.reason(), Some(ClientReason::ReplyTimeout { limit: secs(30) }));
    let reply = client.machine_mut().take_reply().unwrap();
    assert_eq!(&*reply.content, b"!", "the earlier reply is lost");
    assert_eq!(client.machine_mut().take_reply(), None);
}

#[test]
fn a_reply_that_has_begun_has_the_time_of_a_frame() {
    let mut client = client_with_requests();
    let _ = sent(&mut client, secs(2));
    let reply = frames([&Message::binary("!")]);
    receive(&mut client, &reply[..20], secs(28));
    expires_at(&mut client, secs(33));
    client.handle(at(secs(33)), Event::Finished);
    let Some(ClientReason::FrameTimeout { received, limit, .. }) = client.reason() else {
        panic!()
    };
    assert_eq!((received, limit), (20, secs(5)));
}

#[test]
fn a_client_without_a_request_waits_forever() {
    let mut client = Checked::new(Client::default(), MAX_QUEUED);
    assert_eq!(client.poll_timeout(), None);
    client.handle(at(secs(1_000_000)), Event::Timeout { unacknowledged: 0 });
    assert_eq!(client.status().state, "idle");
}
