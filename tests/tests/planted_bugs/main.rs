//! Machines with planted bugs, which the testkit must find. Without a bug, the machines must pass.
//!
//! The tests show which bugs each part of the testkit finds, and which check enforces each rule of
//! [`wirestate_core::machine`]. `contract.rs` has the drivers that break the rules.
//!
//! The [`LineBug`]s, which [`script::check`] finds against a model of the protocol:
//!
//! | bug | kind | what finds it |
//! |---|---|---|
//! | `ReplyLostWhenFull`, `StallsWhenFull` | queueing | a peer that does not read |
//! | `ReplyLostInFlood` | queueing | a flood of frames, until the queue is full |
//! | `SplitDelimiter` | framing | cut frames |
//! | `RepliesDroppedAtFin` | end | a FIN behind the last frame |
//! | `WriteMovesNoDeadline`, `ReadMovesNoDeadline` | deadline | `Check::with_pauses` |
//! | `Unbounded` | memory | `Checked`, a peer that does not read |
//!
//! The [`Bug`]s of an echo by rule of the contract, which `Checked` finds in random scripts:
//!
//! - State table: `NoBuffer`, `ReadsAfterEof`, `EarlyFin`, `SecondFin`, `EndsWithoutFin`,
//!   `ResetsAfterFin`, `Reopens`, `WithdrawsFin`.
//! - Rule 1: `ForgetsTimeout`.
//! - Rule 2: `EmptySlice`, `NothingToFlush`, `OtherMemory`, `ClearsMemory`.
//! - Rule 3: `OwnedTooMany`, `OwnedOther`, `OwnedEmpty`.
//! - Rule 4: `WritesAfterError`.
//! - Rule 5: `IdleErrorIgnored`.
//! - Rule 6: `SilentChange`, `LostWakeUp`, `RegistersOnce`, `Spins`.
//! - Rule 7 is for drivers: see `contract.rs`.
//! - Rule 8: `WorkDecreases`, `LongCall`.
//! - Rule 9: `ReleaseChanges`.
//! - Rule 10: `InterestAlternates`, `ChangesBetweenCalls`, `NoReason`, `OtherReason`.
//! - Rule 11: `ForgetsTimeout`, `Never`, `LateDeadline`, `EarlyDeadline`, `TimeoutAtEnd`,
//!   `Shutdowns`.
//! - Rule 12: `Cuts`.
//!
//! Other [`Bug`]s:
//!
//! - Found by random scripts: `Wrap`, `ShortWrite`, `CleanReset`, `Memory`.
//! - Found on the simulated network: `Wrap`, `ShortWrite`, `SecondFin`, `EarlyFin`, `Spins`,
//!   `LostWakeUp`, `RegistersOnce`, `NeverEnds`.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

mod lines;
mod ring;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use proptest::{
    prelude::*,
    test_runner::{Config as Cases, TestRunner},
};
use wirestate_core::{
    Event, Instant, Machine, Outbound,
    drive::Drive,
    runtime::{Listener as _, Runtime},
    shared::Lock,
};
use wirestate_testkit::{
    contract::Checked,
    script::{self, Check},
    sim::{Act, Faults, Record, Settings, Side, World, act},
};

use self::{
    lines::{FLOOD, HIGH_WATER, IDLE_TIMEOUT, LineBug, Lines, MAX_LINE},
    ring::{Bug, Gate, Ring, open},
};

