//! Who decides in a world: an end of a connection, a listener, the order of the tasks.

use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};

use wirestate_core::shared::Lock;

use super::{Choice, Choices, Decision, Decisions, Number};
use crate::sim::Side;

/// Names a stream of decisions. Its hash, with the seed, gives the random numbers of the stream.
pub(crate) trait StreamKey {
    fn name(&self) -> String;
}

impl StreamKey for &str {
    fn name(&self) -> String {
        (*self).to_owned()
    }
}

/// A host, by what it decides on.
impl StreamKey for (&str, &Arc<str>) {
    fn name(&self) -> String {
        format!("{} {}", self.0, self.1)
    }
}

/// The end of a connection that has dialled.
impl StreamKey for (&Arc<str>, u64) {
    fn name(&self) -> String {
        (self.0, self.1, Side::Client).name()
    }
}

impl StreamKey for (&Arc<str>, u64, Side) {
    fn name(&self) -> String {
        let (client, dial, side) = self;
        format!("{client}/{dial} {side:?}")
    }
}

/// A listener.
impl StreamKey for SocketAddr {
    fn name(&self) -> String {
        format!("listener {self}")
    }
}

/// What a recorded or replayed test has decided.
#[derive(Default)]
pub(crate) struct Log {
    /// The decisions that differ from the quiet world.
    pub(crate) decisions: Decisions,
    /// What the scripted peers have done, in order.
    pub(crate) acts: Vec<PerformedAct>,
}

/// An act that a scripted peer has begun.
#[derive(Clone, Debug)]
pub(crate) struct PerformedAct {
    pub(crate) stream: String,
    /// The place in the list of acts, counted from 0.
    pub(crate) number: u64,
    /// The length of a `Send`, otherwise 0.
    pub(crate) len: usize,
    /// The act as text.
    pub(crate) text: String,
}

/// The streams of a world that is recorded or replayed.
pub(crate) struct Streams {
    /// What precedes the name of each stream.
    pub(crate) prefix: String,
    /// The decisions to replay. `None` if the random numbers decide.
    pub(crate) replayed: Option<Arc<Decisions>>,
    pub(crate) log: Arc<Lock<Log>>,
}

impl Streams {
    pub(crate) fn stream(&self, key: &impl StreamKey) -> Stream {
        let name = format!("{}{}", self.prefix, key.name());
        let of_name = |all: &Arc<Decisions>| all.streams.get(&name).cloned().unwrap_or_default();
        Stream {
            replayed: self.replayed.as_ref().map(of_name),
            decided: BTreeMap::new(),
            struck: None,
            log: self.log.clone(),
            name,
        }
    }
}

/// The decisions of one stream. It asks for a random one only if they are recorded.
#[derive(Clone)]
pub(crate) struct Stream {
    name: String,
    replayed: Option<BTreeMap<String, Choices>>,
    /// How often it has decided on each name.
    decided: BTreeMap<&'static str, u64>,
    /// The fault that has struck last, with its number, and its listed choice if it is replayed.
    struck: Option<(&'static str, Number, Option<Choice>)>,
    log: Arc<Lock<Log>>,
}

impl Stream {
    /// Decides whether a fault strikes.
    pub(crate) fn strikes(&mut self, name: &'static str, random: impl FnOnce() -> bool) -> bool {
        let (number, listed) = self.next(name);
        let strikes = if self.replayed.is_some() { listed.is_some() } else { random() };
        self.struck = strikes.then_some((name, number, listed));
        if strikes {
            let of_each = listed.filter(|_| matches!(number, Number::Each(_)));
            self.log(name, number, of_each.unwrap_or(Choice::Strikes));
        }
        strikes
    }

    /// Decides on a number from 1 to `max`.
    pub(crate) fn up_to(
        &mut self,
        name: &'static str,
        max: usize,
        random: impl FnOnce() -> usize,
    ) -> usize {
        let read = |choice| match choice {
            Choice::Number(number) => usize::try_from(number).unwrap_or(max).clamp(1, max),
            Choice::Strikes | Choice::Time(_) => 1,
        };
        let random = || Choice::Number(random() as u64);
        read(
            self.value(name, Choice::Number(1), random, |choice| {
                Choice::Number(read(choice) as u64)
            }),
        )
    }

