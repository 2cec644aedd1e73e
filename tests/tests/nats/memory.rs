//! What a client holds at most.

use allocation_counter::measure;
use wirestate_core::{
    Instant, Machine,
    drive::deliver,
    nats::{Client, Config, Incoming, Publish},
};

use crate::INFO;

const NOW: Instant = Instant::EPOCH;
/// What a client holds beside its buffers: INFO, maps and queues.
const OTHER: u64 = 8 * 1024;

fn connected() -> Client {
    let mut client = Client::new(Config::default(), NOW).unwrap();
    deliver(&mut client, &mut format!("{INFO}PONG\r\n").as_bytes(), NOW);
    assert!(matches!(client.take_incoming(NOW), Some(Incoming::Connected)));
    client.subscribe("a", None, NOW).unwrap();
    client
}

#[test]
fn a_client_without_input_holds_one_block() {
    let held = measure(|| {
        let mut client = connected();
        for _ in 0..1000 {
            deliver(&mut client, &mut &b"MSG a 1 1000\r\n"[..], NOW);
            deliver(&mut client, &mut &[b'x'; 1000][..], NOW);
            deliver(&mut client, &mut &b"\r\n"[..], NOW);
            assert!(client.take_incoming(NOW).is_some());
        }
    });
    // The last message of the old block is still in the client when it gets a new one.
    assert!(held.bytes_max <= 2 * 64 * 1024 + OTHER, "{}", held.bytes_max);
}

#[test]
fn a_long_message_takes_three_times_what_has_arrived_at_most() {
    for received in [100_000, 1_000_000, 5_000_000] {
        let held = measure(|| {
            let mut client = connected();
            deliver(&mut client, &mut &b"MSG a 1 8000000\r\n"[..], NOW);
            while client.take_incoming(NOW).is_some() {}
            let mut left = received;
            while left > 0 {
                let n = client.read_buf().len().min(left).min(10_000);
                deliver(&mut client, &mut &vec![b'x'; n][..], NOW);
                left -= n;
            }
        });
        let limit = 3 * received as u64 + 64 * 1024 + OTHER + 10_000;
        assert!(held.bytes_max <= limit, "{} for {received}", held.bytes_max);
    }
}

#[test]
fn pending_output_takes_at_most_four_times_its_limit() {
    let held = measure(|| {
        let mut client = connected();
        let payload = bytes::Bytes::from_static(&[b'x'; 100]);
        while client.publish(&Publish::new("a", payload.clone()), NOW).is_ok() {}
    });
    assert!(held.bytes_max <= 4 * 1024 * 1024 + 64 * 1024 + OTHER, "{}", held.bytes_max);
}
