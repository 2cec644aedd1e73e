//! A shrunk test tells apart the machine that recorded a session and the one that replays it, or
//! shows the end or the panic of the one that replays it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Waker},
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Linger, Machine, Outbound,
    drive::MAX_SLICES,
    echo,
    fanout::{MessageSource, MessageSourceConfig},
    message::{self, Message, service},
    record::{self, DifferenceKind, Recordable, Recorded, Recording, ShrinkError, What, shrink},
};
use wirestate_testkit::{
    message::{frames, messages},
    proptest_config,
    script::{garbage, truncated},
};

use crate::{
    Blocks,
    mutations::{Mutant, Mutation, mutations},
    printed,
};

/// What a driver does in a turn.
#[derive(Clone, Debug)]
enum Turn {
    /// Only shared state is polled.
    Shared,
    Receive(Vec<u8>),
    Eof,
    Fail(Direction),
    Accept(usize),
    Finish,
    Wait(u64),
    /// A deadline passes while the peer has not acknowledged this many bytes.
    Timeout(usize),
    SpuriousTimeout(usize),
    ShutDown,
}

fn turns(input: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        10 => input.prop_map(Turn::Receive),
        10 => prop_oneof![1..40_usize, Just(usize::MAX)].prop_map(Turn::Accept),
        3 => Just(Turn::Finish),
        2 => Just(Turn::Shared),
        2 => (0..20_u64).prop_map(Turn::Wait),
        2 => (0..20_usize).prop_map(Turn::Timeout),
        2 => (0..20_usize).prop_map(Turn::SpuriousTimeout),
        1 => Just(Turn::Eof),
        1 => Just(Turn::ShutDown),
        1 => prop_oneof![Just(Direction::Read), Just(Direction::Write)].prop_map(Turn::Fail),
    ];
    vec(turn, 0..30)
}

/// Drives `machine` from `now` on, as the contract demands.
fn drive(machine: &mut impl Machine, mut now: Instant, turns: &[Turn]) {
    let mut can_fail = true;
    for turn in turns {
        machine.poll_shared(now, &mut Context::from_waker(Waker::noop()));
        let interest = machine.interest();
        let event = match turn {
            Turn::Receive(bytes) if interest.read && !bytes.is_empty() => {
                let buf = machine.read_buf();
                let n = bytes.len().min(buf.len());
                buf[..n].copy_from_slice(&bytes[..n]);
                Event::Read(n)
            }
            // After a failed write, the end of the input is an error.
            Turn::Eof if interest.read && can_fail => Event::Eof,
            Turn::Fail(Direction::Read) | Turn::Eof if interest.read => {
                Event::Error(Direction::Read, ConnectionError::Other { errno: -5 })
            }
            Turn::Fail(Direction::Write)
                if can_fail && !matches!(interest.write, Outbound::Finished | Outbound::Reset) =>
            {
                can_fail = false;
                Event::Error(Direction::Write, ConnectionError::Reset)
            }
            Turn::Accept(max) if interest.write == Outbound::Flush => {
                let mut bufs = [&[][..]; MAX_SLICES];
                let count = machine.write_bufs(&mut bufs);
                Event::Written(bufs[..count].iter().map(|buf| buf.len()).sum::<usize>().min(*max))
            }
            Turn::Finish if matches!(interest.write, Outbound::Finish | Outbound::Reset) => {
                can_fail = false;
                Event::Finished
            }
            Turn::Timeout(unacknowledged) => {
                let Some(deadline) = machine.poll_timeout() else { continue };
                now = now.max(deadline);
                Event::Timeout { unacknowledged: *unacknowledged }
            }
            Turn::SpuriousTimeout(unacknowledged) => {
                Event::Timeout { unacknowledged: *unacknowledged }
            }
            Turn::ShutDown => Event::ShutDown,
            Turn::Wait(seconds) => {
                now += Duration::from_secs(*seconds);
                continue;
            }
            Turn::Shared
            | Turn::Receive(_)
            | Turn::Eof
            | Turn::Fail(_)
            | Turn::Accept(_)
            | Turn::Finish => continue,
        };
        machine.handle(now, event);
        now += Duration::from_nanos(1);
    }
}

