//! The echo's machines, alone: whatever happens to them, the contract holds, what comes out is
//! right, and memory is bounded.

use std::num::NonZeroUsize;

use bytes::Bytes;
use proptest::{prelude::*, test_runner::FileFailurePersistence};
use wirestate_core::{
    Instant, Linger, Machine, Reason as _,
    buffer::Pool,
    echo::{Client, ClientConfig, Config, Echo, Load, LoadConfig, Pace, Prefix, Server},
    shared::Shared,
};
use wirestate_testkit::{
    contract::Checked,
    script::{self, Op, Player, Sent},
};

const SIZE: NonZeroUsize = NonZeroUsize::new(16).unwrap();

fn config() -> Config {
    Config { buffer: SIZE, linger: Linger { bytes: 24, ..Linger::default() }, ..Config::default() }
}

fn prefixed() -> Config {
    let prefix = Prefix { text: Bytes::from_static(b"echo: "), chunk: SIZE };
    Config { prefix: Some(prefix), ..config() }
}

/// `queued` may not go beyond what the documentation says that a connection holds.
fn checked(config: Config) -> Checked<Echo> {
    let limit = config.buffer_size();
    Checked::new(Server::new(config).machine(Instant::EPOCH), limit)
}

/// Failures are kept beside the crate's sources.
fn proptest_config() -> ProptestConfig {
    let file = FileFailurePersistence::Direct("proptest-regressions/contract.txt");
    ProptestConfig { failure_persistence: Some(Box::new(file)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn an_echo_keeps_the_contract(ops in script::ops(120)) {
        let transcript = script::play_out(&mut checked(config()), &ops);
        prop_assert_eq!(transcript.done, transcript.reason.is_some());
        prop_assert!(transcript.input.starts_with(&transcript.output), "not what was received");
        if matches!(transcript.label, Some("finished" | "shut_down")) {
            prop_assert_eq!(transcript.sent, Some(Sent::Fin), "a clean end without a FIN");
        }
        if transcript.label == Some("finished") {
            prop_assert_eq!(&transcript.output, &transcript.input, "not all of it");
        }
    }

    #[test]
    fn an_echo_with_a_prefix_keeps_the_contract(ops in script::ops(120)) {
        let mut machine = checked(prefixed());
        let mut player = Player::new(&mut machine);
        for op in &ops {
            player.play(op);
        }
        player.play_out();
        let transcript = player.transcript();
        prop_assert_eq!(transcript.done, transcript.reason.is_some());
        if transcript.label == Some("finished") {
            let chunks: Vec<&Op> = ops.iter().filter(|op| matches!(op, Op::Receive(_))).collect();
            let prefixes = transcript.output.windows(6).filter(|text| text == b"echo: ").count();
            prop_assert!(prefixes >= chunks.len().min(1).min(transcript.input.len()));
            prop_assert_eq!((transcript.output.len() - transcript.input.len()) % 6, 0);
        }
    }

    /// Between the ops it is asked for what it is asked for by its user.
    #[test]
    fn a_client_keeps_the_contract(
        ops in script::ops(120),
        message in prop::collection::vec(any::<u8>(), 0..40),
        echoes in any::<bool>(),
    ) {
        let limits = ClientConfig { max_reply: 64, ..ClientConfig::default() };
        let mut client = Checked::new(Client::new(limits), 40);
        let mut player = Player::new(&mut client);
        for op in &ops {
            let now = player.now();
            player.machine().machine_mut().say(message.clone().into(), now);
            player.play(op);
            if echoes && matches!(op, Op::Accept(_)) {
                player.play(&Op::Receive(message.clone()));
            }
            if let Some(reply) = player.machine().machine_mut().take_reply() {
                prop_assert!(reply.len() <= 64 && !reply.is_empty());
            }
        }
        player.play_out();
        let transcript = player.transcript();
        prop_assert_eq!(transcript.done, transcript.reason.is_some());
    }

    /// What the script sends is noise to it; or it is given back what it sent.
    #[test]
    fn a_load_keeps_the_contract(
        ops in script::ops(120),
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..4),
        rounds in 0..4_u64,
        pace in prop_oneof![Just(Pace::Lockstep), (1..5_usize).prop_map(|n| {
            Pace::Pipelined(NonZeroUsize::new(n).unwrap())
        })],
        echoes in any::<bool>(),
    ) {
        let messages: Vec<Bytes> = messages.into_iter().map(Bytes::from).collect();
        let config =
            LoadConfig { messages: Shared::from(messages), rounds, pace, ..LoadConfig::default() };
        let load = Load::new(config, Pool::new(16, 1), Instant::EPOCH, |_| {});
        let mut load = Checked::new(load, 0);
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
        prop_assert_eq!(transcript.done, transcript.reason.is_some());
        if transcript.label == Some("complete") {
            prop_assert_eq!(transcript.input, transcript.output, "it did not look");
        }
        if echoes {
            let blamed = matches!(transcript.label, Some("mismatch" | "surplus"));
            prop_assert!(!blamed, "every byte was its own");
        }
    }
}

#[test]
fn an_echo_is_the_same_for_every_way_to_cut_16_bytes() {
    let transcript = script::split_invariant_exhaustive(
        // Smaller than the input, so that it fills up and wraps.
        || checked(Config { buffer: NonZeroUsize::new(7).unwrap(), ..config() }),
        b"0123456789abcdef",
    );
    assert_eq!(
        (&*transcript.output, transcript.label),
        (&b"0123456789abcdef"[..], Some("finished"))
    );
}

#[test]
fn an_echo_of_a_long_input_does_not_depend_on_the_cut() {
    let input: Vec<u8> = (0..=255).cycle().take(5000).collect();
    assert_eq!(script::split_invariant(|| checked(config()), &input).output, input);
}

#[test]
fn an_idle_echo_holds_no_buffer_and_a_busy_one_holds_one() {
    let server = Server::new(Config { idle_buffers: 0, ..config() });
    let mut machine = Checked::new(server.machine(Instant::EPOCH), SIZE.get());
    let receive = Op::Receive(vec![1; 3 * SIZE.get()]);
    let mut player = Player::new(&mut machine);
    player.play(&receive);
    assert_eq!(player.machine().status().queued, SIZE.get(), "the rest waits with the kernel");
    assert!(!player.machine().interest().read, "that is backpressure");
    player.play(&Op::Accept(SIZE.get() - 1));
    assert_eq!(player.machine().status().queued, SIZE.get(), "and comes when there is room");
}

#[test]
fn by_default_64_kib_are_queued_and_nothing_beyond_them_is_read() {
    let mut machine = Checked::new(Server::new(Config::default()).machine(Instant::EPOCH), 65_536);
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive(vec![1; 200_000]));
    assert_eq!(player.machine().status().queued, 65_536);
    assert!(!player.machine().interest().read);
}