/// Runs the machine without a network, under `Checked`, with random scripts and every cut.
fn alone(bug: Bug) {
    let machine = |open| {
        let gate = Arc::new(Lock::new(Gate { open, waker: None }));
        let ring = Ring::new(bug, gate.clone(), Instant::EPOCH);
        (Checked::new(ring, 8).with_deadlines(), gate)
    };
    let cases = Cases { failure_persistence: None, ..Cases::with_cases(400) };
    TestRunner::new_with_rng(cases, TestRunner::deterministic().new_rng())
        .run(&script::ops(60), |ops| {
            let (mut machine, gate) = machine(false);
            let mut player = script::Player::new(&mut machine);
            for (i, op) in ops.iter().enumerate() {
                if i == 2 {
                    open(&gate);
                }
                player.play(op);
            }
            player.play_out();
            let transcript = player.transcript();
            assert!(transcript.input.starts_with(&transcript.output), "not what was received");
            let has_error = ops.iter().any(|op| matches!(op, script::Op::Error(..)));
            let closed = ops.iter().any(|op| matches!(op, script::Op::Eof | script::Op::ShutDown));
            if transcript.label == Some("finished") {
                assert!(closed || !has_error, "an error is not a clean end");
                assert_eq!(transcript.input.len(), transcript.output.len(), "bytes are missing");
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    script::split_invariant_exhaustive(|| machine(true).0, b"0123456789");
}

/// Runs the machine on a simulated network with the real driver. The gate opens when the bytes have
/// arrived and the machine sleeps.
fn driven(bug: Bug) {
    for seed in 0..18 {
        let settings = Settings { buffer: 32, ..Settings::default() };
        let world = World::with(seed, settings);
        let (server, client) = (world.host("server"), world.host("client"));
        server.set_faults(Faults { short_write: 700, ..Faults::NONE });
        let gate = Arc::new(Lock::new(Gate::default()));
        let mut listener = server.listen("server:7").unwrap();
        let (runtime, shared) = (server.clone(), gate.clone());
        let serving = server.run(async move {
            let (socket, _peer) =
                std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            let clock = runtime.clock();
            let now = wirestate_core::drive::Clock::now(&clock);
            Drive::new(Ring::new(bug, shared, now), socket, clock).await
        });
        let opener = server.clone();
        server.run(async move {
            opener.sleep(GATE).await;
            open(&gate);
        });
        let message: Vec<u8> = (0..60).collect();
        let send = Act::Send(message.clone().into());
        let acts = match seed % 3 {
            0 => vec![send, Act::Finish, Act::Wait(2 * GATE), Act::ReceiveAll],
            1 => vec![send, Act::Receive(60), Act::Finish, Act::ReceiveAll],
            _ => vec![send, Act::Receive(60), Act::Reset],
        };
        let runtime = client.clone();
        let received = client.run(async move {
            let socket = runtime.connect("server:7").await.unwrap();
            act(runtime, socket, acts).await
        });
        world.run().unwrap_or_else(|halted| panic!("{halted}"));
        assert!(world.now().since(Instant::EPOCH) < Duration::from_secs(1_000_030), "too late");
        assert_eq!(received.take().unwrap().bytes, message);
        let is_clean = serving.take().unwrap().to_string() == "finished";
        let has_error = |record: &Record| record.side == Side::Server && record.error.is_some();
        let is_error = world.records().iter().any(has_error);
        assert_ne!(is_clean, is_error, "an end is either clean or an error");
    }
}

/// A cause that wakes a sleeping task besides its registered waker.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    /// The task's alarm.
    Alarm,
    /// A spurious wake-up.
    SpuriousWake,
    /// Input.
    Input,
}

/// Runs the machine on a simulated network, with `disturbance` after the gate has opened. Before it
/// opens, the gate wakes its registered waker once.
fn disturbed(bug: Bug, disturbance: Disturbance) {
    for seed in 0..10 {
        let world = World::new(seed);
        let (server, client) = (world.host("server"), world.host("client"));
        if let Disturbance::SpuriousWake = disturbance {
            let delay = 2 * GATE..=3 * GATE;
            server.set_faults(Faults { spurious_wake: 1000, delay, ..Faults::NONE });
        }
        let gate = Arc::new(Lock::new(Gate::default()));
        let mut listener = server.listen("server:7").unwrap();
        let (runtime, shared) = (server.clone(), gate.clone());
        server.run(async move {
            let (socket, _peer) =
                std::future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            let clock = runtime.clock();
            let mut ring = Ring::new(bug, shared, wirestate_core::drive::Clock::now(&clock));
            ring.ticks = matches!(disturbance, Disturbance::Alarm);
            Drive::new(ring, socket, clock).await
        });
        let opener = server.clone();
        server.run(async move {
            for opens in [false, true] {
                opener.sleep(GATE / 2).await;
                let waker = gate.with(|gate| {
                    gate.open = opens;
                    gate.waker.take()
                });
                waker.into_iter().for_each(Waker::wake);
            }
        });
        let acts = vec![
            Act::Send(b"held".as_slice().into()),
            Act::Wait(4 * GATE),
            Act::Send(b"more".as_slice().into()),
            Act::Receive(8),
            Act::Finish,
            Act::ReceiveAll,
        ];
        let runtime = client.clone();
        let received = client.run(async move {
            let socket = runtime.connect("server:7").await.unwrap();
            act(runtime, socket, acts).await
        });
        world.run().unwrap_or_else(|halted| panic!("{halted}"));
        assert_eq!(received.take().unwrap().bytes, b"heldmore");
    }
}

/// When the gate opens.
const GATE: Duration = Duration::from_secs(1);

/// Returns whether `harness` panics with `bug`.
fn finds(harness: fn(Bug), bug: Bug) -> bool {
    catch_unwind(AssertUnwindSafe(|| harness(bug))).is_err()
}

/// Asserts that random scripts under `Checked` find `bug`, with `expected` in the panic's message.
fn is_found(bug: Bug, expected: &str) {
    let panic = catch_unwind(AssertUnwindSafe(|| alone(bug))).expect_err("the bug was not found");
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains(expected), "{bug:?} was found by another check: {message}");
}

/// The machine under `Checked`, and its gate, which is closed.
fn checked(bug: Bug) -> (Checked<Ring>, Arc<Lock<Gate>>) {
    let gate = Arc::new(Lock::new(Gate::default()));
    (Checked::new(Ring::new(bug, gate.clone(), Instant::EPOCH), 8), gate)
}

fn receive(machine: &mut impl Machine, n: usize) {
    machine.read_buf()[..n].fill(b'x');
    machine.handle(Instant::EPOCH, Event::Read(n));
}

fn poll_shared(machine: &mut impl Machine) -> bool {
    machine.poll_shared(Instant::EPOCH, &mut Context::from_waker(Waker::noop()))
}

#[test]
fn without_a_bug_everything_passes() {
    alone(Bug::None);
    driven(Bug::None);
}

#[test]
fn the_state_table() {
    is_found(Bug::NoBuffer, "machine: it wants to read, but read_buf is empty");
    is_found(Bug::ReadsAfterEof, "machine: it wants to read after the end of its input");
    is_found(Bug::SecondFin, "machine: its output goes from Finished to Finishing");
    is_found(Bug::EndsWithoutFin, "has sent neither FIN nor RST");
    is_found(Bug::ResetsAfterFin, "machine: it wants a reset after its FIN");
    is_found(Bug::Reopens, "machine: its output goes from Finished to Open");
    is_found(Bug::WithdrawsFin, "machine: its output goes from Finishing to Open");
    is_found(Bug::EarlyFin, "bytes are missing");
}

#[test]
fn rule_1_a_wrapper_forwards_every_method() {
    let (mut machine, _) = checked(Bug::WorkDecreases);
    receive(&mut machine, 5);
    assert_eq!(machine.work(), 5);
    is_found(Bug::ForgetsTimeout, "machine: it waits for its peer without a deadline");
}

#[test]
fn rule_2_an_offer_lasts_until_the_next_call() {
    is_found(Bug::EmptySlice, "machine: it offers an empty slice");
    is_found(Bug::NothingToFlush, "machine: it fills 0 of 64 slices");
    is_found(Bug::OtherMemory, "machine: read_buf returns other memory");
    is_found(Bug::ClearsMemory, "machine: read_buf overwrites the content of its memory");
}

#[test]
fn rule_3_owned_output_is_what_write_bufs_offers() {
    is_found(Bug::OwnedTooMany, "owned bytes");
    is_found(Bug::OwnedOther, "machine: write_owned and write_bufs offer different bytes");
    is_found(Bug::OwnedEmpty, "machine: it offers an empty slice");
}

#[test]
fn rule_4_a_machine_writes_no_more_after_a_failed_write() {
    is_found(Bug::WritesAfterError, "machine: its output goes from Finished to ");
}

#[test]
fn rule_5_a_write_can_fail_while_there_is_no_output() {
    is_found(Bug::IdleErrorIgnored, "machine: its output goes from Finished to Open");
}

#[test]
fn rule_6_shared_state_changes_a_machine_only_in_poll_shared() {
    is_found(Bug::SilentChange, "machine: poll_shared returns false, but changes its observable");
    is_found(Bug::LostWakeUp, "but its waker was not woken");
    is_found(Bug::RegistersOnce, "but its waker was not woken");
}

/// Random scripts often pass a deadline, which is a reason to poll as well.
#[test]
fn rule_6_a_lost_wake_up_is_found_at_the_next_poll() {
    let (mut machine, gate) = checked(Bug::LostWakeUp);
    receive(&mut machine, 5);
    assert!(!poll_shared(&mut machine));
    open(&gate);
    let panic = catch_unwind(AssertUnwindSafe(|| poll_shared(&mut machine))).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("its waker was not woken"));
}

