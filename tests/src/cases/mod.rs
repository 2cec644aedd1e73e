//! Runs a test with random cases, and prints the smallest one that fails as a test.

mod literal;
mod printed;
mod saved;
mod shrink;

use std::{
    any::{Any, type_name_of_val},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use proptest::{
    strategy::{Strategy, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use rand::RngExt as _;

pub use self::saved::proptest_config;
pub(crate) use self::{
    literal::{bytes_source, duration_source},
    printed::print_script,
    shrink::Smaller,
};
use crate::failure::{Failure, Place, SHRINK_FOR, is_quiet, quietly, shrink_for};

/// Calls `test` with random cases of `strategy`: `default` of them, or `PROPTEST_CASES`.
///
/// If `test` panics, the case is made smaller for at most 10 s (`WIRESTATE_SHRINK_SECONDS`), as far
/// as it fails alike: at the same place, with the same message up to the first comma, without
/// figures. From a script of [`script::ops_of`](crate::script::ops_of) or
/// [`stage::interleaved`](crate::stage::interleaved), nothing can be left out then. No panic is
/// printed meanwhile. The smallest case is printed as a test that calls [`replay_case`], for the
/// same module, and is then run as it would be there: its panic continues.
///
/// The failing case is saved beside the test: see [`proptest_config`], whose variables apply. The
/// next runs try it first. Commit the file. With `WIRESTATE_SHRINK_SECONDS=0`, the case is printed
/// as it was drawn, and is not saved.
///
/// The `Debug` of a case must be Rust source code. What the standard library's `Debug` leaves out
/// is added: `vec!`, the name of an enum before a variant, `to_owned` of a `String`. So it is for
/// [`Op`](crate::script::Op)s, numbers, texts, `Vec`, `Option`, `Duration`, tuples of these, and
/// your own types that derive `Debug` and have such fields. Draw what a configuration is made of,
/// and not the configuration. If the closure takes a tuple, each part is printed with its name
/// there.
///
/// ```
/// use wirestate_core::{Instant, echo};
/// use wirestate_testkit::{contract::Checked, for_each_case, script};
///
/// let server = echo::Server::default();
/// for_each_case(64, script::ops(40), |ops| {
///     let mut machine = Checked::new(server.machine(Instant::EPOCH), 65_536);
///     let transcript = script::play(&mut machine, &ops);
///     assert!(transcript.input.starts_with(&transcript.output));
/// });
/// ```
///
/// # Panics
/// If `test` panics, or if the strategy draws no case.
#[track_caller]
pub fn for_each_case<S: Strategy>(default: u32, strategy: S, test: impl Fn(S::Value)) {
    let place = Place::of_caller();
    let Some(found) = search(&place, default, &strategy, &test) else { return };
    if !is_quiet() {
        eprint!(
            "{}\n\n{}",
            found.summary(),
            printed::case(&place, &found, type_name_of_val(&test))
        );
    }
    found.fail(test);
}

/// Calls `test` with `case`.
///
/// ```
/// use wirestate_core::{Instant, echo};
/// use wirestate_testkit::{replay_case, script::{self, Op}};
///
/// let server = echo::Server::default();
/// let ops = vec![Op::Receive(b"a".to_vec()), Op::Accept(1)];
/// replay_case(ops, |ops| {
///     let transcript = script::play(&mut server.machine(Instant::EPOCH), &ops);
///     assert!(transcript.input.starts_with(&transcript.output));
/// });
/// ```
pub fn replay_case<T>(case: T, test: impl FnOnce(T)) {
    test(case);
}

/// A case that fails.
pub(crate) struct Found<T> {
    /// The smallest one.
    pub(crate) case: T,
    pub(crate) failure: Failure,
    panic: Box<dyn Any + Send>,
    /// How many cases have passed before. `None` if it was a saved one.
    passed: Option<u32>,
    /// How many runs it took to make it smaller.
    runs: u64,
    time: Duration,
    /// Whether nothing smaller fails, rather than that the time is over.
    is_minimal: bool,
    /// Where it is saved.
    saved: String,
}

impl<T> Found<T> {
    /// Fails with the smallest case.
    pub(crate) fn fail(self, test: impl Fn(T)) -> ! {
        test(self.case);
        eprintln!("but it has passed now: the test does not depend on its case alone");
        resume_unwind(self.panic);
    }

    /// What was found, and where it is saved, for the report of a failure.
    pub(crate) fn summary(&self) -> String {
        let Self { passed, runs, time, is_minimal, saved, .. } = self;
        let failed = match passed {
            Some(passed) => format!("failed after {passed} cases that passed"),
            None => "failed with a saved case".to_owned(),
        };
        let over = if *is_minimal { "" } else { ", when the time was over" };
        let time = time.as_secs_f64();
        format!(
            "{failed}\nthe smallest case that fails alike, of {runs} in {time:.1} s{over}{saved}"
        )
    }
}

/// The smallest case with which `test` panics.
#[track_caller]
pub(crate) fn search<S: Strategy>(
    place: &Place,
    default: u32,
    strategy: &S,
    test: &impl Fn(S::Value),
) -> Option<Found<S::Value>> {
    let mut config = Config { rng_algorithm: RngAlgorithm::ChaCha, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = default;
    }
    let keeps = config.failure_persistence.is_some();
    let file = place.file.as_deref().map(saved::file).filter(|_| keeps);
    let mut runner = TestRunner::new(config.clone());
    let saved = if keeps { saved::read(place) } else { Vec::new() };
    let mut saved = saved.into_iter();
    let mut passed = 0;
    while passed < config.cases || saved.len() > 0 {
        let saved = saved.next();
        // As proptest does, so that its files and seeds can be used.
        let seed = saved.unwrap_or_else(|| runner.rng().random::<[u8; 32]>());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut seeded = TestRunner::new_with_rng(config.clone(), rng);
        let mut tree = match strategy.new_tree(&mut seeded) {
            Ok(tree) => tree,
            Err(reason) => panic!("no case can be drawn: {reason}"),
        };
        if saved.is_none() {
            runner = seeded;
        }
        let Some((failure, panic)) = run(test, tree.current()) else {
            passed += u32::from(saved.is_none());
            continue;
        };
        let mut found = Found {
            case: tree.current(),
            failure,
            panic,
            passed: saved.is_none().then_some(passed),
            runs: 0,
            time: Duration::ZERO,
            is_minimal: false,
            saved: String::new(),
        };
        let limit = shrink_for().unwrap_or(SHRINK_FOR);
        if !is_quiet() && !limit.is_zero() {
            shrink::shrink(&mut tree, &mut found, limit, test);
            if let Some(file) = file.filter(|_| saved.is_none()) {
                found.saved = match saved::append(&file, &seed, place) {
                    Ok(()) => format!("; saved in {}", file.display()),
                    Err(error) => format!("; not saved in {}: {error}", file.display()),
                };
            }
        }
        return Some(found);
    }
    None
}

/// How `test` fails with `case`, if it fails. Nothing is printed.
fn run<T>(test: &impl Fn(T), case: T) -> Option<(Failure, Box<dyn Any + Send>)> {
    let (result, failure) = quietly(|| catch_unwind(AssertUnwindSafe(|| test(case))));
    Some((failure.unwrap_or_default(), result.err()?))
}
