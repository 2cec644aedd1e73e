//! Every reason for which a connection can end.

use wirestate_core::{Direction, Instant, drive::deliver, protocol::ProtocolReason};
use wirestate_testkit::{
    coverage::Coverage,
    script::{self, CONNECTION_ERRORS, Op},
};

use crate::{eviction::Full, machine, orders::Orders, small};

const NOW: Instant = Instant::EPOCH;

fn end(ops: &[Op]) -> &'static str {
    let config = small().with_max_memory(1000);
    script::play_to_end(&mut machine(config, Orders::default()), ops).label.unwrap()
}

fn receive(text: &str) -> Op {
    Op::Receive(text.into())
}

#[test]
fn every_reason_is_reached() {
    let coverage = Coverage::start();
    for (ops, label) in [
        (vec![receive("bye\n")], "finished"),
        (vec![Op::ShutDown], "shut_down"),
        (vec![Op::Timeout], "idle_timeout"),
        (vec![receive("nonsense\n")], "malformed"),
        (vec![receive("say"), Op::Eof], "truncated"),
        (vec![receive(&"x".repeat(101))], "frame_too_long"),
        (vec![receive("say"), Op::Timeout], "header_timeout"),
        (vec![receive("raw 50\nx"), Op::Timeout], "content_timeout"),
        (vec![receive("big 5000\n")], "memory"),
        (vec![receive("later x\n"), Op::Timeout], "service_timeout"),
        (vec![receive("say a\n"), Op::Timeout], "write_stalled"),
    ] {
        assert_eq!(end(&ops), label, "{ops:?}");
    }
    for error in CONNECTION_ERRORS {
        assert_eq!(end(&[Op::Error(Direction::Read, error)]), error.label());
    }

    let full = Full::new();
    let mut evicted = full.connection("");
    deliver(&mut evicted, &mut &b"say a\n"[..], NOW);
    script::collect(&mut evicted, NOW);
    assert_eq!(full.evict(&mut [&mut evicted], NOW), Some(0));
    assert_eq!(script::play_to_end(&mut evicted, &[Op::Timeout]).label, Some("evicted"));
    // Only the message server ends a connection after its first reply.
    coverage.demand_reasons_except::<ProtocolReason>(["answered"]);
}