#[test]
fn rule_6_after_an_event_a_machine_is_polled_without_a_wake_up() {
    let (mut machine, gate) = checked(Bug::LostWakeUp);
    assert!(!poll_shared(&mut machine));
    open(&gate);
    receive(&mut machine, 5);
    assert!(poll_shared(&mut machine));
    assert_eq!(machine.interest().write, Outbound::Flush);
}

#[test]
fn rule_8_a_call_is_short() {
    is_found(Bug::WorkDecreases, "machine: its work decreases");
    is_found(Bug::LongCall, "units of work in Read");
}

#[test]
fn rule_9_release_changes_nothing() {
    is_found(Bug::ReleaseChanges, "machine: Release changes its observable state");
}

#[test]
fn rule_10_getters_have_no_side_effects() {
    is_found(Bug::InterestAlternates, "machine: interest() differs when called twice");
    is_found(Bug::ChangesBetweenCalls, "machine: its observable state changes between two calls");
    is_found(Bug::NoReason, "machine: it ends without a reason");
    is_found(Bug::OtherReason, "machine: its reason changes");
}

#[test]
fn rule_11_every_wait_has_a_deadline() {
    is_found(Bug::ForgetsTimeout, "machine: it waits for its peer without a deadline");
    is_found(Bug::Never, "machine: it waits for its peer without a deadline");
    is_found(Bug::LateDeadline, "machine: its deadline");
    is_found(Bug::EarlyDeadline, "changes its observable state");
    is_found(Bug::TimeoutAtEnd, "changes its observable state");
    is_found(Bug::Shutdowns, "machine: ShutDown changes its observable state");
}

