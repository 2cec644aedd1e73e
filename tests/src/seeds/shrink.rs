//! Makes a failing world smaller.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    iter::once,
    num::NonZeroU64,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    failure::{Failure, quietly},
    sim::{
        Decisions,
        case::{self, Limit, Mode, Run},
        decisions::{Choice, Decision, Number, PerformedAct, SEND_ONLY, SKIP_ACT},
    },
};

/// The smallest failing world that was found.
pub(super) struct Smallest {
    pub(super) decisions: Decisions,
    /// What its scripted peers do.
    pub(super) acts: Vec<PerformedAct>,
    pub(super) failure: Failure,
    /// How many runs it took.
    pub(super) runs: u64,
    pub(super) time: Duration,
    /// Whether nothing smaller fails, rather than that the time is over.
    pub(super) is_minimal: bool,
}

/// Looks for a smaller world in which `test`, of the file `source`, fails as it fails with random
/// decisions, for at most `limit`. The failing run took `steps` steps.
///
/// Large changes come first, since a run takes as long for a small one:
///
/// 1. Whole kinds of decisions, and all decisions of an end of a connection, are as in the quiet
///    world.
/// 2. Scripted peers, and then acts, are left out.
/// 3. Many decisions of one kind become a single one: each read returns 100 bytes.
/// 4. Groups of decisions are dropped, ever smaller ones, and what peers send is shortened.
/// 5. A decision that repeats becomes one of the first three.
/// 6. Numbers and times become small and round, and pairs of decisions one.
///
/// It repeats that until nothing changes, but runs no world twice. A run that takes far more steps
/// than the failing one waits for a fault that does not strike, and is ended.
///
/// A test often checks what its acts have sent, and fails if an act is missing. So an act is left
/// out only if the test passes without it in the quiet world, or if the panic is in the code that
/// is tested.
///
/// # Errors
/// Why there is no such world.
pub(super) fn shrink(
    test: &dyn Fn(),
    source: &str,
    steps: u64,
    limit: Duration,
) -> Result<Smallest, &'static str> {
    let began = Instant::now();
    let steps = steps.saturating_mul(2).max(MIN_STEPS);
    let limit = Limit { steps, until: began + limit };
    let (run, failure) = quietly(|| case::run(Mode::Record, Some(limit), test));
    let failure = failure.filter(|_| run.result.is_err() && run.worlds > 0);
    let failure = failure.ok_or("the failure does not depend on a world alone")?;
    let mut shrinking = Shrinking {
        test,
        limit,
        runs: 1,
        expects_acts: failure.is_of_test(source),
        failure,
        best: Decisions::default(),
        acts: Vec::new(),
        tried: BTreeSet::new(),
        passed: BTreeMap::new(),
    };
    // All decisions of the recording must give the same failure.
    if shrinking.is_over() || !shrinking.accepts(run.log.decisions) {
        return Err(if shrinking.is_over() {
            "the time (WIRESTATE_SHRINK_SECONDS) was over before it failed again"
        } else {
            "the failure does not depend on a world alone"
        });
    }
    shrinking.tries(Decisions::default());
    loop {
        let before = (shrinking.best.clone(), shrinking.acts.len());
        shrinking.drop_by(|one| one.name.clone());
        shrinking.drop_by(|one| one.stream.clone());
        shrinking.leave_out_acts(|act| act.stream.clone());
        shrinking.leave_out_acts(|act| (act.stream.clone(), act.number));
        shrinking.unite();
        shrinking.drop_by(|one| (one.stream.clone(), one.name.clone(), one.number));
        shrinking.shorten_sends();
        shrinking.narrow();
        shrinking.reduce_values();
        shrinking.drop_and_renumber();
        let is_over = shrinking.is_over();
        if is_over || before == (shrinking.best.clone(), shrinking.acts.len()) {
            let Shrinking { best: decisions, acts, failure, runs, .. } = shrinking;
            let (time, is_minimal) = (began.elapsed(), !is_over);
            return Ok(Smallest { decisions, acts, failure, runs, time, is_minimal });
        }
    }
}

