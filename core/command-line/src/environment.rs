//! Environment variables that give the values of flags.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
};

use clap::{
    Arg,
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Makes an empty environment variable count as unset.
pub(super) fn without_empty_variables(command: clap::Command) -> clap::Command {
    without_variables_if(command, |name| env::var_os(name).is_some_and(|value| value.is_empty()))
}

/// Makes every environment variable count as unset.
pub(super) fn without_variables(command: clap::Command) -> clap::Command {
    without_variables_if(command, |_| true)
}

fn without_variables_if(
    command: clap::Command,
    is_left_out: impl Fn(&OsStr) -> bool + Copy,
) -> clap::Command {
    command
        .mut_args(
            |flag| if flag.get_env().is_some_and(is_left_out) { flag.env(None) } else { flag },
        )
        .mut_subcommands(|command| without_variables_if(command, is_left_out))
}

/// Whether an environment variable gives a flag.
pub(super) fn has_variables(command: &clap::Command) -> bool {
    command.get_arguments().any(|flag| variable(flag).is_some())
        || command.get_subcommands().any(has_variables)
}

/// Names the environment variables that have caused the `error` of `command`, if it was not caused
/// by flags alone.
pub(super) fn name_variables(error: &mut clap::Error, command: &clap::Command) {
    let is_of_value = matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation);
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if is_of_value => flag.clone(),
        _ => String::new(),
    };
    let flag = command.get_arguments().find(|known| known.to_string() == flag);
    if let Some(variable) = flag.and_then(variable) {
        error.insert(ContextKind::InvalidArg, ContextValue::String(variable));
    } else {
        let tip = StyledStr::from(variables_in_use(command));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
}

/// Tells which environment variables give flags of `command`.
pub(super) fn variables_in_use(command: &clap::Command) -> String {
    let variables: Vec<_> = command.get_arguments().filter_map(variable).collect();
    format!("flags are also given by the environment: {}", variables.join(", "))
}

/// The first environment variable for a flag of `command` whose value is not UTF-8, and its value.
pub(super) fn invalid_variable(command: &clap::Command) -> Option<String> {
    command.get_arguments().filter_map(variable).find_map(|name| {
        let value = env::var_os(&name).filter(|value| value.to_str().is_none())?;
        Some(format!("{name}={}", value.display()))
    })
}

/// The environment variable that gives this flag, if it is set.
fn variable(flag: &Arg) -> Option<String> {
    let name = flag.get_env()?;
    env::var_os(name).map(|_| name.to_string_lossy().into_owned())
}

/// A variable whose name begins as those of the flags do, and that is not one of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownVariable {
    pub(super) name: String,
    /// The most similar name of a variable that is used.
    pub(super) similar: Option<String>,
}

impl fmt::Display for UnknownVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the environment variable {} has no effect: no server's flag has that name",
            self.name
        )?;
        match &self.similar {
            Some(similar) => write!(f, "; did you mean {similar}?"),
            None => Ok(()),
        }
    }
}

/// The variables in the environment whose names begin with `WIRESTATE_`, and that neither a command
/// nor a test uses.
pub(super) fn unknown_variables(
    definition: impl FnOnce() -> clap::Command,
) -> Vec<UnknownVariable> {
    let names = env::vars_os().map(|(name, _)| name);
    let names: Vec<_> =
        names.filter(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes())).collect();
    if names.is_empty() { Vec::new() } else { unknown(&names, &definition()) }
}

fn unknown(names: &[OsString], definition: &clap::Command) -> Vec<UnknownVariable> {
    let commands = [definition].into_iter().chain(definition.get_subcommands());
    let known = commands.flat_map(clap::Command::get_arguments).filter_map(Arg::get_env);
    let known: Vec<_> = known.filter_map(OsStr::to_str).collect();
    let names = names.iter().map(|name| name.to_string_lossy());
    let is_known = |name: &str| known.contains(&name) || OF_TESTS.contains(&name);
    let unknown = names.filter(|name| !is_known(name));
    unknown
        .map(|name| {
            let similarity = |known: &str| {
                let [known, name] = [known, &*name].map(|name| &name[PREFIX.len()..]);
                strsim::normalized_damerau_levenshtein(known, name)
            };
            let known = known.iter().copied();
            let similar = known.max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
            let similar = similar.filter(|known| similarity(known) > MIN_SIMILARITY);
            UnknownVariable { similar: similar.map(str::to_owned), name: name.into_owned() }
        })
        .collect()
}

/// How the names of the variables of flags begin.
const PREFIX: &str = "WIRESTATE_";
/// The variables of the testkit. A server that a test starts inherits them.
const OF_TESTS: [&str; 5] = [
    "WIRESTATE_COUNTS",
    "WIRESTATE_SECONDS",
    "WIRESTATE_SEEDS",
    "WIRESTATE_SHRINK_SECONDS",
    "WIRESTATE_TIMELINE",
];
/// 1 less the share of characters that differ.
const MIN_SIMILARITY: f64 = 0.6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::definition;

    #[test]
    fn a_misspelt_variable_is_unknown_and_has_a_similar_name() {
        let similar = |name: &str| {
            let mut unknown = unknown(&[name.into()], &definition("wirestate"));
            unknown.pop().map(|variable| variable.similar)
        };
        for known in
            ["WIRESTATE_LISTEN", "WIRESTATE_LOG_FORMAT", "WIRESTATE_TABLE", "WIRESTATE_TIMELINE"]
        {
            assert_eq!(similar(known), None, "{known}");
        }
        for (name, expected) in [
            ("WIRESTATE_LISTN", Some("WIRESTATE_LISTEN")),
            ("WIRESTATE_IDLETIMEOUT", Some("WIRESTATE_IDLE_TIMEOUT")),
            ("WIRESTATE_MAX_CONNECTION", Some("WIRESTATE_MAX_CONNECTIONS")),
            ("WIRESTATE_STATSU", Some("WIRESTATE_STATUS")),
            ("WIRESTATE_FOO", None),
            ("WIRESTATE_", None),
            ("WIRESTATE_\u{fffd}", None),
        ] {
            assert_eq!(similar(name), Some(expected.map(str::to_owned)), "{name}");
        }
    }
}
