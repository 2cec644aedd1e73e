//! A key-value server that speaks the protocol of Redis (RESP2).
//!
//! ```sh
//! cargo run -p wirestate-testkit --example resp -- tokio 127.0.0.1:6379
//! redis-cli set key value
//! ```
//!
//! Commands: `COMMAND`, `CONFIG GET`, `DBSIZE`, `DECR`, `DEL`, `ECHO`, `EXISTS`, `FLUSHALL`, `GET`,
//! `INCR`, `MONITOR`, `PING`, `QUIT`, and `SET` without options.
//!
//! A bad frame gets the reply of `redis-server` 7.0, which begins with `-ERR Protocol error: `, and
//! closes the connection:
//!
//! | frame | reply |
//! |---|---|
//! | `*x\r\n` | `invalid multibulk length` |
//! | `*01\r\n` | `invalid multibulk length` |
//! | `*3000000000\r\n` | `invalid multibulk length` |
//! | `*1\r\nGET\r\n` | `expected '$', got 'G'` |
//! | `*1\r\n:1\r\n` | `expected '$', got ':'` |
//! | `*1\r\n$x\r\n` | `invalid bulk length` |
//! | `*1\r\n$-1\r\n` | `invalid bulk length` |
//! | `*1\r\n$1000000000\r\n` | `invalid bulk length` |
//! | `GET "a\r\n` | `unbalanced quotes in request` |
//! | `GET 'a'b\r\n` | `unbalanced quotes in request` |
//! | 64 KiB behind `*`, without `\n` | `too big mbulk count string` |
//! | 64 KiB behind `$`, without `\n` | `too big bulk count string` |
//! | another 64 KiB, without `\n` | `too big inline request` |
//!
//! Where it differs from `redis-server`: the limits at the end of this file are lower. An end of
//! the input within a frame gets an error reply too. `MONITOR` shows every request but those of its
//! own connection. A monitor that is too slow misses requests, and is told how many. In an inline
//! request, a quote counts only at the start of a word, and a backslash is no escape.

use std::{
    collections::BTreeMap,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use wirestate_core::{
    ConfigError, Instant,
    protocol::{
        Buffer, Config, Connection, Immediate, Malformed, Output, Protocol, ProtocolReason,
        Replies, Server, Step,
    },
    shared::{Lock, Shared},
    topic::{self, Subscription, Topic},
};

mod runtimes;

#[cfg(not(test))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let connect =
        database(Config::default().with_idle_timeout(std::time::Duration::from_secs(300)))?;
    runtimes::serve(move |entry, now| connect(entry.id(), now))
}

/// A server with an empty store. The function makes the machine of a connection, by its number.
pub(crate) fn database(
    config: Config,
) -> Result<impl Fn(u64, Instant) -> Connection<Resp> + Clone, ConfigError> {
    let requests = Topic::new(topic::Config::default(), |(_, line): &(u64, Bytes)| line.len())?;
    let (server, store) = (Server::new(config)?, Shared::<Lock<Store>>::default());
    Ok(move |number, now| {
        let (store, requests) = (store.clone(), requests.clone());
        server.machine(Resp { store, requests, number, monitor: None }, now)
    })
}

/// The protocol of one connection.
///
/// All connections together hold at most [`MAX_MEMORY`] bytes of keys and values, and 1 MiB of
/// lines for monitors, besides what [`Connection`] lists.
pub(crate) struct Resp {
    /// The store of all connections.
    store: Shared<Lock<Store>>,
    /// What monitors are sent: the requests of all connections, with the connection's number.
    requests: Topic<(u64, Bytes)>,
    number: u64,
    monitor: Option<Subscription<(u64, Bytes)>>,
}

impl Protocol for Resp {
    type Input = Buffer;
    type Error = Malformed;
    type Answer = Immediate;

    fn receive(&mut self, input: &mut Buffer, replies: &mut Replies) -> Result<Step, Malformed> {
        let (request, end) = match request(input.bytes()) {
            Ok(request) => request,
            Err(step) => return step,
        };
        self.answer(&request, replies);
        input.take(end);
        Ok(Step::Taken)
    }