struct Shrinking<'a> {
    test: &'a dyn Fn(),
    /// The limit of each run.
    limit: Limit,
    runs: u64,
    /// Whether the failure may be what the test expects of its acts.
    expects_acts: bool,
    failure: Failure,
    best: Decisions,
    /// What the scripted peers of the best world do.
    acts: Vec<PerformedAct>,
    /// The hashes of the worlds that were run.
    tried: BTreeSet<u64>,
    /// Whether the test passes in the quiet world with these decisions about acts.
    passed: BTreeMap<u64, bool>,
}

impl Shrinking<'_> {
    fn is_over(&self) -> bool {
        Instant::now() >= self.limit.until
    }

    fn run(&mut self, decisions: Decisions, limit: Limit) -> (Run<()>, Option<Failure>) {
        self.runs += 1;
        let mode = Mode::Replay(Arc::new(decisions));
        quietly(|| case::run(mode, Some(limit), self.test))
    }

    /// Runs a world, and keeps it if it fails like the first one.
    fn accepts(&mut self, candidate: Decisions) -> bool {
        let (run, failure) = self.run(candidate, self.limit);
        let failure = failure.filter(|_| run.result.is_err());
        let Some(failure) = failure.filter(|failure| failure.is_like(&self.failure)) else {
            return false;
        };
        // Without the decisions that it has not asked for.
        self.best = run.log.decisions;
        self.tried.insert(hash(&self.best));
        self.acts = run.log.acts;
        self.failure = failure;
        true
    }

    /// As [`accepts`](Self::accepts), unless the time is over, the world has run before, or its
    /// acts do not suffice for the test.
    fn tries(&mut self, candidate: Decisions) -> bool {
        if self.is_over() {
            return false;
        }
        self.tried.insert(hash(&candidate))
            && self.allows_acts(&candidate)
            && !self.is_over()
            && self.accepts(candidate)
    }

    /// Whether the failure of a world with these acts can be the first one.
    fn allows_acts(&mut self, candidate: &Decisions) -> bool {
        let acts: Decisions = candidate.iter().filter(is_of_act).collect();
        if !self.expects_acts || acts == self.best.iter().filter(is_of_act).collect() {
            return true;
        }
        if acts == *candidate {
            return false;
        }
        let key = hash(&acts);
        if let Some(has_passed) = self.passed.get(&key) {
            return *has_passed;
        }
        // A run that passes may be much longer than one that fails.
        let limit = Limit { steps: self.limit.steps.saturating_mul(10), ..self.limit };
        let has_passed = self.run(acts, limit).0.result.is_ok();
        self.passed.insert(key, has_passed);
        has_passed
    }

    /// The decisions of the best world for which `keep` is true.
    fn only(&self, keep: impl FnMut(&Decision) -> bool) -> Decisions {
        self.best.iter().filter(keep).collect()
    }

    /// The best world with these decisions in addition, or instead.
    fn with(&self, changes: impl IntoIterator<Item = Decision>) -> Decisions {
        self.best.iter().chain(changes).collect()
    }

    /// Calls `tries` with a range of what `count` counts: with all, then with each half, and so on,
    /// until each one was tried alone. A success makes the count smaller.
    ///
    /// This is delta debugging (Zeller and Hildebrandt, 2002).
    fn halve(
        &mut self,
        count: impl Fn(&Self) -> usize,
        mut tries: impl FnMut(&mut Self, Range<usize>) -> bool,
    ) {
        let mut size = count(self);
        while size > 0 {
            let mut start = 0;
            loop {
                let count = count(self);
                size = size.min(count);
                if start >= count || self.is_over() {
                    break;
                }
                if !tries(self, start..count.min(start + size)) {
                    start += size;
                }
            }
            size /= 2;
        }
    }

    /// Drops all decisions of one or more keys, or keeps only these. Decisions about acts stay,
    /// since they make a world smaller.
    fn drop_by<K: Ord>(&mut self, key: impl Fn(&Decision) -> K) {
        let keys = |this: &Self| -> Vec<K> {
            let drops = this.best.iter().filter(|one| !is_of_act(one));
            drops.map(|one| key(&one)).collect::<BTreeSet<_>>().into_iter().collect()
        };
        self.halve(
            |this| keys(this).len(),
            |this, range| {
                let keys = keys(this);
                let group = &keys[range];
                let is_in = |one: &Decision| group.binary_search(&key(one)).is_ok();
                let is_large = group.len() >= keys.len().div_ceil(MAX_KEPT_GROUPS);
                this.tries(this.only(|one| is_of_act(one) || !is_in(one)))
                    || is_large && this.tries(this.only(|one| is_of_act(one) || is_in(one)))
            },
        );
    }

    /// Leaves out all acts of one or more keys.
    fn leave_out_acts<K: Ord>(&mut self, key: impl Fn(&PerformedAct) -> K) {
        let keys = |this: &Self| -> Vec<K> {
            this.acts.iter().map(&key).collect::<BTreeSet<_>>().into_iter().collect()
        };
        self.halve(
            |this| keys(this).len(),
            |this, range| {
                let group = &keys(this)[range];
                let acts = this.acts.iter().filter(|act| group.binary_search(&key(act)).is_ok());
                let changes: Vec<_> =
                    acts.map(|act| change(act, SKIP_ACT, Choice::Strikes)).collect();
                this.tries(this.with(changes))
            },
        );
    }

    /// Replaces all decisions of a stream on one name by a single one: for each call if the name is
    /// in [`LASTING`], otherwise about as often. It has the least effect, the median or the largest
    /// of their values. If there are few decisions, only acts that are left out are united.
    fn unite(&mut self) {
        let groups = |this: &Self| -> Vec<Vec<Decision>> {
            let is_long = this.best.iter().filter(|one| !is_of_act(one)).count() > FEW;
            let mut groups = BTreeMap::<_, Vec<Decision>>::new();
            for one in this.best.iter() {
                if one.name == SKIP_ACT || is_long && !is_of_act(&one) {
                    groups.entry((one.stream.clone(), one.name.clone())).or_default().push(one);
                }
            }
            groups.into_values().filter(|group| group.len() > 1).collect()
        };
        self.halve(
            |this| groups(this).len(),
            |this, range| {
                let groups = &groups(this)[range];
                let keys: BTreeSet<_> = groups.iter().map(|group| key(&group[0])).collect();
                let rest = this.only(|one| !keys.contains(&key(one)));
                (0..=2).any(|value| {
                    let united = groups.iter().map(|group| repeated(group, value));
                    this.tries(rest.iter().chain(united).collect())
                })
            },
        );
    }

    /// Replaces a decision that repeats by one of the first.
    fn narrow(&mut self) {
        let repeats = |one: &Decision| matches!(one.number, Number::Each(_)) && !is_of_act(one);
        for one in self.best.iter().filter(repeats).collect::<Vec<_>>() {
            let rest = self.only(|other| *other != one);
            if rest.len() == self.best.len() {
                continue; // the best world no longer has it
            }
            (0..3).any(|number| {
                let narrow = Decision { number: Number::Nth(number), ..one.clone() };
                self.tries(rest.iter().chain(once(narrow)).collect())
            });
        }
    }

    /// Drops a decision, or merges two that follow each other: one cut instead of two, or one
    /// delay. There are fewer calls then, so one other decision may come one call earlier.
    fn drop_and_renumber(&mut self) {
        let mut i = 0;
        while i < self.best.len() && self.best.len() <= FEW && !self.is_over() {
            let mut dropped: Vec<_> = self.best.iter().collect();
            let one = dropped.remove(i);
            if is_of_act(&one) {
                i += 1;
                continue;
            }
            let mut merged = dropped.clone();
            let is_alike =
                |other: &&mut Decision| other.stream == one.stream && other.name == one.name;
            let before = merged[..i].last_mut().filter(is_alike);
            let before = before.filter(|before| earlier(one.number) == Some(before.number));
            let has_merged = before.is_some_and(|before| {
                let sum = sum(before.choice, one.choice);
                before.choice = sum.unwrap_or(before.choice);
                sum.is_some()
            });
            if has_merged {
                for later in merged[i..].iter_mut().filter(is_alike) {
                    later.number = earlier(later.number).unwrap_or(later.number);
                }
            }
            if !(has_merged && self.tries_renumbered(&merged) || self.tries_renumbered(&dropped)) {
                i += 1;
            }
        }
    }

    /// Tries `decisions`, and then with each one of them a call earlier.
    fn tries_renumbered(&mut self, decisions: &[Decision]) -> bool {
        self.tries(decisions.iter().cloned().collect())
            || (0..decisions.len()).any(|i| {
                let mut all = decisions.to_vec();
                let Some(earlier) = earlier(all[i].number).filter(|_| !is_of_act(&all[i])) else {
                    return false;
                };
                all[i].number = earlier;
                let renumbered: Decisions = all.into_iter().collect();
                renumbered.len() == decisions.len() && self.tries(renumbered)
            })
    }

    /// Looks for the shortest length of each `Send` by bisection, if it can be shorter at all.
    fn shorten_sends(&mut self) {
        for act in self.acts.clone() {
            let mut range = 1..act.len;
            let mut len = act.len.saturating_sub(1);
            while !range.is_empty() {
                if self.tries(self.with([change(&act, SEND_ONLY, Choice::Number(len as u64))])) {
                    range.end = len;
                } else if len + 1 == act.len {
                    break;
                } else {
                    range.start = len + 1;
                }
                len = range.start.midpoint(range.end);
            }
        }
    }

    fn reduce_values(&mut self) {
        let has_value = |one: &Decision| !is_of_act(one) && one.choice != Choice::Strikes;
        let valued = |this: &Self| this.best.iter().filter(has_value).collect::<Vec<_>>();
        self.halve(
            |this| valued(this).len(),
            |this, range| {
                let valued = valued(this).into_iter().take(range.end).skip(range.start);
                let least = valued.map(|one| Decision { choice: Choice::Strikes, ..one });
                this.tries(this.with(least))
            },
        );
        for decision in valued(self) {
            if !self.best.iter().any(|one| one == decision) {
                continue; // the best world no longer has it
            }
            for choice in simpler(decision.choice) {
                let reduced = Decision { choice, ..decision.clone() };
                if self.is_over() || self.tries(self.with([reduced])) {
                    break;
                }
            }
        }
    }
}

