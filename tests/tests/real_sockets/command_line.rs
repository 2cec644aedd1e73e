//! Scenarios of the command line: output and exit codes.

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Command, Stdio},
    thread,
};

use rustix::process::{Resource, getrlimit};

use crate::{
    echo::exchange,
    process::{Server, TemporaryFile, command, eventually, on_terminal, path, run, text},
    status,
};

pub(crate) const BINARIES: [&str; 3] = ["wirestate-tokio", "wirestate-smol", "wirestate-std"];

/// An address on which no socket listens.
pub(crate) fn unused_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn the_three_binaries_have_the_same_output() {
    let unused = unused_address();
    let calls: [&[&str]; 22] = [
        &[],
        &["--help"],
        &["--version"],
        &["echo-server", "--help"],
        &["echo-client", "--help"],
        &["multiconn-client", "--help"],
        &["fanout-source", "--help"],
        &["fanout-server", "--help"],
        &["fanout-client", "--help"],
        &["app-server", "--help"],
        &["app-client", "--help"],
        &["proxy", "--help"],
        &["demo", "--help"],
        &["app-server", "--max-header", "65536"],
        &["app-client", &unused, "search"],
        &["fanout-server", "--window", "100"],
        &["fanout-server", "--frame", "x"],
        &["proxy", "--upstream", "127.0.0.1:0"],
        &["echo-server", "--idle-timeout", "0s"],
        &["echo-server", "--listen", "nowhere"],
        &["frobnicate"],
        &["multiconn-client", &unused, "many"],
    ];
    for words in calls {
        let [first, others @ ..] = BINARIES.map(|binary| {
            let output = run(binary, words);
            let generic = |bytes: &[u8]| text(bytes).replace(binary, "wirestate");
            (generic(&output.stdout), generic(&output.stderr), output.status.code())
        });
        for other in others {
            assert_eq!(first, other, "{words:?}");
        }
    }
}

