//! The configuration file: each key is a flag.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::PathBuf,
};

use crate::{
    CommandError,
    server::{
        Configuration, Definition, ProcessFlags, ServerCommand, for_words, is_free_socket,
        recorded_words,
    },
    tls::ServerTlsFlags,
    toml_file::{self, Mistake, Value, shown},
};
use clap::{
    Arg, ArgAction, Args, FromArgMatches, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A configuration file.
#[derive(Clone, Debug)]
pub(crate) struct ConfigurationFile {
    pub(crate) path: PathBuf,
}

/// The keys at the top of the file.
#[derive(Args, Debug)]
struct TopFlags {
    #[command(flatten)]
    process: ProcessFlags,
    #[command(flatten)]
    tls: ServerTlsFlags,
}

impl ConfigurationFile {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or is wrong. The error has the line and the column.
    pub(crate) fn load(&self) -> Result<Configuration, CommandError> {
        toml_file::load(&self.path, parse)
    }
}

fn parse(text: &str) -> Result<Configuration, Mistake> {
    let document = toml_file::document(text)?;
    let (end, mut top) = (document.span().end, document.into_inner());
    let servers = top.remove("servers").ok_or_else(|| Mistake {
        at: end..end,
        message: "there is no server: add a table [servers.NAME]".into(),
    })?;
    let (flags, process_words) = top_flags(&top)?;
    let servers_at = servers.span();
    let DeValue::Table(tables) = servers.into_inner() else {
        return Err(Mistake::new(servers_at, "`servers` is a table: [servers.NAME]"));
    };
    let mut servers = Vec::new();
    let mut listening = BTreeMap::new();
    if let Some(status) = flags.process.status.clone() {
        listening.insert(status, "status".into());
    }
    for (name, table) in &tables {
        let (definition, addresses) = server(name, table)?;
        for address in addresses {
            if let Some(other) = listening.insert(address.clone(), definition.name.clone())
                && !is_free_socket(&address)
            {
                let message = format!("`{other}` listens on {address} as well");
                return Err(Mistake::new(table.span(), message));
            }
        }
        servers.extend(definition.with_publishers());
    }
    let mut names = BTreeSet::new();
    for definition in &servers {
        if !names.insert(&definition.name) {
            let message =
                format!("`{}` is the name of the publishers of a server", definition.name);
            return Err(Mistake::new(servers_at, message));
        }
    }
    if servers.is_empty() {
        return Err(Mistake::new(servers_at, "there is no server: add a table [servers.NAME]"));
    }
    let (process, status_tls) = (flags.process, Some(flags.tls));
    Ok(Configuration { process, status_tls, process_words, servers })
}

/// The keys at the top, as flags and as words.
fn top_flags(table: &DeTable<'_>) -> Result<(TopFlags, Vec<String>), Mistake> {
    let command = TopFlags::augment_args(clap::Command::new("serve"));
    let words = words(&for_words(command.clone()), table.iter())?;
    let matches = for_words(command).try_get_matches_from(&words);
    let flags = matches.and_then(|matches| TopFlags::from_arg_matches(&matches));
    let at = table.iter().next().map_or(0..0, |(key, _)| key.span());
    Ok((flags.map_err(|error| Mistake::new(at, message(&error)))?, words))
}

/// The server of a table, and the addresses that it listens on.
fn server(
    name: &Spanned<impl AsRef<str>>,
    table: &Value<'_>,
) -> Result<(Definition, Vec<String>), Mistake> {
    let (name_at, name) = (name.span(), name.get_ref().as_ref());
    let is_valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_valid) || name == "status" {
        let message = format!(
            "invalid name `{name}` of a server: expected 1 to {MAX_NAME} of the characters a-z, \
             A-Z, 0-9, `-`, `_` and `.`; `status` is the name of the status"
        );
        return Err(Mistake::new(name_at, message));
    }
    let DeValue::Table(keys) = table.get_ref() else {
        return Err(Mistake::new(table.span(), format!("a server is a table: [servers.{name}]")));
    };
    let commands = ServerCommand::augment_subcommands(clap::Command::new("serve"));
    let names = || {
        let names = commands.get_subcommands().map(clap::Command::get_name);
        names.collect::<Vec<_>>().join(", ")
    };
    let Some(command) = keys.get("command") else {
        let message = format!("the key `command` is missing; it is one of {}", names());
        return Err(Mistake::new(table.span(), message));
    };
    let known = command.get_ref().as_str().and_then(|command| commands.find_subcommand(command));
    let Some(known) = known else {
        let shown = shown(command.get_ref());
        let message = format!("unknown command '{shown}'; expected one of {}", names());
        return Err(Mistake::new(command.span(), message));
    };
    let others = keys.iter().filter(|(key, _)| key.get_ref() != "command");
    let mut line = vec![known.get_name().to_owned()];
    line.extend(words(&for_words(known.clone()), others)?);
    let at = || table.span();
    let matches = for_words(commands.clone())
        .try_get_matches_from(&line)
        .map_err(|error| Mistake::new(at(), message(&error)))?;
    let command = ServerCommand::from_arg_matches(&matches)
        .map_err(|error| Mistake::new(at(), message(&error)))?;
    command.check().map_err(|conflict| Mistake::new(at(), conflict))?;
    if command.reads_standard_input() {
        return Err(Mistake::new(at(), "a server of a file cannot read standard input"));
    }
    let flags = matches.subcommand().map(|(_, flags)| flags);
    let addresses = ["listen", "publishers"]
        .into_iter()
        .filter_map(|id| flags.and_then(|flags| flags.try_get_many::<String>(id).ok().flatten()));
    let addresses = addresses.flatten().cloned().collect();
    let recorded_words = recorded_words(&commands, &matches);
    Ok((Definition { name: name.into(), command, words: line, recorded_words }, addresses))
}