fn hash(decisions: &Decisions) -> u64 {
    let mut hasher = DefaultHasher::new();
    decisions.hash(&mut hasher);
    hasher.finish()
}

/// Whether it leaves out or shortens an act.
fn is_of_act(decision: &Decision) -> bool {
    [SKIP_ACT, SEND_ONLY].contains(&&*decision.name)
}

fn change(act: &PerformedAct, name: &str, choice: Choice) -> Decision {
    let (stream, number) = (act.stream.clone(), Number::Nth(act.number));
    Decision { stream, name: name.to_owned(), number, choice }
}

/// The number of the decision before. `None` if it is the first, or repeats.
fn earlier(number: Number) -> Option<Number> {
    match number {
        Number::Each(_) => None,
        Number::Nth(number) => number.checked_sub(1).map(Number::Nth),
    }
}

fn key(decision: &Decision) -> (&str, &str) {
    (&decision.stream, &decision.name)
}

/// A decision that stands for all of `group`, which are of one stream and name. `value` chooses
/// among the values: 0 is the least effect, 1 the median, and 2 the largest.
fn repeated(group: &[Decision], value: usize) -> Decision {
    let mut choices: Vec<_> = group.iter().map(|one| one.choice).collect();
    choices.sort_unstable();
    let choice = match value {
        0 => Choice::Strikes,
        1 => choices[choices.len() / 2],
        _ => choices[choices.len() - 1],
    };
    let first = &group[0];
    let last = group.iter().map(|one| match one.number {
        Number::Nth(number) => number + 1,
        Number::Each(period) => period.get(),
    });
    let period = last.max().unwrap_or(1).div_ceil(group.len() as u64);
    let period = if LASTING.contains(&&*first.name) { 1 } else { period.max(2) };
    let number = Number::Each(NonZeroU64::new(period).unwrap_or(NonZeroU64::MIN));
    Decision { number, choice, ..first.clone() }
}

