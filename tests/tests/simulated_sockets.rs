//! The simulated sockets behave like those of Linux.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{future::poll_fn, task::Poll, time::Duration};

use wirestate_core::{
    ConnectionError, Instant,
    drive::{Clock as _, IoError, Sink, Source},
    runtime::{Listener as _, Runtime},
};
use wirestate_testkit::sim::{Faults, Halted, Host, Settings, Socket, World};

/// Connects two sockets of one host, and runs `test` with the accepted and the dialled one. Returns
/// the world.
fn connected<F>(settings: Settings, test: impl FnOnce(Host, Socket, Socket) -> F) -> World
where
    F: Future<Output = ()> + Send + 'static,
{
    let world = World::with(1, settings);
    let host = world.host("host");
    let mut listener = host.listen("host:7").unwrap();
    let accepted = host.run(async move { poll_fn(|cx| listener.poll_accept(cx)).await.unwrap().0 });
    let runtime = host.clone();
    let dialled = host.run(async move { runtime.connect("host:7").await.unwrap() });
    let accepted = world.run_until(&accepted).unwrap();
    let dialled = world.run_until(&dialled).unwrap();
    let done = host.run(test(host.clone(), accepted, dialled));
    world.run_until(&done).unwrap();
    world
}

async fn read(socket: &mut Socket) -> Result<usize, IoError> {
    poll_fn(|cx| socket.poll_read(cx, &mut [0; 64])).await
}

async fn write(socket: &mut Socket) -> Result<usize, IoError> {
    poll_fn(|cx| socket.poll_write(cx, &[b"ab", b"c"])).await
}

const RESET: IoError = IoError::Connection(ConnectionError::Reset);
const MOMENT: Duration = Duration::from_secs(1);

#[test]
fn a_fin_arrives_after_the_bytes_and_leaves_the_other_direction_open() {
    connected(Settings::default(), |_, mut here, mut there| async move {
        here.send(b"hello").await.unwrap();
        here.finish().await.unwrap();
        assert_eq!((read(&mut there).await, read(&mut there).await), (Ok(5), Ok(0)));
        there.send(b"well").await.unwrap();
        assert_eq!(read(&mut here).await, Ok(4));
    });
}

#[test]
fn a_reset_is_reported_once_and_after_the_bytes_that_had_arrived() {
    connected(Settings::default(), |host, mut here, mut there| async move {
        there.send(b"hello").await.unwrap();
        host.sleep(MOMENT).await;
        assert_eq!(there.unacknowledged(), 0);
        there.reset();
        host.sleep(MOMENT).await;
        let reads = [read(&mut here).await, read(&mut here).await, read(&mut here).await];
        assert_eq!(reads, [Ok(5), Err(RESET), Ok(0)]);
        assert_eq!(write(&mut here).await, Err(RESET), "EPIPE, at each write");
    });
}

#[test]
fn a_reset_discards_bytes_that_have_not_arrived() {
    connected(Settings::default(), |host, mut here, mut there| async move {
        there.send(b"hello").await.unwrap();
        assert_eq!(there.unacknowledged(), 5);
        there.reset();
        host.sleep(MOMENT).await;
        assert_eq!(read(&mut here).await, Err(RESET));
    });
}

#[test]
fn a_write_may_report_the_reset() {
    connected(Settings::default(), |host, mut here, there| async move {
        let mut there = there;
        there.reset();
        host.sleep(MOMENT).await;
        assert_eq!(write(&mut here).await, Err(RESET));
        assert_eq!(read(&mut here).await, Ok(0), "after the error, the end of the input");
        assert_eq!(poll_fn(|cx| here.poll_finish(cx)).await, Err(RESET));
    });
}

#[test]
fn closing_with_unread_bytes_resets_and_without_sends_a_fin() {
    connected(Settings::default(), |host, mut here, there| async move {
        here.send(b"hello").await.unwrap();
        host.sleep(MOMENT).await;
        drop(there);
        host.sleep(MOMENT).await;
        assert_eq!(read(&mut here).await, Err(RESET));
    });
    connected(Settings::default(), |host, mut here, there| async move {
        drop(there);
        host.sleep(MOMENT).await;
        assert_eq!(read(&mut here).await, Ok(0));
        assert_eq!(write(&mut here).await, Ok(3), "the peer has not reset yet");
        host.sleep(MOMENT).await;
        assert_eq!(read(&mut here).await, Err(RESET), "the answer to bytes after the close");
    });
}

#[test]
fn a_full_buffer_blocks_the_writer_until_the_reader_has_made_room() {
    let settings = Settings { buffer: 5, ..Settings::default() };
    connected(settings, |host, mut here, mut there| async move {
        assert_eq!((write(&mut here).await, write(&mut here).await), (Ok(3), Ok(2)));
        poll_fn(|cx| {
            assert!(here.poll_write(cx, &[b"x"]).is_pending());
            Poll::Ready(())
        })
        .await;
        host.sleep(MOMENT).await;
        assert_eq!(read(&mut there).await, Ok(5));
        assert_eq!(write(&mut here).await, Ok(3));
    });
}

#[test]
fn a_read_blocks_until_a_change_is_reported() {
    connected(Settings::default(), |host, mut here, mut there| async move {
        let blocked = |here: &mut Socket| {
            let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
            here.poll_read(cx, &mut [0; 64]).is_pending()
        };
        assert!(blocked(&mut here));
        host.stop_for(Duration::from_secs(60));
        there.send(b"hello").await.unwrap();
        // When the process continues, its alarm fires before the input is reported.
        host.sleep(Duration::from_secs(30)).await;
        assert!(blocked(&mut here));
        host.sleep(Duration::from_millis(1)).await;
        assert!(!blocked(&mut here));
    });
}

#[test]
fn after_a_timeout_the_other_end_is_reset_by_its_keepalive_probe() {
    let world = connected(Settings::default(), |host, mut here, mut there| async move {
        host.set_faults(Faults { timed_out: 1000, ..Faults::NONE });
        assert_eq!(read(&mut here).await, Err(IoError::Connection(ConnectionError::TimedOut)));
        host.set_faults(Faults::NONE);
        assert_eq!(read(&mut there).await, Err(RESET), "the answer to the keepalive probe");
    });
    assert!(world.trace().entries().last().unwrap().at.since_epoch().as_secs() >= 1_000_060);
}

#[test]
fn a_task_that_waits_for_nothing_or_spins_is_found() {
    let world = World::new(1);
    let host = world.host("host");
    host.run(std::future::pending::<()>());
    assert!(matches!(world.run(), Err(Halted::Stalled { tasks, .. }) if tasks == ["host#0"]));
    let spinner = world.host("spinner");
    spinner.run(poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    assert!(matches!(world.run(), Err(Halted::Spinning { task, .. }) if task == "spinner#1"));
}

#[test]
fn a_deadline_that_is_never_reached_sets_no_alarm() {
    let world = World::new(1);
    let host = world.host("host");
    host.set_clock_back(Duration::from_secs(1));
    host.run(host.sleep(Duration::MAX));
    let mut clock = host.clock();
    host.run(async move {
        let soon = clock.now() + MOMENT;
        poll_fn(|cx| {
            assert!(clock.poll_until(cx, soon).is_pending());
            clock.poll_until(cx, Instant::NEVER)
        })
        .await;
    });
    let began = world.now();
    assert!(matches!(world.run(), Err(Halted::Stalled { at, .. }) if at == began));
    assert_eq!(world.leftovers().alarms, 0);
}
