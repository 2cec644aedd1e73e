//! The test page of the guide `docs/write-a-protocol.md`, which explains it.

#[path = "../examples/scores.rs"]
mod scores;

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    num::NonZeroUsize,
    process::{Command, Stdio},
    time::Duration,
};

use proptest::prelude::*;
use wirestate_core::{
    Instant, Runtime as _,
    protocol::{Connection, Server},
    serve,
    shared::Shared,
};
use wirestate_testkit::{
    contract::Checked,
    for_each_case, for_each_seed,
    script::{self, Check, Ending, Op},
    sim::{Act, Barrier, Faults, Leftovers, World, act},
    stage,
};
use wirestate_tokio::Tokio;

use crate::scores::{Board, Scores, config};

/// The value of every timeout in these tests.
const LIMIT: Duration = Duration::from_secs(5);

/// Makes `count` machines that share a board. `Checked` asserts the contract. The limits are
/// small, so that scripts reach them.
fn machines(count: usize) -> Vec<Checked<Connection<Scores>>> {
    let bytes = |n| NonZeroUsize::new(n).expect("n is not 0");
    let small =
        config().with_buffer(bytes(200)).with_high_water_mark(bytes(256)).with_timeouts(LIMIT);
    let server = Server::new(small).expect("the configuration is valid");
    let board = Board::new().expect("the configuration is valid");
    let machine = || server.machine(Scores::new(board.clone()), Instant::EPOCH);
    // The high-water mark of 256 bytes, one reply, and the longest error reply.
    (0..count).map(|_| Checked::new(machine(), 330)).collect()
}

/// A machine with a board of its own. It must have a deadline while it waits.
fn machine() -> Checked<Connection<Scores>> {
    machines(1).remove(0).with_deadlines()
}

/// Draws requests with few names, so that many requests are about the same name.
fn requests() -> impl Strategy<Value = String> {
    prop_oneof![
        20 => "win (ann|bob)\n",
        10 => "score (ann|bob|eve)\n",
        1 => "quit\n",
        1 => "(win|score|lose|watch|quit) [a-c3 ]{0,3}\n",
    ]
}

/// The model: returns the exact replies to `requests` on a new board.
fn replies(requests: &[String]) -> Vec<u8> {
    let (mut wins, mut replies) = (BTreeMap::<&str, u64>::new(), String::new());
    for request in requests {
        let (verb, name) = request.trim_end_matches('\n').split_once(' ').unwrap_or((request, ""));
        let last = match verb {
            "quit\n" => "bye",
            "win" | "score"
                if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphabetic()) =>
            {
                "error: a name has letters only"
            }
            "win" | "score" => {
                let wins = wins.entry(name).or_default();
                *wins += u64::from(verb == "win");
                writeln!(replies, "{name} {wins}").expect("a string takes all");
                continue;
            }
            _ => "error: unknown request",
        };
        writeln!(replies, "{last}").expect("a string takes all");
        break;
    }
    replies.into_bytes()
}

#[test]
fn the_replies_are_those_of_the_model_even_if_the_peer_is_slow() {
    Check::new().with_pauses(LIMIT).run(machine, requests(), replies);
}

#[test]
fn the_output_does_not_depend_on_the_cut() {
    script::split_invariant(machine, b"win ann\nscore bob\nwin ann\nlose\nwin ann\n");
}

#[test]
fn any_script_keeps_the_contract() {
    for_each_case(
        256,
        script::ops_of(
            prop_oneof![
                8 => requests().prop_map(String::into_bytes),
                1 => Just(b"watch\n".to_vec()),
                1 => script::truncated(requests().prop_map(String::into_bytes)),
                1 => script::garbage(),
            ],
            50,
        ),
        |ops| {
            script::play(&mut machines(1)[0], &ops);
        },
    );
}

#[test]
fn each_watcher_gets_each_win_once_and_no_wake_up_is_lost() {
    for_each_case(
        256,
        stage::interleaved([
            script::ops_of("(win ann\n){1,9}", 20).boxed(),
            script::ops_of("(win bob\n){1,9}", 20).boxed(),
            Just(Vec::new()).boxed(), // a watcher that does not read
        ]),
        |ops| {
            // Each connection first sends `watch`, so its news counts the wins of a name from 1.
            let watch = (0..3).map(|index| (index, Op::Receive(b"watch\n".to_vec())));
            let ops: Vec<_> = watch.chain(ops).collect();
            for transcript in stage::play_out(machines(3), &ops) {
                let mut wins = BTreeMap::new();
                let output = String::from_utf8(transcript.output).expect("the output is text");
                // The last line is incomplete if the connection was lost.
                for line in output.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                    let Some(news) = line.strip_prefix("news: ") else { continue };
                    let (name, count) =
                        news.trim_end().split_once(' ').expect("a name and a count");
                    let last = wins.insert(name.to_owned(), count.parse::<u64>().expect("a count"));
                    assert_eq!(&wins[name], &(last.unwrap_or(0) + 1), "{output}");
                }
            }
        },
    );
}

