//! What a failed run says: the names of its tasks, and the last events of their connections.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test by a panic")]

use std::{
    env, fs,
    future::{pending, poll_fn},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Poll,
    time::Duration,
};

use wirestate_core::{echo, runtime::Runtime as _, serve};
use wirestate_testkit::{
    for_each_seed,
    sim::{Act, Halted, Task, TraceEvent, World, act, digest},
};

/// An echo server, and a client that performs `acts` and then `last`.
fn echo<T: Send + 'static>(
    world: &World,
    acts: Vec<Act>,
    last: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    let (server, client) = (world.host("server"), world.host("client"));
    let listener = server.listen("server:7").unwrap();
    let echo = echo::Server::new(echo::Config::default().with_idle_timeout(None)).unwrap();
    let serving = serve::Server::new(server.clone(), listener);
    server.run_named("accept loop", serving.serve(move |_, now| echo.machine(now)));
    let runtime = client.clone();
    client.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        act(runtime, socket, acts).await;
        last.await
    })
}

fn send(text: &'static str) -> Act {
    Act::Send(text.into())
}

#[test]
fn a_stalled_run_names_its_tasks_and_shows_their_connections() {
    let world = World::new(1);
    echo(&world, vec![send("hello\r\n"), Act::Receive(100)], async {});
    // Its connections do not matter.
    let other = world.host("other");
    let runtime = other.clone();
    other.run(async move {
        let socket = runtime.connect("server:7").await.unwrap();
        act(runtime, socket, vec![send("unrelated"), Act::Finish, Act::ReceiveAll]).await
    });
    let halted = world.run().unwrap_err();
    let Halted::Stalled { at, tasks, last } = &halted else { panic!("{halted}") };
    assert_eq!(
        tasks[..],
        [
            "server#0 (accept loop)",
            "client#1 (connection client/0)",
            "server#3 (connection from client/0)"
        ]
    );
    assert!(last.iter().all(|entry| entry.place.connection() == Some(("client", 0))), "{halted}");
    let text = halted.to_string();
    assert!(text.starts_with(&format!("stalled at {at}, unfinished tasks: {}", tasks.join(", "))));
    let digest = digest(b"hello\r\n");
    let received =
        format!(r#"client/0 Client: Received 7 bytes b"hello\r\n", digest {digest:016x}"#);
    assert!(text.ends_with(&received), "{text}");
    assert_eq!(format!("{halted:?}"), text, "`unwrap` shows the same");
}

#[test]
fn a_spinning_task_is_named() {
    let world = World::new(1);
    let spins = poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    let client = echo(&world, vec![send("hello"), Act::Receive(5)], spins);
    let text = world.run_until(&client).unwrap_err().to_string();
    let expected = format!("client#1 (connection client/0) spins at {}\n", world.now());
    assert!(text.starts_with(&expected), "{text}");
    assert!(text.ends_with("client/0 Client: Closed"), "{text}");
}

#[test]
fn a_task_that_was_not_woken_is_named() {
    let world = World::new(1);
    let flag = Arc::new(AtomicBool::default());
    let setter = world.host("setter");
    let (sets, second) = (flag.clone(), Duration::from_secs(1));
    let mut sleep = Box::pin(setter.sleep(2 * second));
    let client = echo(
        &world,
        vec![send("hello"), Act::Receive(5)],
        poll_fn(
            move |cx| if flag.load(Relaxed) { Poll::Ready(()) } else { sleep.as_mut().poll(cx) },
        ),
    );
    let sleep = setter.sleep(second);
    setter.run_named("sets the flag", async move {
        sleep.await;
        sets.store(true, Relaxed);
    });
    let text = world.run_until(&client).unwrap_err().to_string();
    assert!(text.starts_with("client#1 (connection client/0) was not woken by "), "{text}");
    assert!(text.contains(", it ended\nthe last events:\n"), "{text}");
}

#[test]
fn a_long_run_shows_its_last_twenty_events() {
    let world = World::new(1);
    let round = [send("ping"), Act::Receive(4)];
    echo(&world, [round.as_slice(); 20].concat(), pending::<()>());
    let Err(Halted::Stalled { last, .. }) = world.run() else { panic!("it does not stall") };
    let trace = world.trace();
    assert!(trace.entries().ends_with(&last));
    assert_eq!(last.len(), 20);
}

#[test]
fn an_excerpt_has_the_first_bytes() {
    let world = World::new(1);
    let text = "a line of more than twenty bytes";
    echo(&world, vec![send(text), Act::Receive(text.len())], async {});
    let _ = world.run();
    let trace = world.trace();
    let sent = trace.entries().iter().find_map(|entry| {
        let TraceEvent::Sent { excerpt, .. } = entry.event else { return None };
        Some(excerpt)
    });
    assert_eq!(sent.unwrap().bytes(), &text.as_bytes()[..24]);
    assert!(trace.to_string().contains("Sent 32 bytes b\"a line of more than twen…\", digest "));
}

/// Starts this test as child processes, which fail in three ways.
#[test]
fn a_panic_prints_the_last_events_once() {
    const HOW: &str = "TEST_HOW_TO_FAIL";
    let fail = |how: &str| {
        for_each_seed(1, |seed| {
            let world = World::new(seed);
            match how {
                "in a task" => {
                    echo(&world, vec![send("hello"), Act::Receive(5)], async { panic!("planted") });
                    world.run().unwrap();
                }
                "in the test" => {
                    let client = echo(&world, vec![send("hello"), Act::Receive(5)], async {});
                    world.run_until(&client).unwrap();
                    panic!("planted");
                }
                "by unwrap" => {
                    echo(&world, vec![send("hello"), Act::Receive(9)], async {});
                    world.run().unwrap();
                }
                other => panic!("{other}"),
            }
        });
    };
    if let Ok(how) = env::var(HOW) {
        return fail(&how);
    }
    for (how, expected) in [
        ("in a task", "client#1 (connection client/0) has panicked at 10000"),
        ("in the test", "the test has panicked at 10000"),
        ("by unwrap", "stalled at 10000"),
    ] {
        let program = env::current_exe().expect("the test's executable has a path");
        let mut child = Command::new(program);
        child.args(["--exact", "a_panic_prints_the_last_events_once"]).env(HOW, how);
        for variable in ["SEED", "SEEDS", "SECONDS", "COUNTS"] {
            child.env_remove(format!("WIRESTATE_{variable}"));
        }
        child.env("WIRESTATE_SHRINK_SECONDS", "0").env_remove("WIRESTATE_TIMELINE");
        let output = child.output().expect("the test starts");
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(expected), "{how}: {text}");
        assert_eq!(text.matches("the last events:").count(), 1, "{how}: {text}");
        assert!(text.contains("server/0 Server:") || text.contains("client/0 Server: Received 5"));
        assert!(text.contains("failed with seed 0"), "{how}: {text}");
    }
}

/// Starts this test as a child process, which fails.
#[test]
fn a_failed_run_writes_its_timeline_to_the_folder_that_a_variable_names() {
    const NAME: &str = "a_failed_run_writes_its_timeline_to_the_folder_that_a_variable_names";
    const FAILS: &str = "TEST_FAILS";
    if env::var_os(FAILS).is_some() {
        let world = World::new(17);
        echo(&world, vec![send("hello"), Act::Receive(9)], async {});
        world.run().unwrap();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(NAME);
    let mut test = Command::new(env::current_exe().unwrap());
    test.args(["--exact", NAME, "--nocapture"]).env(FAILS, "1").env("WIRESTATE_TIMELINE", &folder);
    let output = test.output().unwrap();
    let path = folder.join(format!("{NAME}-seed-17.html"));
    let page = fs::read_to_string(&path).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let line = format!("the timeline is in {}\n", path.display());
    assert_eq!(errors.matches(&line).count(), 1, "{errors}");
    for part in [NAME, "client/0", "hello", "[\"seed\",\"17\"]"] {
        assert!(page.contains(part), "{part}");
    }
}
