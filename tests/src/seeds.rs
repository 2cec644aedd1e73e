//! Runs a test with many seeds, and names the seed that fails.

use std::{
    env,
    fs::OpenOptions,
    io::Write as _,
    ops::Range,
    panic::{Location, resume_unwind},
    thread,
    time::{Duration, Instant},
};

use crate::sim::case;

/// Calls `test` with each seed from 0 to `default` − 1.
///
/// Environment variables replace this choice:
///
/// | variable | seeds |
/// |---|---|
/// | `WIRESTATE_SEEDS=2000` | from 0 to 1999 |
/// | `WIRESTATE_SEEDS=5000..7000` | from 5000 to 6999 |
/// | `WIRESTATE_SECONDS=60` | from 0, or the first of `WIRESTATE_SEEDS`, until 60 s have passed |
/// | `WIRESTATE_SEED=17` | only 17 |
///
/// `WIRESTATE_COUNTS=FILE` appends a line to the file: the test's name, and, separated by tabs, the
/// number of seeds, the number of worlds that were created with them, the time in seconds, and
/// `ok` or the seed that has failed.
///
/// If `test` panics, its seed is printed to standard error, and the panic continues. After each
/// seed, the unfinished tasks of the worlds that `test` has created are dropped.
///
/// ```
/// wirestate_testkit::for_each_seed(8, |seed| {
///     let world = wirestate_testkit::sim::World::new(seed);
///     assert_eq!(world.polls(), 0);
/// });
/// ```
///
/// # Panics
/// If `test` panics, or if one of the variables has another form.
#[track_caller]
pub fn for_each_seed(default: u64, test: impl Fn(u64)) {
    let began = Instant::now();
    let (seeds, limit) = choice(default);
    let (mut tried, mut worlds) = (0, 0);
    for seed in seeds {
        if tried > 0 && limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        let (result, created) = case::run(|| test(seed));
        tried += 1;
        worlds += created;
        if let Err(panic) = result {
            count(tried, worlds, began, &seed.to_string());
            eprintln!("failed with seed {seed}; WIRESTATE_SEED={seed} replays it");
            resume_unwind(panic);
        }
    }
    count(tried, worlds, began, "ok");
}

/// The seeds of a test, and for how long new ones are tried.
#[track_caller]
fn choice(default: u64) -> (Range<u64>, Option<Duration>) {
    let seed = variable("WIRESTATE_SEED", "a number", |text| text.parse().ok());
    if let Some(seed) = seed {
        return (seed..seed.saturating_add(1), None);
    }
    let seconds = variable("WIRESTATE_SECONDS", "a number of seconds", |text| {
        Duration::try_from_secs_f64(text.parse().ok()?).ok()
    });
    let default = if seconds.is_some() { u64::MAX } else { default };
    let seeds = variable("WIRESTATE_SEEDS", "a number or a range such as 100..200", |text| {
        let Some((from, to)) = text.split_once("..") else { return Some(0..text.parse().ok()?) };
        let to = if to.is_empty() && seconds.is_some() { Some(u64::MAX) } else { to.parse().ok() };
        Some(from.parse().ok()?..to?)
    });
    (seeds.unwrap_or(0..default), seconds)
}

/// The value of an environment variable. `None` if it is not set.
#[track_caller]
fn variable<T>(name: &str, form: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let value = env::var(name).ok()?;
    let Some(parsed) = parse(&value) else { panic!("{name} must be {form}, not {value:?}") };
    Some(parsed)
}

/// Appends a line to the file that `WIRESTATE_COUNTS` names.
#[track_caller]
fn count(seeds: u64, worlds: u64, began: Instant, outcome: &str) {
    let Some(path) = env::var_os("WIRESTATE_COUNTS") else { return };
    // The test harness names the thread of a test.
    let thread = thread::current();
    let place = Location::caller().to_string();
    let test = thread.name().filter(|name| *name != "main").unwrap_or(&place);
    let seconds = began.elapsed().as_secs_f64();
    // One write, since other tests append to the file at the same time.
    let line = format!("{test}\t{seeds}\t{worlds}\t{seconds:.3}\t{outcome}\n");
    let file = OpenOptions::new().create(true).append(true).open(&path);
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        panic!("WIRESTATE_COUNTS names {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;
    use crate::sim::World;

    const PLANTED: &str = "TEST_PLANTED_BUG";

    /// Starts a test of this module as a child process. Returns whether it has passed, and its
    /// standard error.
    fn run(name: &str, variables: &[(&str, &str)]) -> (bool, String) {
        let mut test = Command::new(env::current_exe().expect("the test's executable has a path"));
        test.args(["--exact", &format!("seeds::tests::{name}"), "--nocapture"]);
        for variable in ["SEED", "SEEDS", "SECONDS", "COUNTS"] {
            test.env_remove(format!("WIRESTATE_{variable}"));
        }
        let output = test.env(PLANTED, "1").envs(variables.iter().copied()).output();
        let output = output.expect("the test starts");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
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
        assert!(passed[3].starts_with("0.1") && passed[4] == "ok", "{text}");
        assert_eq!((failed[1], failed[2], failed[4]), ("3", "6", "1000000000"), "{text}");
    }
}
