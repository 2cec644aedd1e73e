//! A protocol that uses the layer in odd ways keeps the contract under any script.

use std::{
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use proptest::{collection::vec, prelude::*, sample::select};
use wirestate_core::{
    Instant, Linger, Machine,
    idle::IdleConnections,
    protocol::{
        Buffer, Config, FrameTimeouts, Malformed, Output, Protocol, ProtocolReason, Replies,
        Server, Step,
    },
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case,
    script::{self, Op, Player},
};

/// Each byte is an order, except those of the longer frames that begin with `l` and `t`.
#[derive(Default)]
struct Odd {
    /// Until when an order waits, and its answer.
    waiting: Option<(Instant, &'static str)>,
    steps: u8,
    news: u8,
    empty_news: u8,
    is_active: bool,
}

/// Ready after so many polls.
struct Answer(u8, Option<Result<Output, Malformed>>);

impl Future for Answer {
    type Output = Result<Output, Malformed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.0 > 0 {
            self.0 -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.1.take().unwrap())
    }
}

impl Odd {
    fn later(answer: impl Into<Output>) -> Answer {
        Answer(3, Some(Ok(answer.into())))
    }
}

const LONG: usize = 70_000;

impl Protocol for Odd {
    type Input = Buffer;
    type Error = Malformed;
    type Answer = Answer;

    fn receive(
        &mut self,
        input: &mut Buffer,
        replies: &mut Replies<Answer>,
    ) -> Result<Step, Malformed> {
        if let Some((until, answer)) = self.waiting {
            if replies.now() < until {
                return Ok(Step::WaitUntil(until));
            }
            self.waiting = None;
            replies.output().extend(answer.as_bytes());
            return Ok(Step::Taken);
        }
        let bytes = input.bytes();
        let Some(order) = bytes.first() else { return Ok(Step::Incomplete { length: None }) };
        match order {
            b'a' => replies.output().extend(b"a"),
            b'n' => {}
            b'w' | b'W' => {
                let answer = if *order == b'w' { "waited" } else { "" };
                self.waiting = Some((replies.now() + Duration::from_millis(20), answer));
                input.take(1);
                return self.receive(input, replies);
            }
            b'p' if self.steps < 3 => {
                self.steps += 1;
                return Ok(Step::WaitUntil(replies.now()));
            }
            b'p' => self.steps = 0,
            b'd' => replies.defer(Self::later("d")),
            b'D' => replies.defer(Self::later(vec![b'D'; 5000])),
            b'e' => replies.defer(Self::later("")),
            b'f' => replies.defer(Answer(2, Some(Err("f".into())))),
            b'h' => replies.defer(Answer(u8::MAX, None)),
            b'x' => {
                replies.output().extend(b"x1");
                replies.defer(Self::later("x2"));
                replies.output().extend(b"x3");
            }
            b'c' => replies.close(),
            b'C' => {
                replies.defer(Self::later("C"));
                replies.close();
            }
            b'b' => replies.output().push(vec![b'b'; 5000]),
            b's' => replies.output().extend(&vec![b's'; LONG]),
            b'l' if bytes.len() < 40 => return Ok(Step::Incomplete { length: Some(40) }),
            b'l' => {
                input.take(39);
                replies.output().extend(b"l");
            }
            b't' => {
                return Ok(match input.take_until(b'n') {
                    Some(_) => Step::Taken,
                    None => Step::Incomplete { length: None },
                });
            }
            b'u' => self.is_active ^= true,
            b'N' => self.news += 40,
            b'm' => self.empty_news += 3,
            _ => return Err("E".into()),
        }
        input.take(1);
        Ok(Step::Taken)
    }

    fn poll_news(
        &mut self,
        replies: &mut Replies<Answer>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Malformed>> {
        cx.waker().wake_by_ref();
        if self.empty_news > 0 {
            self.empty_news -= 1;
            return Poll::Ready(Ok(()));
        }
        if self.news == 0 {
            return Poll::Pending;
        }
        self.news -= 1;
        match self.news {
            7 => return Poll::Ready(Err("news".into())),
            13 => replies.close(),
            20 => replies.defer(Self::later("later")),
            _ => replies.output().extend(b"news"),
        }
        Poll::Ready(Ok(()))
    }

    fn error_reply(&mut self, reason: &ProtocolReason, output: &mut Output) {
        self.waiting = None;
        if reason.is_error() {
            output.extend(&vec![b'!'; LONG]);
        }
    }

    fn is_idle(&self) -> bool {
        !self.is_active
    }
}

/// What a configuration is made of. The times are in milliseconds.
#[derive(Clone, Debug)]
struct Limits {
    buffer: usize,
    max_frame: usize,
    high_water_mark: usize,
    max_in_flight: usize,
    max_memory: usize,
    times: Vec<u64>,
}

impl Limits {
    fn config(&self) -> Config {
        let size = |size: usize| NonZeroUsize::new(size).unwrap();
        let time = |index: usize| Duration::from_millis(self.times[index]);
        let timeouts = FrameTimeouts::default().with_header(time(0)).with_content(time(1));
        Config::default()
            .with_buffer(size(self.buffer))
            .with_max_frame(size(self.max_frame))
            .with_high_water_mark(size(self.high_water_mark))
            .with_max_in_flight(size(self.max_in_flight))
            .with_max_memory(self.max_memory)
            .with_frame_timeouts(timeouts)
            .with_idle_timeout(time(2))
            .with_service_timeout(time(3))
            .with_write_timeout(time(4))
            .with_linger(Linger { time: time(5), ..Linger::default() })
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    let sizes = (select(&[1, 16, 200]), select(&[1, 20, 100]), select(&[1, 5000, 65_536]));
    let counts = (select(&[1, 3]), select(&[5000, 12_000, usize::MAX]), vec(1..100_u64, 6));
    (sizes, counts).prop_map(|(sizes, (max_in_flight, max_memory, times))| {
        let (buffer, max_frame, high_water_mark) = sizes;
        Limits { buffer, max_frame, high_water_mark, max_in_flight, max_memory, times }
    })
}

#[test]
fn the_contract_is_kept_and_the_connection_ends() {
    for_each_case(
        64,
        (
            limits(),
            script::ops(40),
            vec("[anwWpdDefhxcCbslltuNmE]{1,9}", 0..20),
            vec(any::<bool>(), 40),
            vec(0..40_u64, 40),
        ),
        |(limits, ops, orders, evictions, pauses)| {
            let idle = IdleConnections::new();
            let server =
                Server::new(limits.config()).unwrap().with_idle_connections(idle.clone(), 1);
            let machine = server.machine(Odd::default(), Instant::EPOCH);
            let mut machine = Checked::new(machine, 4 * LONG).with_deadlines();
            let mut player = Player::new(&mut machine);
            let mut orders = orders.into_iter();
            let mut cx = Context::from_waker(Waker::noop());
            for ((mut op, evicts), pause) in ops.into_iter().zip(evictions).zip(pauses) {
                if let Op::Receive(bytes) = &mut op {
                    *bytes = orders.next().unwrap_or_default().into();
                }
                if let Op::Advance(time) = &mut op {
                    *time = Duration::from_millis(pause);
                }
                if evicts {
                    let _ = idle.poll_evict(&mut cx);
                }
                player.play(&op);
            }
            player.play(&Op::ShutDown);
            for _ in 0..200 {
                player.play(&Op::Accept(usize::MAX));
                player.play(&Op::Timeout);
                player.play(&Op::Finished);
            }
            assert!(player.machine().interest().is_done(), "{:?}", player.machine().status());
            drop(machine);
            assert_eq!((server.quota().reserved(), server.pool().in_use()), (0, 0));
        },
    );
}
