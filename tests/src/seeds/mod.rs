//! Runs a test with many seeds, and names the seed that fails.

mod printed;
mod saved;
mod shrink;

use std::{
    env,
    fs::OpenOptions,
    io::Write as _,
    ops::Range,
    panic::resume_unwind,
    sync::Arc,
    time::{Duration, Instant},
};

use self::saved::Case;
use crate::{
    failure::{Place, SHRINK_FOR, is_quiet, seconds, shrink_for, variable},
    pages,
    sim::{
        Decisions,
        case::{self, Mode},
    },
};

/// Calls `test` with each seed from 0 to `default` − 1.
///
/// If `test` panics, its seed is printed to standard error, and the panic continues. Before that,
/// if `test` creates a [`World`](crate::sim::World), its [`Decisions`] are made fewer and smaller
/// for at most 10 s, as far as it fails alike: at the same place, with the same message up to the
/// first comma, without figures. The rest is printed as a test that [`replay`]s it, for the same
/// module, and saved beside the test: the worlds of `tests/echo.rs` in `tests/echo.worlds`. The
/// next runs try the saved worlds first. Commit the file.
///
/// Environment variables replace the choice of seeds:
///
/// | variable | seeds |
/// |---|---|
/// | `WIRESTATE_SEEDS=2000` | from 0 to 1999 |
/// | `WIRESTATE_SEEDS=5000..7000` | from 5000 to 6999 |
/// | `WIRESTATE_SECONDS=60` | from 0, or the first of `WIRESTATE_SEEDS`, until 60 s have passed |
/// | `WIRESTATE_SEED=17` | only 17, without the saved worlds, and nothing is shrunk or saved |
///
/// `WIRESTATE_SHRINK_SECONDS` replaces the 10 s; with 0, nothing is shrunk or saved. If it is set,
/// a failure of `WIRESTATE_SEED` is shrunk as well.
///
/// `WIRESTATE_COUNTS=FILE` appends a line to the file: the test's name, and, separated by tabs, the
/// number of seeds, the number of worlds that were created with them, the time in seconds, and
/// `ok` or the seed that has failed.
///
/// A saved world has the name of the test with its modules, which is the name of the thread. After
/// each seed, the unfinished tasks of the worlds that `test` has created on this thread are
/// dropped.
///
/// ```
/// wirestate_testkit::for_each_seed(8, |seed| {
///     let world = wirestate_testkit::sim::World::new(seed);
///     assert_eq!(world.polls(), 0);
/// });
/// ```
///
/// # Panics
/// If `test` panics, if one of the variables has another form, or if the file of saved worlds has
/// an error.
#[track_caller]
pub fn for_each_seed(default: u64, test: impl Fn(u64)) {
    let began = Instant::now();
    let seeds = Seeds::chosen(default);
    let place = Place::of_caller();
    let saved = if seeds.is_single { Vec::new() } else { place.saved() };
    let (mut tried, mut worlds) = (0, 0);
    for case in saved {
        let run = case::run(Mode::Replay(Arc::new(case.decisions)), None, || test(case.seed));
        tried += 1;
        worlds += run.worlds;
        if let Err(panic) = run.result {
            count(tried, worlds, began, &case.seed.to_string());
            eprintln!("failed with a saved world of seed {}", case.seed);
            resume_unwind(panic);
        }
    }
    for seed in seeds.range {
        if tried > 0 && seeds.limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        let run = case::run(Mode::Random, None, || test(seed));
        tried += 1;
        worlds += run.worlds;
        if let Err(panic) = run.result {
            count(tried, worlds, began, &seed.to_string());
            // Otherwise this call is in a test that is being shrunk.
            if !is_quiet() {
                eprintln!("failed with seed {seed}; WIRESTATE_SEED={seed} replays it");
                if !seeds.shrink_for.is_zero() {
                    place.shrink(seed, &|| test(seed), run.steps, seeds.shrink_for);
                }
            }
            resume_unwind(panic);
        }
    }
    count(tried, worlds, began, "ok");
}

/// Calls `test` with `seed`. The worlds that it creates decide as listed in `decisions`: see
/// [`Decisions`].
///
/// `seed` only determines what the test itself does with it.
///
/// ```
/// use std::time::Duration;
/// use wirestate_core::{drive::Clock as _, runtime::Runtime as _};
/// use wirestate_testkit::{replay, sim::World};
///
/// let world = "
///     client/0 Client: latency 0 = 4ms  # both ways
/// ";
/// replay(17, world, |seed| {
///     let world = World::new(seed);
///     let runtime = world.host("client");
///     world.host("server");
///     let refused = world.host("client 2").run({
///         let runtime = runtime.clone();
///         async move { runtime.connect("server:7").await.err() }
///     });
///     let began = world.now();
///     assert!(world.run_until(&refused).unwrap().is_some());
///     assert_eq!(world.now().since(began), Duration::from_millis(8));
/// });
/// ```
///
/// # Panics
/// If `test` panics, or if `decisions` has an error, which the message names with its line.
#[track_caller]
pub fn replay(seed: u64, decisions: &str, test: impl FnOnce(u64)) {
    match decisions.parse::<Decisions>() {
        Ok(decisions) => decisions.replay(|| test(seed)),
        Err(error) => panic!("the decisions have an error in {error}"),
    }
}

