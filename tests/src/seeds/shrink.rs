//! Makes a failing world smaller.

use std::{
    collections::BTreeSet,
    iter::once,
    sync::Arc,
    time::{Duration, Instant},
};

use super::panics::{Failure, quietly};
use crate::sim::{
    Decisions,
    case::{self, Mode, Run},
    decisions::{Choice, Decision, PerformedAct, SEND_ONLY, SKIP_ACT},
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

/// Looks for a smaller world in which `test` fails as it fails with random decisions, for at most
/// `limit`. `None` if it does not fail again, or if it creates no world.
///
/// First it makes whole kinds of decisions as in the quiet world, then all decisions of an end of
/// a connection. Next it leaves out acts of scripted peers, since that makes the runs shorter. Then
/// it drops groups of decisions, ever smaller ones, and shortens what peers send. Last it makes
/// numbers and times smaller. It repeats that until nothing changes.
///
/// A test often checks what its acts have sent, and fails if an act is missing. So an act is left
/// out only if the test passes without it in the quiet world.
pub(super) fn shrink(test: &dyn Fn(), limit: Duration) -> Option<Smallest> {
    let began = Instant::now();
    let (run, failure) = quietly(|| case::run(Mode::Record, test));
    let failure = failure.filter(|_| run.result.is_err() && run.worlds > 0)?;
    let mut shrinking = Shrinking {
        test,
        began,
        limit,
        runs: 1,
        failure,
        best: Decisions::default(),
        acts: Vec::new(),
    };
    // All decisions of the recording must give the same failure.
    if !shrinking.accepts(run.log.decisions) {
        return None;
    }
    shrinking.tries(Decisions::default());
    loop {
        let before = (shrinking.best.clone(), shrinking.acts.len());
        shrinking.drop_by(|one| one.name.clone());
        shrinking.drop_by(|one| one.stream.clone());
        shrinking.leave_out_acts();
        shrinking.drop_by(|one| (one.stream.clone(), one.name.clone(), one.number));
        shrinking.drop_and_renumber();
        shrinking.shorten_sends();
        shrinking.reduce_values();
        let is_over = shrinking.is_over();
        if is_over || before == (shrinking.best.clone(), shrinking.acts.len()) {
            let Shrinking { best: decisions, acts, failure, runs, .. } = shrinking;
            let (time, is_minimal) = (began.elapsed(), !is_over);
            return Some(Smallest { decisions, acts, failure, runs, time, is_minimal });
        }
    }
}

struct Shrinking<'a> {
    test: &'a dyn Fn(),
    began: Instant,
    limit: Duration,
    runs: u64,
    failure: Failure,
    best: Decisions,
    /// What the scripted peers of the best world do.
    acts: Vec<PerformedAct>,
}