/// The words of a command line with the same flags as `keys`.
fn words<'a, 'i: 'a, K: AsRef<str> + 'a>(
    command: &clap::Command,
    keys: impl Iterator<Item = (&'a Spanned<K>, &'a Value<'i>)>,
) -> Result<Vec<String>, Mistake> {
    let mut words = Vec::new();
    for (key, value) in keys {
        let (key_at, key) = (key.span(), key.get_ref().as_ref());
        let flag = command.get_arguments().find(|flag| flag.get_long() == Some(key));
        let flag = flag.ok_or_else(|| Mistake::new(key_at, unknown_key(command, key)))?;
        let added = words_of_value(key, flag, value)?;
        for (word, at) in added {
            // Errors about other flags, which this one needs, are reported for all together.
            if let Err(error) = command.clone().try_get_matches_from([&word])
                && matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation)
            {
                let flag = error.get(ContextKind::InvalidArg).map(ToString::to_string);
                let message = message(&error).replace(&flag.unwrap_or_default(), key);
                return Err(Mistake::new(at, message));
            }
            words.push(word);
        }
    }
    Ok(words)
}

/// The words for a value of a key, and their places.
fn words_of_value(
    key: &str,
    flag: &Arg,
    value: &Value<'_>,
) -> Result<Vec<(String, Range<usize>)>, Mistake> {
    let is_switch = matches!(flag.get_action(), ArgAction::SetTrue);
    let is_list = matches!(flag.get_action(), ArgAction::Append);
    let word = |value: &Value<'_>| {
        let text = toml_file::word(value.get_ref()).filter(|_| !is_switch);
        let word = text.map(|text| (format!("--{key}={text}"), value.span()));
        word.ok_or_else(|| {
            let expected = match (is_switch, is_list) {
                (true, _) => "true or false, without quotes",
                (false, true) => "a string, or a list of strings",
                (false, false) => "one value, a string or a whole number",
            };
            let value_shown = shown(value.get_ref());
            let message = format!("invalid value '{value_shown}' for '{key}': expected {expected}");
            Mistake::new(value.span(), message)
        })
    };
    if let Some(is_on) = value.get_ref().as_bool().filter(|_| is_switch) {
        return Ok(is_on.then(|| (format!("--{key}"), value.span())).into_iter().collect());
    }
    match value.get_ref().as_array().filter(|_| is_list) {
        Some(values) if values.is_empty() => {
            Err(Mistake::new(value.span(), format!("'{key}' is an empty list: expected a value")))
        }
        Some(values) => values.iter().map(word).collect(),
        None => Ok(vec![word(value)?]),
    }
}

fn unknown_key(command: &clap::Command, key: &str) -> String {
    let error = command.clone().try_get_matches_from([format!("--{key}")]).err();
    let suggested = error.as_ref().and_then(|error| error.get(ContextKind::SuggestedArg));
    let process = TopFlags::augment_args(clap::Command::new(""));
    let is_of_process = process.get_arguments().any(|flag| flag.get_long() == Some(key));
    match suggested {
        _ if key == "server" => "unknown key `server`; a server is a table [servers.NAME]".into(),
        _ if is_of_process => {
            format!("`{key}` concerns the process: write it at the top of the file")
        }
        Some(ContextValue::String(flag)) => {
            format!("unknown key `{key}`; there is `{}`", flag.trim_start_matches('-'))
        }
        Some(_) | None => format!("unknown key `{key}`"),
    }
}