    fn poll_news(
        &mut self,
        replies: &mut Replies,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Malformed>> {
        let Some(monitor) = &mut self.monitor else { return Poll::Pending };
        match ready!(monitor.poll_next(cx)) {
            Ok((_, line)) => replies.output().push_shared(&line),
            Err(lagged) => write!(replies.output(), "-ERR {lagged}\r\n"),
        }
        Poll::Ready(Ok(()))
    }

    fn error_reply(&mut self, reason: &ProtocolReason, output: &mut Output) {
        if reason.is_error() {
            write!(output, "-ERR Protocol error: {reason}\r\n");
        }
    }

    fn is_idle(&self) -> bool {
        self.monitor.is_none()
    }
}

impl Resp {
    fn answer(&mut self, request: &[&[u8]], replies: &mut Replies) {
        let [name, arguments @ ..] = request else { return };
        let (name, own) = (name.to_ascii_uppercase(), self.number);
        let shown = (self.requests.counters().subscribers > 0).then(|| {
            let shown = |part: &&[u8]| part[..part.len().min(MAX_SHOWN)].escape_ascii().to_string();
            let shown = request.iter().map(shown).collect::<Vec<_>>().join("\" \"");
            let now = replies.now().since_epoch().as_secs_f64();
            format!("+{now:.6} [0 {own}] \"{shown}\"\r\n")
        });
        let output = replies.output();
        let published = self.store.with(|store| {
            if let Err(error) = store.answer(&name, arguments, output) {
                write!(output, "-{error}\r\n");
            }
            shown.map(|line| self.requests.append((own, line.into())))
        });
        drop(published); // outside of the lock: it wakes the monitors
        if name == b"QUIT" {
            replies.close();
        } else if name == b"MONITOR" && arguments.is_empty() {
            self.monitor = Some(self.requests.subscribe_where(move |(number, _)| *number != own));
        }
    }
}

/// A part of a request; or what [`Protocol::receive`] returns, because there is none.
type Parsed<T> = Result<T, Result<Step, Malformed>>;

/// The arguments of the request that `bytes` begin with, and where it ends.
fn request(bytes: &[u8]) -> Parsed<(Vec<&[u8]>, usize)> {
    if bytes.first().is_some_and(|first| *first != b'*') {
        let (line, end) = line(bytes, 0, MAX_LINE, "inline request")?;
        let words = words(line).ok_or(Err("unbalanced quotes in request".into()))?;
        let is_short = words.len() <= MAX_ARGUMENTS;
        return is_short.then_some((words, end)).ok_or(Err("too big inline request".into()));
    }
    let (count, mut end) = line(bytes, 0, MAX_NUMBER, "mbulk count string")?;
    let count = integer(&count[1..]).and_then(|count| usize::try_from(count.max(0)).ok());
    let count = count.filter(|count| *count <= MAX_ARGUMENTS);
    let count = count.ok_or(Err("invalid multibulk length".into()))?;
    let mut arguments = Vec::with_capacity(count);
    for _ in 0..count {
        let (line, start) = line(bytes, end, MAX_NUMBER, "bulk count string")?;
        let Some(length) = line.strip_prefix(b"$") else {
            let kind = line.first().unwrap_or(&b'\r').escape_ascii();
            return Err(Err(format!("expected '$', got '{kind}'").into()));
        };
        let length = integer(length).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= MAX_BULK);
        end = start + length.ok_or(Err("invalid bulk length".into()))? + 2;
        if end > bytes.len() {
            return Err(Ok(Step::Incomplete { length: Some(end) }));
        }
        arguments.push(&bytes[start..end - 2]);
    }
    Ok((arguments, end))
}

/// The line of `bytes` at `start`, and where the next one begins. Its `name` is for the error.
fn line<'a>(bytes: &'a [u8], start: usize, max: usize, name: &str) -> Parsed<(&'a [u8], usize)> {
    let line = &bytes[start..bytes.len().min(start + max)];
    match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => Ok((line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]), start + end + 1)),
        None if line.len() == max => Err(Err(format!("too big {name}").into())),
        None => Err(Ok(Step::Incomplete { length: (start > 0).then_some(bytes.len() + 1) })),
    }
}

/// The words of an inline request. A word may be in quotes; `None` if they are not closed.
fn words(mut line: &[u8]) -> Option<Vec<&[u8]>> {
    let mut words = Vec::new();
    while let [first, rest @ ..] = line.trim_ascii_start() {
        let quote = Some(*first).filter(|first| matches!(first, b'"' | b'\''));
        let word = if quote.is_some() { rest } else { line.trim_ascii_start() };
        let is_end = |byte: &u8| quote.map_or(byte.is_ascii_whitespace(), |quote| *byte == quote);
        let end = word.iter().position(is_end).or(quote.is_none().then_some(word.len()))?;
        words.push(&word[..end]);
        line = word.get(end + 1..).unwrap_or_default();
        if quote.is_some() && !line.first().is_none_or(u8::is_ascii_whitespace) {
            return None;
        }
    }
    Some(words)
}

/// An integer as Redis reads it: without `+`, and without a 0 in front of other digits.
fn integer(text: &[u8]) -> Option<i64> {
    let (sign, digits) = text.strip_prefix(b"-").map_or((1, text), |digits| (-1, digits));
    if text != b"0" && !matches!(digits.first(), Some(b'1'..=b'9')) {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(sign * i64::from(digit))
    })
}

