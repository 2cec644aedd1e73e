//! Owned output, for writes that complete later.

use bytes::Bytes;
use wirestate_core::{
    Instant, Machine,
    drive::{collect_owned, deliver},
    message::{Client, Message, Server, service},
};
use wirestate_testkit::{contract::Checked, message::frames};

const NOW: Instant = Instant::EPOCH;

/// Takes all output of `machine` in parts of at most `max` bytes. It sends `large` twice.
fn shares_large_contents<M: Machine>(machine: M, max: usize, expected: &[u8], large: &Bytes) {
    let (mut machine, mut output) = (Checked::new(machine, 1 << 20), Vec::new());
    let mut shared = 0;
    loop {
        let mut bufs = [const { Bytes::new() }; 3];
        let n = collect_owned(&mut machine, &mut bufs, max, NOW);
        if n == 0 {
            break;
        }
        assert!(bufs[..n].iter().map(Bytes::len).sum::<usize>() <= max);
        for buf in &bufs[..n] {
            output.extend_from_slice(buf);
            if large.as_ptr_range().contains(&buf.as_ptr()) {
                shared += buf.len();
            }
        }
    }
    assert!(output == expected, "{max} bytes at once");
    assert_eq!(shared, 2 * large.len(), "a large content was copied");
}

#[test]
fn owned_output_equals_borrowed_output_and_shares_large_contents() {
    let large = Bytes::from(vec![7; 5000]);
    let messages = [
        Message::binary(large.clone()),
        Message::binary("a"),
        Message::binary(large.clone()),
        Message::binary("b"),
        Message::binary("c"),
    ];
    let expected = frames(&messages);
    for max in [1, 100, 4999, usize::MAX] {
        let mut client = Client::default();
        let mut replies = messages.clone().into_iter();
        let reply = service::function(move |_| replies.next().unwrap());
        let mut server = Server::with_default_config(reply).machine(NOW);
        for message in &messages {
            client.request(message, NOW).unwrap();
        }
        deliver(&mut server, &mut &frames(&[(); 5].map(|()| Message::binary("")))[..], NOW);
        shares_large_contents(client, max, &expected, &large);
        shares_large_contents(server, max, &expected, &large);
    }
}
