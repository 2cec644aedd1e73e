//! `echo-server` and `echo-client`.

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
    runtime::connect_within,
};

use crate::{
    Failure, Host, ServerContext, log, server, show,
    standard_input::{Lines, MAX_LINE},
    values::{self, Timeout},
};

/// Sends every byte back to where it came from
#[derive(Args, Debug)]
pub(super) struct ServerFlags {
    /// Where to listen: HOST:PORT (on all addresses of a name; port 0 takes a free one), unix:PATH
    /// (unix:@NAME: an abstract one), or systemd[:NAME], the next socket that the service manager
    /// passes, or all of NAME
    #[arg(long, value_name = "ADDR", env = "WIRESTATE_LISTEN", default_value = "127.0.0.1:65432",
          value_parser = values::listen)]
    listen: String,
    /// Answer each received chunk with this text in front, for example `Server received: `
    #[arg(long, value_name = "TEXT", env = "WIRESTATE_PREFIX")]
    prefix: Option<String>,
    /// The longest chunk that --prefix answers, in bytes
    #[arg(long, value_name = "BYTES", env = "WIRESTATE_CHUNK", default_value = "1024",
          value_parser = chunk)]
    chunk: NonZeroUsize,
    /// Close a connection on which no byte moves for this long; or `off`
    #[arg(long, value_name = "TIME", env = "WIRESTATE_IDLE_TIMEOUT", default_value = "5m")]
    idle_timeout: Timeout,
    #[command(flatten)]
    server: server::Flags,
}

fn chunk(text: &str) -> Result<NonZeroUsize, String> {
    const MOST: usize = 1024 * 1024;
    match text.parse::<NonZeroUsize>() {
        Ok(chunk) if chunk.get() <= MOST => Ok(chunk),
        _ => Err(format!("expected a number from 1 to {MOST}")),
    }
}

pub(super) async fn serve<R: Host>(
    runtime: &R,
    flags: ServerFlags,
    around: &ServerContext,
) -> Result<(), Failure> {
    let chunk = flags.chunk;
    let config = Config::default()
        .with_prefix(flags.prefix.map(|text| Prefix { text: text.into(), chunk }))
        .with_idle_timeout(server::idle_timeout(flags.idle_timeout));
    let echo = Server::new(config).map_err(Failure::Config)?;
    let setup = flags.server.setup::<R>("echo-server");
    let machine = move |_: &_, now| echo.machine(now);
    server::run(runtime, &flags.listen, &setup, around, machine).await
}

/// Sends a line, shows the reply, and asks for the next
///
/// The line is sent without its end. `exit`, in any case, or the end of the input leaves; an empty
/// line, to which there could be no reply, is not sent. The same goes for --message. On a terminal,
/// control characters in a reply are escaped.
#[derive(Args, Debug)]
pub(super) struct ClientFlags {
    /// The server
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:65432", value_parser = values::remote)]
    address: String,
    /// Send this instead of asking; can be given several times
    #[arg(long, value_name = "TEXT")]
    message: Vec<String>,
    /// How long to wait for the connection; or `off`
    #[arg(long, value_name = "TIME", default_value = "10s")]
    connect_timeout: Timeout,
    /// How long to wait for a reply; or `off`
    #[arg(long, value_name = "TIME", default_value = "30s")]
    reply_timeout: Timeout,
}

pub(super) async fn converse<R: Host>(runtime: &R, flags: ClientFlags) -> Result<(), Failure> {
    let ClientFlags { address, message, connect_timeout, reply_timeout } = flags;
    let socket = connect_within(runtime, &address, connect_timeout.0)
        .await
        .map_err(|error| Failure::Connect { address: address.clone(), error })?;
    // The longest line, and what a server may put in front.
    let max_reply = MAX_LINE + 64 * 1024;
    let config =
        ClientConfig::default().with_reply_timeout(reply_timeout.0).with_max_reply(max_reply);
    let mut drive = Drive::new(Client::new(config), socket, runtime.clock());
    let mut input = Input::new(message)?;
    while let Some(message) = input.next(&mut drive, &address).await?
        && !message.eq_ignore_ascii_case(b"exit")
    {
        if message.is_empty() {
            continue;
        }
        let mut message = Some(Bytes::from(message));
        let reply = drive.until(|client, now| {
            if let Some(message) = message.take() {
                client.send(message, now);
            }
            client.take_reply()
        });
        show(&reply.await.map_err(|ended| Failure::ended(&address, &ended))?)?;
    }
    // Our FIN. All was answered, so it does not matter who closes first.
    drive.shut_down().await;
    Ok(())
}

/// Where the messages come from.
enum Input {
    Flags(vec::IntoIter<String>),
    Standard { lines: Lines, prompt: bool },
}

impl Input {
    fn new(messages: Vec<String>) -> Result<Self, Failure> {
        if messages.is_empty() {
            let prompt = io::stdin().is_terminal();
            return Ok(Self::Standard { lines: Lines::new().map_err(Failure::Input)?, prompt });
        }
        Ok(Self::Flags(messages.into_iter()))
    }

    /// The next message, if there is one; meanwhile the connection to `address` is watched.
    async fn next<S: Source + Sink, C: Clock>(
        &mut self,
        drive: &mut Drive<Client, S, C>,
        address: &str,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let (lines, prompt) = match self {
            Self::Flags(messages) => return Ok(messages.next().map(String::into_bytes)),
            Self::Standard { lines, prompt } => (lines, *prompt),
        };
        if prompt {
            log::prompt("> ");
        }
        poll_fn(|cx| {
            if let Poll::Ready(line) = lines.poll_next(cx) {
                return Poll::Ready(line.transpose().map_err(Failure::Input));
            }
            drive.poll_until(cx, |_, _| None).map_err(|ended| Failure::ended(address, &ended))
        })
        .await
    }
}
