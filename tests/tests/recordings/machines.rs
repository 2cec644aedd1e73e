//! A machine alone: any session replays.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use proptest::prelude::*;
use wirestate_core::{
    Instant, Linger, Machine,
    echo::{self, Prefix},
    fanout::{MessageSource, MessageSourceConfig},
    message::{self, Message, service, service::RequestQueue},
    record::{self, Digest, Recordable, Recording, What},
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    message::{frames as encoded, messages},
    script::{self, Op, Player},
};

use crate::{Blocks, recorded, replay};

/// The most bytes that a machine of these tests may queue.
const MAX_QUEUED: usize = 1 << 20;

/// One frame.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    messages(64).prop_map(|message| encoded([&message]))
}

/// Plays `ops` to a recorded machine, and replays that.
fn check<M: Recordable>(machine: impl Fn() -> M, ops: &[Op]) {
    let (recorded, blocks) = recorded(machine());
    // The recording changes nothing that a driver can see.
    let mut checked = Checked::new(recorded, MAX_QUEUED);
    let transcript = script::play_out(&mut checked, ops);
    drop(checked);
    let replay = replay(&blocks.bytes(), machine());
    assert_eq!(replay.difference, None);
    assert_eq!(replay.digests[0], Digest::of(&transcript.output));
    let label = transcript.label.filter(|_| transcript.done);
    let replayed = replay.reason.map(|(label, _)| label);
    assert_eq!(replayed.as_deref(), label);
}

#[test]
fn any_session_of_an_echo_replays() {
    for_each_case(256, (script::ops(40), any::<bool>()), |(ops, has_prefix)| {
        let prefix = Prefix { text: "> ".into(), chunk: 5.try_into().unwrap() };
        let config = echo::Config::default()
            .with_buffer(8.try_into().unwrap())
            .with_prefix(has_prefix.then_some(prefix))
            .with_idle_timeout(Duration::from_secs(30));
        let server = echo::Server::new(config).unwrap();
        check(|| server.machine(Instant::EPOCH), &ops);
    });
}

#[test]
fn any_session_of_a_source_replays() {
    for_each_case(256, (script::ops(40), 0..20_u64), |(ops, count)| {
        let config = MessageSourceConfig::default()
            .with_size(50.try_into().unwrap())
            .with_rate(2)
            .with_count(Some(count));
        check(|| MessageSource::new(config, Instant::EPOCH).unwrap(), &ops);
    });
}

#[test]
fn any_session_of_a_message_server_replays() {
    for_each_case(
        256,
        script::ops_of(
            prop_oneof![
                8 => frames(), 1 => script::truncated(frames()), 1 => script::garbage()
            ],
            40,
        ),
        |ops| {
            let config = message::Config::default()
                .with_linger(Linger { time: Duration::from_secs(2), bytes: 10 })
                .with_idle_timeout(Duration::from_secs(30));
            let reply = |request: Message<'_>| Message::json(request.content.len().to_string());
            let server = message::Server::new(config, service::function(reply)).unwrap();
            check(|| server.machine(Instant::EPOCH), &ops);
        },
    );
}

/// The replay has no service: its own replies would come from nowhere.
#[test]
fn replies_of_an_asynchronous_service_are_recorded() {
    for_each_case(
        256,
        (script::ops_of(frames(), 40), prop::collection::vec(any::<u8>(), 1..40)),
        |(ops, order)| {
            let server = message::Server::with_default_config(RequestQueue::default());
            let (mut machine, blocks) = {
                let blocks = Blocks::default();
                let recorder = blocks.recorder(Instant::EPOCH);
                (Answering::new(server.machine(Instant::EPOCH), recorder), blocks)
            };
            let mut output = Vec::new();
            for (op, choice) in ops.iter().zip(order.iter().cycle()) {
                machine.play(op, *choice);
                output = machine.player_output.clone();
            }
            drop(machine);
            let replay = replay(&blocks.bytes(), server.machine(Instant::EPOCH));
            assert_eq!(&replay.difference, &None);
            assert_eq!(replay.digests[0], Digest::of(&output));
        },
    );
}

/// A server that answers its requests in any order, and is recorded. It is played to by hand,
/// because its requests are in the machine that is recorded.
struct Answering {
    machine: message::Connection<RequestQueue>,
    recorder: record::Recorder,
    pending: Vec<service::PendingRequest>,
    now: Instant,
    arrived: Vec<u8>,
    player_output: Vec<u8>,
    answered: u32,
}

