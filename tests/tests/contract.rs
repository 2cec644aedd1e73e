//! The echo's machines without a runtime: under any input they keep the contract, their output is
//! right, and their memory is bounded. Drivers that break the contract: `Checked` names the fault
//! of each. Machines that break the contract are in `planted_bugs`.

use std::{
    num::{NonZeroU64, NonZeroUsize},
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;
use wirestate_command_line::load::{Load, LoadConfig, Pace, Schedule};
use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Interest, Linger, Machine, Outbound, Reason as _,
    buffer::Pool,
    echo::{
        Client, ClientConfig, ClientReason, Config, Connection, EchoReason, Prefix, Server,
        StreamClient, StreamConfig, StreamReason,
    },
    shared::Shared,
};
use wirestate_testkit::{
    contract::Checked,
    coverage::Coverage,
    for_each_case,
    script::{self, CONNECTION_ERRORS, Ending, Op, Player},
};

const SIZE: NonZeroUsize = NonZeroUsize::new(16).unwrap();

fn config() -> Config {
    Config::default().with_buffer(SIZE).with_linger(Linger { bytes: 24, ..Linger::default() })
}

fn prefixed() -> Config {
    let prefix = Prefix { text: Bytes::from_static(b"echo: "), chunk: SIZE };
    config().with_prefix(Some(prefix))
}

/// `queued` must not exceed the documented memory of a connection.
fn checked(config: Config) -> Checked<Connection> {
    let limit = config.buffer_size();
    Checked::new(
        Server::new(config).expect("the configuration is valid").machine(Instant::EPOCH),
        limit,
    )
    .with_deadlines()
}

#[test]
fn an_active_client_gets_its_bytes_back_and_is_not_timed_out() {
    let idle = Duration::from_secs(10);
    script::Check::new().with_pauses(idle).run(
        || checked(config().with_idle_timeout(Some(idle))),
        prop::collection::vec(any::<u8>(), 1..24),
        <[Vec<u8>]>::concat,
    );
}

#[test]
fn an_echo_keeps_the_contract() {
    for_each_case(256, script::ops(120), |ops| {
        let transcript = script::play_out(&mut checked(config()), &ops);
        assert_eq!(transcript.done, transcript.reason.is_some());
        assert!(transcript.input.starts_with(&transcript.output), "it is not the input");
        if matches!(transcript.label, Some("finished" | "shut_down")) {
            assert_eq!(transcript.ending, Some(Ending::Fin), "a clean end without a FIN");
        }
        if transcript.label == Some("finished") {
            assert_eq!(&transcript.output, &transcript.input, "bytes are missing");
        }
    });
}

#[test]
fn an_echo_with_a_prefix_keeps_the_contract() {
    for_each_case(256, script::ops(120), |ops| {
        let mut machine = checked(prefixed());
        let mut player = Player::new(&mut machine);
        for op in &ops {
            player.play(op);
        }
        player.play_out();
        let transcript = player.transcript();
        assert_eq!(transcript.done, transcript.reason.is_some());
        if transcript.label == Some("finished") {
            let chunks: Vec<&Op> = ops.iter().filter(|op| matches!(op, Op::Receive(_))).collect();
            let prefixes = transcript.output.windows(6).filter(|text| text == b"echo: ").count();
            assert!(prefixes >= chunks.len().min(1).min(transcript.input.len()));
            assert_eq!((transcript.output.len() - transcript.input.len()) % 6, 0);
        }
    });
}

/// Between the ops, the client's user sends messages and takes replies.
#[test]
fn a_client_keeps_the_contract() {
    for_each_case(
        256,
        (script::ops(120), prop::collection::vec(any::<u8>(), 0..40), any::<bool>()),
        |(ops, message, echoes)| {
            let limits = ClientConfig::default().with_max_reply(64);
            let mut client = Checked::new(Client::new(limits), 40).with_deadlines();
            let mut player = Player::new(&mut client);
            for op in &ops {
                let now = player.now();
                player.machine().machine_mut().send(message.clone().into(), now);
                player.play(op);
                if echoes && matches!(op, Op::Accept(_)) {
                    player.play(&Op::Receive(message.clone()));
                }
                if let Some(reply) = player.machine().machine_mut().take_reply() {
                    assert!(reply.len() <= 64 && !reply.is_empty());
                }
            }
            player.play_out();
            let transcript = player.transcript();
            assert_eq!(transcript.done, transcript.reason.is_some());
        },
    );
}