impl Place {
    /// The saved worlds of this test.
    #[track_caller]
    fn saved(&self) -> Vec<Case> {
        let (Some(source), Some(test)) = (&self.file, &self.test) else { return Vec::new() };
        let file = saved::file(source);
        let mut cases =
            saved::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        cases.retain(|case| case.test == *test);
        cases
    }

    /// Shrinks a failure, saves it, and prints it as a test.
    fn shrink(&self, seed: u64, test: &dyn Fn(), steps: u64, limit: Duration) {
        let smallest = match shrink::shrink(test, self.location.file(), steps, limit) {
            Ok(smallest) => smallest,
            Err(reason) => return eprintln!("nothing to shrink: {reason}"),
        };
        let (runs, time) = (smallest.runs, smallest.time.as_secs_f64());
        if !smallest.is_minimal && smallest.decisions.len() > MANY {
            return eprintln!(
                "not saved: the smallest world that fails alike, of {runs} in {time:.1} s, has {} \
                 decisions; WIRESTATE_SHRINK_SECONDS=60 looks for longer",
                smallest.decisions.len()
            );
        }
        let name = self.test.clone().unwrap_or_else(|| "fails".to_owned());
        let case = Case { test: name, seed, decisions: smallest.decisions.clone() };
        let file = self.file.as_deref().map(saved::file).filter(|_| self.test.is_some());
        let saved = match file {
            None => "not saved, since the test has no name or no source file".to_owned(),
            Some(file) => match saved::append(&file, &case) {
                Ok(()) => format!("saved in {}", file.display()),
                Err(error) => format!("not saved in {}: {error}", file.display()),
            },
        };
        if pages::are_on() {
            // The page is of the smallest world, and no longer of the one that failed first.
            let decisions = Arc::new(smallest.decisions.clone());
            let _ = case::run(Mode::Replay(decisions), None, test);
        }
        let found = if smallest.is_minimal { "" } else { ", when the time was over" };
        let test = printed::test(self, &case, &smallest);
        eprintln!(
            "the smallest world that fails alike, of {runs} in {time:.1} s{found}; {saved}\n\n\
             {test}"
        );
    }
}

/// The seeds of a test.
struct Seeds {
    range: Range<u64>,
    /// Whether `WIRESTATE_SEED` has chosen one.
    is_single: bool,
    /// For how long new seeds are tried.
    limit: Option<Duration>,
    /// For how long a failure is made smaller.
    shrink_for: Duration,
}

impl Seeds {
    /// What the environment variables choose, or from 0 to `default` − 1.
    #[track_caller]
    fn chosen(default: u64) -> Self {
        let shrink_for = shrink_for();
        if let Some(seed) = variable("WIRESTATE_SEED", "a number", |text| text.parse().ok()) {
            let range = seed..u64::saturating_add(seed, 1);
            let shrink_for = shrink_for.unwrap_or_default();
            return Self { range, is_single: true, limit: None, shrink_for };
        }
        let limit = seconds("WIRESTATE_SECONDS");
        let default = if limit.is_some() { u64::MAX } else { default };
        let range = variable("WIRESTATE_SEEDS", "a number or a range such as 100..200", |text| {
            let Some((from, to)) = text.split_once("..") else {
                return Some(0..text.parse().ok()?);
            };
            let is_open = to.is_empty() && limit.is_some();
            Some(from.parse().ok()?..if is_open { u64::MAX } else { to.parse().ok()? })
        });
        let (range, shrink_for) = (range.unwrap_or(0..default), shrink_for.unwrap_or(SHRINK_FOR));
        Self { range, is_single: false, limit, shrink_for }
    }
}

/// Appends a line to the file that `WIRESTATE_COUNTS` names.
#[track_caller]
fn count(seeds: u64, worlds: u64, began: Instant, outcome: &str) {
    let Some(path) = env::var_os("WIRESTATE_COUNTS") else { return };
    let Place { location, test, .. } = Place::of_caller();
    let test = test.unwrap_or_else(|| location.to_string());
    let seconds = began.elapsed().as_secs_f64();
    // One write, since other tests append to the file at the same time.
    let line = format!("{test}\t{seeds}\t{worlds}\t{seconds:.3}\t{outcome}\n");
    let file = OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        panic!("WIRESTATE_COUNTS names {}: {error}", path.display());
    }
}

/// The most decisions of a world that is saved although the time was over.
const MANY: usize = 200;

