//! Runs a test with many seeds, and names the seed that fails.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

/// Calls `test` with each seed from 0 to `default` − 1.
///
/// The environment variable `WIRESTATE_SEEDS` replaces the number of seeds; `WIRESTATE_SEED`
/// selects one seed. If `test` panics, its seed is printed to standard error, and the panic
/// continues.
///
/// ```
/// wirestate_testkit::for_each_seed(8, |seed| {
///     let world = wirestate_testkit::sim::World::new(seed);
///     assert_eq!(world.polls(), 0);
/// });
/// ```
///
/// # Panics
/// If `test` panics, or if one of the variables is not a number.
#[track_caller]
pub fn for_each_seed(default: u64, test: impl Fn(u64)) {
    let seeds = match (number("WIRESTATE_SEED"), number("WIRESTATE_SEEDS")) {
        (Some(seed), _) => seed..seed.saturating_add(1),
        (None, count) => 0..count.unwrap_or(default),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("failed with seed {seed}; WIRESTATE_SEED={seed} replays it");
            resume_unwind(panic);
        }
    }
}

#[track_caller]
fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    let Ok(number) = value.parse() else { panic!("{variable} must be a number, not {value:?}") };
    Some(number)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Starts this test as a child process, with a planted bug that seed 7 finds.
    #[test]
    fn a_failure_names_the_seed_that_replays_it() {
        const PLANTED: &str = "TEST_PLANTED_BUG";
        if env::var_os(PLANTED).is_some() {
            return for_each_seed(10, |seed| assert_ne!(seed, 7));
        }
        let run = |variable: &str, value: &str| {
            let mut test =
                Command::new(env::current_exe().expect("the test's executable has a path"));
            test.args(["--exact", "seeds::tests::a_failure_names_the_seed_that_replays_it"]);
            test.arg("--nocapture").env_remove("WIRESTATE_SEED").env_remove("WIRESTATE_SEEDS");
            let output =
                test.env(PLANTED, "1").env(variable, value).output().expect("the test starts");
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            (output.status.success(), stderr.contains("WIRESTATE_SEED=7 replays it"))
        };
        assert_eq!(run("OTHER", ""), (false, true));
        assert_eq!(run("WIRESTATE_SEEDS", "7"), (true, false), "from 0 to 6");
        assert_eq!(run("WIRESTATE_SEEDS", "8"), (false, true));
        assert_eq!(run("WIRESTATE_SEED", "7"), (false, true), "the failing seed alone");
        assert_eq!(run("WIRESTATE_SEED", "8"), (true, false));
    }
}
