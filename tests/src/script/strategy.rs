//! Scripts to draw.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};
use wirestate_core::{ConnectionError, Direction};

use super::Op;

/// Scripts of up to `longest` ops. Bytes that arrive, and what the kernel accepts, come in small
/// pieces (up to 32 bytes), so give the machine small buffers: what goes wrong goes wrong where
/// they are full, or wrap.
pub fn ops(longest: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 0..=longest)
}

fn op() -> impl Strategy<Value = Op> {
    // What ends a connection is rare, so that something happens before it.
    prop_oneof![
        12 => vec(any::<u8>(), 1..=32).prop_map(Op::Receive),
        10 => (1..=32_usize).prop_map(Op::Accept),
        4 => (1..=32_usize).prop_map(Op::Buffer),
        4 => Just(Op::Release),
        3 => (0..=120_000_u64).prop_map(|millis| Op::Advance(Duration::from_millis(millis))),
        2 => Just(Op::SpuriousTimeout),
        2 => Just(Op::Finished),
        1 => Just(Op::Timeout),
        1 => Just(Op::Eof),
        1 => Just(Op::ShutDown),
        1 => (way(), lost()).prop_map(|(way, why)| Op::Lost(way, why)),
    ]
}

fn way() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Read), Just(Direction::Write)]
}

fn lost() -> impl Strategy<Value = ConnectionError> {
    prop_oneof![
        Just(ConnectionError::Reset),
        Just(ConnectionError::TimedOut),
        Just(ConnectionError::Unreachable),
        Just(ConnectionError::WriteZero),
        any::<i32>().prop_map(|errno| ConnectionError::Other { errno }),
    ]
}
