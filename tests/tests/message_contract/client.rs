//! A client that is used inline and through handles.

use std::{
    num::NonZeroUsize,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;
use wirestate_core::{
    ConnectionError, Direction, Event, Fault, Instant, Machine, Outbound, Reason as _,
    drive::deliver,
    message::{
        Client, ClientConfig, ClientReason, EncodeError, Handle, Message, ReplyFuture, RequestError,
    },
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    message::{bad_frames, frames},
    script::{self, Op, Player},
};

use crate::{LIMITS, number, numbered, ops_with_frames, whole_messages};

fn config() -> ClientConfig {
    ClientConfig::default()
        .with_frame_limits(LIMITS)
        .with_buffer(NonZeroUsize::MIN)
        .with_max_in_flight(NonZeroUsize::new(4).unwrap())
}

const MAX_QUEUED: usize = 64 * 1024 + 1000;
const NOW: Instant = Instant::EPOCH;

/// How the server answers requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    /// It answers each whole request with the request itself.
    Answers,
    /// It sends the bytes of the script.
    Scripted,
}

/// Plays an op, then the replies to the requests so far, if the server answers.
fn play(player: &mut Player<'_, Checked<Client>>, op: &Op, server: Server, answered: &mut usize) {
    if server == Server::Scripted {
        return player.play(op);
    }
    if !matches!(op, Op::Receive(_)) {
        player.play(op);
        return;
    }
    let requests = whole_messages(player.output());
    let replies = frames(&requests[*answered..]);
    *answered = requests.len();
    player.play(&Op::Receive(replies));
}

fn servers() -> impl Strategy<Value = Server> {
    prop_oneof![Just(Server::Answers), Just(Server::Scripted)]
}

