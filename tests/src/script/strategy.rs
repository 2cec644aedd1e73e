//! Proptest strategies for scripts.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};
use wirestate_core::{ConnectionError, Direction};

use super::Op;

/// Scripts of at most `max_len` ops.
///
/// An op receives or accepts at most 32 bytes. Give the machine buffers of that size, so that they
/// fill up and wrap: most errors are there.
pub fn ops(max_len: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 0..=max_len)
}

fn op() -> impl Strategy<Value = Op> {
    // Ops that end the connection are rare, so that other ops come before them.
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
        1 => (direction(), error()).prop_map(|(direction, error)| Op::Error(direction, error)),
    ]
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Read), Just(Direction::Write)]
}

fn error() -> impl Strategy<Value = ConnectionError> {
    prop_oneof![
        Just(ConnectionError::Reset),
        Just(ConnectionError::TimedOut),
        Just(ConnectionError::Unreachable),
        Just(ConnectionError::WriteZero),
        any::<i32>().prop_map(|errno| ConnectionError::Other { errno }),
    ]
}