/// The choice that stands for two. `None` if they are not of one kind.
fn sum(one: Choice, other: Choice) -> Option<Choice> {
    match (one, other) {
        (Choice::Strikes, Choice::Strikes) => Some(Choice::Number(2)),
        (Choice::Strikes, Choice::Number(n)) | (Choice::Number(n), Choice::Strikes) => {
            Some(Choice::Number(n.saturating_add(1)))
        }
        (Choice::Number(one), Choice::Number(other)) => {
            Some(Choice::Number(one.saturating_add(other)))
        }
        (Choice::Strikes, Choice::Time(time)) | (Choice::Time(time), Choice::Strikes) => {
            Some(Choice::Time(time))
        }
        (Choice::Time(one), Choice::Time(other)) => Some(Choice::Time(one.saturating_add(other))),
        (Choice::Number(_), Choice::Time(_)) | (Choice::Time(_), Choice::Number(_)) => None,
    }
}

/// Choices to try instead of `choice`: the smallest first, then a round one that is larger.
fn simpler(choice: Choice) -> Vec<Choice> {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (value, steps): (u64, &[u64]) = match choice {
        Choice::Strikes => return Vec::new(),
        Choice::Number(number) => (number, &[1, 2, 5]),
        Choice::Time(time) => (nanos(time), &[1]),
    };
    let choice = |value| match choice {
        Choice::Strikes | Choice::Number(_) => Choice::Number(value),
        Choice::Time(_) => Choice::Time(Duration::from_nanos(value)),
    };
    let power = 10_u64.pow(value.max(1).ilog10());
    let powers = (0..=power.ilog10()).map(|exponent| 10_u64.pow(exponent));
    let smaller = powers.flat_map(|power| steps.iter().filter_map(move |n| power.checked_mul(*n)));
    // The least effect was tried, and no delay is shorter than a microsecond.
    let min = if matches!(choice(0), Choice::Time(_)) { 1000 } else { 2 };
    let smaller = smaller.filter(|smaller| (min..value).contains(smaller));
    let round = value.div_ceil(power).checked_mul(power).filter(|round| *round != value);
    smaller.chain(round).map(choice).collect()
}