impl Shrinking<'_> {
    fn is_over(&self) -> bool {
        self.began.elapsed() >= self.limit
    }

    fn run(&mut self, decisions: Decisions) -> (Run<()>, Option<Failure>) {
        self.runs += 1;
        // A test may wait for a fault that does not strike. The first run replays all of them.
        let deadline = (self.runs > 2).then_some(self.began + self.limit);
        quietly(|| case::run(Mode::Replay(Arc::new(decisions), deadline), self.test))
    }

    /// Runs a world, and keeps it if it fails like the first one.
    fn accepts(&mut self, candidate: Decisions) -> bool {
        let (run, failure) = self.run(candidate);
        let failure = failure.filter(|_| run.result.is_err());
        let Some(failure) = failure.filter(|failure| failure.is_like(&self.failure)) else {
            return false;
        };
        // Without the decisions that it has not asked for.
        self.best = run.log.decisions;
        self.acts = run.log.acts;
        self.failure = failure;
        true
    }

    /// As [`accepts`](Self::accepts), until the time is over.
    fn tries(&mut self, candidate: Decisions) -> bool {
        !self.is_over() && self.accepts(candidate)
    }

    /// Tries a world with changed acts, if the test passes with these acts in the quiet world.
    fn tries_acts(&mut self, changes: impl IntoIterator<Item = Decision>) -> bool {
        let candidate: Decisions = self.best.iter().chain(changes).collect();
        let acts: Decisions = candidate.iter().filter(is_of_act).collect();
        if self.is_over() || acts == candidate {
            return false;
        }
        let (run, _) = self.run(acts);
        run.result.is_ok() && self.tries(candidate)
    }

    /// Drops all decisions of one or more keys: first of half of the keys, then of ever fewer.
    /// Decisions about acts stay, since they make a world smaller.
    ///
    /// This is delta debugging (Zeller and Hildebrandt, 2002) without its test of single groups.
    fn drop_by<K: Ord>(&mut self, key: impl Fn(&Decision) -> K) {
        let mut size = usize::MAX;
        while size > 0 {
            let mut start = 0;
            loop {
                let drops = self.best.iter().filter(|one| !is_of_act(one));
                let keys: BTreeSet<K> = drops.map(|one| key(&one)).collect();
                size = size.min(keys.len().div_ceil(2));
                let group: BTreeSet<_> = keys.iter().skip(start).take(size).collect();
                if group.is_empty() {
                    break;
                }
                let is_kept = |one: &Decision| is_of_act(one) || !group.contains(&key(one));
                let rest = self.best.iter().filter(is_kept).collect();
                if !self.tries(rest) {
                    start += size;
                }
            }
            size /= 2;
        }
    }

    /// Drops a decision, or merges two that follow each other: one cut instead of two, or one
    /// delay. There are fewer calls then, so one other decision may come one call earlier.
    fn drop_and_renumber(&mut self) {
        let mut i = 0;
        while i < self.best.len() && self.best.len() <= FEW {
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
            let before = before.filter(|before| before.number + 1 == one.number);
            let has_merged = before.is_some_and(|before| {
                let sum = sum(before.choice, one.choice);
                before.choice = sum.unwrap_or(before.choice);
                sum.is_some()
            });
            if has_merged {
                merged[i..].iter_mut().filter(is_alike).for_each(|later| later.number -= 1);
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
                if is_of_act(&all[i]) || all[i].number == 0 {
                    return false;
                }
                all[i].number -= 1;
                let renumbered: Decisions = all.into_iter().collect();
                renumbered.len() == decisions.len() && self.tries(renumbered)
            })
    }

    fn leave_out_acts(&mut self) {
        let mut size = self.acts.len();
        while size > 0 {
            let mut start = 0;
            while start < self.acts.len() {
                let group = self.acts.iter().skip(start).take(size);
                let changes: Vec<_> =
                    group.map(|act| change(act, SKIP_ACT, Choice::Strikes)).collect();
                if !self.tries_acts(changes) {
                    start += size;
                }
            }
            size /= 2;
        }
    }

    /// Looks for the shortest length of each `Send` by bisection.
    fn shorten_sends(&mut self) {
        for act in self.acts.clone() {
            let mut range = 1..act.len;
            while !range.is_empty() && !self.is_over() {
                let middle = range.start.midpoint(range.end);
                let len = Choice::Number(middle as u64);
                if self.tries_acts(once(change(&act, SEND_ONLY, len))) {
                    range.end = middle;
                } else {
                    range.start = middle + 1;
                }
            }
        }
    }

    fn reduce_values(&mut self) {
        for decision in self.best.iter().collect::<Vec<_>>() {
            if is_of_act(&decision) {
                continue;
            }
            for choice in smaller(decision.choice) {
                let reduced = Decision { choice, ..decision.clone() };
                if self.tries(self.best.iter().chain(once(reduced)).collect()) {
                    break;
                }
            }
        }
    }
}

/// Whether it leaves out or shortens an act.
fn is_of_act(decision: &Decision) -> bool {
    [SKIP_ACT, SEND_ONLY].contains(&&*decision.name)
}

fn change(act: &PerformedAct, name: &str, choice: Choice) -> Decision {
    let (stream, number) = (act.stream.clone(), act.number);
    Decision { stream, name: name.to_owned(), number, choice }
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

/// Choices to try instead of `choice`, the smallest first: powers of two or, as times, of ten.
fn smaller(choice: Choice) -> Vec<Choice> {
    let powers = |base: u64, limit: u64| {
        let next = move |power: &u64| power.checked_mul(base);
        std::iter::successors(Some(base), next).take_while(move |power| *power < limit)
    };
    let values: Vec<_> = match choice {
        Choice::Strikes => return Vec::new(),
        Choice::Number(number) => powers(2, number).map(Choice::Number).collect(),
        Choice::Time(time) => {
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let times = powers(10, nanos).map(Duration::from_nanos);
            times.filter(|time| time.subsec_nanos() % 1000 == 0).map(Choice::Time).collect()
        }
    };
    once(Choice::Strikes).chain(values).collect()
}

/// The most decisions whose numbers are tried one by one.
const FEW: usize = 16;
