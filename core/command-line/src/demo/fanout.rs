//! A source, the fan-out of its messages, and subscribers, of whom one never reads.

use core::{
    convert::Infallible, future::Future, mem, num::NonZeroUsize, task::Poll, time::Duration,
};
use std::future::poll_fn;

use wirestate_core::{
    dial::{Backoff, Dial},
    drive::{Clock, Drive},
    fanout::{Client, Config, Feed, Framing, MessageSource, MessageSourceConfig, Subscriber},
    runtime::connect_within,
    shared::{Lock, Shared},
    shutdown::{Shutdown, ShutdownHandle},
};

use super::{LiveLine, bind, named, say};
use crate::{
    Failure, Host,
    fanout::{Inspector, read_upstream, unix_epoch},
    server::both,
};

/// Subscribers, and the one that never reads.
const SUBSCRIBERS: usize = 100;
const HEALTHY: usize = SUBSCRIBERS - 1;
const SIZE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Messages at least, and a second. Enough for the one that never reads to fill the kernel's
/// buffers and fall out of the window.
const LEAST: u64 = 2000;
const RATE: u64 = 400;
/// It has space for what the source sends after a pause of one second. Otherwise the next pause
/// would follow at once, for the healthy subscribers.
const WINDOW: usize = 2 * 1024 * 1024;
/// How long the messages may take, which are through in six seconds where the machine is quiet: it
/// ends by itself, whatever happens.
const AT_MOST: Duration = Duration::from_secs(30);
/// How long the subscribers may take for what they are still owed at the end.
const END: Duration = Duration::from_secs(10);
const SHOW_EVERY: Duration = Duration::from_millis(250);

/// What the healthy subscribers have received.
#[derive(Debug)]
struct Board {
    messages: Vec<u64>,
    gaps: u64,
    /// How many subscribers are through, the one that never reads among them.
    ended: usize,
}

