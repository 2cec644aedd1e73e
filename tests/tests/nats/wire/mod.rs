//! The model of a cluster and a real server answer alike.

mod steps;

use std::{net::TcpStream, time::Duration};

use wirestate_core::Instant;

use self::steps::{Step, steps};
use crate::{
    model::{
        Cluster, Settings, Version,
        direct::{CONNECT, Direct, RawClient as _, operation},
    },
    real_server::Server,
};

/// A message that a server has sent: the fields of its line but for the lengths, and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Received {
    subject: String,
    line: String,
    content: String,
}

/// Takes the first whole operation of `input`. PINGs and PONGs are skipped.
fn take(input: &mut Vec<u8>) -> Option<Received> {
    loop {
        let end = input.windows(2).position(|pair| pair == b"\r\n")?;
        let line = String::from_utf8(input[..end].to_vec()).unwrap();
        if !line.starts_with("MSG ") && !line.starts_with("HMSG ") {
            input.drain(..end + 2);
            continue;
        }
        let numbers = if line.starts_with('H') { 2 } else { 1 };
        let fields: Vec<&str> = line.split(' ').collect();
        let total: usize = fields.last().unwrap().parse().unwrap();
        let length = end + 2 + total + 2;
        if input.len() < length {
            return None;
        }
        let content = String::from_utf8(input[end + 2..length].to_vec()).unwrap();
        let line = fields[..fields.len() - numbers].join(" ");
        let (subject, content) = (fields[1].to_owned(), normalized(&content));
        input.drain(..length);
        return Some(Received { subject, line: normalized(&line), content });
    }
}

/// Replaces times and names that differ between two servers.
fn normalized(text: &str) -> String {
    let mut text = text.to_owned();
    for (key, value) in [
        ("\"created\":\"", "TIME"),
        ("_ts\":\"2", "TIME"),
        ("\"ts\":\"", "TIME"),
        ("\"time\":\"", "TIME"),
        ("\"last_active\":\"", "TIME"),
        ("\"leader\":\"", "NAME"),
        ("\"_nats.ver\":\"", "VERSION"),
    ] {
        let mut start = 0;
        while let Some(index) = text[start..].find(key) {
            start += index + key.len();
            let end = start + text[start..].find('"').unwrap();
            text.replace_range(start..end, value);
        }
    }
    // `$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE.NUMBER.TIME.PENDING`
    if let Some((before, ack)) = text.split_once("$JS.ACK.") {
        let mut tokens: Vec<&str> = ack.split('.').collect();
        tokens[5] = "TIME";
        text = format!("{before}$JS.ACK.{}", tokens.join("."));
    }
    text
}

#[test]
fn the_model_answers_as_a_real_server() {
    let directory = std::env::temp_dir().join(format!("wirestate-{}-wire", std::process::id()));
    let Some(server) = Server::start(&["-js", "-sd", directory.to_str().unwrap()]) else { return };
    let mut real = TcpStream::connect(&server.address).unwrap();
    real.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut input = Vec::new();
    while !input.ends_with(b"PONG\r\n") {
        if input.is_empty() {
            real.send(CONNECT);
        }
        input.extend(real.receive());
    }
    let info = String::from_utf8(std::mem::take(&mut input)).unwrap();
    let version = if info.contains("\"version\":\"2.9.") { Version::V2_9 } else { Version::V2_15 };

    let cluster = Cluster::new(Settings { version, ..Settings::default() });
    cluster.node_up("n", Instant::EPOCH);
    let mut model = Direct::connect(&cluster, "n", Instant::EPOCH);
    for (number, step) in steps().into_iter().enumerate() {
        let Step { subject, headers, payload, wait } = step;
        let operation = operation(subject, &format!("_I.{number}"), headers, &payload);
        model.send(&operation);
        model.wait(wait + Duration::from_millis(1));
        let mut text = model.receive();
        let mut expected: Vec<_> = std::iter::from_fn(|| take(&mut text)).collect();

        // What comes late is in the next step, or in none.
        real.send(&operation);
        real.wait(wait);
        let mut found = Vec::new();
        while found.len() < expected.len() {
            match take(&mut input) {
                Some(received) => found.push(received),
                None => input.extend(real.receive()),
            }
        }
        // The order of different conversations is not defined.
        expected.sort_by(|one, two| one.subject.cmp(&two.subject));
        found.sort_by(|one, two| one.subject.cmp(&two.subject));
        assert_eq!(found, expected, "step {number}: {subject} {headers:?} {payload}");
    }
    // Nothing more has come.
    real.send(b"PING\r\n");
    while !input.ends_with(b"PONG\r\n") {
        input.extend(real.receive());
    }
    assert_eq!(take(&mut input), None);
    drop(server);
    std::fs::remove_dir_all(&directory).unwrap();
}
