//! The commands `echo-server` and `echo-client`.

use core::{num::NonZeroUsize, task::Poll};
use std::{
    future::poll_fn,
    io::{self, IsTerminal},
    vec,
};

use bytes::Bytes;
use clap::Args;
use wirestate_core::{
    drive::{Clock, Drive, Sink, Source},
    echo::{Client, ClientConfig, Config, Prefix, Server},
};
use wirestate_tls::MaybeTls;

use crate::{
    CommandError, CommandRuntime,
    connect::ConnectFlags,
    log, output,
    server::{self, Prepared, Share},
    standard_input::{MAX_LINE, StdinLines},
    tls,
    values::{self, Timeout},
};

/// Sends every byte back to the client that sent it
#[derive(Args, Clone, Debug)]
pub(super) struct ServerFlags {
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:65432",
          value_parser = values::listen, help = values::LISTEN_HELP)]
    listen: String,
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
        self.server.check()
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
    let chunk = flags.chunk;
    let config = Config::default()
        .with_prefix(flags.prefix.map(|text| Prefix { text: text.into(), chunk }))
        .with_idle_timeout(server::idle_timeout(flags.idle_timeout));
    let echo = Server::new(config).map_err(CommandError::Config)?;
    let settings = flags.server.settings::<R>(share)?;
    Ok(settings.run(flags.listen, move |_, now| echo.machine(now)))
}

/// Sends lines of standard input, and shows the reply to each
///
/// A line is sent without its line end. Empty lines are not sent, because an echo server does not
/// reply to them. The client ends at the end of the input, or at the line `exit`, in upper or lower
/// case. Each --message is treated like a line. On a terminal, control characters in a reply are
/// escaped.
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
    /// How long a reply may take; or `off`
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
    // The longest line, and 64 KiB for a prefix (`echo-server --prefix`).
    let max_reply = MAX_LINE + 64 * 1024;
    let config =
        ClientConfig::default().with_reply_timeout(reply_timeout.0).with_max_reply(max_reply);
    let clock = runtime.clock();
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

/// The source of the messages.
enum Input {
    Flags(vec::IntoIter<String>),
    Standard { lines: StdinLines, prompt: bool },
}

impl Input {
    fn new(messages: Vec<String>) -> Result<Self, CommandError> {
        if messages.is_empty() {
            let prompt = io::stdin().is_terminal();
            return Ok(Self::Standard {
                lines: StdinLines::new().map_err(CommandError::Input)?,
                prompt,
            });
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
        let (lines, prompt) = match self {
            Self::Flags(messages) => return Ok(messages.next().map(String::into_bytes)),
            Self::Standard { lines, prompt } => (lines, *prompt),
        };
        if prompt {
            log::prompt("> ");
        }
        poll_fn(|cx| {
            if let Poll::Ready(line) = lines.poll_next(cx) {
                return Poll::Ready(line.transpose().map_err(CommandError::Input));
            }
            drive.poll_until(cx, |_, _| None).map_err(|ended| CommandError::ended(address, &ended))
        })
        .await
    }
}
