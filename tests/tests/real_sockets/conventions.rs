//! Scenarios of what a user expects of every command: colours, the log's levels, exit codes, and
//! errors that say what to write instead.

use std::{
    fs::File,
    io::Read,
    net::{Shutdown, TcpListener},
    process::{Command, Output},
};

use crate::{
    echo::exchange,
    process::{Server, command, on_terminal, run, text},
};

/// Runs `binary` with variables in its environment.
fn run_with(binary: &str, variables: &[(&str, &str)], words: &[&str]) -> Output {
    command(binary).args(words).envs(variables.iter().copied()).output().unwrap()
}

pub(crate) fn colours_obey_the_environment(binary: &str) {
    let neutral = |words: &[&str]| {
        let mut command = command(binary);
        for variable in ["NO_COLOR", "CLICOLOR_FORCE", "CI"] {
            command.env_remove(variable);
        }
        command.args(words).env("TERM", "xterm");
        command
    };
    // A log line of an error at the start, wrong usage, and help.
    let calls: [&[&str]; 3] = [
        &["echo-server", "--listen", "192.0.2.1:0"],
        &["echo-server", "--listen", "5"],
        &["echo-server", "--help"],
    ];
    for words in calls {
        let has_escapes = |bytes: &[u8]| bytes.contains(&b'\x1b');
        let shown = |name: &str, value: &str| {
            let (_, shown) = on_terminal(neutral(words).env(name, value));
            assert!(!shown.is_empty(), "{words:?}");
            has_escapes(&shown)
        };
        assert!(shown("TERM", "xterm"), "{words:?}");
        assert!(shown("NO_COLOR", ""), "{words:?}");
        assert!(!shown("NO_COLOR", "1"), "{words:?}");
        assert!(!shown("TERM", "dumb"), "{words:?}");
        let piped = |name: &str, value: &str| {
            let Output { stdout, stderr, .. } = neutral(words).env(name, value).output().unwrap();
            has_escapes(&stdout) || has_escapes(&stderr)
        };
        assert!(!piped("CLICOLOR_FORCE", ""), "{words:?}");
        assert!(piped("CLICOLOR_FORCE", "1"), "{words:?}");
        let mut both = neutral(words);
        let Output { stdout, stderr, .. } =
            both.env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
        assert!(!has_escapes(&stdout) && !has_escapes(&stderr), "{words:?}");
    }
}

pub(crate) fn a_dumb_terminal_gets_no_escape_sequences(binary: &str) {
    let server = Server::start(binary, &[]);
    for (terminal, escapes) in [("dumb", false), ("xterm", true)] {
        let mut client = command(binary);
        let client = client.args(["multiconn-client", &server.address]).env("TERM", terminal);
        let (status, shown) = on_terminal(client);
        assert_eq!(status.code(), Some(0));
        assert_eq!(shown.contains(&b'\x1b'), escapes, "{terminal}: {}", shown.escape_ascii());
    }
}

/// The log of a server that has served one connection.
fn log_of_a_connection(mut server: Command) -> String {
    server.args(["echo-server", "--listen", "127.0.0.1:0"]);
    let server = Server::start_command(server);
    let mut stream = server.connect();
    exchange(&mut stream, b"hello");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    server.stop()
}

pub(crate) fn each_v_adds_lines_to_the_log(binary: &str) {
    let log = |flag: &str| {
        let mut server = command(binary);
        server.arg(flag);
        log_of_a_connection(server)
    };
    let [v, vv, vvv] = ["-v", "-vv", "-vvv"].map(log);
    for log in [&v, &vv, &vvv] {
        assert!(log.contains("connected") && log.contains("closed: finished"), "{log}");
    }
    for (part, shown) in [("turn ", [false, true, true]), ("session.rs:", [false, false, true])] {
        assert_eq!([&v, &vv, &vvv].map(|log| log.contains(part)), shown, "{part}: {vvv}");
    }
    // A client, which logs to the same stream as it reports errors.
    let server = Server::start(binary, &[]);
    let client = |flag| run(binary, &["echo-client", &server.address, "--message", "hi", flag]);
    let [v, vv] = ["-v", "-vv"].map(|flag| text(&client(flag).stderr));
    assert!(v.contains(&format!("connected to {}", server.address)), "{v}");
    assert!(!v.contains("turn ") && vv.contains("turn received=2"), "{vv}");
}

