//! The commands `echo-server` and `echo-client`.

use core::{
    num::NonZeroUsize,
    task::{Context, Poll},
};
use std::{
    future::poll_fn,
    io::{self, IsTerminal},
    vec,
};

use bytes::Bytes;
use clap::Args;
use wirestate_core::{
    Instant,
    drive::{Clock, Drive, Ended, Sink, Source},
    echo::{
        Client, ClientConfig, Config, Prefix, Server, StreamClient, StreamConfig, StreamReason,
    },
};
use wirestate_tls::{MaybeTls, TlsReason};

use crate::{
    CommandError, CommandRuntime,
    connect::ConnectFlags,
    log, output,
    server::{self, Prepared, Share},
    standard_input::{MAX_LINE, StandardInput},
    standard_output::StandardOutput,
    tls,
    values::{self, Timeout},
};

/// Sends every byte back to the client that sent it
#[derive(Args, Clone, Debug)]
pub(super) struct ServerFlags {
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:65432",
          value_delimiter = ',', value_parser = values::listen, help = values::LISTEN_HELP)]
    listen: Vec<String>,
    /// Send this text in front of each received chunk, for example `Server received: `
    #[arg(long, value_name = "TEXT", env = "WIRESTATE_PREFIX")]
    prefix: Option<String>,
    /// With --prefix: the longest chunk, at most 1MiB
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_CHUNK", default_value = "1KiB",
          value_parser = chunk)]
    chunk: NonZeroUsize,
    /// Close a connection on which no byte moves for this long; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_IDLE_TIMEOUT", default_value = "5m")]
    idle_timeout: Timeout,
    #[command(flatten)]
    server: server::Flags,
}

impl ServerFlags {
    /// Returns an error if flags contradict each other.
    pub(super) fn check(&self) -> Result<(), String> {
        server::check_listen(&self.listen)?;
        self.server.check()
    }

    /// The state that the connections share.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub(super) fn echo(&self) -> Result<Server, CommandError> {
        let (text, chunk) = (self.prefix.clone(), self.chunk);
        let config = Config::default()
            .with_prefix(text.map(|text| Prefix { text: text.into(), chunk }))
            .with_idle_timeout(server::idle_timeout(self.idle_timeout));
        Server::new(config).map_err(CommandError::Config)
    }

    /// The source code that makes the machine of a connection.
    pub(super) fn machine_source(&self) -> String {
        let (prefix, chunk) = (self.prefix.as_ref(), self.chunk);
        let prefix = prefix.map(|text| {
            format!(
                ".with_prefix(echo::Prefix {{ text: {text:?}.into(), chunk: \
                 {chunk}.try_into().unwrap() }})"
            )
        });
        format!(
            "echo::Server::new(echo::Config::default(){}{}).unwrap().machine(Instant::EPOCH)",
            prefix.unwrap_or_default(),
            self.idle_timeout.setting_source("with_idle_timeout", Config::default().idle_timeout),
        )
    }
}

fn chunk(text: &str) -> Result<NonZeroUsize, String> {
    let chunk = values::bytes_within(1..=1024 * 1024, text)?;
    NonZeroUsize::new(chunk).ok_or_else(|| "expected at least 1B".into())
}

pub(super) fn prepare<R: CommandRuntime>(
    flags: ServerFlags,
    share: Share,
) -> Result<Prepared<R>, CommandError> {
    let echo = flags.echo()?;
    let settings = flags.server.settings::<R>(share)?;
    Ok(settings.run("echo", flags.listen, move |_, now| echo.machine(now)))
}

/// Sends standard input to an echo server, and shows what comes back
///
/// On a terminal, it asks for one line after the other, sends it without its line end, and shows
/// the reply. Empty lines are not sent, because an echo server does not reply to them. The client
/// ends at the end of the input, or at the line `exit`, in upper or lower case. Each --message is
/// treated like a line.
///
/// If standard input is a pipe or a file, all its bytes are sent as they are, and then a FIN. All
/// bytes that come back are written to standard output, up to the server's FIN. The exit code is 1
/// if the server closes before the end of the input.
///
/// If standard output is a terminal, control characters of what comes back are escaped.
#[derive(Args, Debug)]
pub(super) struct ClientFlags {
    /// The server's address, HOST:PORT or unix:PATH
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:65432", value_parser = values::remote)]
    address: String,
    /// Send this instead of reading standard input; can be given several times
    #[arg(long, value_name = "TEXT")]
    message: Vec<String>,
    #[command(flatten)]
    connect: ConnectFlags,
    /// How long a reply may take; or `off`. With a pipe or a file: how long the server may neither
    /// send nor acknowledge a byte, while output is pending or after the end of the input
    #[arg(long, value_name = "TIME", default_value = "30s")]
    reply_timeout: Timeout,
    #[command(flatten)]
    tls: tls::ClientTlsFlags,
}