/// What is received is taken now and then, and after each step once the input has ended.
#[test]
fn a_stream_client_keeps_the_contract() {
    for_each_case(
        256,
        (
            script::ops(120),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..10),
            any::<bool>(),
        ),
        |(ops, blocks, finishes)| {
            let client = StreamClient::new(StreamConfig::default()).unwrap();
            let mut client = Checked::new(client, 40);
            let mut player = Player::new(&mut client);
            let (mut given, mut taken) = (Vec::new(), Vec::new());
            let mut blocks = blocks.into_iter();
            for (i, op) in ops.iter().enumerate() {
                let now = player.now();
                let client = player.machine().machine_mut();
                if client.wants_input() {
                    match blocks.next() {
                        Some(block) => {
                            given.extend_from_slice(&block);
                            assert!(client.send(block.into(), now));
                        }
                        None if finishes => client.finish(now),
                        None => {}
                    }
                }
                player.play(op);
                if i % 3 == 0 || blocks.len() == 0 {
                    let now = player.now();
                    taken.extend(player.machine().machine_mut().take(now).unwrap_or_default());
                }
            }
            let now = player.now();
            taken.extend(player.machine().machine_mut().take(now).unwrap_or_default());
            player.play_out();
            let reason = player.machine().reason();
            let transcript = player.transcript();
            assert!(given.starts_with(&transcript.output), "it is not the input");
            assert!(transcript.input.starts_with(&taken), "it was not received");
            if let Some(StreamReason::Complete { .. }) = reason {
                assert_eq!(&transcript.output, &given, "bytes are missing");
                assert_eq!(&transcript.input, &taken, "bytes are missing");
            }
        },
    );
}

/// The load's input is random, or an echo of its output.
#[test]
fn a_load_keeps_the_contract() {
    for_each_case(
        256,
        (
            script::ops(120),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..4),
            0..4_u64,
            0..5_usize,
            prop::option::of(1..1000_u64),
            any::<bool>(),
        ),
        |(ops, messages, rounds, pipelined, rate, echoes)| {
            let messages: Vec<Bytes> = messages.into_iter().map(Bytes::from).collect();
            let config =
                LoadConfig::default().with_messages(Shared::from(messages)).with_rounds(rounds);
            let schedule = rate.and_then(NonZeroU64::new).map(|rate| Schedule {
                rate,
                connections: NonZeroUsize::MIN,
                index: 0,
            });
            let pace = NonZeroUsize::new(pipelined).map_or(Pace::Lockstep, Pace::Pipelined);
            let config = config.with_pace(pace).with_schedule(schedule);
            let load = Load::new(config, Pool::new(16, 1), Instant::EPOCH, |_| {}).unwrap();
            let limit = 12 * 20; // all rounds of all messages
            let mut load = Checked::new(load, limit).with_deadlines();
            let mut player = Player::new(&mut load);
            let mut returned = 0;
            for op in &ops {
                if !(echoes && matches!(op, Op::Receive(_))) {
                    player.play(op);
                }
                let sent = player.output()[returned..].to_vec();
                if echoes && !sent.is_empty() {
                    returned += sent.len();
                    player.play(&Op::Receive(sent));
                }
            }
            player.play_out();
            let transcript = player.transcript();
            assert_eq!(transcript.done, transcript.reason.is_some());
            if transcript.label == Some("complete") {
                assert_eq!(transcript.input, transcript.output, "the echo was not verified");
            }
            if echoes {
                let blamed = matches!(transcript.label, Some("mismatch" | "surplus"));
                assert!(!blamed, "it blames the server, which has echoed every byte");
            }
        },
    );
}

