//! What a test has reached: faults, states, reasons, and marks of your own.
//!
//! A [`Coverage`] records what happens in its thread until it is dropped:
//!
//! - **Faults** that struck in a simulated [`World`](crate::sim::World), by their names in
//!   [`Faults`](crate::sim::Faults), and its other decisions with a chance, such as `alarms_first`.
//! - **States** ([`Status::state`](wirestate_core::Status::state)) and **reasons**
//!   ([`Reason::label`]) of each machine in a [`Checked`](crate::contract::Checked).
//! - **Marks**: [`sometimes!`](crate::sometimes) in a test or in a machine that is tested.
//!
//! A test demands what it must have reached. A demand fails with a list of what was never seen. So
//! a test cannot pass because its worlds have become tame.
//!
//! ```
//! use wirestate_core::{Instant, echo::{self, EchoReason}};
//! use wirestate_testkit::{contract::Checked, coverage::Coverage, script::{self, Op}, sometimes};
//!
//! let coverage = Coverage::start();
//! let config = echo::Config::default();
//! let limit = config.buffer_size();
//! let server = echo::Server::new(config)?;
//! for end in [Op::Eof, Op::Timeout] {
//!     let mut machine = Checked::new(server.machine(Instant::EPOCH), limit);
//!     let ops = [Op::Receive(b"hello".to_vec()), Op::Accept(5), end, Op::Finished, Op::Timeout];
//!     let transcript = script::play_out(&mut machine, &ops);
//!     sometimes!("a clean end", transcript.label == Some("finished"));
//! }
//! coverage.demand(["a clean end", "finished", "idle_timeout", "closing"]);
//!
//! // All labels of a reason, from the code of the reason.
//! assert_eq!(coverage.missing_reasons::<EchoReason>()[0], "shut_down");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Coverages may be nested; each records. Several threads of a test process do not mix.

use std::{
    any::type_name,
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    rc::Rc,
};

use wirestate_core::Reason;

/// Records that a place in a test or in a machine was reached, for a [`Coverage`] to
/// [demand](Coverage::demand). With a condition, it is reached when the condition is true.
///
/// Without a [`Coverage`] in the thread, it does nothing.
///
/// ```
/// use wirestate_testkit::{coverage::Coverage, sometimes};
///
/// let coverage = Coverage::start();
/// for size in [1, 100] {
///     sometimes!("a large one", size > 64);
///     if size < 10 {
///         sometimes!("a small one");
///     }
/// }
/// coverage.demand(["a large one", "a small one"]);
/// ```
#[macro_export]
macro_rules! sometimes {
    ($name:literal $(,)?) => {
        $crate::coverage::mark($name, true)
    };
    ($name:literal, $condition:expr $(,)?) => {
        $crate::coverage::mark($name, $condition)
    };
}

/// Records what the current thread reaches, from its start until it is dropped. `Display` writes a
/// report with a count of each. See the [module](self).
///
/// It takes memory for each name, not for each event.
#[derive(Debug)]
pub struct Coverage {
    seen: Rc<RefCell<Seen>>,
}

/// The counts of a [`Coverage`].
#[derive(Debug, Default)]
struct Seen {
    worlds: u64,
    machines: u64,
    faults: BTreeMap<&'static str, u64>,
    states: BTreeMap<OfMachine, u64>,
    reasons: BTreeMap<OfMachine, u64>,
    /// How often each mark was reached, and how often its condition was true.
    marks: BTreeMap<&'static str, (u64, u64)>,
}

/// The type of a machine's reason, and a name of a state or a reason.
type OfMachine = (&'static str, &'static str);

thread_local! {
    /// The coverages of this thread.
    static ACTIVE: RefCell<Vec<Rc<RefCell<Seen>>>> = const { RefCell::new(Vec::new()) };
}

impl Coverage {
    /// Starts to record.
    pub fn start() -> Self {
        let seen = Rc::<RefCell<Seen>>::default();
        ACTIVE.with_borrow_mut(|active| active.push(seen.clone()));
        Self { seen }
    }

    /// How many worlds were made.
    pub fn worlds(&self) -> u64 {
        self.seen.borrow().worlds
    }

