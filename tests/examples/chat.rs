//! A chat: each line of a member goes to all others, after the budget chat of
//! [Protohackers](https://protohackers.com/problem/3).
//!
//! ```sh
//! cargo run -p wirestate-testkit --example chat -- tokio 127.0.0.1:4000
//! nc 127.0.0.1 4000
//! ```
//!
//! The server asks for a name, and answers with the names of the others. From then on the
//! connection gets the lines of the others, and an announcement when one enters or leaves:
//!
//! ```text
//! Welcome! What is your name?
//! ann
//! * The room contains: bob
//! * eve has entered the room
//! [eve] hello
//! ```
//!
//! A line ends with `\n` or `\r\n`. Bad input gets one reply, and the connection closes:
//!
//! | input | reply, after `* error: ` |
//! |---|---|
//! | a name that is not 1 to 16 ASCII alphanumerics | `a name has 1 to 16 letters and digits` |
//! | the name of another member | `the name is in use` |
//! | a name while 1,000 members are in the room | `the room is full` |
//! | a line above 1,000 bytes | `a line has at most 1000 bytes` |
//! | a line with control characters, or not UTF-8 | `a line is text without control characters` |
//! | a FIN after N bytes of a line | `the input ended after N bytes of a frame` |
//! | no more than N bytes of a line within 5 s | `received N bytes of a frame within 5s` |
//!
//! A member that reads too slowly skips lines, and gets `* N lines skipped` in their place. A
//! connection is closed if it gives no name for 60 s. A member may be silent. It leaves when its
//! connection ends, or its input.

#[cfg(not(test))]
mod runtimes;

use std::{
    collections::BTreeSet,
    mem, str,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use wirestate_core::{
    ConfigError,
    protocol::{Buffer, Immediate, Malformed, Output, Protocol, ProtocolReason, Replies, Step},
    shared::{Lock, Shared},
    topic::{self, Lagged, Published, Subscription, Topic},
};

/// The room of all connections. Clones are the same room.
///
/// It holds the [topic] with its lines, and at most 1,000 names.
#[derive(Clone)]
pub(crate) struct Room {
    names: Shared<Lock<BTreeSet<Shared<str>>>>,
    lines: Topic<Line>,
}

/// A line for all members, except for the one with this name.
type Line = (Shared<str>, Bytes);

impl Room {
    /// An empty room, with these limits for lines that a member has not read.
    ///
    /// # Errors
    /// A limit is zero.
    pub(crate) fn new(limits: topic::Config) -> Result<Self, ConfigError> {
        let lines = Topic::new(limits, |(_, text): &Line| text.len())?;
        Ok(Self { names: Shared::default(), lines })
    }

    /// Adds a member. Returns its state, and the names of the others.
    fn enter(&self, name: &str) -> Result<(State, String), Malformed> {
        if !(1..=16).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err("a name has 1 to 16 letters and digits".into());
        }
        let name: Shared<str> = name.into();
        let (published, entered) = self.names.with(|names| {
            if names.len() == MAX_MEMBERS {
                return Err("the room is full");
            }
            let others = names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ");
            if !names.insert(name.clone()) {
                return Err("the name is in use");
            }
            // Under the lock, so that it gets each later change of the names, and no earlier one.
            let published = self.announce(&name, "entered");
            let own = name.clone();
            let lines = self.lines.subscribe_where(move |(name, _)| *name != own);
            Ok((published, (State::Member(name, lines), others)))
        })?;
        drop(published); // outside the lock: it wakes the others
        Ok(entered)
    }

    fn announce(&self, name: &Shared<str>, change: &str) -> Published<Line> {
        self.lines.append((name.clone(), format!("* {name} has {change} the room\n").into()))
    }
}

/// The protocol of one connection.
pub(crate) struct Chat {
    room: Room,
    state: State,
}

enum State {
    /// The greeting is not sent yet.
    Greeting,
    /// The next line is the name.
    Naming,
    /// The name, and the lines of the others.
    Member(Shared<str>, Subscription<Line>),
    Left,
}

impl Chat {
    /// A connection that was accepted.
    pub(crate) fn new(room: &Room) -> Self {
        Self { room: room.clone(), state: State::Greeting }
    }

    fn handle_line(&mut self, line: &[u8], output: &mut Output) -> Result<(), Malformed> {
        check_length(line)?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = str::from_utf8(line).ok().filter(|text| !text.contains(char::is_control));
        let text = text.ok_or("a line is text without control characters")?;
        if let State::Member(name, _) = &self.state {
            self.room.lines.publish((name.clone(), format!("[{name}] {text}\n").into()));
        } else {
            let (member, others) = self.room.enter(text)?;
            writeln!(output, "* The room contains: {others}");
            self.state = member;
        }
        Ok(())
    }

    fn leave(&mut self) {
        if let State::Member(name, _) = mem::replace(&mut self.state, State::Left) {
            drop(self.room.names.with(|names| {
                names.remove(&name);
                self.room.announce(&name, "left")
            }));
        }
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Protocol for Chat {
    type Input = Buffer;
    type Error = Malformed;
    type Answer = Immediate;

    fn receive(&mut self, input: &mut Buffer, replies: &mut Replies) -> Result<Step, Malformed> {
        let Some(line) = input.take_until(b'\n') else {
            check_length(input.bytes())?;
            return Ok(Step::Incomplete { length: None });
        };
        self.handle_line(line, replies.output())?;
        Ok(Step::Taken)
    }

    fn poll_news(
        &mut self,
        replies: &mut Replies,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Malformed>> {
        match &mut self.state {
            State::Greeting => {
                replies.output().extend(b"Welcome! What is your name?\n");
                self.state = State::Naming;
            }
            State::Naming | State::Left => return Poll::Pending,
            State::Member(_, lines) => match ready!(lines.poll_next(cx)) {
                Ok((_, text)) => replies.output().extend(&text),
                Err(Lagged { skipped }) => {
                    writeln!(replies.output(), "* {skipped} lines skipped");
                }
            },
        }
        Poll::Ready(Ok(()))
    }

    fn error_reply(&mut self, reason: &ProtocolReason, output: &mut Output) {
        self.leave();
        if reason.is_error() {
            writeln!(output, "* error: {reason}");
        }
    }

    fn is_idle(&self) -> bool {
        !matches!(self.state, State::Member(..))
    }
}

/// Checks the length of a line, or of a part of one.
fn check_length(line: &[u8]) -> Result<(), Malformed> {
    if line.strip_suffix(b"\r").unwrap_or(line).len() > 1000 {
        return Err("a line has at most 1000 bytes".into());
    }
    Ok(())
}

/// The most members. It limits the list of names to 18 KB.
const MAX_MEMBERS: usize = 1000;

#[cfg(not(test))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = wirestate_core::protocol::Server::default();
    let room = Room::new(topic::Config::default())?;
    runtimes::serve(move |_, now| server.machine(Chat::new(&room), now))
}