/// While output is pending, a message becomes due without a deadline.
#[test]
fn a_timeout_before_its_deadline_counts_no_message_as_due() {
    let schedule =
        Schedule { rate: NonZeroU64::new(500).unwrap(), connections: NonZeroUsize::MIN, index: 0 };
    let config = LoadConfig::default()
        .with_messages(Shared::from(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]))
        .with_rounds(1)
        .with_schedule(Some(schedule));
    let load = Load::new(config, Pool::new(16, 1), NOW, |_| {}).unwrap();
    let ops = [Op::Advance(Duration::from_millis(2)), Op::SpuriousTimeout];
    let transcript = script::play(&mut Checked::new(load, 2), &ops);
    assert_eq!(transcript.label, None);
}

#[test]
fn the_echo_of_16_bytes_does_not_depend_on_the_cut() {
    let transcript = script::split_invariant_exhaustive(
        // The buffer is smaller than the input, so it fills up and wraps.
        || checked(config().with_buffer(NonZeroUsize::new(7).unwrap())),
        b"0123456789abcdef",
    );
    assert_eq!(
        (&*transcript.output, transcript.label),
        (&b"0123456789abcdef"[..], Some("finished"))
    );
}

#[test]
fn the_echo_of_a_long_input_does_not_depend_on_the_cut() {
    let input: Vec<u8> = (0..=255).cycle().take(5000).collect();
    assert_eq!(script::split_invariant(|| checked(config()), &input).output, input);
}

#[test]
fn an_idle_echo_holds_no_buffer_and_a_busy_one_holds_one() {
    let server = Server::new(config().with_idle_buffers(0)).unwrap();
    let mut machine = Checked::new(server.machine(Instant::EPOCH), SIZE.get());
    let receive = Op::Receive(vec![1; 3 * SIZE.get()]);
    let mut player = Player::new(&mut machine);
    player.play(&receive);
    assert_eq!(player.machine().status().queued, SIZE.get(), "the rest stays in the kernel");
    assert!(!player.machine().interest().read, "it reads although its buffer is full");
    player.play(&Op::Accept(SIZE.get() - 1));
    assert_eq!(
        player.machine().status().queued,
        SIZE.get(),
        "it does not read although its buffer has space"
    );
}

#[test]
fn by_default_64_kib_are_queued_and_nothing_beyond_them_is_read() {
    let mut machine = Checked::new(Server::default().machine(Instant::EPOCH), 65_536);
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(vec![1; 200_000]));
    assert_eq!(player.machine().status().queued, 65_536);
    assert!(!player.machine().interest().read);
}

#[test]
fn a_byte_received_or_acknowledged_defers_the_idle_timeout() {
    let limit = Config::default().idle_timeout.unwrap();
    let wait = [Op::Advance(limit * 2 / 3), Op::SpuriousTimeout];
    let receive = [Op::Receive(vec![1])];
    let echo = [Op::Receive(vec![1]), Op::Accept(1)];
    let late = [&receive[..], &wait, &[Op::Accept(1)]].concat();
    let ops = [&echo[..], &wait, &echo, &wait, &late, &wait].concat();
    let mut machine = checked(config());
    script::play(&mut machine, &ops);
    assert_eq!(machine.status().state, "open");
    // A byte that only the kernel accepts, or that adds to the pending output, does not defer it.
    let backlog = [Op::Receive(vec![1; 2])];
    for more in [Op::Receive(vec![1]), Op::Buffer(1), Op::Buffer(2)] {
        let ops = [&backlog[..], &wait, &[more], &wait].concat();
        let mut machine = checked(config());
        script::play(&mut machine, &ops);
        assert_eq!(machine.status().state, "resetting");
    }
    let mut machine = checked(config());
    script::play(&mut machine, &[wait.clone(), wait].concat());
    assert_eq!(machine.status().state, "closing");
}

#[test]
fn a_reason_names_the_fault() {
    use wirestate_core::Fault;
    let ends = [
        (vec![Op::Eof], Fault::None),
        (vec![Op::ShutDown, Op::Timeout, Op::Release, Op::Finished, Op::Eof], Fault::Requested),
        (vec![Op::Timeout], Fault::Time),
        (
            vec![Op::Error(
                wirestate_core::Direction::Read,
                wirestate_core::ConnectionError::Reset,
            )],
            Fault::Lost,
        ),
    ];
    for (ops, fault) in ends {
        let mut machine = checked(config());
        script::play_out(&mut machine, &ops);
        assert_eq!(machine.reason().map(|reason| reason.fault()), Some(fault), "after {ops:?}");
    }
}