#[test]
fn rule_11_a_second_shutdown_is_tried_after_each_first_one() {
    let (mut machine, _) = checked(Bug::Shutdowns);
    let shut_down = || machine.handle(Instant::EPOCH, Event::ShutDown);
    let panic = catch_unwind(AssertUnwindSafe(shut_down)).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("ShutDown changes its observable state"), "{message}");
}

#[test]
fn rule_12_the_output_does_not_depend_on_the_cuts() {
    is_found(Bug::Cuts, "not what was received");
}

#[test]
fn scripts_and_the_contract_find_other_bugs_of_a_machine() {
    for bug in [Bug::Wrap, Bug::ShortWrite, Bug::CleanReset, Bug::Memory] {
        assert!(finds(alone, bug), "{bug:?} was not found");
    }
}

#[test]
fn the_world_finds_bugs_between_a_machine_its_driver_and_its_peers() {
    for bug in [
        Bug::Wrap,
        Bug::ShortWrite,
        Bug::SecondFin,
        Bug::EarlyFin,
        Bug::Spins,
        Bug::LostWakeUp,
        Bug::NeverEnds,
    ] {
        assert!(finds(driven, bug), "{bug:?} was not found");
    }
}

#[test]
fn the_world_finds_a_lost_wake_up_whatever_else_wakes_the_task() {
    let disturbances = [Disturbance::Alarm, Disturbance::SpuriousWake, Disturbance::Input];
    for disturbance in disturbances {
        disturbed(Bug::None, disturbance);
        for bug in [Bug::LostWakeUp, Bug::RegistersOnce] {
            let found = catch_unwind(AssertUnwindSafe(|| disturbed(bug, disturbance))).is_err();
            assert!(found, "{bug:?} was hidden by {disturbance:?}");
        }
    }
}

