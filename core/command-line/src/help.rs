//! What the help and the manual page of a command end with: exit status, signals, environment and
//! examples.

use core::fmt::Write as _;

use clap::builder::{StyledStr, Styles};

use crate::{interrupt, signals};

/// A section of a command's help and of its manual page.
pub(super) struct Section {
    pub(super) title: &'static str,
    /// What is explained, and its explanation.
    pub(super) entries: Vec<(String, String)>,
}

/// The names of all commands.
pub(super) fn commands() -> impl Iterator<Item = &'static str> {
    NOTES.iter().map(|notes| notes.command).filter(|name| !name.is_empty())
}

/// The sections of the command called `command`, or of the program if it is empty.
pub(super) fn sections(program: &str, command: &str) -> Vec<Section> {
    let notes = NOTES.iter().find(|notes| notes.command == command);
    let notes = notes.expect("each command has its notes");
    let own = |entries: &[(&str, &str)]| {
        entries.iter().map(|(term, text)| ((*term).into(), (*text).into())).collect()
    };
    let is_server = notes.kind == Kind::Server;
    let examples = notes.examples.iter().map(|(line, text)| {
        let line = line.replace(PROGRAM, program);
        (line, (*text).to_owned())
    });
    let mut sections = vec![Section {
        title: "Exit status",
        entries: own(&[
            ("0", notes.success),
            ("1", notes.failure),
            ("2", "Wrong usage: an unknown flag, or a wrong value of a flag, a variable or a key"),
        ]),
    }];
    let signals = match notes.kind {
        Kind::Server => Some(own(&signals::HELP)),
        Kind::ReportingClient => Some(own(&interrupt::HELP)),
        Kind::Other => Some(own(&[("SIGINT, SIGTERM, SIGHUP", "The process ends")])),
    };
    sections.extend(signals.map(|entries| Section { title: "Signals", entries }));
    let service_manager = if is_server { SERVICE_MANAGER } else { &[] };
    let environment = own(&[ENVIRONMENT, service_manager].concat());
    sections.push(Section { title: "Environment", entries: environment });
    sections.push(Section { title: "Examples", entries: examples.collect() });
    sections
}

/// The sections as text for the end of a command's help.
pub(super) fn text(sections: &[Section], styles: &Styles) -> StyledStr {
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let mut text = String::new();
    for Section { title, entries } in sections {
        let separator = if text.is_empty() { "" } else { "\n" };
        let _ = writeln!(text, "{separator}{header}{title}:{header:#}");
        for (term, explanation) in entries {
            let _ = writeln!(text, "  {literal}{term}{literal:#}\n          {explanation}");
        }
    }
    text.trim_end().to_owned().into()
}

/// Stands for the variables of flags.
pub(super) const VARIABLES: &str = "WIRESTATE_…";
/// Stands for the binary's name in texts about commands.
pub(super) const PROGRAM: &str = "PROGRAM";

/// What the sections of one command are made of.
struct Notes {
    /// The command's name; empty for the program itself.
    command: &'static str,
    kind: Kind,
    /// When the exit status is 0.
    success: &'static str,
    /// When the exit status is 1.
    failure: &'static str,
    /// Command lines, and what each does.
    examples: &'static [(&'static str, &'static str)],
}

#[derive(PartialEq, Eq)]
enum Kind {
    /// It runs until a signal.
    Server,
    /// It reports when a signal ends it.
    ReportingClient,
    Other,
}