impl Answering {
    fn new(mut machine: message::Connection<RequestQueue>, recorder: record::Recorder) -> Self {
        machine.begin_recording();
        Self {
            machine,
            recorder,
            pending: Vec::new(),
            now: Instant::EPOCH,
            arrived: Vec::new(),
            player_output: Vec::new(),
            answered: 0,
        }
    }

    fn handle(&mut self, event: wirestate_core::Event) {
        self.recorder.event(self.now, 0, &mut self.machine, event);
        self.machine.handle(self.now, event);
        self.returned();
    }

    fn returned(&mut self) {
        let mut outside = Vec::new();
        self.machine.take_outside(&mut outside);
        self.recorder.returned(&outside);
    }

    fn play(&mut self, op: &Op, choice: u8) {
        use wirestate_core::{Event, Outbound};
        self.now += Duration::from_millis(u64::from(choice));
        match op {
            Op::Receive(bytes) => self.arrived.extend(bytes),
            Op::Accept(n) | Op::Buffer(n)
                if *n > 0 && self.machine.interest().write == Outbound::Flush =>
            {
                let mut bufs = [&[][..]; 64];
                let count = self.machine.write_bufs(&mut bufs);
                let bytes: Vec<u8> = bufs[..count].concat().into_iter().take(*n).collect();
                self.player_output.extend(&bytes);
                self.handle(Event::Written(bytes.len()));
            }
            Op::Eof if self.arrived.is_empty() && self.machine.interest().read => {
                self.handle(Event::Eof);
            }
            Op::Finished
                if matches!(self.machine.interest().write, Outbound::Finish | Outbound::Reset) =>
            {
                self.handle(Event::Finished);
            }
            Op::ShutDown => self.handle(Event::ShutDown),
            Op::Accept(_)
            | Op::Buffer(_)
            | Op::Unacknowledged(_)
            | Op::Eof
            | Op::Finished
            | Op::Error(..)
            | Op::Advance(_)
            | Op::Timeout
            | Op::SpuriousTimeout
            | Op::Release => {}
        }
        while self.machine.interest().read && !self.arrived.is_empty() {
            let buf = self.machine.read_buf();
            let n = buf.len().min(self.arrived.len());
            buf[..n].copy_from_slice(&self.arrived[..n]);
            self.arrived.drain(..n);
            self.handle(wirestate_core::Event::Read(n));
            self.answer(choice);
        }
        self.answer(choice);
    }

    /// Answers one of the requests, perhaps, and lets the machine see it.
    fn answer(&mut self, choice: u8) {
        while let Some(request) = self.machine.service_mut().take() {
            self.pending.push(request);
        }
        if !self.pending.is_empty() && !choice.is_multiple_of(3) {
            let request = self.pending.remove(usize::from(choice) % self.pending.len());
            self.answered += 1;
            request.reply(Message::json(format!("{}", self.answered)));
        }
        let cx = &mut Context::from_waker(Waker::noop());
        while self.machine.poll_shared(self.now, cx) {
            self.recorder.shared(self.now);
            self.returned();
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let reason = self.machine.interest().is_done().then(|| self.machine.reason()).flatten();
        self.recorder.end(reason.as_ref());
    }
}

#[test]
fn a_recording_without_payloads_shows_what_happened() {
    let blocks = Blocks::default();
    let mut header = record::Header::new(Instant::EPOCH).with_field("peer", "a\\b\nc");
    header.has_payloads = false;
    let recorder = record::Recorder::new(&header, Box::new(blocks.clone()));
    let machine = || echo::Server::default().machine(Instant::EPOCH);
    let mut observed = record::Recorded::new(machine(), Some(recorder));
    let mut player = Player::new(&mut observed);
    for op in [Op::Receive(b"secret".to_vec()), Op::Accept(2), Op::Eof] {
        player.play(&op);
    }
    drop(observed);
    let bytes = blocks.bytes();
    assert!(!bytes.windows(3).any(|part| part == b"sec"));
    let recording = Recording::read(&bytes).unwrap();
    assert_eq!(recording.header(), &header);
    let steps: Vec<_> = recording.steps().map(|step| step.what).collect();
    assert!(matches!(
        steps[..],
        [
            What::Start,
            What::Received { len: 6, bytes: None },
            What::Sent { len: 2, .. },
            What::Event(wirestate_core::Event::Eof)
        ]
    ));
    let replay = record::replay(&mut machine(), &recording);
    assert_eq!(replay.difference.unwrap().kind, record::DifferenceKind::NoPayloads);
}
