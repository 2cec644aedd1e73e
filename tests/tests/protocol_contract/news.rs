//! News: output that no request has asked for.

use std::time::Duration;

use wirestate_core::{Interest, Machine, Outbound};
use wirestate_testkit::script::{Op, Player};

use crate::{Orders, machine, small};

#[test]
fn news_come_between_replies() {
    let orders = Orders::default();
    let mut machine = machine(small(), orders.clone());
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(b"say a\n".into()));
    orders.publish("one");
    orders.publish("two");
    player.play(&Op::Release);
    player.play(&Op::Receive(b"say b\n".into()));
    player.play(&Op::Accept(usize::MAX));
    assert_eq!(str::from_utf8(player.output()), Ok("a\nnews: one\nnews: two\nb\n"));
}

#[test]
fn a_peer_that_does_not_read_takes_no_more_news_than_the_high_water_mark() {
    let orders = Orders::default();
    let mut machine = machine(small(), orders.clone());
    let line = "x".repeat(1000);
    (0..1000).for_each(|_| orders.publish(&line));
    let mut player = Player::new(&mut machine);
    player.play(&Op::Release);
    assert!(orders.unread_news() > 900, "{} are unread", orders.unread_news());
    let queued = player.machine().status().queued;
    assert!(queued < 64 * 1024 + 1100, "{queued} bytes are queued");
    let interest = Interest { read: false, write: Outbound::Flush };
    assert_eq!(player.machine().interest(), interest);

    // It reads again: nothing is lost.
    while orders.unread_news() > 0 || player.machine().status().queued > 0 {
        player.play(&Op::Accept(usize::MAX));
    }
    assert_eq!(player.output().len(), 1000 * "news: \n".len() + 1000 * 1000);
}

#[test]
fn news_that_fail_end_the_connection_with_an_error_reply() {
    let orders = Orders::default();
    let mut machine = machine(small(), orders.clone());
    let mut player = Player::new(&mut machine);
    orders.publish("one");
    orders.publish("fail");
    player.play(&Op::Release);
    player.play_out();
    player.play(&Op::Eof);
    let transcript = player.transcript();
    assert_eq!(str::from_utf8(&transcript.output), Ok("news: one\nerror: the news failed\n"));
    assert_eq!(transcript.label, Some("malformed"));
}

#[test]
fn news_without_end_do_not_delay_a_shutdown() {
    let orders = Orders::default();
    let mut machine = machine(small(), orders.clone());
    let mut player = Player::new(&mut machine);
    player.play(&Op::ShutDown);
    for _ in 0..3 {
        orders.publish("more");
        player.play(&Op::Accept(usize::MAX));
        player.play(&Op::Advance(Duration::from_millis(5)));
    }
    player.play(&Op::SpuriousTimeout); // 15 ms have passed, the wait is 10 ms
    player.play_out();
    player.play(&Op::Eof);
    let transcript = player.transcript();
    assert_eq!((&*transcript.output, transcript.label), (&b""[..], Some("shut_down")));
}
