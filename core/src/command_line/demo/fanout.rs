//! A source, the fan-out of its messages, and subscribers, of whom one never reads.

use core::{future::Future, mem, num::NonZeroUsize, task::Poll, time::Duration};
use std::future::poll_fn;

use super::{LiveLine, named, say};
use crate::{
    command_line::{
        Failure,
        fanout::{Inspector, read_upstream, unix_epoch},
        server::{self, both},
        systemd::Sockets,
    },
    dial::{Backoff, Dial},
    drive::{Clock, Drive},
    fanout::{Config, Feed, Framing, Receiver, Source, SourceConfig, Subscriber},
    runtime::{Runtime, connect_within},
    serve::{Options, serve},
    shared::{Lock, Shared},
    stop::{Stop, Stopping},
};

/// Subscribers, and the one that never reads.
const SUBSCRIBERS: usize = 100;
const HEALTHY: usize = SUBSCRIBERS - 1;
const SIZE: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Messages at least, and a second. Enough for the one that never reads to fill the kernel's buffers
/// and fall out of the window.
const LEAST: u64 = 7000;
const RATE: u64 = 1500;
const WINDOW: usize = 1024 * 1024;
/// It ends by itself, whatever happens.
const AT_MOST: Duration = Duration::from_secs(7);
const SHOW_EVERY: Duration = Duration::from_millis(250);

/// What the healthy subscribers have received.
#[derive(Debug)]
struct Board {
    messages: Vec<u64>,
    gaps: u64,
}

pub(super) async fn run<R: Runtime>(runtime: &R) -> Result<(), Failure> {
    let (source, source_address) = server::listen(runtime, "127.0.0.1:0", &Sockets::default())?;
    let (listener, address) = server::listen(runtime, "127.0.0.1:0", &Sockets::default())?;
    let feed =
        Feed::new(Config { framing: Framing::Fixed(SIZE), window: WINDOW, ..Config::default() });
    let options = Options { drain_timeout: Some(Duration::from_secs(1)), ..named("fanout-server") };
    let stop = &options.stop;
    say(&format!(
        "A source of {RATE} messages a second, its fan-out on {address}, and {SUBSCRIBERS} \
         subscribers, of whom one never reads."
    ))?;
    let source_config = SourceConfig {
        size: SIZE,
        rate: RATE,
        epoch: unix_epoch(runtime),
        ..SourceConfig::default()
    };
    let source_options = Options { stop: stop.clone(), ..named("fanout-source") };
    let sourcing =
        serve(runtime, source, &source_options, |_, now| Source::new(source_config, now));
    let serving = serve(runtime, listener, &options, |_, now| Subscriber::new(&feed, now));
    let board = Shared::new(Lock::new(Board { messages: vec![0; HEALTHY], gaps: 0 }));
    let watching = async {
        let address = address.to_string();
        for number in 0..SUBSCRIBERS {
            let task = subscribe(runtime.clone(), address.clone(), number, &board, stop);
            runtime.spawn(task).map_err(Failure::Spawn)?;
        }
        let dial = Dial {
            address: source_address.to_string(),
            connect_timeout: Some(Duration::from_secs(5)),
            backoff: Backoff::new(0),
            stop: stop.clone(),
        };
        let result = watch(runtime, dial, &feed, &board).await;
        stop.drain();
        result
    };
    let (_, (_, watched)) = both(sourcing, both(serving, watching)).await;
    watched?;
    let counters = feed.counters();
    let ended = options.table.totals().ended.get("lagged").copied().unwrap_or(0);
    let (least, gaps) = board.with(|board| (board.messages.iter().min().copied(), board.gaps));
    let (least, all) = (least.unwrap_or(0), counters.messages_in);
    say(&format!(
        "subscribers  {HEALTHY} have at least {least} of {all} messages, {gaps} gaps\n\
         stalled      {ended} disconnected because it lagged; the upstream was held for it for \
         {:.1} s\n\
         server       {} messages delivered, {} bytes of cut messages dropped",
        counters.held.as_secs_f64(),
        counters.delivered,
        counters.tail_bytes_dropped,
    ))?;
    if least == all && all >= LEAST && gaps == 0 {
        return Ok(());
    }
    let reason = format!("a healthy subscriber has {least} of {all} messages, {gaps} gaps");
    Err(Failure::Ended { address: address.to_string(), reason })
}

/// One subscriber; the last one never reads.
fn subscribe<R: Runtime>(
    runtime: R,
    address: String,
    number: usize,
    board: &Shared<Lock<Board>>,
    stop: &Stop,
) -> impl Future<Output = ()> + Send + 'static {
    let (board, stop) = (board.clone(), stop.clone());
    async move {
        let connect_timeout = Some(Duration::from_secs(5));
        let Ok(socket) = connect_within(&runtime, &address, connect_timeout).await else { return };
        if number >= HEALTHY {
            let stopped =
                |asked| if asked > Stopping::No { Poll::Ready(()) } else { Poll::Pending };
            poll_fn(|cx| stopped(stop.poll_asked(cx))).await;
            drop(socket);
            return;
        }
        let mut inspector = Inspector::new(SIZE, Duration::ZERO);
        let mut drive = Drive::new(Receiver::new(), socket, runtime.clock());
        while let Ok(bytes) = drive.until(|receiver, _| receiver.take()).await {
            let gaps = inspector.gaps;
            inspector.look(&bytes, runtime.clock().now());
            board.with(|board| {
                board.messages[number] = inspector.messages;
                board.gaps += inspector.gaps - gaps;
            });
        }
    }
}

/// Connects the upstream when all have subscribed, and shows how it goes until enough has come.
async fn watch<R: Runtime>(
    runtime: &R,
    dial: Dial,
    feed: &Feed,
    board: &Lock<Board>,
) -> Result<(), Failure> {
    let line = LiveLine::new();
    let mut clock = runtime.clock();
    let began = clock.now();
    let mut dial = Some(dial);
    let mut next = began;
    let mut shown = 0;
    loop {
        poll_fn(|cx| clock.poll_until(cx, next)).await;
        let now = clock.now();
        let counters = feed.counters();
        if counters.subscribers == SUBSCRIBERS as u64
            && let Some(dial) = dial.take()
        {
            read_upstream(runtime, dial, feed, None)?;
        }
        let (least, gaps) = board.with(|board| {
            let least = board.messages.iter().min().copied().unwrap_or(0);
            (least, board.gaps)
        });
        let news = counters.messages_in - mem::replace(&mut shown, counters.messages_in);
        if counters.messages_in > 0 {
            line.show(format!(
                "{:.1} s  fan-out: {} messages in; {HEALTHY} subscribers have at least {least}, \
                 {gaps} gaps; the one that never reads {}",
                now.since(began).as_secs_f64(),
                counters.messages_in,
                match (counters.lagged, news) {
                    (0, 0) => "holds the upstream",
                    (0, _) => "is still connected",
                    (_, _) => "was disconnected",
                },
            ));
        }
        if counters.messages_in >= LEAST || now.since(began) > AT_MOST {
            line.clear();
            return Ok(());
        }
        let pause = if dial.is_some() { Duration::from_millis(10) } else { SHOW_EVERY };
        next = now + pause;
    }
}