/// Checks the line protocol against a model. A child process has one of its bugs.
#[test]
fn lines_are_counted() {
    let name = env::var(PLANTED).unwrap_or_else(|_| "None".to_owned());
    let bug = LineBug::ALL.into_iter().find(|bug| format!("{bug:?}") == name).unwrap();
    let lines = prop_oneof![19 => "[a-z\r]{0,8}[a-z]{0,14}\r\n", 1 => "[a-z]{23,40}\r\n"];
    let too_long = "too long\r\n";
    let replies = |lines: &[String]| {
        let mut replies = Vec::new();
        for line in lines {
            if line.len() > MAX_LINE {
                replies.extend(too_long.bytes());
                break;
            }
            replies.extend(format!("{}\r\n", line.len() - 2).bytes());
        }
        replies
    };
    let limit = if bug == LineBug::ReplyLostInFlood { FLOOD } else { HIGH_WATER };
    let machine = || Checked::new(Lines::new(bug), limit + 4 + too_long.len()).with_deadlines();
    Check::new().with_cases(128).with_pauses(IDLE_TIMEOUT).run(machine, lines, replies);
}

/// Set in a child process, in which the line protocol has this bug.
const PLANTED: &str = "TEST_PLANTED_BUG";

#[test]
fn a_check_against_a_model_finds_bugs_of_framing_queueing_and_deadlines() {
    for bug in LineBug::ALL {
        let expected = match bug {
            LineBug::None => continue,
            LineBug::ReplyLostWhenFull
            | LineBug::ReplyLostInFlood
            | LineBug::SplitDelimiter
            | LineBug::RepliesDroppedAtFin
            | LineBug::StallsWhenFull => "the output differs",
            LineBug::WriteMovesNoDeadline | LineBug::ReadMovesNoDeadline => "idle for 60s",
            LineBug::Unbounded => "machine: it offers",
        };
        let mut test = Command::new(env::current_exe().unwrap());
        test.args(["--exact", "lines_are_counted", "--nocapture"]).env(PLANTED, format!("{bug:?}"));
        test.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1").env("PROPTEST_RNG_SEED", "0");
        let output = test.env("WIRESTATE_SHRINK_SECONDS", "1").output().unwrap();
        assert!(!output.status.success(), "{bug:?} was not found");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains(expected), "{bug:?} was found by another check: {message}");
    }
}

#[test]
fn a_cut_that_changes_the_result_is_reported_with_few_pieces() {
    let split = || script::split_invariant(|| Lines::new(LineBug::SplitDelimiter), INPUT);
    let panic = catch_unwind(split).expect_err("the bug was not found");
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.starts_with("cut into [4, 32], output accepted at the end: "), "{message}");
    assert!(message.contains("expected: b\"3\\r\\n"), "{message}");

    // The second line ends the connection, however much of the rest was read.
    let transcript = script::split_invariant(|| Lines::new(LineBug::None), INPUT);
    assert_eq!((&*transcript.output, transcript.done), (&b"3\r\ntoo long\r\n"[..], true));
    assert!(transcript.input.len() < INPUT.len());
}

/// A line, a line that is too long, and one more.
const INPUT: &[u8] = b"abc\r\nabcdefghijklmnopqrstuvwxyz\r\nabc";