/// Records `turns` with `recording`, and shrinks them with `replaying`.
fn check<M: Recordable>(
    recording: impl Fn(Instant) -> M,
    replaying: impl Fn(Instant) -> M,
    turns: &[Turn],
) -> Result<(), TestCaseError> {
    // A server's clock has begun before the session.
    let (blocks, start) = (Blocks::default(), Instant::EPOCH + Duration::from_secs(1000));
    let mut machine = Recorded::new(recording(start), Some(blocks.recorder(start)));
    let _ = catch_unwind(AssertUnwindSafe(|| drive(&mut machine, start, turns)));
    drop(machine);
    let bytes = blocks.bytes();
    let session = Recording::read(&bytes).unwrap();
    let replay = record::replay(&mut replaying(start), &session);
    let replayed = replay.difference.clone();
    let difference = replayed.as_ref().map(|difference| difference.kind.clone());
    let has_nothing = difference.is_none() && replay.reason.is_none() && replay.panic.is_none();
    let has_panicked = matches!(difference, Some(DifferenceKind::Panicked(_)));
    let is_panic = has_panicked || replay.panic.is_some();
    match shrink(&session, replay, || replaying(Instant::EPOCH)) {
        Err(ShrinkError::NothingToShow) => prop_assert!(has_nothing),
        // What differs is not part of a transcript, and nothing else follows from it.
        Err(ShrinkError::NotReproduced) if replayed.is_some() => {
            let difference = replayed.unwrap();
            let step = session.steps().filter(|step| step.offset == difference.offset).last();
            let is_unseen = matches!(step.unwrap().what, What::Event(_) | What::Shared)
                || matches!(difference.kind, DifferenceKind::Accepted { .. });
            prop_assert!(is_unseen, "{difference}");
        }
        Err(error) => prop_assert!(false, "{error}: {difference:?}"),
        Ok(test) => {
            let source = test.source(&["echo"], "machine()");
            let passes = printed::passes(&source, replaying(Instant::EPOCH));
            if is_panic {
                prop_assert!(!passes, "{source}");
            } else if difference.is_none() {
                prop_assert!(passes, "{source}");
            } else {
                let recorded = printed::passes(&source, recording(Instant::EPOCH));
                prop_assert_eq!((recorded, passes), (true, false), "{:?}\n{}", difference, source);
            }
        }
    }
    Ok(())
}

/// Checks a session of `machine` and one of its mutant.
fn check_both<M: Recordable>(
    machine: impl Fn(Instant) -> M,
    mutation: Mutation,
    turns: &[Turn],
) -> Result<(), TestCaseError> {
    let original = |now| Mutant::new(machine(now), Mutation::None, now);
    let mutant = |now| Mutant::new(machine(now), mutation, now);
    check(original, mutant, turns)?;
    check(mutant, original, turns)
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn a_test_of_an_echo_tells_two_machines_apart(
        turns in turns("[ -~\n]{1,12}".prop_map(String::into_bytes)),
        mutation in mutations(),
    ) {
        let config = echo::Config::default()
            .with_buffer(32.try_into().unwrap())
            .with_idle_timeout(Duration::from_secs(30));
        let server = echo::Server::new(config).unwrap();
        check_both(|now| server.machine(now), mutation, &turns)?;
    }

    #[test]
    fn a_test_of_a_message_server_tells_two_machines_apart(
        turns in turns(prop_oneof![
            8 => messages(64).prop_map(|message| frames([&message])),
            // More requests than it answers at once.
            2 => messages(8).prop_map(|message| frames(vec![&message; 100])),
            1 => truncated(messages(64).prop_map(|message| frames([&message]))),
            1 => garbage(),
        ]),
        mutation in mutations(),
    ) {
        let config = message::Config::default()
            .with_linger(Linger { time: Duration::from_secs(2), bytes: 10 })
            .with_idle_timeout(Duration::from_secs(30));
        let reply = |request: Message<'_>| Message::json(request.content.len().to_string());
        let server = message::Server::new(config, service::function(reply)).unwrap();
        check_both(|now| server.machine(now), mutation, &turns)?;
    }

    /// Its messages have the time.
    #[test]
    fn a_test_of_a_source_tells_two_machines_apart(
        turns in turns(garbage()),
        mutation in mutations(),
        count in 0..20_u64,
    ) {
        let config = MessageSourceConfig::default()
            .with_size(50.try_into().unwrap())
            .with_rate(2)
            .with_count(Some(count));
        let source = |now: Instant| {
            let epoch = Duration::from_secs(1_000_000).saturating_sub(now.since_epoch());
            MessageSource::new(config.with_epoch(epoch), now).unwrap()
        };
        check_both(source, mutation, &turns)?;
    }
}
