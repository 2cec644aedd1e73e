//! The JSON-header protocol: tasks that share connections, and peers that send invalid frames.

use core::time::Duration;
use std::future::poll_fn;

use bytes::Bytes;
use wirestate_core::{
    drive::{Clock, Drive},
    echo,
    message::{ClientConfig, Handle, Server, connect},
    quantity::Time,
    runtime::connect_within,
    shared::{Lock, Shared},
    shutdown::{Shutdown, ShutdownHandle},
};

use super::{CONNECT_TIMEOUT, SHOW_INTERVAL, bind, named, print};
use crate::{
    CommandError, CommandRuntime,
    join::join,
    progress_line::ProgressLine,
    search::{self, Table},
};

/// The totals of all tasks.
#[derive(Debug, Default)]
struct Counts {
    /// Verified replies.
    replies: u64,
    /// The first error.
    error: Option<String>,
    /// Tasks that are running.
    tasks: usize,
}

pub(super) async fn run<R: CommandRuntime>(runtime: &R) -> Result<(), CommandError> {
    let (server, address) = bind(runtime, named("app-server")).await?;
    let handle = server.handle();
    let app = Server::with_default_config(search::service(Table::default()));
    let address = address.to_string();
    let invalid_frames = INVALID_FRAMES.len();
    print(&format!(
        "Search: {} tasks on {CONNECTIONS} connections send requests for {}\n\
         listening    app-server {address}",
        TASKS * CONNECTIONS,
        Time(DURATION),
    ))?;
    let serving = server.serve(|_, now| app.machine(now));
    let counts = Shared::new(Lock::new(Counts::default()));
    let clients = async {
        let result = run_clients(runtime, &address, &counts).await;
        handle.drain();
        result
    };
    let (_, rejected) = join(serving, clients).await;
    let rejected = rejected?;
    let (replies, error) = counts.with(|counts| (counts.replies, counts.error.take()));
    print(&format!(
        "replies      {replies} verified, of {} requests\n\
         bad frames   {rejected} of {invalid_frames} answered by an error that names the fault",
        app.requests(),
    ))?;
    match error {
        None if rejected == invalid_frames && replies > 0 => Ok(()),
        error => {
            let reason = error.unwrap_or_else(|| "an invalid frame was not answered".into());
            Err(CommandError::Ended { address, reason })
        }
    }
}

/// Runs all tasks to their end. Returns how many invalid frames were answered by the expected
/// error.
async fn run_clients<R: CommandRuntime>(
    runtime: &R,
    address: &str,
    counts: &Shared<Lock<Counts>>,
) -> Result<usize, CommandError> {
    let shutdown = ShutdownHandle::new();
    for connection in 0..CONNECTIONS {
        let handle = connect(runtime, address, Some(CONNECT_TIMEOUT), ClientConfig::default())
            .await
            .map_err(|error| CommandError::Connect { address: address.into(), error })?;
        for task in 0..TASKS {
            counts.with(|counts| counts.tasks += 1);
            let (handle, counts, shutdown) = (handle.clone(), counts.clone(), shutdown.clone());
            let name = format!("{connection}.{task}");
            runtime
                .spawn(async move {
                    send_requests(&handle, &name, &counts, &shutdown).await;
                    counts.with(|counts| counts.tasks -= 1);
                })
                .map_err(CommandError::Spawn)?;
        }
    }
    let mut rejected = 0;
    for (frame, error) in INVALID_FRAMES {
        rejected += usize::from(is_rejected(runtime, address, frame, error).await);
    }
    let line = ProgressLine::new();
    let mut clock = runtime.clock();
    let began = clock.now();
    let mut next = began;
    while counts.with(|counts| counts.tasks) > 0 {
        next += if shutdown.requested() > Shutdown::None { DURATION / 100 } else { SHOW_INTERVAL };
        poll_fn(|cx| clock.poll_until(cx, next)).await;
        let elapsed = clock.now().since(began);
        let replies = counts.with(|counts| counts.replies);
        if shutdown.requested() == Shutdown::None {
            let elapsed = Time(elapsed);
            line.show(&format!("{elapsed}  search: {replies} replies verified"));
        }
        if elapsed >= DURATION {
            shutdown.abort();
        }
        if elapsed >= DURATION + REPLY_TIMEOUT {
            let timeout = Time(REPLY_TIMEOUT);
            let error = || format!("a task has waited for its reply for {timeout}");
            counts.with(|counts| {
                counts.error.get_or_insert_with(error);
            });
            break;
        }
    }
    line.clear();
    Ok(rejected)
}

/// Sends requests until a shutdown is requested or a reply is wrong.
async fn send_requests(
    handle: &Handle,
    name: &str,
    counts: &Lock<Counts>,
    shutdown: &ShutdownHandle,
) {
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
        let error = match result {
            Ok(result) if result == expected.as_bytes() => {
                counts.with(|counts| counts.replies += 1);
                continue;
            }
            Ok(result) => {
                format!("the reply is \"{}\" instead of {expected:?}", result.escape_ascii())
            }
            Err(error) => error,
        };
        counts.with(|counts| {
            counts.error.get_or_insert(error);
        });
        return;
    }
}

/// Sends `frame` unchanged. Returns whether the reply contains `error`.
async fn is_rejected<R: CommandRuntime>(
    runtime: &R,
    address: &str,
    frame: &[u8],
    error: &str,
) -> bool {
    let connected = connect_within(runtime, address, Some(CONNECT_TIMEOUT)).await;
    let Ok(socket) = connected else { return false };
    let config = echo::ClientConfig::default();
    let mut drive = Drive::new(echo::Client::new(config), socket, runtime.clock());
    let mut message = Some(Bytes::copy_from_slice(frame));
    let reply = drive.until(|client, now| {
        if let Some(message) = message.take() {
            client.send(message, now);
        }
        client.take_reply()
    });
    match reply.await {
        Ok(reply) => reply.windows(error.len()).any(|text| text == error.as_bytes()),
        Err(_ended) => false,
    }
}

const CONNECTIONS: usize = 10;
/// Tasks that share one connection.
const TASKS: usize = 10;
/// How long the tasks send requests.
const DURATION: Duration = Duration::from_millis(1500);
/// How long the tasks may wait for their last replies.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Invalid frames, and a part of the error reply to each.
const INVALID_FRAMES: [(&[u8], &str); 4] = [
    (b"\0\0", "a header of 0 bytes"),
    (b"\xff\xff", "a header of 65535 bytes, more than the limit of 4096"),
    (b"\0\x02[]", "the header is an array where an object is expected"),
    (
        b"\0\x16{\"content-length\": -1}",
        "is -1 where a whole number of bytes below 2^64 is expected",
    ),
];