fn poll(request: &mut ReplyFuture) -> Poll<Result<Message<'static>, RequestError>> {
    Pin::new(request).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_client_that_is_used_inline_keeps_the_contract() {
    for_each_case(
        128,
        (ops_with_frames(100), prop::collection::vec(0..390_usize, 100), servers(), any::<bool>()),
        |(ops, sizes, server, takes)| {
            let mut client =
                Checked::new(Client::new(config()).unwrap(), MAX_QUEUED).with_deadlines();
            let mut player = Player::new(&mut client);
            let (mut requested, mut answered, mut taken) = (0, 0, Vec::new());
            for (op, size) in ops.iter().zip(sizes) {
                let now = player.now();
                let machine = player.machine().machine_mut();
                let ended = machine.interest().is_done();
                match machine.request(&numbered(requested, size), now) {
                    Ok(()) => {
                        assert!(!ended);
                        requested += 1;
                        assert!(requested - taken.len() <= 4, "too many are in flight");
                    }
                    Err(RequestError::Busy { limit: 4 } | RequestError::Ended(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                play(&mut player, op, server, &mut answered);
                if takes {
                    taken.extend(player.machine().machine_mut().take_reply());
                }
            }
            player.play_out();
            let machine = player.machine().machine_mut();
            taken.extend(std::iter::from_fn(|| machine.take_reply()));
            assert!(taken.len() <= requested, "there are more replies than requests");
            if server == Server::Answers {
                let numbers: Vec<usize> = taken.iter().map(number).collect();
                assert_eq!(numbers, (0..taken.len()).collect::<Vec<_>>(), "not in order");
            }
            let transcript = player.transcript();
            let sent = whole_messages(&transcript.output);
            assert!(sent.iter().map(number).eq(0..sent.len()), "not sent once, in order");
            assert_eq!(transcript.done, transcript.reason.is_some());
        },
    );
}

/// Requests are made, polled and dropped at any time.
#[test]
fn a_client_that_is_used_by_handles_keeps_the_contract() {
    for_each_case(
        128,
        (ops_with_frames(100), prop::collection::vec((0..6_u8, 0..390_usize), 100), servers()),
        |(ops, actions, server)| {
            let (client, handle) = Client::with_handle(config()).unwrap();
            let mut client = Checked::new(client, MAX_QUEUED).with_deadlines();
            let mut handles = vec![handle.clone(), handle];
            let mut player = Player::new(&mut client);
            let mut requests: Vec<(usize, ReplyFuture)> = Vec::new();
            let (mut requested, mut answered, mut results) = (0, 0, Vec::new());
            for (op, (action, size)) in ops.iter().zip(actions) {
                match action {
                    0..=2 => {
                        if let Some(handle) = handles.last() {
                            let mut request = handle.request(numbered(requested, size));
                            if poll(&mut request).is_pending() {
                                requests.push((requested, request));
                            }
                            requested += 1;
                        }
                    }
                    3 if size > 300 => drop(handles.pop()),
                    4 if size > 200 && !requests.is_empty() => {
                        drop(requests.swap_remove(size % requests.len()));
                    }
                    _ => {}
                }
                play(&mut player, op, server, &mut answered);
                requests.retain_mut(|(number, request)| match poll(request) {
                    Poll::Pending => true,
                    Poll::Ready(reply) => {
                        results.push((*number, reply));
                        false
                    }
                });
            }
            player.play_out();
            let transcript = player.transcript();
            let sent: Vec<usize> = whole_messages(&transcript.output).iter().map(number).collect();
            assert!(sent.is_sorted_by(|a, b| a < b), "not sent once, in order: {sent:?}");
            for (requested, reply) in &results {
                match reply {
                    Ok(reply) if server == Server::Answers => {
                        assert_eq!(number(reply), *requested);
                    }
                    Ok(_) | Err(RequestError::Ended(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            // No request waits for a connection that has ended.
            drop(client);
            for (_, request) in &mut requests {
                assert!(matches!(poll(request), Poll::Ready(Ok(_) | Err(RequestError::Ended(_)))));
            }
        },
    );
}

fn poll_shared(client: &mut Client) {
    let cx = &mut Context::from_waker(Waker::noop());
    while client.poll_shared(NOW, cx) {}
}

fn with_handle() -> (Client, Handle) {
    Client::with_handle(config()).unwrap()
}

fn outgoing(client: &mut Client) -> Vec<Message<'static>> {
    whole_messages(&script::collect(client, NOW))
}

#[test]
fn all_requests_fail_when_the_connection_ends() {
    type End = fn(&mut Client);
    let ends: [(&str, End); 5] = [
        ("reset", |client| {
            client.handle(NOW, Event::Error(Direction::Read, ConnectionError::Reset));
        }),
        ("closed_early", |client| client.handle(NOW, Event::Eof)),
        ("empty_header", |client| deliver(client, &mut &[0, 0][..], NOW)),
        ("reply_timeout", |client| {
            while let Some(deadline) = client.poll_timeout() {
                client.handle(deadline, Event::Timeout { unacknowledged: 0 });
            }
        }),
        ("dropped", |client| *client = Client::new(config()).unwrap()),
    ];
    for (label, end) in ends {
        let (mut client, handle) = with_handle();
        // Four are in flight, six wait, and the last one is made too late.
        let mut requests: Vec<_> = (0..10).map(|i| handle.request(numbered(i, 0))).collect();
        for request in &mut requests {
            assert!(poll(request).is_pending());
        }
        poll_shared(&mut client);
        assert_eq!(outgoing(&mut client).len(), 4);
        end(&mut client);
        requests.push(handle.request(numbered(10, 0)));
        for request in &mut requests {
            let Poll::Ready(Err(RequestError::Ended(reason))) = poll(request) else {
                panic!("{label}: the request still waits")
            };
            assert_eq!(reason.label(), label);
        }
    }
}

#[test]
fn waiting_tasks_are_woken_when_the_connection_ends() {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };
    #[derive(Default)]
    struct Count(AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    let (mut client, handle) = with_handle();
    let counts: Vec<Arc<Count>> = (0..10).map(|_| Arc::default()).collect();
    let mut requests: Vec<_> = (0..10).map(|i| handle.request(numbered(i, 0))).collect();
    for (request, count) in requests.iter_mut().zip(&counts) {
        let waker = Waker::from(count.clone());
        assert!(Pin::new(request).poll(&mut Context::from_waker(&waker)).is_pending());
    }
    poll_shared(&mut client);
    drop(client);
    for count in counts {
        assert_eq!(count.0.load(Relaxed), 1, "it is not woken exactly once");
    }
}

#[test]
fn the_reply_to_a_dropped_request_is_discarded_and_the_others_get_their_own() {
    let (mut client, handle) = with_handle();
    let mut requests: Vec<_> = (0..6).map(|i| handle.request(numbered(i, 0))).collect();
    for request in &mut requests {
        assert!(poll(request).is_pending());
    }
    poll_shared(&mut client);
    // 0 to 3 are in flight, 4 and 5 wait. Dropping 1 is too late; 4 is never sent.
    drop(requests.remove(4));
    drop(requests.remove(1));
    let sent = outgoing(&mut client);
    deliver(&mut client, &mut &frames(&sent)[..], NOW);
    poll_shared(&mut client);
    let sent = outgoing(&mut client);
    assert_eq!(sent.iter().map(number).collect::<Vec<_>>(), [5]);
    deliver(&mut client, &mut &frames(&sent)[..], NOW);
    for (request, expected) in requests.iter_mut().zip([0, 2, 3, 5]) {
        let Poll::Ready(Ok(reply)) = poll(request) else { panic!("{expected} has no reply") };
        assert_eq!(number(&reply), expected);
    }
}

#[test]
fn a_client_whose_handles_are_dropped_ends_when_its_replies_have_arrived() {
    let (mut client, handle) = with_handle();
    let mut request = handle.request(numbered(0, 0));
    assert!(poll(&mut request).is_pending());
    drop(handle.clone());
    drop(handle);
    poll_shared(&mut client);
    let sent = outgoing(&mut client);
    deliver(&mut client, &mut &frames(&sent)[..], NOW);
    let Poll::Ready(Ok(reply)) = poll(&mut request) else { panic!("the request has no reply") };
    assert_eq!(number(&reply), 0);
    drop(request);
    poll_shared(&mut client);
    assert_eq!(client.interest().write, Outbound::Finish);
    client.handle(NOW, Event::Finished);
    assert_eq!(client.reason(), Some(ClientReason::ShutDown));
}

/// No handle can wake the client.
#[test]
fn a_client_whose_handles_are_dropped_ends_when_its_last_request_is_withdrawn() {
    let (mut client, handle) = with_handle();
    let mut request = handle.request(numbered(0, 0));
    assert!(poll(&mut request).is_pending());
    drop((request, handle));
    poll_shared(&mut client);
    assert_eq!(client.interest().write, Outbound::Finish);
    assert!(outgoing(&mut client).is_empty(), "the withdrawn request was sent");
}

#[test]
fn a_request_that_cannot_be_encoded_fails_alone() {
    let (mut client, handle) = with_handle();
    let long = Message { content_type: "x".repeat(70_000).into(), ..Message::binary("") };
    let mut bad = handle.request(long.clone());
    let mut good = handle.request(numbered(1, 0));
    assert!(poll(&mut bad).is_pending() && poll(&mut good).is_pending());
    poll_shared(&mut client);
    let Poll::Ready(Err(RequestError::Encode(EncodeError::HeaderTooLong { .. }))) = poll(&mut bad)
    else {
        panic!("the header is not too long")
    };
    let sent = outgoing(&mut client);
    assert_eq!(sent.iter().map(number).collect::<Vec<_>>(), [1]);

    let mut inline = Client::new(config()).unwrap();
    assert!(matches!(inline.request(&long, NOW), Err(RequestError::Encode(_))));
    inline.request(&numbered(2, 0), NOW).unwrap();
    assert_eq!(outgoing(&mut inline).len(), 1);
}

#[test]
fn a_reply_without_a_request_ends_the_connection() {
    let mut client = Client::new(config()).unwrap();
    deliver(&mut client, &mut &frames([&numbered(0, 0)])[..], NOW);
    assert_eq!(client.interest().write, Outbound::Reset);
    client.handle(NOW, Event::Finished);
    let reason = client.reason().unwrap();
    assert_eq!((reason.clone(), reason.fault()), (ClientReason::UnexpectedReply, Fault::Peer));
}

/// A bad reply resets the connection: no later reply could be trusted.
#[test]
fn a_malformed_reply_resets_the_connection() {
    for bad in bad_frames() {
        let mut client = Client::default();
        for i in 0..=bad.frames_before {
            client.request(&numbered(i, 0), NOW).unwrap();
        }
        let _ = outgoing(&mut client);
        deliver(&mut client, &mut &bad.bytes[..], NOW);
        let truncated = bad.error.label() == "truncated";
        if truncated {
            client.handle(NOW, Event::Eof);
        }
        let expected = if truncated { Outbound::Finish } else { Outbound::Reset };
        assert_eq!(client.interest().write, expected, "{}", bad.name);
        client.handle(NOW, Event::Finished);
        let Some(ClientReason::Malformed(error)) = client.reason() else {
            panic!("{}: {:?}", bad.name, client.reason())
        };
        assert!(bad.expects(&error), "{}", bad.name);
        let replies = std::iter::from_fn(|| client.take_reply()).count();
        assert_eq!(replies, bad.frames_before, "the replies before it were lost");
    }
}

/// A server may answer and close while the request is still being sent.
#[test]
fn a_reply_that_had_arrived_before_a_write_failed_is_read() {
    let mut client = Client::new(config()).unwrap();
    client.request(&numbered(0, 0), NOW).unwrap();
    client.handle(NOW, Event::Error(Direction::Write, ConnectionError::Reset));
    deliver(&mut client, &mut &frames([&numbered(0, 0)])[..], NOW);
    client.handle(NOW, Event::Error(Direction::Read, ConnectionError::Reset));
    assert_eq!(number(&client.take_reply().unwrap()), 0);
    assert_eq!(client.reason().unwrap().label(), "reset");
}