#[test]
fn a_byte_received_or_acknowledged_moves_an_echos_deadline() {
    let limit = Config::default().idle_timeout.unwrap();
    let wait = [Op::Advance(limit * 2 / 3), Op::SpuriousTimeout];
    let receive = [Op::Receive(vec![1])];
    let echo = [Op::Receive(vec![1]), Op::Accept(1)];
    let late = [&receive[..], &wait, &[Op::Accept(1)]].concat();
    let ops = [&echo[..], &wait, &echo, &wait, &late, &wait].concat();
    let mut machine = checked(config());
    script::play(&mut machine, &ops);
    assert_eq!(machine.status().state, "open");
    // A byte that only the kernel takes, or that makes the backlog longer, does not.
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

/// Its label and what is said of it agree on who was at fault.
#[test]
fn a_reason_says_whose_fault_it_was() {
    use wirestate_core::Fault;
    let ends = [
        (vec![Op::Eof], Fault::None),
        (vec![Op::ShutDown, Op::Timeout, Op::Release, Op::Finished, Op::Eof], Fault::Asked),
        (vec![Op::Timeout], Fault::Time),
        (
            vec![Op::Lost(wirestate_core::Direction::Read, wirestate_core::ConnectionError::Reset)],
            Fault::Lost,
        ),
    ];
    for (ops, fault) in ends {
        let mut machine = checked(config());
        script::play_out(&mut machine, &ops);
        assert_eq!(machine.reason().map(|reason| reason.fault()), Some(fault), "after {ops:?}");
    }
}