/// The text of an error without the syntax of a command line.
fn message(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let (text, _) = text.split_once("\n\n").unwrap_or((text, ""));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The longest name of a server, in bytes.
const MAX_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::bad_input::wrong_values;

    /// The message for a wrong file, with its line and column.
    fn mistake(text: &str) -> String {
        let mistake = parse(text).err().unwrap_or_else(|| panic!("accepted:\n{text}"));
        mistake.in_file(Path::new("f"), text).to_string()
    }

    #[test]
    fn a_mistake_has_its_place_its_value_and_what_is_expected() {
        let server = "[servers.a]\ncommand = \"echo-server\"\n";
        let api = "[servers.a]\ncommand = \"app-server\"\n";
        for (text, message) in [
            ("", "f:1:1: there is no server: add a table [servers.NAME]"),
            ("x", "f:1:2: key with no value, expected `=`"),
            ("[servers]", "f:1:1: there is no server: add a table [servers.NAME]"),
            ("servers = 1", "f:1:11: `servers` is a table: [servers.NAME]"),
            ("[servers]\na = 1", "f:2:5: a server is a table: [servers.a]"),
            (
                "[servers.\"a b\"]",
                "f:1:10: invalid name `a b` of a server: expected 1 to 64 of the characters a-z, \
                 A-Z, 0-9, `-`, `_` and `.`; `status` is the name of the status",
            ),
            (
                "[servers.a]",
                "f:1:1: the key `command` is missing; it is one of echo-server, app-server, \
                 fanout-source, fanout-server, proxy",
            ),
            (
                "[servers.a]\ncommand = \"echo\"",
                "f:2:11: unknown command 'echo'; expected one of echo-server, app-server, \
                 fanout-source, fanout-server, proxy",
            ),
            (
                &format!("{server}  idle-timeout = \"5\""),
                "f:3:18: invalid value '5' for 'idle-timeout': expected a time with its unit, as \
                 in 500ms, 5s or 1m 30s; or `off`",
            ),
            (
                &format!("{server}idle-timout = \"5s\""),
                "f:3:1: unknown key `idle-timout`; there is `idle-timeout`",
            ),
            (&format!("{server}zzz = 1"), "f:3:1: unknown key `zzz`"),
            (&format!("{server}help = true"), "f:3:1: unknown key `help`"),
            (
                &format!("{server}status = \"127.0.0.1:0\""),
                "f:3:1: `status` concerns the process: write it at the top of the file",
            ),
            (
                &format!("{api}one-shot = \"yes\""),
                "f:3:12: invalid value 'yes' for 'one-shot': expected true or false, without \
                 quotes",
            ),
            (
                &format!("{api}table = [\"a\", \"b\"]"),
                "f:3:9: invalid value '[…]' for 'table': expected one value, a string or a whole \
                 number",
            ),
            (
                &format!("{api}max-content = \"2MiB\"\nmax-memory = \"1MiB\""),
                "f:1:1: --max-memory 1MiB is below --max-content 2MiB",
            ),
            (
                &format!("{server}{}", server.replace("servers.a", "servers.b")),
                "f:3:1: `a` listens on 127.0.0.1:65432 as well",
            ),
            (
                &format!("status = '127.0.0.1:65432'\n{server}"),
                "f:2:1: `status` listens on 127.0.0.1:65432 as well",
            ),
            (
                &format!("{server}listen = [\"[::1]:7\", \"127.0.0.1:7\", \"[::1]:7\"]"),
                "f:1:1: --listen [::1]:7 is given twice",
            ),
            (
                &format!(
                    "{server}listen = ['[::1]:0', 'unix:a']\n\
                     [servers.b]\ncommand = 'proxy'\nlisten = ['[::1]:0', 'unix:a']",
                ),
                "f:4:1: `a` listens on unix:a as well",
            ),
            (
                "[servers.a]\ncommand = 'proxy'\nupstream = []",
                "f:3:12: 'upstream' is an empty list: expected a value",
            ),
            (
                &format!("{server}[server.b]"),
                "f:3:2: unknown key `server`; a server is a table [servers.NAME]",
            ),
            (
                "status-tls = true\n[servers.a]\ncommand = \"echo-server\"",
                "f:1:1: the following required arguments were not provided: --status <ADDR> \
                 --tls-cert <FILE>",
            ),
            (
                "lame-duck = 5\n[servers]",
                "f:1:13: invalid value '5' for 'lame-duck': expected a time with its unit, as in \
                 500ms, 5s or 1m 30s",
            ),
        ] {
            assert_eq!(mistake(text), message, "{text}");
        }
    }

    #[test]
    fn a_fan_out_that_cannot_be_a_server_of_a_file_is_a_mistake() {
        let echo = "[servers.a]\ncommand = \"echo-server\"\n";
        for (text, message) in [
            (
                "[servers.a]\ncommand = 'fanout-server'\nupstream = '-'",
                "f:1:1: a server of a file cannot read standard input",
            ),
            (
                "[servers.a]\ncommand = 'fanout-server'\npublishers = '127.0.0.1:1235'",
                "f:1:1: `a` listens on 127.0.0.1:1235 as well",
            ),
            (
                &format!(
                    "{}publishers = '127.0.0.1:65432'\n{echo}",
                    "[servers.b]\ncommand = 'fanout-server'\n"
                ),
                "f:1:1: `a` listens on 127.0.0.1:65432 as well",
            ),
            (
                &format!(
                    "{}publishers = '127.0.0.1:1'\n{}",
                    "[servers.b]\ncommand = 'fanout-server'\n",
                    echo.replace("servers.a", "servers.b-publishers")
                ),
                "f:1:2: `b-publishers` is the name of the publishers of a server",
            ),
        ] {
            assert_eq!(mistake(text), message, "{text}");
        }
    }

    /// Calls `check` with each key: its flag, a file up to the key, and the rest of the file.
    fn for_each_key(mut check: impl FnMut(&Arg, &str, &str)) {
        let top = TopFlags::augment_args(clap::Command::new("serve"));
        for flag in top.get_arguments() {
            check(flag, "", "\n[servers.a]\ncommand = 'echo-server'");
        }
        let commands = ServerCommand::augment_subcommands(clap::Command::new("serve"));
        for command in commands.get_subcommands() {
            let table = format!("[servers.a]\ncommand = '{}'\n", command.get_name());
            command.get_arguments().for_each(|flag| check(flag, &table, ""));
        }
    }

    #[test]
    fn a_key_of_the_wrong_type_is_an_error_at_its_value() {
        for_each_key(|flag, before, after| {
            let key = flag.get_long().unwrap();
            let mistake = mistake(&format!("{before}{key} = 1.5{after}"));
            let line = before.lines().count() + 1;
            let message =
                format!("f:{line}:{}: invalid value '1.5' for '{key}': expected ", key.len() + 4);
            assert!(mistake.starts_with(&message), "{mistake}");
        });
    }

    #[test]
    fn a_key_with_a_wrong_value_is_an_error_that_says_what_is_expected() {
        let mut count = 0;
        for_each_key(|flag, before, after| {
            let key = flag.get_long().unwrap();
            for (value, expected) in wrong_values(flag) {
                // The file is UTF-8.
                let Some(value) = value.to_str() else { continue };
                let mistake = mistake(&format!("{before}{key} = '{value}'{after}"));
                let line = before.lines().count() + 1;
                let place = format!("f:{line}:{}: ", key.len() + 4);
                assert!(mistake.starts_with(&place), "{key} = '{value}': {mistake}");
                for part in [value, key, expected] {
                    assert!(mistake.contains(part), "{part:?} is not in: {mistake}");
                }
                count += 1;
            }
        });
        assert!(count > 200, "{count}");
    }

    #[test]
    fn each_key_is_a_flag() {
        let text = r#"
            status = "127.0.0.1:0"
            lame-duck = "1s"
            [servers.relay]
            command = "proxy"
            upstream = ["127.0.0.1:1", "127.0.0.1:2"]
            pipes = 1_0
            accept-proxy = true
            [servers.api]
            command = "app-server"
            one-shot = false
        "#;
        let configuration = parse(text).unwrap_or_else(|mistake| panic!("{}", mistake.message));
        let words = configuration.servers.iter().map(|server| server.words.join(" "));
        assert_eq!(
            words.collect::<Vec<_>>(),
            [
                "app-server",
                "proxy --accept-proxy --pipes=10 --upstream=127.0.0.1:1 --upstream=127.0.0.1:2",
            ]
        );
        assert_eq!(configuration.process.status.as_deref(), Some("127.0.0.1:0"));
    }
}
