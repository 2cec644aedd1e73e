//! Runs a NATS client's connection with any steps, and any use of it.

use std::num::NonZeroUsize;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use wirestate_core::{
    Instant, Machine,
    nats::{Client, Config, HeaderBlock, Incoming, Publish, SendError},
};
use wirestate_testkit::{contract::Checked, script::Op};

use crate::steps::{self, KINDS, PrintOnPanic, Stage, Step};

/// Decodes the steps of a connection and the uses of its client from `bytes`: operations of a
/// server and other bytes that arrive, accepted output, time; messages, requests and subscriptions
/// that are made, and what is taken.
///
/// Checks the [contract](wirestate_testkit::contract), and the documented limits of pending output
/// and of requests. If the server is gone, the connection ends by its deadlines.
///
/// # Panics
/// If a check fails.
pub fn nats(bytes: &[u8]) {
    let Ok(actions) = decode(&mut Unstructured::new(bytes)) else { return };
    let _shown = PrintOnPanic(&actions);
    let client = Client::new(config(), Instant::EPOCH).expect("the configuration is valid");
    let mut machine = Checked::new(client, MAX_QUEUED);
    let mut stage = Stage::new(&mut machine);
    let mut subscriptions = Vec::new();
    for action in &actions {
        let now = stage.player.now();
        let client = stage.player.machine().machine_mut();
        match action {
            Action::Step(step) => stage.play(step),
            Action::Take(count) => {
                for _ in 0..*count {
                    match client.take_incoming(now) {
                        Some(Incoming::Message(message)) => {
                            let _ = (message.headers(), message.subject(), message.reply());
                            let _ = message.into_payload();
                        }
                        Some(_) => {}
                        None => break,
                    }
                }
            }
            Action::Publish { size, headers, request } => {
                let mut block = HeaderBlock::new();
                if *headers {
                    block.push("A", size).expect("the header is valid");
                }
                let payload = vec![b'p'; usize::from(*size)];
                let message = Publish::new("a.b", payload).with_headers(&block);
                let sent = if *request {
                    client.request(&message, now).map(drop)
                } else {
                    client.publish(&message, now)
                };
                assert!(!matches!(sent, Err(SendError::Subject(_))), "{sent:?}");
            }
            Action::Subscribe => subscriptions.extend(client.subscribe("a.>", None, now)),
            Action::Unsubscribe(max) => {
                if let Some(subscription) = subscriptions.last() {
                    let _ = client.unsubscribe_after(*subscription, u64::from(*max), now);
                }
            }
            Action::Flush => drop(client.flush(now)),
        }
        assert!(stage.player.machine().status().lag <= MAX_REQUESTS as u64);
    }
    // While something waits to be taken, the client waits for its owner, without a deadline.
    stage.player.play(&Op::ShutDown);
    stage.abandon();
    assert!(machine.reason().is_some(), "the connection has ended");
}

/// A step of the connection, or a use of the client.
#[derive(Debug)]
enum Action {
    Step(Step),
    Take(u8),
    Publish { size: u8, headers: bool, request: bool },
    Subscribe,
    Unsubscribe(u8),
    Flush,
}

fn config() -> Config {
    let count = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    Config::default()
        .with_buffer(count(4096))
        .with_max_info(count(512))
        .with_max_control_line(count(128))
        .with_max_message(count(9000))
        .with_max_pending(count(1000))
        .with_max_requests(count(MAX_REQUESTS))
}

fn decode(u: &mut Unstructured<'_>) -> Result<Vec<Action>> {
    let mut actions = Vec::new();
    // Most connections are accepted.
    if u.arbitrary::<u8>()? < 0xe0 {
        let greeting =
            b"INFO {\"server_id\":\"S\",\"headers\":true,\"max_payload\":200}\r\nPONG\r\n";
        actions.push(Action::Step(Step::Send(Bytes::from_static(greeting))));
        actions.push(Action::Step(Step::Deliver(usize::MAX)));
        actions.push(Action::Take(1));
    }
    while !u.is_empty() && actions.len() < MAX_ACTIONS {
        let kind = u.arbitrary::<u8>()? % (KINDS + 10);
        actions.push(match kind.checked_sub(KINDS) {
            // The frames of another protocol.
            None if kind < 2 => Action::Step(Step::Send(operation(u)?.into())),
            None => Action::Step(steps::step(kind, u)?),
            Some(0..=2) => Action::Take(u.arbitrary::<u8>()? % 8),
            Some(3..=5) => {
                let (size, flags) = (u.arbitrary()?, u.arbitrary::<u8>()?);
                Action::Publish { size, headers: flags & 1 > 0, request: flags & 2 > 0 }
            }
            Some(6) => Action::Subscribe,
            Some(7) => Action::Unsubscribe(u.arbitrary::<u8>()? % 4),
            Some(_) => Action::Flush,
        });
        if kind == 1 {
            actions.push(Action::Step(Step::Deliver(usize::MAX)));
        }
    }
    Ok(actions)
}

/// Decodes an operation of a server.
fn operation(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let kind = u.arbitrary::<u8>()? % 12;
    Ok(match kind {
        0..=4 => {
            let payload = steps::content(u)?;
            let (id, reply) = (1 + u.arbitrary::<u8>()? % 3, ["", " r"][usize::from(kind & 1)]);
            let subject = ["a.b", "_INBOX.S.0.0", "_INBOX.S.0.1"][usize::from(kind % 3)];
            let length = payload.len();
            let (mut bytes, headers) = if kind == 4 {
                let headers = "NATS/1.0 503\r\n\r\n";
                let total = length + headers.len();
                (format!("HMSG {subject} {id}{reply} {} {total}\r\n", headers.len()), headers)
            } else {
                (format!("MSG {subject} {id}{reply} {length}\r\n"), "")
            };
            bytes.push_str(headers);
            [bytes.as_bytes(), &payload, b"\r\n"].concat()
        }
        5 => b"PING\r\n".to_vec(),
        6 | 7 => b"PONG\r\n".to_vec(),
        8 => b"+OK\r\n".to_vec(),
        9 => b"INFO {\"server_id\":\"S\",\"ldm\":true,\"connect_urls\":[\"a:1\"]}\r\n".to_vec(),
        10 => b"-ERR 'Invalid Subject'\r\n".to_vec(),
        _ => b"-ERR 'Stale Connection'\r\n".to_vec(),
    })
}

/// The limit of requests, and of flushes.
const MAX_REQUESTS: usize = 4;
/// The documented limit of a client's output: `max_pending`, and one message; CONNECT; PONGs.
const MAX_QUEUED: usize = 1000 + 350 + 300 + 128 * 6;
/// The most actions of a case.
const MAX_ACTIONS: usize = 96;