    /// How many machines were wrapped by [`Checked`](crate::contract::Checked).
    pub fn machines(&self) -> u64 {
        self.seen.borrow().machines
    }

    /// The names that were seen: of faults, states, reasons, and marks whose condition was true.
    pub fn names(&self) -> BTreeSet<&'static str> {
        let seen = self.seen.borrow();
        let of_machines = seen.states.keys().chain(seen.reasons.keys()).map(|(_, name)| *name);
        let marks = seen.marks.iter().filter(|(_, (_, reached))| *reached > 0);
        seen.faults.keys().copied().chain(of_machines).chain(marks.map(|(name, _)| *name)).collect()
    }

    /// The labels of the reasons of type `R` that were seen.
    pub fn reasons<R: Reason>(&self) -> BTreeSet<&'static str> {
        let of_type =
            |(machine, label): &OfMachine| (*machine == type_name::<R>()).then_some(*label);
        self.seen.borrow().reasons.keys().filter_map(of_type).collect()
    }

    /// The labels of the reasons of type `R` that were not seen, of all that
    /// [`Reason::labels`] names.
    ///
    /// # Panics
    /// If `R` names none.
    #[track_caller]
    pub fn missing_reasons<R: Reason>(&self) -> Vec<&'static str> {
        let labels = R::labels();
        assert!(!labels.is_empty(), "{} does not list its labels", type_name::<R>());
        let seen = self.reasons::<R>();
        labels.into_iter().filter(|label| !seen.contains(label)).collect()
    }

    /// Demands that each of `names` was seen: a fault, a state, a reason of any machine, or a mark.
    ///
    /// # Panics
    /// If one was not. The message lists all that were not, and what was seen instead.
    #[track_caller]
    pub fn demand<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let seen = self.names();
        let missing: Vec<_> = names.into_iter().filter(|name| !seen.contains(name)).collect();
        self.check(&missing);
    }

    /// Demands that all reasons of type `R` were seen.
    ///
    /// # Panics
    /// If one was not. The message lists all that were not, and what was seen instead.
    #[track_caller]
    pub fn demand_reasons<R: Reason>(&self) {
        self.check(&self.missing_reasons::<R>());
    }

    /// As [`demand_reasons`](Self::demand_reasons), except for some labels, which the machine
    /// cannot reach.
    ///
    /// # Panics
    /// If one of the others was not seen, or one of `unreachable` was.
    #[track_caller]
    pub fn demand_reasons_except<R: Reason>(
        &self,
        unreachable: impl IntoIterator<Item = &'static str>,
    ) {
        let mut missing = self.missing_reasons::<R>();
        for label in unreachable {
            let is_missing = missing.contains(&label);
            assert!(is_missing, "{label} is reached, or no label of {}\n{self}", type_name::<R>());
            missing.retain(|missing| *missing != label);
        }
        self.check(&missing);
    }

    #[track_caller]
    fn check(&self, missing: &[&str]) {
        assert!(missing.is_empty(), "never seen: {}\n{self}", missing.join(", "));
    }
}

impl Drop for Coverage {
    fn drop(&mut self) {
        ACTIVE.with_borrow_mut(|active| active.retain(|seen| !Rc::ptr_eq(seen, &self.seen)));
    }
}

impl fmt::Display for Coverage {
    /// Writes one line for what was looked at, and one for each kind that was seen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.seen.borrow();
        write!(f, "in {} worlds and {} checked machines", seen.worlds, seen.machines)?;
        let faults = seen.faults.iter().map(|(name, count)| format!("{name} {count}"));
        let marks = seen
            .marks
            .iter()
            .map(|(name, (count, reached))| format!("\"{name}\" {reached} of {count}"));
        let lines = [("faults", faults.collect()), ("marks", marks.collect::<Vec<_>>())];
        for (kind, names) in lines.into_iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "\n{kind}: {}", names.join(", "))?;
        }
        for (kind, counts) in [("states", &seen.states), ("reasons", &seen.reasons)] {
            let mut last = "";
            for ((machine, name), count) in counts {
                let begin = if *machine == last { ", " } else { "" };
                if *machine != last {
                    write!(f, "\n{kind} of machines with {machine}: ")?;
                    last = machine;
                }
                write!(f, "{begin}{name} {count}")?;
            }
        }
        Ok(())
    }
}