pub(crate) fn a_filter_selects_lines_of_the_log(binary: &str) {
    let log = |filter: &str| {
        let mut server = command(binary);
        server.env("WIRESTATE_LOG", filter);
        log_of_a_connection(server)
    };
    let ready = "listening on ";
    for (filter, shown, hidden) in [
        ("debug", &["connected", "closed: ", "stopped"][..], &["turn "][..]),
        ("wirestate_core::serve=debug", &["connected", "stopped"], &["closed: "]),
        ("off,wirestate_core::admission=debug", &["closed: "], &["connected", "stopped"]),
        ("error", &[], &["stopped"]),
    ] {
        let log = log(filter);
        assert!(log.contains(ready), "{filter}: {log}");
        for part in shown {
            assert!(log.contains(part), "{filter}: {log}");
        }
        for part in hidden {
            assert!(!log.contains(part), "{filter}: {log}");
        }
    }
    let output = run_with(binary, &[("WIRESTATE_LOG", "loud")], &["demo"]);
    assert_eq!(output.status.code(), Some(2));
    let error = text(&output.stderr);
    assert!(error.contains("invalid value 'loud' for 'WIRESTATE_LOG': expected LEVEL"), "{error}");
}

pub(crate) fn text_that_cannot_be_written_fails(binary: &str) {
    let calls: [&[&str]; 5] = [
        &["--help"],
        &["--version"],
        &["echo-server", "--help"],
        &["completions", "bash"],
        &["man"],
    ];
    for words in calls {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command(binary).args(words).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        let expected = format!("{binary}: cannot write to standard output: No space left");
        let error = text(&output.stderr);
        assert!(error.starts_with(&expected) && error.lines().count() == 1, "{words:?}: {error}");

        let (reader, closed) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(binary).args(words).stdout(closed).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    }
}

pub(crate) fn a_misspelt_variable_is_warned_of(binary: &str) {
    let variables =
        [("WIRESTATE_LISTN", "127.0.0.1:1"), ("WIRESTATE_TABLE", "x"), ("WIRESTATE_CHUNK", "")];
    let mut server = command(binary);
    server.args(["echo-server", "--listen", "127.0.0.1:0"]).envs(variables);
    let log = Server::start_command(server).stop();
    let warning = "the environment variable WIRESTATE_LISTN has no effect: no server's flag \
                   has that name; did you mean WIRESTATE_LISTEN?";
    assert!(log.contains(&format!(" WARN {warning}\n")), "{log}");
    assert_eq!(log.matches(" WARN ").count(), 1, "another command has the others: {log}");

    let server = Server::start(binary, &[]);
    let words = ["echo-client", &server.address, "--message", "hi"];
    let output = run_with(binary, &variables, &words);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "hi\n"));
    assert_eq!(text(&output.stderr), format!("{binary}: warning: {warning}\n"));
}

pub(crate) fn an_error_says_what_to_do(binary: &str) {
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = format!("localhost:{}", listening.local_addr().unwrap().port());
    let calls: [(&[&str], &[&str]); 6] = [
        (
            &["echo-client", "no-such-host.invalid:1"],
            &["cannot connect to no-such-host.invalid:1: the host name cannot be resolved"],
        ),
        (
            &["echo-server", "--listen", "no-such-host.invalid:1"],
            &["cannot listen on no-such-host.invalid:1: the host name cannot be resolved"],
        ),
        (
            &["echo-server", "--listen", "192.0.2.1:0"],
            &["cannot listen on 192.0.2.1:0: Cannot assign", "`ip address` shows the addresses"],
        ),
        (
            &["echo-server", "--listen", &in_use],
            &[&format!("cannot listen on {in_use}: 127.0.0.1:"), "in use", "`ss -ltnp` shows"],
        ),
        (
            &["echo-client", "localhost:1", "--message", "hi"],
            &["cannot connect to localhost:1: ", "127.0.0.1:1: Connection refused"],
        ),
        (
            &["echo-client", "127.0.0.1:1", "--log-format", "json"],
            &["\"level\":\"ERROR\"", "\"message\":\"cannot connect to 127.0.0.1:1: Conn"],
        ),
    ];
    for (words, parts) in calls {
        let output = run(binary, words);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{words:?}");
        let error = text(&output.stderr);
        assert_eq!(error.lines().count(), 1, "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        // A client's error has no time and no level.
        let is_text = words[0] == "echo-client" && !words.contains(&"json");
        assert_eq!(error.starts_with(&format!("{binary}: ")), is_text, "{error}");
    }
}

pub(crate) fn variables_that_contradict_flags_are_named(binary: &str) {
    let variables = [("WIRESTATE_WINDOW", "100"), ("WIRESTATE_TABLE", "x")];
    let output = run_with(binary, &variables, &["fanout-server"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    let named = "by the environment: WIRESTATE_WINDOW\n";
    assert!(error.contains("--window 100B is smaller") && error.contains(named), "{error}");

    let output = run_with(binary, &[("WIRESTATE_TLS_KEY", "key.pem")], &["echo-server"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("--tls-cert <FILE>") && error.contains("WIRESTATE_TLS_KEY"), "{error}");

    // The same mistake in a flag and in a variable is the flag's.
    let variables = [("WIRESTATE_IDLE_TIMEOUT", "soon")];
    let output = run_with(binary, &variables, &["echo-server", "--idle-timeout", "soon"]);
    let error = text(&output.stderr);
    assert!(error.contains("'soon' for '--idle-timeout <TIME>'"), "{error}");
}
