//! Frames that wait for their time, and replies one at a time.

use std::{num::NonZeroUsize, time::Duration};

use wirestate_core::{
    ConnectionError, Direction, Event, Instant, Machine, Outbound, drive,
    protocol::{
        Buffer, Config, Connection, Immediate, Malformed, Protocol, ProtocolReason, Replies,
        Server, Step,
    },
};
use wirestate_testkit::{
    contract::Checked,
    script::{self, Op, Player},
};

use crate::{MAX_OUTPUT, Orders, machine, small};

const NOW: Instant = Instant::EPOCH;
const WAIT: Duration = Duration::from_millis(100);

/// Takes a line at once, and repeats it after [`WAIT`]. During a drain it closes the connection.
#[derive(Default)]
struct Echo {
    waiting: Option<(Instant, Vec<u8>)>,
}

impl Protocol for Echo {
    type Input = Buffer;
    type Error = Malformed;
    type Answer = Immediate<Malformed>;

    fn receive(
        &mut self,
        input: &mut Buffer,
        replies: &mut Replies<Self::Answer>,
    ) -> Result<Step, Malformed> {
        let (until, line) = match self.waiting.take() {
            Some(waiting) => waiting,
            None => match input.take_until(b'\n') {
                Some(line) => (replies.now() + WAIT, line.to_vec()),
                None => return Ok(Step::Incomplete { length: None }),
            },
        };
        if replies.now() < until {
            self.waiting = Some((until, line));
            return Ok(Step::WaitUntil(until));
        }
        replies.output().extend(&line);
        if replies.is_draining() && !line.is_empty() {
            replies.output().extend(b", the last one");
            replies.close();
        }
        Ok(Step::Taken)
    }
}

fn echo(input: &[u8]) -> Checked<Connection<Echo>> {
    let machine = Server::new(small()).unwrap().machine(Echo::default(), NOW);
    let mut machine = Checked::new(machine, MAX_OUTPUT).with_deadlines();
    drive::deliver(&mut machine, &mut &input[..], NOW);
    machine
}

#[test]
fn a_frame_that_is_taken_can_wait_too() {
    let mut machine = echo(b"a\n");
    assert_eq!((machine.status().state, machine.poll_timeout()), ("waiting", Some(NOW + WAIT)));
    machine.handle(NOW + WAIT, Event::Timeout { unacknowledged: 0 });
    assert_eq!(script::collect(&mut machine, NOW + WAIT), b"a");
}

#[test]
fn a_waiting_connection_reads_on_while_its_buffer_has_space_and_notices_a_reset() {
    let mut machine = echo(b"a\n");
    let mut input = &[b'x'; 40][..];
    drive::deliver(&mut machine, &mut input, NOW);
    assert_eq!(input.len(), 40 - 16, "it has a buffer of 16 bytes");
    let mut machine = echo(b"a\n");
    machine.handle(NOW, Event::Error(Direction::Read, ConnectionError::Reset));
    let expected = ProtocolReason::Lost {
        direction: Direction::Read,
        error: ConnectionError::Reset,
        unsent: 0,
        unanswered: 1,
    };
    assert_eq!(machine.reason(), Some(expected));
}

#[test]
fn a_shutdown_waits_for_a_frame_that_waits_and_the_protocol_knows_that_it_is_the_last_one() {
    let mut machine = echo(b"a\nb\n");
    let transcript = script::play_out(&mut machine, &[Op::ShutDown, Op::Timeout]);
    assert_eq!(transcript.output, b"a, the last one");
    assert_eq!(machine.status().state, "lingering");
}

/// No write restarts the wait for requests in flight, since the answer is empty.
#[test]
fn a_drain_goes_on_after_a_frame_that_has_waited_and_is_not_answered() {
    let mut machine = echo(b"\n");
    machine.handle(NOW, Event::ShutDown);
    machine.handle(NOW + WAIT, Event::Timeout { unacknowledged: 0 });
    assert_eq!((machine.status().state, machine.interest().write), ("draining", Outbound::Idle));
    let until = machine.poll_timeout().unwrap();
    assert_eq!(until, NOW + WAIT + Duration::from_millis(10));
    machine.handle(until, Event::Timeout { unacknowledged: 0 });
    assert_eq!(machine.interest().write, Outbound::Finish);
}

#[test]
fn with_a_high_water_mark_of_1_each_reply_is_written_before_the_next_frame_is_answered() {
    let config = small().with_high_water_mark(NonZeroUsize::MIN);
    let mut machine = machine(config, Orders::default());
    let mut player = Player::new(&mut machine);
    player.play(&Op::Receive("say a\nsay b\nsay".into()));
    for (queued, state) in [(2, "open"), (2, "open"), (0, "open")] {
        assert_eq!(
            (player.machine().status().queued, player.machine().status().state),
            (queued, state)
        );
        player.play(&Op::Accept(usize::MAX));
    }
    assert_eq!(player.output(), b"a\nb\n");
    assert_eq!(player.machine().interest().write, Outbound::Idle);
    assert_eq!(Config::default().high_water_mark.get(), 64 * 1024);
}

/// The time of the wait is not idle, although no reply restarts the timeout.
#[test]
fn the_idle_timeout_begins_after_a_frame_that_has_waited_and_is_not_answered() {
    let config = small().with_idle_timeout(WAIT / 2);
    let machine = Server::new(config).unwrap().machine(Echo::default(), NOW);
    let mut machine = Checked::new(machine, MAX_OUTPUT).with_deadlines();
    drive::deliver(&mut machine, &mut &b"\n"[..], NOW);
    machine.handle(NOW + WAIT, Event::Timeout { unacknowledged: 0 });
    assert_eq!((machine.status().state, machine.interest().write), ("idle", Outbound::Idle));
    assert_eq!(machine.poll_timeout(), Some(NOW + WAIT + WAIT / 2));
}