    /// Decides on a duration.
    pub(crate) fn between(
        &mut self,
        name: &'static str,
        range: &RangeInclusive<Duration>,
        random: impl FnOnce() -> Duration,
    ) -> Duration {
        let read = |choice| match choice {
            Choice::Time(time) => time.clamp(*range.start(), *range.end()),
            Choice::Strikes | Choice::Number(_) => *range.start(),
        };
        let random = || Choice::Time(random());
        read(
            self.value(name, Choice::Time(*range.start()), random, |choice| {
                Choice::Time(read(choice))
            }),
        )
    }

    /// Decides whether a scripted peer performs its act, and how many bytes it sends: `None` if the
    /// act is left out.
    pub(crate) fn act(
        &mut self,
        number: u64,
        len: usize,
        text: impl FnOnce(usize) -> String,
    ) -> Option<usize> {
        if let (number, Some(_)) = self.listed(SKIP_ACT, number) {
            self.log(SKIP_ACT, number, Choice::Strikes);
            return None;
        }
        let (listed, choice) = self.listed(SEND_ONLY, number);
        let shortened = match choice {
            Some(Choice::Number(shortened)) if len > 0 => usize::try_from(shortened).ok(),
            Some(_) | None => None,
        };
        let shortened = shortened.filter(|shortened| *shortened < len);
        if let Some(shortened) = shortened {
            self.log(SEND_ONLY, listed, Choice::Number(shortened as u64));
        }
        let len = shortened.unwrap_or(len);
        let act = PerformedAct { stream: self.name.clone(), number, len, text: text(len) };
        self.log.with(|log| log.acts.push(act));
        Some(len)
    }

    /// Decides on the value of the fault that has struck last, if `name` begins with the name of
    /// the fault; otherwise on a value of its own.
    fn value(
        &mut self,
        name: &'static str,
        smallest: Choice,
        random: impl FnOnce() -> Choice,
        limited: impl FnOnce(Choice) -> Choice,
    ) -> Choice {
        let struck = self.struck.take().filter(|(fault, ..)| name.starts_with(fault));
        let (name, number, listed) = struck.unwrap_or_else(|| {
            let (number, listed) = self.next(name);
            (name, number, listed)
        });
        let choice = match (&self.replayed, listed) {
            (None, _) => random(),
            (Some(_), Some(listed)) => limited(listed),
            (Some(_), None) => smallest,
        };
        if let (Number::Each(_), Some(listed)) = (number, listed) {
            // The limits of one decision are not those of the others.
            self.log(name, number, listed);
        } else if choice != smallest {
            self.log(name, number, choice);
        }
        choice
    }

    /// As [`listed`](Self::listed), of the next decision on `name`.
    fn next(&mut self, name: &'static str) -> (Number, Option<Choice>) {
        let next = self.decided.entry(name).or_default();
        let number = *next;
        *next += 1;
        self.listed(name, number)
    }

    /// The choice that is listed for a decision, and the number that it is listed with.
    fn listed(&self, name: &str, number: u64) -> (Number, Option<Choice>) {
        let nth = Number::Nth(number);
        let choices = self.replayed.as_ref().and_then(|names| names.get(name));
        let listed = choices.and_then(|choices| {
            let includes = |listed: &Number| match listed {
                Number::Each(period) => (number + 1).is_multiple_of(period.get()),
                Number::Nth(_) => false,
            };
            let nth = choices.get_key_value(&nth);
            // They are sorted by period.
            nth.or_else(|| choices.iter().rev().find(|(listed, _)| includes(listed)))
        });
        listed.map_or((nth, None), |(number, choice)| (*number, Some(*choice)))
    }

    fn log(&self, name: &str, number: Number, choice: Choice) {
        let (stream, name) = (self.name.clone(), name.to_owned());
        let decision = Decision { stream, name, number, choice };
        self.log.with(|log| log.decisions.insert(decision));
    }
}

/// A decision that leaves out an act.
pub(crate) const SKIP_ACT: &str = "skip_act";
/// A decision that shortens a `Send`.
pub(crate) const SEND_ONLY: &str = "send_only";
