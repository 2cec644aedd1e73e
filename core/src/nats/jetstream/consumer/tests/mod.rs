//! A consumer on a client that is fed with bytes.

mod failures;
mod property;
mod server;

use std::{prelude::v1::*, time::Duration};

use super::*;
use crate::{Machine as _, drive, nats::Config};

/// A client that has connected, and a consumer.
struct Bench {
    client: Client,
    consumer: Consumer,
    now: Instant,
    /// What the client has sent and the test has not looked at.
    sent: String,
}

impl Bench {
    fn new(config: ConsumerConfig) -> Self {
        let (consumer, now) = (Consumer::new(config).unwrap(), Instant::EPOCH);
        let client = Client::new(Config::default(), now).unwrap();
        let mut bench = Self { client, consumer, now, sent: String::new() };
        bench.connect();
        bench
    }

    /// Begins another connection.
    fn connect(&mut self) {
        self.consumer.disconnected();
        self.client = Client::new(Config::default(), self.now).unwrap();
        self.sent.clear();
        self.receive("INFO {\"server_id\":\"S\",\"headers\":true}\r\nPONG\r\n");
    }

    /// Gives the client what a server has sent, and the consumer what is incoming.
    fn receive(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        let mut turns = 0;
        while !rest.is_empty() || turns == 0 {
            turns += 1;
            assert!(turns < 10_000, "the client does not read");
            drive::deliver(&mut self.client, &mut rest, self.now);
            while let Some(incoming) = self.client.take_incoming(self.now) {
                if matches!(incoming, Incoming::Connected) {
                    self.consumer.connected(&mut self.client, self.now);
                } else {
                    let other = self.consumer.handle(&mut self.client, incoming, self.now);
                    // A reply may come after the consumer has begun anew.
                    let is_late = matches!(&other, Some(Incoming::Reply { .. }));
                    assert!(other.is_none() || is_late, "{other:?}");
                }
            }
        }
        self.collect();
    }

    fn collect(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        let n = drive::collect_into(&mut self.client, &mut buffer, self.now);
        self.sent.push_str(str::from_utf8(&buffer[..n]).unwrap());
    }

    /// What the client has sent since the last call.
    fn take_sent(&mut self) -> String {
        self.collect();
        std::mem::take(&mut self.sent)
    }

    /// Takes an event, and lets the consumer ask for more.
    fn take(&mut self) -> Option<ConsumerEvent> {
        let event = self.consumer.take_event();
        self.consumer.pump(&mut self.client, self.now);
        event
    }

    /// Lets time pass, with all deadlines of the consumer.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(deadline) = self.consumer.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(deadline);
            self.consumer.handle_timeout(&mut self.client, self.now);
            let next = self.consumer.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "a deadline stays");
        }
        self.now = until;
    }
}

/// The reply subject of a delivery.
fn ack(sequence: u64, delivery: u64) -> String {
    format!("$JS.ACK.orders.c1.1.{sequence}.{delivery}.170.0")
}

/// The JSON of a stream.
fn stream_json(created: u64, first: u64, last: u64) -> String {
    format!(
        "{{\"config\":{{\"name\":\"orders\",\"subjects\":[\"new\"],\"storage\":\"file\",\
         \"num_replicas\":1,\"max_bytes\":-1,\"max_age\":0,\"discard\":\"old\"}},\
         \"created\":\"{created}\",\"state\":{{\"messages\":{},\"first_seq\":{first},\
         \"last_seq\":{last}}}}}",
        (last + 1).saturating_sub(first),
    )
}
