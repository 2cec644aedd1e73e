//! A score board, the protocol of the guide `docs/write-a-protocol.md`:
//!
//! ```sh
//! cargo run -p wirestate-testkit --example scores -- tokio 127.0.0.1:7070
//! ```
//!
//! | request | reply |
//! |---|---|
//! | `win NAME` | `NAME WINS`, with one win more |
//! | `score NAME` | `NAME WINS` |
//! | `watch` | `watching`, and from then on `news: NAME WINS` after each win |
//! | `quit` | `bye`, and the connection closes |
//!
//! | bad input | last reply, after which the connection closes |
//! |---|---|
//! | any other line | `error: unknown request` |
//! | a name that is empty or not all ASCII letters | `error: a name has letters only` |
//! | a win for a new name, after 10,000 names | `error: too many names` |
//! | a line of more than 80 bytes | `error: a frame of 81 bytes or more, above the limit of 80` |
//! | the input ends within a line | `error: the input ended after 3 bytes of a frame` |
//! | a line that is not complete after 5 s | `error: received 3 bytes of a frame within 5s` |

#[cfg(not(test))]
mod runtimes;

use std::{
    collections::BTreeMap,
    task::{Context, Poll, ready},
};

use wirestate_core::{
    ConfigError,
    protocol::{
        Buffer, Config, Immediate, Malformed, Output, Protocol, ProtocolReason, Replies, Step,
    },
    shared::{Lock, Shared},
    topic::{self, Subscription, Topic},
};

/// What all connections share.
pub(crate) struct Board {
    wins: Lock<BTreeMap<String, u64>>,
    news: Topic<(String, u64)>,
}

impl Board {
    pub(crate) fn new() -> Result<Shared<Self>, ConfigError> {
        let news = Topic::new(topic::Config::default(), |(name, _): &(String, u64)| name.len())?;
        Ok(Shared::new(Self { wins: Lock::default(), news }))
    }

    fn score(&self, name: &str) -> u64 {
        self.wins.with(|wins| wins.get(name).copied().unwrap_or(0))
    }

    fn win(&self, name: &str) -> Result<u64, Malformed> {
        let (wins, published) = self.wins.with(|wins| {
            if wins.len() == MAX_NAMES && !wins.contains_key(name) {
                return Err(Malformed::from("too many names"));
            }
            let wins = wins.entry(name.to_owned()).or_default();
            *wins += 1;
            Ok((*wins, self.news.append((name.to_owned(), *wins))))
        })?;
        drop(published); // outside the lock: this wakes the connections that watch
        Ok(wins)
    }
}

/// The protocol of one connection.
pub(crate) struct Scores {
    board: Shared<Board>,
    watch: Option<Subscription<(String, u64)>>,
}

impl Scores {
    pub(crate) fn new(board: Shared<Board>) -> Self {
        Self { board, watch: None }
    }
}

impl Protocol for Scores {
    type Input = Buffer;
    type Error = Malformed;
    type Answer = Immediate;

    fn receive(&mut self, input: &mut Buffer, replies: &mut Replies) -> Result<Step, Malformed> {
        let Some(line) = input.take_until(b'\n') else {
            return Ok(Step::Incomplete { length: None });
        };
        let line = str::from_utf8(line).map_err(|_| "unknown request")?;
        let (request, name) = line.split_once(' ').unwrap_or((line, ""));
        let wins = match request {
            "win" => self.board.win(valid_name(name)?)?,
            "score" => self.board.score(valid_name(name)?),
            "watch" if line == request => {
                self.watch.get_or_insert_with(|| self.board.news.subscribe());
                replies.output().extend(b"watching\n");
                return Ok(Step::Taken);
            }
            "quit" if line == request => {
                replies.output().extend(b"bye\n");
                replies.close();
                return Ok(Step::Taken);
            }
            _ => return Err("unknown request".into()),
        };
        writeln!(replies.output(), "{name} {wins}");
        Ok(Step::Taken)
    }

    fn error_reply(&mut self, reason: &ProtocolReason, output: &mut Output) {
        if reason.is_error() {
            writeln!(output, "error: {reason}");
        }
    }

    fn poll_news(
        &mut self,
        replies: &mut Replies,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Malformed>> {
        let Some(watch) = &mut self.watch else { return Poll::Pending };
        match ready!(watch.poll_next(cx)) {
            Ok((name, wins)) => writeln!(replies.output(), "news: {name} {wins}"),
            Err(lagged) => writeln!(replies.output(), "news: {} skipped", lagged.skipped),
        }
        Poll::Ready(Ok(()))
    }

    fn is_idle(&self) -> bool {
        self.watch.is_none()
    }
}

/// Returns `name` if it is a valid name.
fn valid_name(name: &str) -> Result<&str, Malformed> {
    let is_valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic());
    if is_valid { Ok(name) } else { Err("a name has letters only".into()) }
}

/// The limits: a line has at most 80 bytes, with its `\n`.
pub(crate) fn config() -> Config {
    Config::default()
        .with_buffer(const { std::num::NonZeroUsize::new(512).unwrap() })
        .with_max_frame(const { std::num::NonZeroUsize::new(80).unwrap() })
}

/// The most names on the board.
const MAX_NAMES: usize = 10_000;

#[cfg(not(test))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (server, board) = (wirestate_core::protocol::Server::new(config())?, Board::new()?);
    runtimes::serve(move |_, now| server.machine(Scores::new(board.clone()), now))
}