pub(crate) fn a_port_in_use_is_named(binary: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    for server in SERVERS {
        let output = run(binary, &[server, "--listen", &address]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        let output_text = text(&output.stderr);
        assert_eq!(output_text.lines().count(), 1, "{output_text}");
        assert!(
            output_text.contains(&format!("cannot listen on {address}: Address already in use")),
            "{output_text}"
        );
    }
}

pub(crate) fn a_refused_connection_is_named(binary: &str) {
    let address = unused_address();
    for words in [&["echo-client", &address][..], &["multiconn-client", &address, "100"]] {
        let output = run(binary, &[words, &["--retry-for", "0s"]].concat());
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        let named = format!("cannot connect to {address}: Connection refused");
        assert!(error.contains(&named), "{words:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let output = run(binary, &["multiconn-client", &address, "18446744073709551615"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("open files"), "{}", text(&output.stderr));
}

pub(crate) fn wrong_usage_exits_with_2(binary: &str) {
    let calls: [(&[&str], &str); 18] = [
        (&["echo-server", "--idle-timeout", "0"], "`off` means no limit"),
        (&["echo-server", "--idle-timeout", "x"], "expected a time with its unit, as in 500ms"),
        (&["echo-server", "--lame-duck", "x"], "expected a time with its unit, as in 500ms"),
        (&["echo-server", "--max-per-address", "0"], "`off` means no limit"),
        (&["echo-server", "--max-connections", "0"], "expected a whole number, at least 1"),
        (&["echo-server", "--max-connections", "1e3"], "expected a whole number, at least 1"),
        (&["fanout-server", "--frame", "x"], "expected a number of bytes, `lines` or `bytes`"),
        (&["fanout-server", "--window", "x"], "expected a number of bytes, as in 1024, 64KiB"),
        (&["fanout-server", "--upstream", "127.0.0.1:0"], "port 0 cannot be connected to"),
        (&["proxy", "--upstream", "127.0.0.1:1,127.0.0.1:0"], "port 0 cannot be connected to"),
        (&["fanout-client", "127.0.0.1:0"], "port 0 cannot be connected to"),
        (&["echo-server", "--chunk", "0"], "expected at least 1B"),
        (&["echo-server", "--listen", "127.0.0.1"], "write 127.0.0.1:PORT"),
        (&["echo-server", "--status", "127.0.0.1:0", "--status-host", ""], "expected a host name"),
        (
            &["echo-server", "--accept-proxy", "--proxy-from", "10.0.0.1/8"],
            "a range begins with its first address, write 10.0.0.0/8",
        ),
        (&["echo-client", "127.0.0.1:65536"], "`65536` is not a port"),
        (&["multiconn-client", "127.0.0.1:1", "0"], "expected a whole number, at least 1"),
        (&["multiconn-client", "--size", "5", "--message", "x"], "cannot be used with"),
    ];
    for (words, expected) in calls {
        let output = run(binary, words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty());
        let error = text(&output.stderr);
        assert!(error.contains(expected), "{words:?}: {error}");
    }
}

const SERVERS: [&str; 5] = ["echo-server", "app-server", "fanout-source", "fanout-server", "proxy"];

/// The help text of each flag and argument of a command.
fn described(binary: &str, command: &str) -> Vec<(String, String)> {
    let help = text(&run(binary, &[command, "--help"]).stdout);
    let mut described: Vec<(String, String)> = Vec::new();
    for line in help.lines().filter(|line| !line.is_empty()) {
        let name = line
            .split(|c: char| c != '-' && !c.is_ascii_lowercase())
            .find(|word| word.starts_with("--") && word.len() > 2);
        match (line.trim_start(), name) {
            // `--flag <VALUE>`, or `-f, --flag`.
            (begin, Some(name)) if begin.starts_with('-') && line.len() - begin.len() <= 6 => {
                described.push((name.to_owned(), String::new()));
            }
            // `<ARGUMENT>` or `[ARGUMENT]`, and the titles of sections.
            (begin, _) if line.len() - begin.len() <= 2 => {
                described.push((begin.to_owned(), String::new()));
            }
            (more, _) => {
                if let Some((_, help)) = described.last_mut() {
                    *help += more;
                    help.push(' ');
                }
            }
        }
    }
    described
}

/// The defaults in docs/operate.md and docs/fan-out.md.
pub(crate) fn the_help_shows_the_documented_defaults(binary: &str) {
    let common = [
        ("--max-connections", "10000, or what the limit of open files allows"),
        ("--max-per-address", "64"),
        ("--drain-timeout", "10s"),
        ("--lame-duck", "0s"),
        ("--proxy-from", "loopback addresses"),
    ];
    let own: [(&str, &[(&str, &str)]); 5] = [
        ("echo-server", &[("--listen", "127.0.0.1:65432"), ("--idle-timeout", "5m")]),
        (
            "app-server",
            &[
                ("--listen", "127.0.0.1:65433"),
                ("--max-header", "4KiB"),
                ("--max-content", "1MiB"),
                ("--idle-timeout", "1m"),
            ],
        ),
        (
            "fanout-source",
            &[("--listen", "127.0.0.1:1234"), ("--size", "1KiB"), ("--rate", "1000")],
        ),
        (
            "fanout-server",
            &[
                ("--upstream", "127.0.0.1:1234"),
                ("--listen", "127.0.0.1:1235"),
                ("--frame", "1KiB"),
                ("--window", "16MiB"),
                ("--on-lag", "disconnect"),
                ("--lag-wait", "1s"),
                ("--replay", "0"),
            ],
        ),
        (
            "proxy",
            &[
                ("--listen", "127.0.0.1:9500"),
                ("--upstream", "127.0.0.1:9000"),
                ("--balance", "round-robin"),
                ("--connect-timeout", "10s"),
                ("--idle-timeout", "10m"),
                ("--pipes", "256, or one per 32 open files if that is fewer"),
            ],
        ),
    ];
    let clients: [(&str, &[(&str, &str)]); 4] = [
        ("echo-client", &[("[ADDR]", "127.0.0.1:65432"), ("--retry-for", "1s")]),
        ("multiconn-client", &[("[ADDR]", "127.0.0.1:65432"), ("--connect-timeout", "10s")]),
        ("app-client", &[("--timeout", "30s"), ("--retry-for", "1s")]),
        ("fanout-client", &[("[ADDR]", "127.0.0.1:1235"), ("--frame", "1KiB")]),
    ];
    for (command, flags) in own.into_iter().chain(clients) {
        let described = described(binary, command);
        // `fanout-source` has no limits on connections, and accepts no PROXY headers.
        let common = match command {
            "fanout-source" => &common[2..4],
            server if SERVERS.contains(&server) => &common[..],
            _ => &[],
        };
        for (flag, default) in flags.iter().chain(common) {
            let help = described.iter().find(|(name, _)| name == flag).map(|(_, help)| help);
            let help = help.unwrap_or_else(|| panic!("{command} {flag}: {described:?}"));
            assert!(help.contains(&format!("[default: {default}]")), "{command} {flag}: {help}");
        }
    }
}

pub(crate) fn each_flag_of_a_server_has_its_environment_variable(binary: &str) {
    for server in SERVERS {
        let described = described(binary, server);
        let flags = described.iter().filter(|(name, _)| name.starts_with("--"));
        let mut count = 0;
        for (flag, help) in flags {
            if ["--help", "--version", "--verbose", "--quiet"].contains(&flag.as_str()) {
                continue;
            }
            let variable = match flag.as_str() {
                // The seed of tests is `WIRESTATE_SEED`.
                "--seed" => "FAULTS_SEED".to_owned(),
                flag => flag[2..].to_uppercase().replace('-', "_"),
            };
            // The value of one that may have a secret is not shown.
            let is_named = ["=", "]"]
                .iter()
                .any(|end| help.contains(&format!("[env: WIRESTATE_{variable}{end}")));
            assert!(is_named, "{server} {flag}: {help}");
            count += 1;
        }
        assert!(count >= 9, "{server}: {described:?}");
    }
}

pub(crate) fn flags_have_environment_variables(binary: &str) {
    let mut server = command(binary);
    server.arg("echo-server").env("WIRESTATE_LISTEN", "127.0.0.1:0").env("WIRESTATE_PREFIX", "> ");
    let server = Server::start_command(server);
    let mut stream = server.connect();
    stream.write_all(b"hi").unwrap();
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"> hi");

    let mut wrong = command(binary);
    let output = wrong.arg("echo-server").env("WIRESTATE_IDLE_TIMEOUT", "soon").output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(
        error.contains("invalid value 'soon' for 'WIRESTATE_IDLE_TIMEOUT': expected"),
        "{error}"
    );
}

/// An empty variable counts as unset: a script may forward variables that are not set.
pub(crate) fn an_empty_environment_variable_is_not_set(binary: &str) {
    let mut server = command(binary);
    server.args(["echo-server", "--listen", "127.0.0.1:0"]);
    for name in [
        "STATUS",
        "STATUS_HOST",
        "IDLE_TIMEOUT",
        "MAX_CONNECTIONS",
        "ACCEPT_PROXY",
        "PROXY_FROM",
        "LOG_FORMAT",
        "PREFIX",
        "CHUNK",
    ] {
        server.env(format!("WIRESTATE_{name}"), "");
    }
    let server = Server::start_command(server);
    let mut stream = server.connect();
    stream.write_all(b"hi").unwrap();
    let mut reply = [0; 2];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!((&reply, server.status.as_deref()), (b"hi", None));

    // An empty flag is an error.
    let output = run(binary, &["echo-server", "--status", ""]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

pub(crate) fn quiet_logs_only_the_ready_line(binary: &str) {
    let log = Server::start(binary, &["-q"]).stop();
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("listening on 127.0.0.1:"), "{log}");

    let server = Server::start(binary, &["-v"]);
    exchange(&mut server.connect(), b"hello");
    eventually("it is closed", || server.logged("closed: ") > 0);
    let log = server.stop();
    for expected in ["connected", "closed: finished", r#"reason="finished""#, "stopped"] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
}

/// The server and its status number their connections independently.
pub(crate) fn the_log_names_the_server_of_a_connection(binary: &str) {
    let flags = ["-v", "--status", "127.0.0.1:0", "--max-connections", "1"];
    for format in ["text", "json"] {
        let server = Server::start(binary, &[&flags[..], &["--log-format", format]].concat());
        let _only = server.connect();
        let mut refused = server.connect();
        assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0);
        assert_eq!(status::get(&server, "/healthz").0, 200);
        eventually("the status has answered", || server.logged("closed: finished") > 0);
        let log = server.stop();
        let named = |name: &str| match format {
            "text" => format!(r#"server="{name}""#),
            _ => format!(r#""server":"{name}""#),
        };
        let is_logged = |text: &str, server: &str| {
            log.lines().any(|line| line.contains(text) && line.contains(&named(server)))
        };
        assert!(is_logged("refusing connections", "echo-server"), "{log}");
        for name in ["echo-server", "status"] {
            assert!(is_logged("connected", name) && is_logged("closed: ", name), "{name}: {log}");
        }
    }
}

pub(crate) fn log_fields_are_fields_of_the_json_line(binary: &str) {
    let server = Server::start(binary, &["--log-format", "json", "-v"]);
    let address = server.address.clone();
    exchange(&mut server.connect(), b"hello");
    eventually("the connection is closed", || server.logged("closed: ") > 0);
    let log = server.stop();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is an object"))
        .collect();
    assert_eq!(lines[0]["address"], address);
    assert_eq!(lines[0]["message"], format!("listening on {address}"));
    let closed = lines.iter().find(|line| line["reason"] == "finished").expect("its end");
    assert!(closed["age_seconds"].as_f64().is_some_and(|seconds| seconds < 60.0), "{closed}");
    assert_eq!(closed["received"], 5);
    assert_eq!(lines.last().unwrap()["message"], "stopped");
}

pub(crate) fn the_first_log_line_is_listening_and_the_last_is_stopped(binary: &str) {
    let unused = unused_address();
    for server in ["fanout-server", "proxy"] {
        let server = Server::start_as(binary, server, &["--upstream", &unused]);
        drop(server.connect());
        eventually("the upstream refuses", || server.logged("refused") > 0);
        let log = server.stop();
        let lines: Vec<&str> = log.lines().collect();
        assert!(lines[0].contains("listening on "), "{log}");
        assert!(lines[lines.len() - 1].contains("stopped"), "{log}");
    }
}

/// The hard limit of open files.
pub(crate) fn max_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// A server's command under a limit of open files.
fn limited(binary: &str, files: u32, flags: &[&str]) -> Command {
    let script = format!(r#"ulimit -n {files}; exec "$0" echo-server --listen 127.0.0.1:0 "$@""#);
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(path(binary)).args(flags);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

pub(crate) fn a_warning_shows_how_many_connections_the_limit_of_open_files_allows(binary: &str) {
    // On the std runtime, a connection takes two files.
    let files = if binary == "wirestate-std" { 2 } else { 1 };
    let status = ["--status", "127.0.0.1:0"];
    let calls: [(u32, &[&str], u32); 3] = [
        (120, &[], 56),
        (64 + files, &[], files),
        (64 + 64 * files + 7 * files, &status, 7 * files),
    ];
    for (limit, flags, available) in calls {
        let log = Server::start_command(limited(binary, limit, flags)).stop();
        let possible = available / files;
        let expected =
            format!("the limit of {limit} open files (ulimit -n) allows {possible} connections");
        assert!(log.contains(&expected), "{flags:?}: {log}");
    }
    // Half of the default causes no warning, one less does.
    let half = 64 + 5000 * files;
    if max_files() < half.into() {
        eprintln!("NOT TESTED: there may not be {half} open files");
    } else {
        for (limit, warns) in [(half, false), (half - files, true)] {
            let log = Server::start_command(limited(binary, limit, &[])).stop();
            assert_eq!(log.contains("(ulimit -n) allows 4999 connections"), warns, "{log}");
            assert_eq!(log.contains("WARN"), warns, "{log}");
        }
    }
    let reserved = 64 + 64 * files;
    let calls: [(u32, &[&str], u32); 3] = [
        (64, &[], 64),
        (reserved, &status, reserved),
        (reserved, &["--status", "127.0.0.1:0", "--max-connections", "5"], reserved),
    ];
    for (limit, flags, reserved) in calls {
        let output = limited(binary, limit, flags).output().unwrap();
        let log = text(&output.stderr);
        let expected = format!(
            "no connection is possible: the limit of open files is {limit} (ulimit -n), and \
             {reserved} are reserved for other uses"
        );
        assert!(output.status.code() == Some(1) && log.contains(&expected), "{flags:?}: {log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
}

pub(crate) fn the_limit_of_open_files_is_raised_at_the_start(binary: &str) {
    let script =
        r#"ulimit -S -n 64; exec "$0" echo-server --listen 127.0.0.1:0 --status 127.0.0.1:0"#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(path(binary));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let server = Server::start_command(command);
    let files = if binary == "wirestate-std" { 2 } else { 1 };
    let possible = (max_files() - 64 - 64 * files) / files;
    let (_, content) = status::get(&server, "/");
    let page: serde_json::Value = serde_json::from_str(&content).unwrap();
    assert_eq!(page["servers"][0]["connections"]["limit"], possible.min(10_000), "{page}");
}

pub(crate) fn the_demo_reports_a_too_low_limit_of_open_files(binary: &str) {
    let output = Command::new("sh")
        .args(["-c", r#"ulimit -n 400; exec "$0" demo"#])
        .arg(path(binary))
        .output()
        .unwrap();
    let output_text = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output_text}");
    assert!(
        output_text.contains("100 connections need ") && output_text.contains("the limit is 400"),
        "{output_text}"
    );
    assert_eq!((output_text.lines().count(), output.stdout.len()), (1, 0), "{output_text}");
}

pub(crate) fn each_message_of_a_client_gets_its_reply(binary: &str) {
    let server = Server::start(binary, &[]);
    let words = ["echo-client", &server.address, "--message", "a", "--message", "b"];
    let output = run(binary, &words);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "a\nb\n"));

    let server = Server::start(binary, &["--prefix", "Server received: "]);
    let output = run(binary, &["echo-client", &server.address, "--message", "a"]);
    assert_eq!(text(&output.stdout), "Server received: a\n");
}

pub(crate) fn control_characters_are_escaped_on_a_terminal(binary: &str) {
    let echo = Server::start(binary, &[]);
    // Sequences that set the title, clear the screen (CSI of C1), and return to the start of the
    // line.
    let hostile = "\u{1b}]0;ü\u{7}\t\u{9b}2J\r\n\u{7f}";
    let escaped = "\\u{1b}]0;ü\\u{7}\t\\u{9b}2J\\r\n\\u{7f}";
    let table = serde_json::json!({ "hostile": hostile }).to_string();
    let table = TemporaryFile::new(&format!("{binary}-hostile.json"), table.as_bytes());
    let app = Server::start_as(binary, "app-server", &["--table", table.path()]);
    // The tenth byte is the first of four.
    let cut = b"First 10 bytes of request: 12345678\x1b\xf0";
    let calls: [(&[&str], &[u8], &str); 3] = [
        (&["echo-client", &echo.address, "--message", hostile], hostile.as_bytes(), escaped),
        (&["app-client", &app.address, "search", "hostile"], hostile.as_bytes(), escaped),
        (
            &["app-client", &app.address, "1234", "5678\u{1b}🐶"],
            cut,
            "First 10 bytes of request: 12345678\\u{1b}\\xf0",
        ),
    ];
    for (words, piped, shown) in calls {
        assert_eq!(run(binary, words).stdout, [piped, b"\n"].concat(), "data is not changed");

        let (status, bytes) = on_terminal(command(binary).args(words));
        assert_eq!(status.code(), Some(0));
        // A terminal's line feed is a carriage return as well (termios(3), ONLCR).
        assert_eq!(text(&bytes).replace("\r\n", "\n"), format!("{shown}\n"));
    }
    let output = run(binary, &["app-client", &app.address, "search", hostile]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let error = format!("{binary}: {}: the table has no entry for `{escaped}`\n", app.address);
    assert_eq!(text(&output.stderr), error);
}

pub(crate) fn a_client_notices_that_the_server_is_gone(binary: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = command(binary);
    client.args(["echo-client", &address]).stdin(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let input = client.stdin.take(); // no input follows
    drop(listener.accept().unwrap());
    let output = client.wait_with_output().unwrap();
    drop(input);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains(&format!("{address}: the server closed the connection")), "{error}");
}

pub(crate) fn a_closed_standard_output_ends_a_client_quietly(binary: &str) {
    let server = Server::start(binary, &[]);
    let mut client = command(binary);
    client.args(["echo-client", &server.address, "--message", "a"]).stdout(closed_pipe());
    let output = client.output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));

    // A failed verification is an error, even if the report cannot be written.
    let server = Server::start(binary, &["--prefix", "> "]);
    let mut client = command(binary);
    client.args(["multiconn-client", &server.address, "2"]).stdout(closed_pipe());
    assert_eq!(client.output().unwrap().status.code(), Some(1));
}

/// The server sends other bytes, echoes once, and closes.
pub(crate) fn a_server_may_close_after_its_reply(binary: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut message = [0; 2];
        stream.read_exact(&mut message).unwrap();
        stream.write_all(b"Server received: hi").unwrap();
    });
    let output = run(binary, &["echo-client", &address, "--message", "hi"]);
    server.join().unwrap();
    assert_eq!(text(&output.stdout), "Server received: hi\n");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}

pub(crate) fn names_and_ipv6_addresses_are_addresses(binary: &str) {
    for host in ["localhost", "[::1]"] {
        let mut server = command(binary);
        server.args(["echo-server", "--listen", &format!("{host}:0")]);
        let server = Server::start_command(server);
        let port = server.address.rsplit_once(':').unwrap().1;
        let address = format!("{host}:{port}");
        let output = run(binary, &["echo-client", &address, "--message", "hi"]);
        assert_eq!(text(&output.stdout), "hi\n", "{}", text(&output.stderr));
    }
    let output = run(binary, &["echo-client", "no-such-host.invalid:1", "--message", "hi"]);
    assert_eq!(output.status.code(), Some(1));
    let output_text = text(&output.stderr);
    assert!(output_text.contains("cannot connect to no-such-host.invalid:1"), "{output_text}");
}

pub(crate) fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// The last one of the JSON lines.
pub(crate) fn last_object(lines: &[u8]) -> serde_json::Value {
    serde_json::from_str(text(lines).lines().last().expect("there is a line")).unwrap()
}

pub(crate) fn many_connections_verify_every_byte(binary: &str) {
    let server = Server::start(binary, &[]);
    let calls: [(&[&str], u64, u64); 4] = [
        (&[], 20, 440),
        (&["--mode", "lockstep", "--rounds", "50"], 1000, 22_000),
        (&["--size", "300000", "--rounds", "3"], 30, 9_000_000),
        (&["--message", "x", "--in-flight", "3", "--rounds", "1000"], 10_000, 10_000),
    ];
    for (flags, messages, bytes) in calls {
        let words = [&["multiconn-client", &server.address, "10", "--json"], flags].concat();
        let output = run(binary, &words);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let report = last_object(&output.stdout);
        assert_eq!(report["complete"], 10, "{flags:?}: {report}");
        assert_eq!(report["messages"], messages, "{flags:?}: {report}");
        assert_eq!(report["bytes_sent"], bytes, "{flags:?}: {report}");
        assert_eq!(report["bytes_received"], bytes, "{flags:?}: {report}");
        let latency = &report["latency_us"];
        let quantiles = ["p50", "p90", "p99", "p99_9", "max"].map(|q| latency[q].as_f64().unwrap());
        assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{report}");
    }
    let output = run(binary, &["multiconn-client", &server.address, "3"]);
    let output_text = text(&output.stdout);
    assert!(output_text.contains("3 of 3 complete, every byte verified"), "{output_text}");
}

pub(crate) fn a_byte_that_comes_back_wrong_fails_the_run(binary: &str) {
    let server = Server::start(binary, &["--prefix", "Server received: "]);
    let output = run(binary, &["multiconn-client", &server.address, "2"]);
    assert_eq!(output.status.code(), Some(1));
    let output_text = text(&output.stdout);
    assert!(output_text.contains("0 of 2 complete\n"), "no byte was verified: {output_text}");
    assert!(
        output_text.contains("2 mismatch: byte 0 came back as 0x53, 0x4d was sent"),
        "{output_text}"
    );
}

/// Bytes that did not come back were not verified.
pub(crate) fn only_connections_that_are_complete_are_reported_as_verified(binary: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut echoed, _) = listener.accept().unwrap();
        let (dropped, _) = listener.accept().unwrap();
        drop(dropped);
        let mut back = echoed.try_clone().unwrap();
        std::io::copy(&mut echoed, &mut back).unwrap();
    });
    let output = run(binary, &["multiconn-client", &address, "2"]);
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let output_text = text(&output.stdout);
    assert!(
        output_text.contains("1 of 2 complete, every byte of these verified\n"),
        "{output_text}"
    );
}

pub(crate) fn the_demo_ends_by_itself(binary: &str) {
    let output = run(binary, &["demo"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report = text(&output.stdout);
    assert!(report.contains("100 of 100 complete, every byte verified"), "{report}");
    for server in ["proxy        ", "echo-server  "] {
        let line = format!("\n{server}100 connections: 100 finished; received ");
        assert!(report.contains(&line), "{report}");
    }
    assert!(report.contains("100 tasks on 10 connections send requests"), "{report}");
    assert!(report.contains("bad frames   4 of 4 answered by an error"), "{report}");
    let (_, fan_out) =
        report.split_once("subscribers  99 received at least ").expect("the fan-out's part");
    let mut words = fan_out.split_whitespace();
    let (min, published) = (words.next(), words.nth(1));
    assert_eq!(min, published, "the other subscribers lose nothing: {report}");
    assert!(fan_out.contains(" messages each, 0 gaps"), "{report}");
    assert!(fan_out.contains("stalled      1 disconnected because it lagged"), "{report}");
    let shown = text(&output.stderr);
    for line in shown.lines() {
        assert!(["echo", "search", "fan-out"].iter().any(|part| line.contains(part)), "{line}");
        assert!(!line.contains("fan-out: 0 in"), "shown before the first message: {shown}");
    }
    for line in report.lines().chain(shown.lines()) {
        assert!(line.chars().count() <= 80, "it fits into a terminal: {line}");
    }
}