const NOW: Instant = Instant::EPOCH;
const RESET: ConnectionError = ConnectionError::Reset;

fn receive(machine: &mut impl Machine, n: usize) {
    machine.read_buf()[..n].fill(b'x');
    machine.handle(NOW, Event::Read(n));
}

fn poll_shared(machine: &mut impl Machine) -> bool {
    machine.poll_shared(NOW, &mut Context::from_waker(Waker::noop()))
}

/// How many bytes the machine offers to write.
fn offered(machine: &impl Machine) -> usize {
    let mut bufs = [&[][..]; 4];
    let n = machine.write_bufs(&mut bufs);
    bufs[..n].iter().map(|buf| buf.len()).sum()
}

/// Asserts that `Checked` blames the driver, not the machine, for `mistake`.
fn assert_blamed(fault: &str, mistake: impl FnOnce(&mut Checked<Connection>)) {
    let mut machine = checked(config());
    let panic = catch_unwind(AssertUnwindSafe(|| mistake(&mut machine))).expect_err(fault);
    let message = panic.downcast_ref::<String>().expect("the message is formatted");
    assert!(message.contains(&format!("driver: {fault}")), "{fault}: {message}");
}

/// Asserts that `event` is illegal after the events `before`.
fn assert_illegal(before: &[Event], event: Event) {
    assert_blamed(&format!("{event:?}, but the machine wants"), |machine| {
        for before in before {
            if let Event::Read(n) = before {
                receive(machine, *n);
            } else {
                machine.handle(NOW, *before);
            }
        }
        machine.handle(NOW, event);
    });
}

#[test]
fn the_state_table_holds_for_drivers() {
    let (read_error, write_error) =
        (Event::Error(Direction::Read, RESET), Event::Error(Direction::Write, RESET));
    // Neither the end of the input nor a read error, while the machine does not read.
    assert_illegal(&[Event::Read(16)], Event::Eof);
    assert_illegal(&[Event::Read(16)], read_error);
    assert_illegal(&[Event::Eof], Event::Eof);
    assert_illegal(&[Event::Eof], read_error);
    assert_illegal(&[], Event::Written(1));
    assert_illegal(&[], Event::Finished);
    assert_illegal(&[Event::Read(5)], Event::Finished);
    assert_illegal(&[Event::Eof, Event::Finished], Event::Finished);
    // No write can fail after a FIN, after another write has failed, or instead of a reset.
    assert_illegal(&[Event::Eof, Event::Finished], write_error);
    assert_illegal(&[Event::Read(5), write_error], write_error);
    assert_blamed("Error(Write, Reset), but the machine wants", |machine| {
        receive(machine, 5);
        let mut late = NOW;
        while machine.interest().write == Outbound::Flush {
            late = machine.poll_timeout().unwrap();
            machine.handle(late, Event::Timeout { unacknowledged: 0 });
        }
        assert_eq!(machine.interest().write, Outbound::Reset);
        machine.handle(late, write_error);
    });
    assert_blamed("read_buf", |machine| {
        receive(machine, 16);
        machine.read_buf();
    });
    assert_blamed("write_bufs", |machine| {
        let _ = offered(machine);
    });
    assert_blamed("write_owned", |machine| {
        machine.write_owned(&mut [Bytes::new()], 1);
    });
}

#[test]
fn rule_2_written_follows_an_offer_of_output_directly() {
    type Between = fn(&mut Checked<Connection>);
    let between: [(Event, Between); 8] = [
        (Event::Written(5), |machine| {
            let _ = poll_shared(machine);
        }),
        (Event::Written(5), |machine| {
            let _ = machine.read_buf();
        }),
        (Event::Written(5), |machine| machine.handle(NOW, Event::Release)),
        (Event::Written(5), |machine| machine.handle(NOW, Event::Timeout { unacknowledged: 0 })),
        (Event::Written(2), |machine| machine.handle(NOW, Event::Written(3))),
        (Event::Written(6), |_| {}),
        (Event::Written(0), |_| {}),
        (Event::Written(3), |machine| {
            assert_eq!(machine.write_owned(&mut [Bytes::new()], 2), 1);
        }),
    ];
    for (event, between) in between {
        assert_blamed(&format!("{event:?}, but"), |machine| {
            receive(machine, 5);
            assert_eq!(offered(machine), 5);
            between(machine);
            machine.handle(NOW, event);
        });
    }
}