/// The table of bad input in the protocol's documentation.
#[test]
fn bad_input_gets_the_documented_reply_and_a_fin() {
    let long = "win ".to_owned() + &"a".repeat(77);
    let timeout = || vec![Op::Receive(b"win".to_vec()), Op::Timeout];
    let received = |text: &str| vec![Op::Receive(text.into()), Op::Eof];
    for (ops, reply, label) in [
        (received("lose\n"), "unknown request", "malformed"),
        (received("win a1\n"), "a name has letters only", "malformed"),
        (received("score \n"), "a name has letters only", "malformed"),
        (received(&long), "a frame of 81 bytes or more, above the limit of 80", "frame_too_long"),
        (received("win"), "the input ended after 3 bytes of a frame", "truncated"),
        (timeout(), "received 3 bytes of a frame within 5s", "header_timeout"),
    ] {
        let close = [Op::Accept(usize::MAX), Op::Finished, Op::Eof];
        let transcript = script::play(&mut machine(), &[ops, close.to_vec()].concat());
        let output = String::from_utf8(transcript.output).expect("the output is text");
        assert_eq!(output, format!("error: {reply}\n"));
        assert_eq!((transcript.label, transcript.ending), (Some(label), Some(Ending::Fin)));
    }
}

#[test]
fn a_server_on_a_faulty_network_counts_each_win_once() {
    for_each_seed(30, |seed| {
        let world = World::new(seed);
        let server = world.host("server");
        server.set_faults(Faults::harmless(seed));
        let protocol = Server::new(config()).expect("the configuration is valid");
        let board = Board::new().expect("the configuration is valid");
        let listener = server.listen("server:7070").expect("the port is free");
        let scores = serve::Server::new(server.clone(), listener);
        let handle = scores.handle();
        server.run(scores.serve(move |_, now| protocol.machine(Scores::new(board.clone()), now)));

        let all_watch = Barrier::new(3);
        let clients: Vec<_> = (0..3)
            .map(|index| {
                let client = world.host(&format!("client {index}"));
                client.set_faults(Faults::harmless(seed + index));
                let acts = vec![
                    Act::Send("watch\n".into()),
                    Act::ReceiveLines(1),
                    Act::Barrier(all_watch.clone()),
                    Act::Send("win ann\nwin ann\n".into()),
                    Act::ReceiveUntil("news: ann 6\n".into()),
                    Act::Finish,
                    Act::ReceiveAll,
                ];
                let runtime = client.clone();
                client.run(async move {
                    let socket = runtime.connect("server:7070").await.expect("it listens");
                    act(runtime, socket, acts).await
                })
            })
            .collect();
        for client in clients {
            let received = world.run_until(&client).expect("the client ends");
            let text = String::from_utf8(received.bytes).expect("the output is text");
            let news: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix("news: ")).collect();
            assert_eq!(news, ["ann 1", "ann 2", "ann 3", "ann 4", "ann 5", "ann 6"], "{text}");
        }
        handle.drain();
        world.run().expect("the server ends");
        assert_eq!(world.leftovers(), Leftovers::default());
    });
}

/// Runs the example on each runtime, and converses with it by TCP.
#[test]
fn the_example_serves_on_three_runtimes() {
    let tests = env::current_exe().expect("the test's executable has a path");
    let examples = tests.ancestors().nth(2).expect("it is in target/debug/deps").join("examples");
    for runtime in ["tokio", "smol", "std"] {
        let mut server = Command::new(examples.join("scores"))
            .args([runtime, "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("`cargo build --examples` has built it");
        let mut lines = BufReader::new(server.stderr.take().expect("it is piped")).lines();
        let line = lines.next().expect("it says where it listens").expect("the line is text");
        let address = line.strip_prefix("listening on ").expect("it says where it listens");
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("the timeout is not 0");
        stream.write_all(b"win ann\nwin ann\nscore ann\nquit\n").expect("it is connected");
        let mut replies = String::new();
        stream.read_to_string(&mut replies).expect("the server sends its FIN");
        assert_eq!(replies, "ann 1\nann 2\nann 2\nbye\n", "on {runtime}");
        server.kill().expect("it runs");
        server.wait().expect("it ends");
    }
}

#[expect(dead_code, reason = "the guide shows it; the example is run instead")]
async fn on_tokio(server: Server, board: Shared<Board>) -> io::Result<()> {
    let listening = Tokio::current().bind("127.0.0.1:7070").await?;
    listening.serve(move |_, now| server.machine(Scores::new(board.clone()), now)).await;
    Ok(())
}

#[test]
fn the_guide_shows_this_code() {
    let code = [include_str!("scores.rs"), include_str!("../examples/scores.rs")];
    let guide = include_str!("../../docs/write-a-protocol.md");
    let blocks: Vec<&str> = guide
        .split("```rust,ignore\n")
        .skip(1)
        .map(|block| block.split_once("```").expect("a block ends").0)
        .collect();
    assert!(blocks.len() > 10);
    for block in blocks {
        assert!(code.iter().any(|code| code.contains(block)), "not in the code:\n{block}");
    }
}
