//! A client in tests, and the bytes between it and a server that the test is.

use alloc::{
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};

use crate::{
    Event, Instant, Machine, drive,
    nats::{Client, Config, Incoming},
};

/// A connected client.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) client: Client,
    /// What the server sends, and the client has not read.
    input: Vec<u8>,
    /// What was sent, from the next operation on.
    output: Vec<u8>,
}

/// A request that the client has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) subject: String,
    pub(super) reply: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) payload: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }
}

impl Wire {
    /// A client that the server has accepted.
    pub(super) fn connect(now: Instant) -> Self {
        let client = Client::new(Config::default().with_ping_interval(None), now).unwrap();
        let mut wire = Self { client, input: Vec::new(), output: Vec::new() };
        let info = r#"INFO {"server_id":"S","headers":true,"max_payload":4096}"#;
        wire.receive(&format!("{info}\r\nPONG\r\n"));
        assert!(matches!(wire.take(now), Some(Incoming::Connected)));
        wire.requests(now);
        wire
    }

    /// Sends `text` to the client, which reads it by [`take`](Self::take).
    fn receive(&mut self, text: &str) {
        self.input.extend(text.as_bytes());
    }

    /// The next of what the client has received.
    pub(super) fn take(&mut self, now: Instant) -> Option<Incoming> {
        let mut input = &self.input[..];
        drive::deliver(&mut self.client, &mut input, now);
        self.input = input.to_vec();
        self.client.take_incoming(now)
    }

    /// The client's deadlines that have passed.
    pub(super) fn time_out(&mut self, now: Instant) {
        if self.client.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.client.handle(now, Event::Timeout { unacknowledged: 0 });
        }
    }

    /// Receives the reply to `request`.
    pub(super) fn reply(&mut self, request: &Request, payload: &str) {
        let (subject, length) = (&request.reply, payload.len());
        self.receive(&format!("MSG {subject} 1 {length}\r\n{payload}\r\n"));
    }

    /// Receives that nobody has subscribed to the subject of `request`.
    pub(super) fn no_responders(&mut self, request: &Request) {
        let subject = &request.reply;
        self.receive(&format!("HMSG {subject} 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"));
    }

    /// What the client has sent since the last call.
    pub(super) fn requests(&mut self, now: Instant) -> Vec<Request> {
        let mut buffer = vec![0; 4096];
        loop {
            let n = drive::collect_into(&mut self.client, &mut buffer, now);
            if n == 0 {
                break;
            }
            self.output.extend(&buffer[..n]);
        }
        let mut requests = Vec::new();
        let mut rest = &self.output[..];
        while let Some(end) = rest.windows(2).position(|bytes| bytes == b"\r\n") {
            let line = String::from_utf8(rest[..end].to_vec()).unwrap();
            rest = &rest[end + 2..];
            let words = line.split(' ').collect::<Vec<_>>();
            let (subject, reply, headers, total) = match *words {
                ["PUB", subject, reply, total] => (subject, reply, "0", total),
                ["HPUB", subject, reply, headers, total] => (subject, reply, headers, total),
                _ => continue,
            };
            let [headers, total] = [headers, total].map(|number| number.parse::<usize>().unwrap());
            let block = String::from_utf8(rest[..headers].to_vec()).unwrap();
            let lines = block.lines().filter_map(|line| line.split_once(": "));
            requests.push(Request {
                subject: subject.to_string(),
                reply: reply.to_string(),
                headers: lines.map(|(name, value)| (name.to_string(), value.to_string())).collect(),
                payload: rest[headers..total].to_vec(),
            });
            rest = &rest[total + 2..];
        }
        self.output = rest.to_vec();
        requests
    }
}

/// The reply of `STREAM.INFO`.
pub(super) fn stream_info(name: &str, subject: &str, created: &str, last: u64) -> String {
    format!(
        r#"{{"config":{{"name":"{name}","subjects":["{subject}"],"storage":"file",
            "num_replicas":1,"max_bytes":-1,"max_age":10000000000,"discard":"old"}},
            "created":"{created}","state":{{"messages":1,"first_seq":1,"last_seq":{last}}}}}"#
    )
}

/// The reply of `STREAM.MSG.GET`.
pub(super) fn stored(sequence: u64, headers: &str, payload: &[u8]) -> String {
    let base64 = |bytes: &[u8]| data_encoding::BASE64.encode(bytes);
    let (headers, payload) = (base64(headers.as_bytes()), base64(payload));
    format!(
        r#"{{"message":{{"subject":"s","seq":{sequence},"hdrs":"{headers}","data":"{payload}"}}}}"#
    )
}

/// An error of the API.
pub(super) fn refusal(code: u32) -> String {
    format!(r#"{{"error":{{"code":400,"err_code":{code},"description":"text"}}}}"#)
}