#[test]
fn rule_2_read_follows_read_buf_directly() {
    type Between = fn(&mut Checked<Connection>);
    let between: [(Event, Between); 6] = [
        (Event::Read(5), |machine| {
            let _ = poll_shared(machine);
        }),
        (Event::Read(5), |machine| machine.handle(NOW, Event::Release)),
        (Event::Read(5), |machine| machine.handle(NOW, Event::Read(5))),
        (Event::Read(5), |machine| {
            let _ = machine.machine_mut();
        }),
        (Event::Read(17), |_| {}),
        (Event::Read(0), |_| {}),
    ];
    for (event, between) in between {
        assert_blamed(&format!("{event:?}, but"), |machine| {
            machine.read_buf();
            between(machine);
            machine.handle(NOW, event);
        });
    }
    assert_illegal(&[], Event::Read(1));
}

/// The calls take `&self`, or repeat the call that has made the offer.
#[test]
fn rule_2_an_offer_survives_calls_that_change_nothing() {
    let mut machine = checked(config());
    machine.read_buf()[0] = b'1';
    machine.read_buf()[1] = b'2';
    let _ = (machine.interest(), machine.poll_timeout(), machine.status(), machine.reason());
    machine.handle(NOW, Event::Read(2));
    assert_eq!((offered(&machine), offered(&machine)), (2, 2));
    let mut owned = [Bytes::new()];
    assert_eq!(machine.write_owned(&mut owned, 9), 1);
    assert_eq!(owned[0], "12");
    machine.handle(NOW, Event::Written(2));
    assert_eq!(machine.interest(), Interest { read: true, write: Outbound::Idle });
}

/// A driver offers 64 slices at once. The machine has more.
#[test]
fn offered_output_is_bounded_in_any_number_of_slices() {
    let checked = |limit| {
        let messages = Shared::from(vec![Bytes::from_static(b"!")]);
        let config = LoadConfig::default().with_messages(messages).with_rounds(200);
        let load = Load::new(config, Pool::new(16, 1), Instant::EPOCH, |_| {}).unwrap();
        catch_unwind(AssertUnwindSafe(|| drop(Checked::new(load, limit))))
    };
    checked(200).unwrap();
    let panic = checked(199).expect_err("one byte more than the limit must panic");
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.starts_with("machine: it offers 200 bytes of output, the limit is 199"));
}

/// Linux reports a reset only once.
#[test]
fn rule_4_the_end_of_the_input_after_a_failed_write_is_an_error() {
    let load = || {
        let messages = Shared::from(vec![Bytes::from_static(b"hello")]);
        let config = LoadConfig::default().with_messages(messages);
        let load = Load::new(config, Pool::new(16, 1), Instant::EPOCH, |_| {}).unwrap();
        let mut load = Checked::new(load, b"hello".len());
        load.handle(NOW, Event::Error(Direction::Write, RESET));
        assert!(load.interest().read, "the server may have sent the cause");
        load
    };
    let mistake = AssertUnwindSafe(|| load().handle(NOW, Event::Eof));
    let panic = catch_unwind(mistake).expect_err("an Eof after a failed write must panic");
    assert_eq!(panic.downcast_ref(), Some(&"driver: Eof after a failed write"));
    load().handle(NOW, Event::Error(Direction::Read, RESET));
}

#[test]
fn rule_5_a_write_can_fail_while_there_is_no_output_and_a_fin_is_pending() {
    let write_error = Event::Error(Direction::Write, RESET);
    for before in [&[][..], &[Event::Eof], &[Event::ShutDown]] {
        let mut machine = checked(config());
        for event in before {
            machine.handle(NOW, *event);
        }
        machine.handle(NOW, write_error);
        assert!(machine.interest().is_done() || !machine.interest().read);
    }
}

