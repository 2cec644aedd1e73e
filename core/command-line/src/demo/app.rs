//! The JSON-header protocol: handles that tasks share, and peers that break the rules.

use core::time::Duration;
use std::future::poll_fn;

use wirestate_core::{
    drive::{Clock, Drive},
    echo,
    message::{ClientConfig, Handle, Server, connect},
    runtime::connect_within,
    shared::{Lock, Shared},
    shutdown::{Shutdown, ShutdownHandle},
};

use super::{LiveLine, bind, named, say};
use crate::{
    Failure, Host,
    search::{self, Table},
    server::both,
};

const CONNECTIONS: usize = 10;
/// Tasks that share one connection.
const TASKS: usize = 10;
const DURATION: Duration = Duration::from_millis(1500);
const SHOW_EVERY: Duration = Duration::from_millis(250);
const CONNECT_TIMEOUT: Option<Duration> = Some(Duration::from_secs(5));

/// What breaks the rules, and what the peer is told of it.
const BROKEN: [(&[u8], &str); 4] = [
    (b"\0\0", "a header of 0 bytes"),
    (b"\xff\xff", "a header of 65535 bytes, more than the limit of 4096"),
    (b"\0\x02[]", "the header is an array where an object is expected"),
    (
        b"\0\x16{\"content-length\": -1}",
        "is -1 where a whole number of bytes below 2^64 is expected",
    ),
];

#[derive(Debug, Default)]
struct Board {
    replies: u64,
    /// What went wrong first.
    wrong: Option<String>,
    tasks: usize,
}

pub(super) async fn run<R: Host>(runtime: &R) -> Result<(), Failure> {
    let (server, address) = bind(runtime, named("app-server")).await?;
    let handle = server.handle();
    let app = Server::with_default_config(search::service(Table::default()));
    let address = address.to_string();
    say(&format!(
        "A search server on {address}, and {CONNECTIONS} connections with {TASKS} tasks each that \
         verify every reply; {} peers break the rules.",
        BROKEN.len()
    ))?;
    let serving = server.serve(|_, now| app.machine(now));
    let board = Shared::new(Lock::new(Board::default()));
    let asking = async {
        let result = ask_for_a_while(runtime, &address, &board).await;
        handle.drain();
        result
    };
    let (_, answered) = both(serving, asking).await;
    let answered = answered?;
    let (replies, wrong) = board.with(|board| (board.replies, board.wrong.take()));
    say(&format!(
        "replies      {replies} verified, of {} requests\n\
         broken       {answered} of {} peers were told what was wrong, and closed",
        app.requests(),
        BROKEN.len(),
    ))?;
    match wrong {
        None if answered == BROKEN.len() && replies > 0 => Ok(()),
        wrong => {
            let reason = wrong.unwrap_or_else(|| "a broken frame was not answered".into());
            Err(Failure::Ended { address, reason })
        }
    }
}

/// How many of those that break the rules were told so.
async fn ask_for_a_while<R: Host>(
    runtime: &R,
    address: &str,
    board: &Shared<Lock<Board>>,
) -> Result<usize, Failure> {
    let shutdown = ShutdownHandle::new();
    for connection in 0..CONNECTIONS {
        let handle = connect(runtime, address, CONNECT_TIMEOUT, ClientConfig::default())
            .await
            .map_err(|error| Failure::Connect { address: address.into(), error })?;
        for task in 0..TASKS {
            board.with(|board| board.tasks += 1);
            let (handle, board, shutdown) = (handle.clone(), board.clone(), shutdown.clone());
            let name = format!("{connection}.{task}");
            runtime
                .spawn(async move {
                    ask(&handle, &name, &board, &shutdown).await;
                    board.with(|board| board.tasks -= 1);
                })
                .map_err(Failure::Spawn)?;
        }
    }
    let mut answered = 0;
    for (frame, told) in BROKEN {
        answered += usize::from(is_told(runtime, address, frame, told).await);
    }
    let line = LiveLine::new();
    let mut clock = runtime.clock();
    let began = clock.now();
    let mut next = began;
    while board.with(|board| board.tasks) > 0 {
        next += if shutdown.requested() > Shutdown::None { DURATION / 100 } else { SHOW_EVERY };
        poll_fn(|cx| clock.poll_until(cx, next)).await;
        let elapsed = clock.now().since(began);
        let replies = board.with(|board| board.replies);
        if shutdown.requested() == Shutdown::None {
            line.show(&format!(
                "{:.1} s  search: {replies} replies verified",
                elapsed.as_secs_f64()
            ));
        }
        if elapsed >= DURATION {
            shutdown.abort();
        }
        if elapsed >= DURATION + Duration::from_secs(5) {
            board.with(|board| {
                board.wrong.get_or_insert_with(|| "a task waits for ever".into()).len()
            });
            break;
        }
    }
    line.clear();
    Ok(answered)
}

/// Asks until it is stopped, or a reply is not what it should be.
async fn ask(handle: &Handle, name: &str, board: &Lock<Board>, shutdown: &ShutdownHandle) {
    for number in 0_u64.. {
        if shutdown.requested() > Shutdown::None {
            return;
        }
        let value = format!("{name}.{number}");
        let (action, expected) = if number % 2 == 0 {
            ("search", format!("No match for '{value}'."))
        } else {
            ("count", format!("First 10 bytes of request: {:.10}", format!("count{value}")))
        };
        let reply = handle.request(search::request(action, &value)).await;
        let reply = reply.map_err(|error| error.to_string());
        let result =
            reply.and_then(|reply| search::result(&reply).map_err(|error| error.to_string()));
        let wrong = match result {
            Ok(result) if result == expected.as_bytes() => {
                board.with(|board| board.replies += 1);
                continue;
            }
            Ok(result) => format!("\"{}\" in place of {expected:?}", result.escape_ascii()),
            Err(error) => error,
        };
        board.with(|board| {
            board.wrong.get_or_insert(wrong);
        });
        return;
    }
}

/// Sends bytes as they are, and looks whether the reply says so.
async fn is_told<R: Host>(runtime: &R, address: &str, frame: &[u8], told: &str) -> bool {
    let Ok(socket) = connect_within(runtime, address, CONNECT_TIMEOUT).await else { return false };
    let config = echo::ClientConfig::default();
    let mut drive = Drive::new(echo::Client::new(config), socket, runtime.clock());
    let mut message = Some(bytes::Bytes::copy_from_slice(frame));
    let reply = drive.until(|client, now| {
        if let Some(message) = message.take() {
            client.send(message, now);
        }
        client.take_reply()
    });
    match reply.await {
        Ok(reply) => reply.windows(told.len()).any(|text| text == told.as_bytes()),
        Err(_ended) => false,
    }
}
