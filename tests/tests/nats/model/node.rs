//! The machine of a client's connection to a node.

use std::task::Context;

use bytes::{Buf as _, Bytes, BytesMut};
use wirestate_core::{
    AnyReason, ConnectionError, Event, Fault, Instant, Interest, Machine, Outbound, Reason,
};

use super::{
    Cluster,
    state::{Operation, State},
    stream::Publication,
};

/// A connection to a node.
#[derive(Debug)]
pub(crate) struct Node {
    cluster: Cluster,
    id: u64,
    buffer: Vec<u8>,
    input: BytesMut,
    output: BytesMut,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Closing,
    Closed,
    Lost(ConnectionError),
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?}")]
pub(crate) struct Ended(End);

impl Reason for Ended {
    fn label(&self) -> &'static str {
        "ended"
    }

    fn fault(&self) -> Fault {
        Fault::None
    }
}

impl Node {
    pub(super) fn new(cluster: Cluster, id: u64) -> Self {
        let (input, output) = (BytesMut::new(), BytesMut::new());
        Self { cluster, id, buffer: vec![0; 8192], input, output, end: None }
    }

    /// Applies the whole operations in the input.
    fn apply(&mut self, now: Instant) {
        let Self { cluster, id, input, output, end, .. } = self;
        cluster.with(|state| {
            state.now = state.now.max(now);
            while end.is_none()
                && let Some(length) = state.apply(*id, input, output)
            {
                if length == 0 {
                    *end = Some(End::Closing);
                }
                input.advance(length);
            }
        });
    }
}

impl State {
    /// Applies the first operation. Returns its length; 0 if the connection has to end; `None` if
    /// it has not arrived yet.
    fn apply(&mut self, id: u64, input: &BytesMut, output: &mut BytesMut) -> Option<usize> {
        let end = input.windows(2).position(|pair| pair == b"\r\n")?;
        let line = str::from_utf8(&input[..end]).unwrap();
        let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
        match words[..] {
            ["CONNECT", json] => {
                let json: serde_json::Value = serde_json::from_str(json).unwrap();
                let connection = self.connections.get_mut(&id)?;
                connection.has_echo = json["echo"] != false;
                connection.has_no_responders = json["no_responders"] == true;
            }
            ["PING"] => output.extend_from_slice(b"PONG\r\n"),
            ["PONG"] => {}
            ["SUB", subject, name] => self.subscribe(id, subject, name),
            ["UNSUB", name] => self.unsubscribe(id, name, None),
            ["UNSUB", name, max] => self.unsubscribe(id, name, Some(max.parse().unwrap())),
            [verb @ ("PUB" | "HPUB"), subject, ref more @ ..] => {
                let numbers = if verb == "PUB" { 1 } else { 2 };
                let (reply, numbers) = more.split_at(more.len() - numbers);
                let total: usize = numbers.last()?.parse().unwrap();
                if total > self.settings.max_payload {
                    output.extend_from_slice(b"-ERR 'Maximum Payload Violation'\r\n");
                    return Some(0);
                }
                let (start, length) = (end + 2, end + 2 + total + 2);
                if input.len() < length {
                    return None;
                }
                assert_eq!(&input[length - 2..length], b"\r\n");
                let headers = match numbers {
                    [headers, _] => headers.parse().unwrap(),
                    _ => 0,
                };
                let body = Bytes::copy_from_slice(&input[start..start + total]);
                let node = self.connections.get(&id)?.node.clone();
                self.publish(Operation {
                    connection: id,
                    node,
                    reply: reply.first().map_or(String::new(), |&reply| reply.to_owned()),
                    publication: Publication {
                        subject: subject.to_owned(),
                        headers: body.slice(..headers),
                        payload: body.slice(headers..),
                    },
                    is_delivered: false,
                });
                return Some(length);
            }
            _ => panic!("the client has sent {line:?}"),
        }
        Some(end + 2)
    }
}

impl Machine for Node {
    type Reason = AnyReason;

    fn interest(&self) -> Interest {
        let flush = Outbound::Flush;
        match self.end {
            None if self.output.is_empty() => Interest { read: true, write: Outbound::Idle },
            None => Interest { read: true, write: flush },
            Some(End::Closing) if !self.output.is_empty() => Interest { read: false, write: flush },
            Some(End::Closing) => Interest { read: false, write: Outbound::Finish },
            Some(End::Closed | End::Lost(_)) => Interest::DONE,
        }
    }

    fn read_buf(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    fn write_bufs<'a>(&'a self, out: &mut [&'a [u8]]) -> usize {
        out[0] = &self.output;
        1
    }

    fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Read(n) => {
                self.input.extend_from_slice(&self.buffer[..n]);
                self.apply(now);
            }
            Event::Written(n) => self.output.advance(n),
            Event::Eof | Event::ShutDown => self.end = self.end.or(Some(End::Closing)),
            Event::Finished => self.end = Some(End::Closed),
            Event::Error(_, error) => self.end = Some(End::Lost(error)),
            Event::Timeout { .. } | Event::Release => {}
        }
    }

    fn poll_shared(&mut self, _now: Instant, cx: &mut Context<'_>) -> bool {
        let more = self.cluster.state.with(|state| {
            let Some(connection) = state.connections.get_mut(&self.id) else {
                return BytesMut::new();
            };
            connection.waker = Some(cx.waker().clone());
            connection.outbox.split()
        });
        let has_changed = !more.is_empty() && self.end.is_none();
        if has_changed {
            self.output.unsplit(more);
        }
        has_changed
    }

    fn reason(&self) -> Option<AnyReason> {
        match self.end {
            None | Some(End::Closing) => None,
            Some(end) => Some(AnyReason::of(&Ended(end))),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cluster.with(|state| state.disconnect(self.id));
    }
}