#[test]
fn rule_7_now_never_goes_backwards() {
    type Call = fn(&mut Checked<Connection>);
    let calls: [Call; 4] = [
        |machine| {
            let _ = poll_shared(machine);
        },
        |machine| machine.handle(NOW, Event::Eof),
        |machine| machine.handle(NOW, Event::Timeout { unacknowledged: 0 }),
        |machine| machine.handle(NOW, Event::Release),
    ];
    for call in calls {
        assert_blamed("time goes back", |machine| {
            machine.handle(NOW + Duration::from_nanos(1), Event::Release);
            call(machine);
        });
    }
}

/// A driver that sends `Release` in every state gets the same output as one that never sends it.
#[test]
fn rule_9_release_is_optional_and_legal_in_every_state() {
    let ops = [
        Op::Receive(vec![1; 16]),
        Op::Accept(7),
        Op::Receive(vec![2; 9]),
        Op::Eof,
        Op::Accept(99),
        Op::Accept(99),
        Op::Finished,
    ];
    let released: Vec<Op> = ops.iter().flat_map(|op| [op.clone(), Op::Release]).collect();
    let transcript = script::play(&mut checked(config()), &ops);
    assert_eq!(transcript.label, Some("finished"));
    assert_eq!(script::play(&mut checked(config()), &released), transcript);
}

/// Asserts that `machine` ends by each error of the connection.
fn ends_by_each_error<M: Machine>(machine: impl Fn() -> M) {
    for error in CONNECTION_ERRORS {
        let ops = [Op::Error(Direction::Read, error)];
        let transcript = script::play_to_end(&mut machine(), &ops);
        assert_eq!(transcript.label, Some(error.label()));
    }
}

#[test]
fn every_reason_of_an_echo_is_reached() {
    let coverage = Coverage::start();
    for (op, label) in
        [(Op::Eof, "finished"), (Op::ShutDown, "shut_down"), (Op::Timeout, "idle_timeout")]
    {
        let ops = [Op::Receive(b"hello".to_vec()), Op::Accept(5), op];
        assert_eq!(script::play_to_end(&mut checked(config()), &ops).label, Some(label));
    }
    ends_by_each_error(|| checked(config()));
    coverage.demand_reasons::<EchoReason>();
}

#[test]
fn every_reason_of_an_echo_client_is_reached() {
    let coverage = Coverage::start();
    let client = || {
        let mut client = Client::new(ClientConfig::default().with_max_reply(64));
        assert!(client.send("hello".into(), Instant::EPOCH));
        Checked::new(client, 5)
    };
    for (op, label) in [
        (Op::ShutDown, "shut_down"),
        (Op::Eof, "closed"),
        (Op::Timeout, "no_reply"),
        (Op::Receive(vec![0; 65]), "reply_too_long"),
    ] {
        let transcript = script::play_to_end(&mut client(), &[Op::Accept(5), op]);
        assert_eq!(transcript.label, Some(label));
    }
    ends_by_each_error(client);
    coverage.demand_reasons::<ClientReason>();
}

#[test]
fn every_reason_of_a_stream_client_is_reached() {
    let coverage = Coverage::start();
    let client = |has_input: bool| {
        let mut client = StreamClient::new(StreamConfig::default()).unwrap();
        if has_input {
            client.send("hello".into(), Instant::EPOCH);
        } else {
            client.finish(Instant::EPOCH);
        }
        Checked::new(client, 5)
    };
    for (has_input, ops, label) in [
        (false, vec![Op::Finished, Op::Eof], "complete"),
        (true, vec![Op::Accept(5), Op::Eof], "closed"),
        (true, vec![Op::Timeout], "idle_timeout"),
        (true, vec![Op::ShutDown], "shut_down"),
    ] {
        let transcript = script::play_to_end(&mut client(has_input), &ops);
        assert_eq!(transcript.label, Some(label), "{ops:?}");
    }
    ends_by_each_error(|| client(true));
    coverage.demand_reasons::<StreamReason>();
}