/// The most decisions that are not united, and whose numbers are tried one by one.
const FEW: usize = 16;
/// The most groups of which each one is kept alone.
const MAX_KEPT_GROUPS: usize = 8;
/// A run may take so many steps, even if the failing one has ended early.
const MIN_STEPS: u64 = 1000;
/// What may happen each time: no call and no segment waits for ever then.
///
/// It is a list because trying each period for each name takes too long: a call that blocks each
/// time never returns, and such a run lasts until its limit.
const LASTING: [&str; 14] = [
    SKIP_ACT,
    "accept_order",
    "alarms_first",
    "jitter",
    "latency",
    "latency_doubles",
    "no_splice",
    "segment_latency",
    "send_buffer_grows",
    "short_read",
    "short_write",
    "spurious_wake",
    "task",
    "usual_latency",
];

#[cfg(test)]
mod tests {
    use wirestate_core::{echo, runtime::Runtime as _, serve};

    use super::*;
    use crate::sim::{Act, Faults, Settings, TraceEvent, World, act};

    /// Shrinks the failure of `test`, which is in `source`, without a limit of time.
    fn shrink(source: &str, test: impl Fn()) -> Result<Smallest, &'static str> {
        let (run, _) = quietly(|| case::run(Mode::Random, None, &test));
        super::shrink(&test, source, run.steps, Duration::from_secs(3600))
    }

    /// A client performs `acts` on an echo server with faults. Returns what the server's end of the
    /// connection has done.
    fn echo(world: &World, faults: Faults, acts: Vec<Act>) -> Vec<TraceEvent> {
        let server = world.host("server");
        server.set_faults(faults);
        let listener = server.listen("server:7").unwrap();
        let echo = echo::Server::default();
        let serving = serve::Server::new(server.clone(), listener);
        server.run(serving.serve(move |_, now| echo.machine(now)));
        let client = world.host("client");
        let runtime = client.clone();
        let done = client.run(async move {
            let socket = runtime.connect("server:7").await.unwrap();
            act(runtime, socket, acts).await;
        });
        world.run_until(&done).unwrap();
        let trace = world.trace();
        let of_server = trace.of("client").filter(|entry| entry.to_string().contains("Server:"));
        of_server.map(|entry| entry.event.clone()).collect()
    }

    /// The decisions that are not about acts, one a line.
    fn faults(decisions: &Decisions) -> String {
        let faults = decisions.iter().filter(|one| !is_of_act(one));
        faults.map(|one| one.to_string()).collect::<Vec<_>>().join("\n")
    }

    fn upload() -> Vec<Act> {
        vec![Act::Send(vec![7; 60_000].into()), Act::Finish, Act::ReceiveAll]
    }

    fn count(events: &[TraceEvent], counts: impl Fn(&TraceEvent) -> bool) -> usize {
        events.iter().filter(|event| counts(event)).count()
    }

    #[test]
    fn many_decisions_become_one() {
        let few = Faults { short_read: 500, would_block: 200, ..Faults::NONE };
        let world = || World::with(3, Settings { buffer: 512, ..Settings::default() });
        let smallest = shrink(file!(), || {
            let events = echo(&world(), few.clone(), upload());
            let is_short = |event: &_| matches!(event, TraceEvent::Received { bytes: 1..100, .. });
            assert!(count(&events, is_short) < 20, "twenty short reads");
        });
        let smallest = smallest.unwrap_or_else(|error| panic!("{error}"));
        let Smallest { decisions, runs, is_minimal, .. } = smallest;
        let decisions = faults(&decisions);
        assert_eq!((&*decisions, is_minimal), ("client/0 Server: short_read *", true));
        assert!(runs < 150, "{runs}");

        // No call returns if each one blocks.
        let smallest = shrink(file!(), || {
            let events = echo(&world(), few.clone(), upload());
            let blocks = |event: &_| matches!(event, TraceEvent::Fault("would_block", ..));
            assert!(count(&events, blocks) < 20, "twenty calls that block");
        });
        let smallest = smallest.unwrap_or_else(|error| panic!("{error}"));
        let (decisions, runs) = (faults(&smallest.decisions), smallest.runs);
        assert!(decisions.contains("client/0 Server: would_block */"), "{decisions}");
        assert!(decisions.lines().count() <= 2 && runs < 250, "{decisions} {runs}");
    }

    #[test]
    fn a_test_that_waits_for_a_fault_is_ended() {
        let stalls = Faults { stall: 50, short_read: 100, ..Faults::NONE };
        let smallest = shrink(file!(), || {
            let world = World::with(1, Settings { buffer: 64, ..Settings::default() });
            let events = echo(&world, stalls.clone(), upload());
            while count(&events, |event| matches!(event, TraceEvent::Fault("stall", ..))) == 0 {
                world.run_for(Duration::from_secs(1)).unwrap();
            }
            panic!("a stall");
        });
        let smallest = smallest.unwrap_or_else(|error| panic!("{error}"));
        let decisions = faults(&smallest.decisions);
        assert!(decisions.starts_with("client/0 Server: stall "), "{decisions}");
        assert_eq!((decisions.lines().count(), smallest.is_minimal), (1, true), "{decisions}");
    }

    #[test]
    fn acts_are_left_out_if_the_panic_is_not_in_the_test() {
        let acts = |source| {
            let smallest = shrink(source, || {
                let one = || Act::Send("one".into());
                let acts = vec![one(), Act::Receive(3), one(), Act::Finish, Act::ReceiveAll];
                let events = echo(&World::new(1), Faults::NONE, acts);
                let reads = |event: &_| matches!(event, TraceEvent::Received { .. });
                assert!(count(&events, reads) == 0, "bytes are received");
            });
            let smallest = smallest.unwrap_or_else(|error| panic!("{error}"));
            smallest.acts.into_iter().map(|act| act.text).collect::<Vec<_>>()
        };
        assert_eq!(acts(file!()).len(), 5);
        assert_eq!(acts("elsewhere/tests/test.rs"), ["Send(b\"o\")", "ReceiveAll"]);
    }

    #[test]
    fn no_run_exceeds_the_time() {
        let test = || {
            let world = World::new(1);
            world.run_for(Duration::from_secs(1)).unwrap();
            panic!("a bug");
        };
        let over = super::shrink(&test, file!(), 1, Duration::ZERO).err();
        assert_eq!(
            over,
            Some("the time (WIRESTATE_SHRINK_SECONDS) was over before it failed again")
        );
        assert!(shrink(file!(), test).is_ok());
        let without_world = shrink(file!(), || panic!("a bug")).err();
        assert_eq!(without_world, Some("the failure does not depend on a world alone"));
    }
}