/// The keys and their values, and the commands for them. It holds at most [`MAX_MEMORY`] bytes.
///
/// A value that is replaced or deleted while it is being sent stays until it is sent: at most
/// 576 KiB for each connection.
#[derive(Default)]
struct Store {
    values: BTreeMap<Box<[u8]>, Bytes>,
    /// The memory of all entries in bytes.
    memory: usize,
}

impl Store {
    /// Appends the reply to a request, or returns the error reply.
    fn answer(&mut self, name: &[u8], keys: &[&[u8]], output: &mut Output) -> Result<(), String> {
        match (name, keys) {
            (b"PING", []) => output.extend(b"+PONG\r\n"),
            (b"PING" | b"ECHO", [text]) => bulk(output, Some(text.to_vec().into())),
            (b"GET", [key]) => bulk(output, self.values.get(*key).cloned()),
            (b"SET", [key, value]) => self.put(key, Some(value)).map(|_| output.extend(OK))?,
            (b"SET", [_, _, _, ..]) => return Err("ERR syntax error".into()),
            (b"INCR" | b"DECR", [key]) => {
                let old = self.values.get(*key).map_or(Some(0), |value| integer(value));
                let old = old.ok_or("ERR value is not an integer or out of range")?;
                let new = old.checked_add(if name == b"INCR" { 1 } else { -1 });
                let new = new.ok_or("ERR increment or decrement would overflow")?;
                self.put(key, Some(new.to_string().as_bytes()))?;
                write!(output, ":{new}\r\n");
            }
            (b"DEL", [_, ..]) => {
                let deleted = keys.iter().filter(|key| self.put(key, None) == Ok(true)).count();
                write!(output, ":{deleted}\r\n");
            }
            (b"EXISTS", [_, ..]) => {
                let found = keys.iter().filter(|key| self.values.contains_key(**key)).count();
                write!(output, ":{found}\r\n");
            }
            (b"DBSIZE", []) => write!(output, ":{}\r\n", self.values.len()),
            (b"FLUSHALL", []) => {
                *self = Self::default();
                output.extend(OK);
            }
            (b"QUIT", _) | (b"MONITOR", []) => output.extend(OK),
            (b"COMMAND", _) => output.extend(b"*0\r\n"),
            (b"CONFIG", [_, setting]) => {
                output.extend(b"*2\r\n");
                bulk(output, Some(setting.to_vec().into()));
                output.extend(b"$0\r\n\r\n");
            }
            _ => {
                let shown = name[..name.len().min(MAX_SHOWN)].to_ascii_lowercase();
                let shown = shown.escape_ascii();
                if COMMANDS.split(' ').any(|known| known.as_bytes() == name) {
                    return Err(format!("ERR wrong number of arguments for '{shown}' command"));
                }
                return Err(format!("ERR unknown command '{shown}'"));
            }
        }
        Ok(())
    }

    /// Sets or removes a value. Returns whether there was one, or an error reply.
    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<bool, String> {
        let size = |value: &[u8]| key.len() + value.len() + ENTRY;
        let memory = self.memory + value.map_or(0, size);
        if value.is_some() && memory > MAX_MEMORY {
            return Err("OOM command not allowed when used memory > 'maxmemory'.".into());
        }
        let old = match value.map(Bytes::copy_from_slice) {
            Some(value) => self.values.insert(key.into(), value),
            None => self.values.remove(key),
        };
        self.memory = memory - old.as_deref().map_or(0, size);
        Ok(old.is_some())
    }
}

/// Appends a value, or null.
fn bulk(output: &mut Output, value: Option<Bytes>) {
    let Some(value) = value else { return output.extend(b"$-1\r\n") };
    write!(output, "${}\r\n", value.len());
    output.push(value);
    output.extend(b"\r\n");
}

const OK: &[u8] = b"+OK\r\n";
/// The commands that restrict the number of their arguments.
const COMMANDS: &str = "CONFIG DBSIZE DECR DEL ECHO EXISTS FLUSHALL GET INCR MONITOR PING SET";
/// The most arguments of a request, with the command.
const MAX_ARGUMENTS: usize = 128;
/// The longest argument in bytes.
const MAX_BULK: usize = 512 * 1024;
/// The longest inline request in bytes.
const MAX_LINE: usize = 64 * 1024;
/// The longest line with a number in bytes.
const MAX_NUMBER: usize = 32;
/// How many bytes of an argument a monitor or an error reply shows.
const MAX_SHOWN: usize = 128;
/// The memory of all keys and values in bytes.
const MAX_MEMORY: usize = 64 * 1024 * 1024;
/// The memory of an entry in bytes, without its key and value.
const ENTRY: usize = 192;