#[cfg(test)]
mod tests {
    use std::{fs, panic::Location, process::Command};

    use super::*;
    use crate::sim::World;

    const PLANTED: &str = "TEST_PLANTED_BUG";

    /// Starts a test of this module as a child process. Returns whether it has passed, and its
    /// standard error.
    fn run(name: &str, variables: &[(&str, &str)]) -> (bool, String) {
        let mut test = Command::new(env::current_exe().expect("the test's executable has a path"));
        test.args(["--exact", &format!("seeds::tests::{name}"), "--nocapture"]);
        for variable in ["SEED", "SEEDS", "SECONDS", "COUNTS", "TIMELINE"] {
            test.env_remove(format!("WIRESTATE_{variable}"));
        }
        test.env("WIRESTATE_SHRINK_SECONDS", "0");
        let output = test.env(PLANTED, "1").envs(variables.iter().copied()).output();
        let output = output.expect("the test starts");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn a_test_has_no_saved_worlds_of_another_module() {
        let file = format!("wirestate-modules-{}.rs", std::process::id());
        let source = env::temp_dir().join(file);
        let worlds = saved::file(&source);
        for (test, seed) in [("one::fails", 1), ("two::fails", 2), ("fails", 3)] {
            let case = Case { test: test.to_owned(), seed, decisions: Decisions::default() };
            saved::append(&worlds, &case).expect("the file is written");
        }
        let place = |test: &str| Place {
            location: Location::caller(),
            file: Some(source.clone()),
            test: Some(test.to_owned()),
        };
        let seeds = |test| place(test).saved().iter().map(|case| case.seed).collect::<Vec<_>>();
        let found = ["one::fails", "two::fails", "fails", "three::fails"].map(seeds);
        fs::remove_file(worlds).expect("it can be removed");
        assert_eq!(found, [vec![1], vec![2], vec![3], vec![]]);
    }

    /// Starts itself as a child process, with a planted bug that seed 7 finds.
    #[test]
    fn a_failure_names_the_seed_that_replays_it() {
        if env::var_os(PLANTED).is_some() {
            return for_each_seed(10, |seed| assert_ne!(seed, 7));
        }
        let run = |variable, value| {
            let name = "a_failure_names_the_seed_that_replays_it";
            let (passed, stderr) = run(name, &[(variable, value)]);
            (passed, stderr.contains("WIRESTATE_SEED=7 replays it"))
        };
        assert_eq!(run("OTHER", ""), (false, true));
        assert_eq!(run("WIRESTATE_SEEDS", "7"), (true, false), "from 0 to 6");
        assert_eq!(run("WIRESTATE_SEEDS", "8"), (false, true));
        assert_eq!(run("WIRESTATE_SEEDS", "8..20"), (true, false));
        assert_eq!(run("WIRESTATE_SEEDS", "7..20"), (false, true));
        assert_eq!(run("WIRESTATE_SEED", "7"), (false, true), "the failing seed alone");
        assert_eq!(run("WIRESTATE_SEED", "8"), (true, false));
        assert_eq!(run("WIRESTATE_SECONDS", "60"), (false, true), "the bug ends it early");
        assert_eq!(run("WIRESTATE_SECONDS", "0"), (true, false), "one seed at least");
    }

    #[test]
    fn a_run_for_some_time_counts_its_worlds() {
        let name = "a_run_for_some_time_counts_its_worlds";
        if env::var_os(PLANTED).is_some() {
            return for_each_seed(1, |seed| {
                let worlds = [World::new(seed), World::new(seed)];
                let pending = worlds[0].host("host").run(std::future::pending::<()>());
                drop((worlds, pending));
                assert_ne!(seed, 1_000_000_000);
            });
        }
        let file = env::temp_dir().join(format!("wirestate-counts-{}", std::process::id()));
        let counts = file.to_str().expect("the path is UTF-8");
        let seconds = ("WIRESTATE_SECONDS", "0.1");
        assert!(run(name, &[("WIRESTATE_COUNTS", counts), seconds]).0);
        let range = ("WIRESTATE_SEEDS", "999999998..");
        assert!(!run(name, &[("WIRESTATE_COUNTS", counts), ("WIRESTATE_SECONDS", "60"), range]).0);
        let text = fs::read_to_string(&file).expect("the file was written");
        fs::remove_file(file).expect("it can be removed");
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
        let [passed, failed] = &lines[..] else { panic!("{text}") };
        let number = |text: &str| text.parse::<u64>().expect("a number");
        assert!(number(passed[1]) > 1 && number(passed[2]) == 2 * number(passed[1]), "{text}");
        assert!(!passed[3].starts_with("0.0") && passed[4] == "ok", "{text}");
        assert_eq!((failed[1], failed[2], failed[4]), ("3", "6", "1000000000"), "{text}");
    }
}