/// Calls `record` for each coverage of this thread.
fn each(record: impl Fn(&mut Seen)) {
    // In the drop of a thread-local, there is none.
    let _ = ACTIVE.try_with(|active| {
        active.borrow().iter().for_each(|seen| record(&mut seen.borrow_mut()));
    });
}

/// Records a mark. Use [`sometimes!`](crate::sometimes).
pub fn mark(name: &'static str, is_reached: bool) {
    each(|seen| {
        let (count, reached) = seen.marks.entry(name).or_default();
        *count += 1;
        *reached += u64::from(is_reached);
    });
}

pub(crate) fn record_world() {
    each(|seen| seen.worlds += 1);
}

pub(crate) fn record_fault(name: &'static str) {
    each(|seen| *seen.faults.entry(name).or_default() += 1);
}

pub(crate) fn record_machine() {
    each(|seen| seen.machines += 1);
}

/// Records that a machine has entered a state.
pub(crate) fn record_state<R>(state: &'static str) {
    each(|seen| *seen.states.entry((type_name::<R>(), state)).or_default() += 1);
}

/// Records a reason of type `R`. `Checked` does so for its machine; a test can for others, such as
/// those that a server has counted.
pub fn record_reason<R: Reason>(label: &'static str) {
    each(|seen| *seen.reasons.entry((type_name::<R>(), label)).or_default() += 1);
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use wirestate_core::{Instant, echo};

    use super::*;
    use crate::{
        contract::Checked,
        script::{self, Op},
        sim::World,
    };

    fn echo(ops: &[Op]) {
        let machine = echo::Server::default().machine(Instant::EPOCH);
        let limit = echo::Config::default().buffer_size();
        script::play_out(&mut Checked::new(machine, limit), ops);
    }

    fn failure(demand: impl Fn()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(demand)).expect_err("the demand is not met");
        *panic.downcast().expect("it has a text")
    }

    #[test]
    fn a_demand_that_is_not_met_lists_what_was_never_seen_and_what_was() {
        let coverage = Coverage::start();
        echo(&[Op::Eof]);
        drop(World::new(1));
        record_fault("stall");
        for size in [1, 2] {
            sometimes!("large", size > 2);
            sometimes!("two", size == 2);
        }
        coverage.demand(["open", "closing", "finished", "stall", "two"]);
        let text = failure(|| coverage.demand(["stall", "large", "short_read", "large"]));
        assert_eq!(
            text,
            "never seen: large, short_read, large\n\
             in 1 worlds and 1 checked machines\n\
             faults: stall 1\n\
             marks: \"large\" 0 of 2, \"two\" 1 of 2\n\
             states of machines with wirestate_core::echo::connection::EchoReason: closing 1, \
             ended 1, open 1\n\
             reasons of machines with wirestate_core::echo::connection::EchoReason: finished 1"
        );
    }

    #[test]
    fn all_labels_of_a_reason_are_demanded_and_come_from_its_code() {
        let coverage = Coverage::start();
        echo(&[Op::Eof]);
        let connection_errors =
            ["reset", "timed_out", "unreachable", "wrote_zero", "layer", "system_error"];
        let missing = [&["shut_down", "idle_timeout"][..], &connection_errors].concat();
        assert_eq!(coverage.missing_reasons::<echo::EchoReason>(), missing);
        let text = failure(|| coverage.demand_reasons::<echo::EchoReason>());
        assert!(text.starts_with(&format!("never seen: {}\n", missing.join(", "))), "{text}");
        // Of another machine, none was seen.
        assert_eq!(coverage.reasons::<echo::ClientReason>(), BTreeSet::new());
    }

    #[test]
    fn it_records_its_own_thread_from_start_to_drop() {
        let outer = Coverage::start();
        let inner = Coverage::start();
        sometimes!("both");
        drop(inner);
        std::thread::spawn(|| sometimes!("elsewhere")).join().expect("it does not panic");
        sometimes!("outer");
        assert_eq!(outer.names(), BTreeSet::from(["both", "outer"]));
        drop(outer);
        sometimes!("later");
        assert_eq!(Coverage::start().names(), BTreeSet::new());
    }
}
