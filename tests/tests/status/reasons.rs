//! Every reason for which a connection can end.

use std::task::{Context, Waker};

use wirestate_core::{Direction, Instant, Machine as _, drive::deliver, status::StatusReason};
use wirestate_testkit::{
    coverage::Coverage,
    script::{self, CONNECTION_ERRORS, Op},
};

use crate::alone::{HOST, machine, server};

const NOW: Instant = Instant::EPOCH;

fn end(ops: &[Op]) -> &'static str {
    script::play_to_end(&mut machine(&server()), ops).label.unwrap()
}

/// The operation that receives a request with this line and these fields.
fn request(line: &str, fields: &str) -> Op {
    Op::Receive(format!("{line}\r\n{HOST}{fields}\r\n").into())
}

#[test]
fn every_reason_is_reached() {
    let coverage = Coverage::start();
    let get = |fields: &str| request("GET /healthz HTTP/1.1", fields);
    for (ops, label) in [
        (vec![get("Connection: close\r\n")], "finished"),
        (vec![Op::ShutDown], "shut_down"),
        (vec![get(""), Op::Accept(usize::MAX), Op::Timeout], "idle_timeout"),
        (vec![request("GET HTTP/1.1", "")], "bad_request"),
        (vec![get("Content-Length: 5\r\n")], "content"),
        (vec![request("GET / HTTP/2.0", "")], "version"),
        (vec![get(&format!("A: {}\r\n", "x".repeat(9000)))], "head_too_large"),
        (vec![Op::Receive("GET".into()), Op::Eof], "truncated"),
        (vec![Op::Receive("GET".into()), Op::Timeout], "header_timeout"),
        (vec![get(""), Op::Timeout], "write_stalled"),
    ] {
        assert_eq!(end(&ops), label, "{ops:?}");
    }
    for error in CONNECTION_ERRORS {
        assert_eq!(end(&[Op::Error(Direction::Read, error)]), error.label());
    }

    let server = server();
    let mut evicted = machine(&server);
    deliver(&mut evicted, &mut format!("GET /healthz HTTP/1.1\r\n{HOST}\r\n").as_bytes(), NOW);
    script::collect(&mut evicted, NOW);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(!evicted.poll_shared(NOW, &mut cx));
    assert!(server.idle_connections().poll_evict(&mut cx).is_pending());
    assert_eq!(
        script::play_to_end(&mut evicted, &[Op::Release, Op::Timeout]).label,
        Some("evicted")
    );

    // A request has neither a reply that waits for a service nor content, and its head has a limit
    // of its own, below those of a frame and of all memory.
    let unreachable =
        ["answered", "frame_too_long", "content_timeout", "memory", "service_timeout"];
    coverage.demand_reasons_except::<StatusReason>(unreachable);
}