/// One for the program, and one for each command.
const NOTES: &[Notes] = &[
    Notes {
        command: "",
        kind: Kind::Other,
        success: "Success; or the reader of standard output has closed it",
        failure: "Failure at run time: a refused connection, a port in use, a file that cannot be \
                  read. A line on standard error names it",
        examples: &[
            ("PROGRAM echo-server", "Send every byte back, on 127.0.0.1:65432"),
            ("PROGRAM echo-client --message hello", "Send it a line, and show the reply"),
            ("PROGRAM proxy --listen 127.0.0.1:7000 --upstream localhost:65432", "Relay port 7000"),
            ("PROGRAM help proxy", "Explain each flag of a command"),
        ],
    },
    Notes {
        command: "echo-server",
        kind: Kind::Server,
        success: SERVER_SUCCESS,
        failure: SERVER_FAILURE,
        examples: &[
            ("PROGRAM echo-server --listen 0.0.0.0:7000", "Serve all IPv4 addresses on port 7000"),
            (
                "PROGRAM echo-server --prefix 'Server received: ' --chunk 4KiB",
                "Put a text in front of each chunk that is sent back",
            ),
            (
                "PROGRAM echo-server --listen unix:/tmp/echo.sock --status 127.0.0.1:8001",
                "Listen on a Unix socket, and serve the status on http://127.0.0.1:8001",
            ),
        ],
    },
    Notes {
        command: "serve",
        kind: Kind::Server,
        success: "A signal has stopped the servers; or, with --check-config, the configuration is \
                  valid",
        failure: SERVER_FAILURE,
        examples: &[
            ("PROGRAM serve --config servers.toml", "Run the servers of a file"),
            ("PROGRAM serve --config servers.toml --check-config", "Say whether it is valid"),
        ],
    },
    Notes {
        command: "echo-client",
        kind: Kind::Other,
        success: "The input has ended, and everything that came back was shown; or the reader of \
                  standard output has closed it",
        failure: "The connection failed, or it ended before a reply or the end of the input, or a \
                  reply took too long",
        examples: &[
            ("PROGRAM echo-client", "Converse with the server on 127.0.0.1:65432"),
            ("PROGRAM echo-client localhost:7000 --message hello", "Send one line"),
            (
                "cat photo.jpg | PROGRAM echo-client unix:/tmp/echo.sock | cmp - photo.jpg",
                "Send standard input to a Unix socket as it is, and compare what comes back",
            ),
        ],
    },
    Notes {
        command: "multiconn-client",
        kind: Kind::ReportingClient,
        success: "All bytes came back on all connections",
        failure: "A connection failed, or a byte did not come back as it was sent",
        examples: &[
            (
                "PROGRAM multiconn-client localhost:7000 50 --size 64KiB --rounds 100",
                "Send 50 times 100 messages, without waiting for the echo of each",
            ),
            (
                "PROGRAM multiconn-client localhost:7000 10 --rate 5000 --duration 1m",
                "Measure the latency at 5,000 messages a second",
            ),
            (
                "PROGRAM multiconn-client localhost:7000 10 --mode lockstep --rounds 1000 --json",
                "Send each message after the echo of the one before, and report as JSON",
            ),
        ],
    },
    Notes {
        command: "app-server",
        kind: Kind::Server,
        success: SERVER_SUCCESS,
        failure: SERVER_FAILURE,
        examples: &[
            (
                "PROGRAM app-server --table words.json",
                "Look up values in a file such as {\"ring\": \"one of twenty\"}",
            ),
            (
                "PROGRAM app-server --max-content 64KiB --idle-timeout 10s",
                "Accept shorter requests, and close idle connections sooner",
            ),
        ],
    },
    Notes {
        command: "app-client",
        kind: Kind::Other,
        success: "The result was shown",
        failure: "The table has no such entry, the server has reported an error, or no whole reply \
                  arrived",
        examples: &[
            ("PROGRAM app-client localhost:65433 search ring", "Look up an entry of the table"),
            ("PROGRAM app-client localhost:65433 greet world", "Send `greetworld` as bytes"),
        ],
    },
    Notes {
        command: "fanout-source",
        kind: Kind::Server,
        success: SERVER_SUCCESS,
        failure: SERVER_FAILURE,
        examples: &[
            (
                "PROGRAM fanout-source --rate 10000 --size 256",
                "Send 10,000 messages of 256 bytes a second",
            ),
            ("PROGRAM fanout-source --rate 0 --count 1000000", "Send a million, without a pause"),
        ],
    },
    Notes {
        command: "fanout-server",
        kind: Kind::Server,
        success: SERVER_SUCCESS,
        failure: SERVER_FAILURE,
        examples: &[
            (
                "PROGRAM fanout-server --upstream feed.example:1234 --frame lines",
                "Send the lines of a feed to all who connect to 127.0.0.1:1235",
            ),
            (
                "PROGRAM fanout-server --on-lag skip --window 64MiB --replay 100",
                "Let slow subscribers miss messages, and begin with the last 100",
            ),
            (
                "PROGRAM fanout-server --publish nats://127.0.0.1:4222/feed",
                "Publish the messages of 127.0.0.1:1234 to a stream of NATS",
            ),
            (
                "PROGRAM fanout-server --upstream nats://127.0.0.1:4222/feed --replay 100",
                "Send the messages of the stream to all who connect, from the last 100 on",
            ),
        ],
    },
    Notes {
        command: "fanout-client",
        kind: Kind::ReportingClient,
        success: "--count is reached; without --count, the server has ended the stream after a \
                  whole message; or the reader of standard output has closed it",
        failure: "The connection failed; or the stream ended by a reset, within a message, before \
                  --count, or before the first message, as at a full server",
        examples: &[
            ("PROGRAM fanout-client localhost:1235 > messages", "Write all messages to a file"),
            ("PROGRAM fanout-client --frame 256 --count 10 | head -c 512", "Show the first two"),
        ],
    },
    Notes {
        command: "proxy",
        kind: Kind::Server,
        success: SERVER_SUCCESS,
        failure: SERVER_FAILURE,
        examples: &[
            (
                "PROGRAM proxy --upstream localhost:9000 --upstream localhost:9001",
                "Relay connections to two servers in turn",
            ),
            (
                "PROGRAM proxy --upstream app.example:9000 --backup 10.0.0.9:9000 \
                 --check-interval 5s",
                "Balance over all addresses of a name, check them, and have a backup",
            ),
            (
                "PROGRAM proxy --listen 0.0.0.0:8443 --tls-cert server.pem --upstream localhost:80",
                "Serve with TLS what another server has without",
            ),
            (
                "PROGRAM proxy --accept-proxy --proxy-from 10.0.0.0/8 --send-proxy v2",
                "Tell the upstream the client's address, which another proxy has told",
            ),
        ],
    },
    Notes {
        command: "demo",
        kind: Kind::Other,
        success: "Every byte was verified",
        failure: "A byte was lost or changed, or a server could not start",
        examples: &[("PROGRAM demo", "Run all servers and clients, and report")],
    },
    Notes {
        command: "replay",
        kind: Kind::Other,
        success: "The output and the end are the same",
        failure: "They differ, or the recording cannot be read. A line names the place",
        examples: &[
            ("PROGRAM replay recordings/FILE.wsr", "Replay a session"),
            ("PROGRAM replay recordings/FILE.wsr --events", "Show what happened in it"),
            ("PROGRAM replay recordings/FILE.wsr --shrink > test.rs", "Make a test of it"),
        ],
    },
    Notes {
        command: "completions",
        kind: Kind::Other,
        success: WRITTEN,
        failure: NOT_WRITTEN,
        examples: &[
            ("source <(PROGRAM completions bash)", "Load them into this bash"),
            ("PROGRAM completions fish | source", "Load them into this fish"),
        ],
    },
    Notes {
        command: "man",
        kind: Kind::Other,
        success: WRITTEN,
        failure: NOT_WRITTEN,
        examples: &[
            ("PROGRAM man echo-server | man -l -", "Read the page of a command"),
            ("PROGRAM man --dir /usr/local/share/man/man1", "Install the pages of all commands"),
        ],
    },
];

