//! Each flag of each command with wrong values: the message has the value and says what is
//! expected.
//!
//! The tests walk through the definition of the command line, so they include new flags. The name
//! of a flag's value says what it is, and so which values are wrong: see [`wrong_values`].

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    process::Command as Process,
};

use clap::Arg;
use wirestate_core::quantity::{Size, Time};

use crate::{Command, definition::definition, values};

/// Wrong values of a flag, each with text that the message contains.
///
/// # Panics
/// The name of the flag's value is not in the list, so it does not say what the value is.
pub(crate) fn wrong_values(flag: &Arg) -> Vec<(OsString, &'static str)> {
    let texts = |values: &[(&str, &'static str)]| {
        values.iter().map(|&(value, expected)| (value.into(), expected)).collect()
    };
    if !flag.get_action().takes_values() {
        return texts(&[("maybe", "expected true or false"), ("2", "expected true or false")]);
    }
    if !flag.get_possible_values().is_empty() {
        return texts(&[("frobnicate", "possible values: "), ("", "possible values: ")]);
    }
    let names = flag.get_value_names().unwrap_or_default();
    let [name] = names else { panic!("{flag} has no name of its value, or several") };
    match name.as_str() {
        "ADDR" => texts(&[
            ("localhost", "write localhost:PORT"),
            ("127.0.0.1:65536", "expected a number from 0 to 65535"),
            (":5000", ":5000"),
            ("/tmp/x.sock", "write unix:/tmp/x.sock"),
            ("", "expected HOST:PORT or unix:PATH"),
        ]),
        "NATS_ADDR" => texts(&[
            ("localhost:4222", "expected nats://HOST/SUBJECT"),
            ("nats://localhost", "write nats://localhost:4222/SUBJECT"),
            ("nats://localhost/a.*", "a subject has a wildcard"),
            ("nats://localhost/a?x=y", "unknown parameter `x`"),
            ("", "expected nats://HOST/SUBJECT"),
        ]),
        "TIME" => texts(&[
            ("5", "expected a time with its unit, as in 500ms, 5s"),
            ("soon", "expected a time with its unit"),
            ("", "expected a time with its unit"),
        ]),
        "TEXT" if flag.get_long().is_some_and(|name| name.starts_with("check-")) => texts(&[
            ("PING\\q", "a backslash begins"),
            ("\\x0", "a backslash begins"),
            ("end\\", "a backslash begins"),
            ("", "expected 1 to 4096 bytes"),
        ]),
        "BYTES" => texts(&[
            ("0", "expected at least "),
            ("99999999TiB", "expected at most "),
            ("many", "expected a number of bytes"),
            ("", "expected a number of bytes"),
        ]),
        "BYTES|lines|bytes" => texts(&[
            ("0", "expected at least "),
            ("2MiB", "expected at most 1MiB"),
            ("words", "expected a number of bytes, `lines` or `bytes`"),
        ]),
        "N" | "CONNECTIONS" | "MESSAGES" | "PER_SECOND" => texts(&[
            ("many", "expected a whole number"),
            ("1e3", "expected a whole number"),
            ("18446744073709551616", "expected at most 18446744073709551615"),
            ("", "expected a whole number"),
        ]),
        "CIDR" => texts(&[
            ("10.0.0.0/33", "expected an address, or a range as in 10.0.0.0/8"),
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("", "expected an address"),
        ]),
        "PLAN" => texts(&[
            ("both.slice = 0", "expected at least 1B"),
            ("both.delay = 5", "expected a time with its unit"),
            ("to-client.reset.chance = 2", "expected a number from 0.001 to 1"),
            ("seed = 5", "unknown key `seed`; expected both, to-upstream or to-client"),
            ("", "expected a file, or a plan"),
        ]),
        "NAME" => texts(&[("a b", "expected a host name or an IP address")]),
        "FILTER" => texts(&[
            ("debgu", "expected LEVEL or MODULE=LEVEL"),
            ("wirestate_core=loud", "expected LEVEL or MODULE=LEVEL"),
            ("info,", "expected LEVEL or MODULE=LEVEL"),
        ]),
        "HOST" if flag.get_long() == Some("status-host") => texts(&[
            ("http://x", "expected a host name, without a scheme and a port"),
            ("x:80", "expected a host name, without a scheme and a port"),
            ("*", "expected a host name, without a scheme and a port"),
        ]),
        // Whether a file can be used shows when the command runs.
        "FILE" | "FOLDER" | "HOST" => texts(&[("", "a value is required")]),
        // Any text.
        "TEXT" | "ACTION" | "VALUE" => vec![(OsStr::from_bytes(b"\xff").into(), "expected UTF-8")],
        name => panic!("{flag}: which values of {name} are wrong?"),
    }
}

/// The commands and their flags, except for `--help` and `--version`.
fn commands_and_flags() -> Vec<(clap::Command, Vec<Arg>)> {
    let mut all = definition("wirestate");
    all.build();
    let commands = all.get_subcommands().filter(|command| command.get_name() != "help");
    commands
        .map(|command| {
            let is_own = |flag: &&Arg| !["help", "version"].contains(&flag.get_id().as_str());
            (command.clone(), command.get_arguments().filter(is_own).cloned().collect())
        })
        .collect()
}

/// Parses `words` after the program's name by the definition `all`. Returns the error message.
fn error(all: &clap::Command, words: &[&OsStr]) -> String {
    let words = [&[OsStr::new("wirestate")], words].concat().into_iter().map(OsString::from);
    let words: Vec<_> = words.collect();
    let Err(error) = Command::parse_by(all.clone(), &words) else { panic!("it is accepted") };
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

fn check(message: &str, flag: &Arg, value: &OsStr, expected: &str) {
    let value = value.to_string_lossy();
    assert!(message.contains(&*value), "{flag} {value}: {message}");
    assert!(message.contains(expected), "{flag} {value}: {expected:?} is not in: {message}");
}

#[test]
fn each_flag_with_a_wrong_value_says_what_is_expected() {
    let (all, mut count) = (definition("wirestate"), 0);
    for (command, flags) in commands_and_flags() {
        for flag in flags {
            let wrong = wrong_values(&flag);
            assert!(!wrong.is_empty(), "{flag}");
            for (value, expected) in wrong {
                let mut words = vec![OsStr::new(command.get_name())];
                let mut flag_and_value = OsString::from("--");
                if let Some(name) = flag.get_long() {
                    flag_and_value.push(name);
                    flag_and_value.push("=");
                    flag_and_value.push(&value);
                    words.push(&flag_and_value);
                } else {
                    // Arguments before it are right.
                    let before = command
                        .get_positionals()
                        .filter(|argument| argument.get_index() < flag.get_index());
                    words.extend(before.map(|_| OsStr::new("localhost:1")));
                    words.push(&value);
                }
                // A flag without a value.
                let is_switch = !flag.get_action().takes_values();
                let expected = if is_switch { "unexpected value" } else { expected };
                check(&error(&all, &words), &flag, &value, expected);
                count += 1;
            }
        }
    }
    assert!(count > 300, "{count}");
}

#[test]
fn defaults_have_the_form_of_times_and_sizes_in_messages() {
    for (_, flags) in commands_and_flags() {
        for flag in flags {
            let Some(name) = flag.get_value_names().and_then(|names| names.first()) else {
                continue;
            };
            let defaults = flag.get_default_values().iter().filter_map(|value| value.to_str());
            for default in defaults.filter(|default| *default != "off") {
                let expected = match name.as_str() {
                    "TIME" => Time(values::time(default).unwrap()).to_string(),
                    "BYTES" | "BYTES|lines|bytes" => {
                        Size(values::bytes(default).unwrap() as u64).to_string()
                    }
                    _ => continue,
                };
                assert_eq!(default, expected, "{flag}");
            }
        }
    }
}

#[test]
fn an_address_without_its_flag_or_in_two_words_has_a_tip() {
    let all = definition("wirestate");
    for (line, tip) in [
        ("echo-server 5000", "write 127.0.0.1:5000 for this machine alone"),
        ("echo-server :5000", "write 127.0.0.1:5000 for this machine alone"),
        ("echo-server localhost:5000", "is written --listen localhost:5000"),
        ("echo-server /tmp/x.sock", "write unix:/tmp/x.sock"),
        ("echo-server --port 5000", "is written --listen HOST:PORT"),
        ("proxy -p 5000", "is written --listen HOST:PORT"),
        ("echo-client localhost 5000", "an address is one word: localhost:5000"),
        ("echo-client ::1 5000", "an address is one word: [::1]:5000"),
        ("fanout-client localhost:1 5000", "unexpected argument '5000'"),
        ("man proxy 5000", "unexpected argument '5000'"),
    ] {
        let words: Vec<_> = line.split(' ').map(OsStr::new).collect();
        let error = error(&all, &words);
        assert!(error.contains(tip), "{line}: {error}");
    }
    let other = error(&all, &["echo-server".as_ref(), "--frobnicate".as_ref()]);
    assert!(!other.contains("--listen"), "{other}");
}

/// Whether the environment of this process has wrong values.
const IS_WRONG: &str = "WIRESTATE_TEST_WRONG_VALUES";

#[test]
fn each_variable_with_a_wrong_value_is_named() {
    let is_wrong = env::var_os(IS_WRONG).is_some();
    let mut process = Process::new(env::current_exe().unwrap());
    process.args(["--exact", "bad_input::each_variable_with_a_wrong_value_is_named"]);
    process.env(IS_WRONG, "");
    let mut count = 0;
    for (command, flags) in commands_and_flags() {
        for flag in flags {
            let Some(variable) = flag.get_env() else { continue };
            let (value, expected) = wrong_values(&flag).swap_remove(0);
            let variable = variable.to_str().unwrap();
            process.env(variable, &value);
            // An empty variable counts as unset.
            if !is_wrong || value.is_empty() {
                continue;
            }
            // All other variables are wrong as well.
            let id = flag.get_id().clone();
            let all = definition("wirestate").mut_args(|other| only(&id, other));
            let all = all.mut_subcommands(|command| command.mut_args(|other| only(&id, other)));
            let words = ["wirestate", command.get_name()].map(OsString::from);
            let Err(error) = Command::parse_by(all, &words) else { panic!("{flag} is accepted") };
            assert_eq!(error.exit_code(), 2);
            check(&error.to_string(), &flag, &value, expected);
            assert!(error.to_string().contains(variable), "{flag}: {error}");
            count += 1;
        }
    }
    if is_wrong {
        assert!(count > 60, "{count}");
        return;
    }
    let output = process.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Takes the variable of each flag but the one called `id`.
fn only(id: &clap::Id, flag: Arg) -> Arg {
    if flag.get_id() == id { flag } else { flag.env(None) }
}