pub(super) async fn run<R: Host>(runtime: &R) -> Result<(), Failure> {
    let (source, source_address) = bind(runtime, named("fanout-source")).await?;
    let config = named("fanout-server").with_drain_timeout(END);
    let (server, address) = bind(runtime, config).await?;
    let (source_handle, handle) = (source.handle(), server.handle());
    let feed = Feed::new(Config::default().with_framing(Framing::Fixed(SIZE)).with_window(WINDOW))
        .map_err(Failure::Config)?;
    say(&format!(
        "A source of {RATE} messages a second, its fan-out on {address}, and {SUBSCRIBERS} \
         subscribers, of whom one never reads."
    ))?;
    let source_config = MessageSourceConfig::default()
        .with_size(SIZE)
        .with_rate(RATE)
        .with_epoch(unix_epoch(runtime));
    let sourcing = source.serve(|_, now| {
        MessageSource::new(source_config, now).expect("all timeouts are the defaults")
    });
    let serving = server.serve(|_, now| Subscriber::new(&feed, now));
    let board = Shared::new(Lock::new(Board { messages: vec![0; HEALTHY], gaps: 0, ended: 0 }));
    let watching = async {
        let address = address.to_string();
        for number in 0..SUBSCRIBERS {
            let task =
                subscribe(runtime.clone(), address.clone(), number, &board, handle.shutdown());
            runtime.spawn(task).map_err(Failure::Spawn)?;
        }
        let dial = Dial::new(source_address.to_string(), Backoff::new(0))
            .with_connect_timeout(Duration::from_secs(5))
            .with_shutdown(source_handle.shutdown().clone());
        let all_are_there = || feed.counters().subscribers == SUBSCRIBERS as u64;
        until(runtime, AT_MOST, all_are_there).await;
        let reading = read_upstream(runtime, dial, &feed);
        let watching = async {
            watch(runtime, &feed, &board).await;
            source_handle.drain();
        };
        both(reading, watching).await;
        // Nothing is published from here on: all are owed the same.
        handle.drain();
        until(runtime, END, || board.with(|board| board.ended == SUBSCRIBERS)).await;
        Ok(())
    };
    let (_, (_, watched)) = both(sourcing, both(serving, watching)).await;
    watched?;
    let counters = feed.counters();
    let ended = handle.table().totals().ended.get("lagged").copied().unwrap_or(0);
    let (least, gaps) = board.with(|board| (board.messages.iter().min().copied(), board.gaps));
    let (least, all) = (least.unwrap_or(0), counters.messages_in);
    say(&format!(
        "subscribers  {HEALTHY} have at least {least} of {all} messages, {gaps} gaps\n\
         stalled      {ended} disconnected because it lagged; the upstream was paused for it for \
         {:.1} s\n\
         server       {} messages delivered, {} bytes of cut messages dropped",
        counters.paused.as_secs_f64(),
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
fn subscribe<R: Host>(
    runtime: R,
    address: String,
    number: usize,
    board: &Shared<Lock<Board>>,
    stop: &ShutdownHandle,
) -> impl Future<Output = ()> + Send + 'static {
    let (board, stop) = (board.clone(), stop.clone());
    async move {
        let receiving = async {
            let connect_timeout = Some(Duration::from_secs(5));
            let socket = connect_within(&runtime, &address, connect_timeout).await.ok()?;
            if number >= HEALTHY {
                let stopped =
                    |asked| if asked > Shutdown::None { Poll::Ready(()) } else { Poll::Pending };
                poll_fn(|cx| stopped(stop.poll_requested(cx))).await;
                drop(socket);
                return None;
            }
            let mut inspector = Inspector::new(SIZE, Duration::ZERO);
            let mut drive = Drive::new(Client::new(), socket, runtime.clock());
            loop {
                let bytes = drive.until(|receiver, _| receiver.take()).await.ok()?;
                let gaps = inspector.gaps;
                inspector.look(&bytes, runtime.clock().now());
                board.with(|board| {
                    board.messages[number] = inspector.messages;
                    board.gaps += inspector.gaps - gaps;
                });
            }
        };
        let _over: Option<Infallible> = receiving.await;
        board.with(|board| board.ended += 1);
    }
}

/// Looks every now and then whether a condition holds, for as long as that may take.
async fn until<R: Host>(runtime: &R, at_most: Duration, condition: impl Fn() -> bool) {
    let mut clock = runtime.clock();
    let began = clock.now();
    let mut next = began;
    while !condition() && next.since(began) <= at_most {
        next += Duration::from_millis(10);
        poll_fn(|cx| clock.poll_until(cx, next)).await;
    }
}

/// Shows how it goes until enough has come.
async fn watch<R: Host>(runtime: &R, feed: &Feed, board: &Lock<Board>) {
    let line = LiveLine::new();
    let mut clock = runtime.clock();
    let began = clock.now();
    let mut next = began;
    let mut shown = 0;
    loop {
        poll_fn(|cx| clock.poll_until(cx, next)).await;
        let now = clock.now();
        let counters = feed.counters();
        let (least, gaps) = board.with(|board| {
            let least = board.messages.iter().min().copied().unwrap_or(0);
            (least, board.gaps)
        });
        let news = counters.messages_in - mem::replace(&mut shown, counters.messages_in);
        if counters.messages_in > 0 {
            line.show(&format!(
                "{:.1} s  fan-out: {} messages in; {HEALTHY} subscribers have at least {least}, \
                 {gaps} gaps; the one that never reads {}",
                now.since(began).as_secs_f64(),
                counters.messages_in,
                match (counters.lagged, news) {
                    (0, 0) => "pauses the upstream",
                    (0, _) => "is still connected",
                    (_, _) => "was disconnected",
                },
            ));
        }
        if counters.messages_in >= LEAST || now.since(began) > AT_MOST {
            line.clear();
            return;
        }
        next = now + SHOW_EVERY;
    }
}