pub(super) async fn run_client<R: CommandRuntime>(
    runtime: &R,
    flags: ClientFlags,
) -> Result<(), CommandError> {
    let ClientFlags { address, message, connect, reply_timeout, tls } = flags;
    let tls = tls.load(&address, connect.connect_timeout.0)?;
    let socket = connect.connect(runtime, &address).await?;
    let clock = runtime.clock();
    if message.is_empty() && !io::stdin().is_terminal() {
        let config = StreamConfig::default().with_idle_timeout(reply_timeout.0);
        let client = StreamClient::new(config).map_err(CommandError::Config)?;
        let client = tls::around(tls.as_ref(), client, clock.now());
        return pass_through(Drive::new(client, socket, clock), &address).await;
    }
    // The longest line, and 64 KiB for a prefix (`echo-server --prefix`).
    let max_reply = MAX_LINE + 64 * 1024;
    let config =
        ClientConfig::default().with_reply_timeout(reply_timeout.0).with_max_reply(max_reply);
    let client = tls::around(tls.as_ref(), Client::new(config), clock.now());
    let mut drive = Drive::new(client, socket, clock);
    let mut input = Input::new(message)?;
    while let Some(message) = input.next(&mut drive, &address).await?
        && !message.eq_ignore_ascii_case(b"exit")
    {
        if message.is_empty() {
            continue;
        }
        let mut message = Some(Bytes::from(message));
        let reply = drive.until(|client, now| {
            let client = client.inner_mut();
            if let Some(message) = message.take() {
                client.send(message, now);
            }
            client.take_reply()
        });
        output::write_line(&reply.await.map_err(|ended| CommandError::ended(&address, &ended))?)?;
    }
    // Sends a FIN. No reply is outstanding, so either side may close first.
    drive.shut_down().await;
    Ok(())
}

/// Sends standard input, and writes what is received to standard output, until both have ended.
async fn pass_through<S: Source + Sink, C: Clock>(
    mut drive: Drive<MaybeTls<StreamClient>, S, C>,
    address: &str,
) -> Result<(), CommandError> {
    let mut input = StandardInput::blocks().map_err(CommandError::Input)?;
    let mut output = StandardOutput::escaped_on_terminal().map_err(CommandError::Output)?;
    let ended = poll_fn(|cx| {
        let waker = cx.waker().clone();
        drive.poll_until(cx, |client, now| {
            let (client, mut cx) = (client.inner_mut(), Context::from_waker(&waker));
            transfer(client, now, &mut input, &mut output, &mut cx).err()
        })
    });
    let ended = match ended.await {
        Ok(error) => return Err(error),
        Err(ended) => ended,
    };
    // All that was received has been taken, and is written first.
    let written = output.finish().await;
    match ended {
        Ended::Reason(TlsReason::Inner(StreamReason::Complete { .. })) => written,
        Ended::Reason(_) | Ended::Aborted => Err(CommandError::ended(address, &ended)),
    }
}

/// Moves blocks from `input` to `client`, and from `client` to `output`, as far as they are ready.
fn transfer(
    client: &mut StreamClient,
    now: Instant,
    input: &mut StandardInput<Bytes>,
    output: &mut StandardOutput,
    cx: &mut Context<'_>,
) -> Result<(), CommandError> {
    if client.wants_input()
        && let Poll::Ready(next) = input.poll_next(cx)
    {
        match next.transpose().map_err(CommandError::Input)? {
            Some(block) => drop(client.send(block, now)),
            None => client.finish(now),
        }
    }
    while let Poll::Ready(ready) = output.poll_ready(cx) {
        ready.map_err(CommandError::Output)?;
        let Some(block) = client.take(now) else { break };
        output.write(block);
    }
    Ok(())
}

/// The source of the messages.
enum Input {
    Flags(vec::IntoIter<String>),
    Terminal(StandardInput<Vec<u8>>),
}

impl Input {
    fn new(messages: Vec<String>) -> Result<Self, CommandError> {
        if messages.is_empty() {
            let lines = StandardInput::lines().map_err(CommandError::Input)?;
            return Ok(Self::Terminal(lines));
        }
        Ok(Self::Flags(messages.into_iter()))
    }

    /// Returns the next message, or `None` at the end of the input. Returns an error if the
    /// connection to `address` ends meanwhile.
    async fn next<S: Source + Sink, C: Clock>(
        &mut self,
        drive: &mut Drive<MaybeTls<Client>, S, C>,
        address: &str,
    ) -> Result<Option<Vec<u8>>, CommandError> {
        let lines = match self {
            Self::Flags(messages) => return Ok(messages.next().map(String::into_bytes)),
            Self::Terminal(lines) => lines,
        };
        log::prompt("> ");
        poll_fn(|cx| {
            if let Poll::Ready(line) = lines.poll_next(cx) {
                return Poll::Ready(line.transpose().map_err(CommandError::Input));
            }
            drive.poll_until(cx, |_, _| None).map_err(|ended| CommandError::ended(address, &ended))
        })
        .await
    }
}