const SERVER_SUCCESS: &str = "A signal has stopped the server. A second signal ends it with that \
                              signal's status";
const SERVER_FAILURE: &str = "The server could not start: an address cannot be listened on, a file \
                              cannot be read. The log names it";
const WRITTEN: &str = "The text was written; or the reader of standard output has closed it";
const NOT_WRITTEN: &str = "The text cannot be written";

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        VARIABLES,
        "The value of the flag beside which it stands, unless the flag is given. Commas separate \
         several values. An empty variable counts as unset",
    ),
    ("NO_COLOR", "Not empty: no colours"),
    ("CLICOLOR_FORCE", "Not empty: colours even if the output is not a terminal"),
    ("TERM", "Unset or `dumb`: no colours, and no line that is overwritten in place"),
    ("RUST_BACKTRACE", "1: the log line of a panic has a backtrace"),
];

const SERVICE_MANAGER: &[(&str, &str)] = &[
    ("LISTEN_FDS, LISTEN_FDNAMES", "The sockets that the service manager passes"),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Where the service manager is notified"),
];

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::{Command, definition::definition};

    #[test]
    fn each_command_has_its_notes() {
        let all = definition("wirestate");
        let mut commands: Vec<_> = all.get_subcommands().map(clap::Command::get_name).collect();
        commands.push("");
        let mut noted: Vec<_> = NOTES.iter().map(|notes| notes.command).collect();
        commands.sort_unstable();
        noted.sort_unstable();
        assert_eq!(noted, commands);
    }

    #[test]
    fn each_example_is_a_command_line_that_is_accepted() {
        for notes in NOTES {
            assert!(!notes.examples.is_empty(), "{}", notes.command);
            for (line, _) in notes.examples {
                let (_, line) = line.split_once(PROGRAM).unwrap();
                let line = line.split(['|', '>', ')']).next().unwrap();
                // An argument in quotes has spaces.
                let parts = line.split('\'').enumerate();
                let words = parts.flat_map(|(index, part)| match index % 2 {
                    0 => part.split_whitespace().collect(),
                    _ => vec![part],
                });
                let words = ["wirestate"].into_iter().chain(words).map(OsString::from);
                match Command::parse("wirestate", words) {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.exit_code(), 0, "{line}: {error}"),
                }
            }
        }
    }
}
