//! The known differences of programs of others, with the reason of each.

use std::fmt;

use crate::scene::{End, Transcript};

/// What peers receive from some programs instead of what the scenes expect.
pub(crate) struct Difference {
    pub(crate) programs: &'static [&'static str],
    /// A scene, its peer, and what that peer receives instead.
    pub(crate) receives: &'static [(&'static str, &'static str, Instead)],
    /// Why, with the source.
    pub(crate) reason: &'static str,
}

impl Difference {
    /// A row of the table.
    fn row(&self, task: &str) -> String {
        let receives = self.receives.iter().map(|(scene, peer, instead)| match instead {
            Instead::NotPlayed => format!("{scene} ({instead})"),
            Instead::Fin | Instead::OnlyFin => format!("{scene} ({peer}: {instead})"),
        });
        let (programs, receives) =
            (self.programs.join(", "), receives.collect::<Vec<_>>().join("; "));
        format!("| {task} | {programs} | {receives} | {} |\n", self.reason)
    }
}

/// What a peer receives instead of the expected transcript.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instead {
    /// All expected bytes, and a FIN.
    Fin,
    /// No byte, and a FIN.
    OnlyFin,
    /// The scene is not played with the program, because it would not end, or depends on timing.
    NotPlayed,
}

impl Instead {
    /// Whether this is what the peer has received.
    pub(crate) fn is(self, received: &Transcript, expected: &Transcript) -> bool {
        let bytes = match self {
            Self::Fin => &expected.bytes[..],
            Self::OnlyFin => &[],
            Self::NotPlayed => return false,
        };
        received.bytes == bytes && received.end == End::Fin
    }
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fin => "FIN",
            Self::OnlyFin => "no byte, FIN",
            Self::NotPlayed => "not played",
        })
    }
}

/// Returns what a peer receives from a program instead of what the scene expects, if that is known.
pub(crate) fn find(
    known: &[Difference],
    program: &str,
    scene: &str,
    peer: &str,
) -> Option<Instead> {
    let of_program = known.iter().filter(|difference| difference.programs.contains(&program));
    let mut receives = of_program.flat_map(|difference| difference.receives);
    let found = receives.find(|(name, whose, _)| *name == scene && *whose == peer);
    found.map(|(_, _, instead)| *instead)
}

/// The known differences as a table of the documentation.
pub(crate) fn table() -> String {
    let head = "| task | program | what a peer receives | because |\n|---|---|---|---|\n";
    let echo = ECHO.iter().map(|difference| difference.row("echo"));
    let relay = RELAY.iter().map(|difference| difference.row("relay"));
    [head.to_owned()].into_iter().chain(echo).chain(relay).collect()
}

pub(crate) const ECHO: &[Difference] = &[Difference {
    programs: &["ncat"],
    receives: &[
        ("FIN after a byte", "client", Instead::NotPlayed),
        ("a late reader", "client", Instead::NotPlayed),
    ],
    reason: ENDS_AT_A_FIN,
}];

pub(crate) const RELAY: &[Difference] = &[
    Difference {
        programs: &["nginx"],
        receives: &[
            ("the client half-closes", "client", Instead::OnlyFin),
            ("a reply 0.8 s after the client's FIN", "client", Instead::OnlyFin),
            ("the upstream half-closes", "upstream", Instead::OnlyFin),
            ("1 MiB each way, to late readers", "client", Instead::OnlyFin),
        ],
        reason: "It closes both connections at the first FIN. `nginx with half-close` has \
                 [`proxy_half_close on`](https://nginx.org/en/docs/stream/\
                 ngx_stream_proxy_module.html#proxy_half_close).",
    },
    Difference {
        programs: &["socat"],
        receives: &[("a reply 0.8 s after the client's FIN", "client", Instead::OnlyFin)],
        reason: "After a FIN it waits 0.5 s for the other direction (socat(1), `-t`).",
    },
    Difference {
        programs: &["HAProxy"],
        receives: &[("the client's FIN at once", "upstream", Instead::NotPlayed)],
        reason: "If the FIN comes while it connects to the upstream, it resets that connection \
                 (`back_handle_st_con` in its `src/backend.c`).",
    },
    Difference {
        programs: &["ncat"],
        receives: &[
            ("the client half-closes", "client", Instead::OnlyFin),
            ("a reply 0.8 s after the client's FIN", "client", Instead::NotPlayed),
            ("1 MiB each way, to late readers", "client", Instead::OnlyFin),
        ],
        reason: ENDS_AT_A_FIN,
    },
    Difference {
        programs: &["ncat"],
        receives: &[
            ("the upstream half-closes", "client", Instead::NotPlayed),
            ("the upstream closes at once", "client", Instead::NotPlayed),
        ],
        reason: "Its command, `ncat HOST PORT`, ends only when its own input has ended, and not \
                 at the upstream's FIN ([Nmap's issue \
                 1779](https://github.com/nmap/nmap/issues/1779)).",
    },
    Difference {
        programs: &["nginx", "nginx with half-close", "socat", "ncat"],
        receives: &[
            ("the client resets", "upstream", Instead::Fin),
            ("the client closes with unread bytes", "upstream", Instead::Fin),
        ],
        reason: "They close(2) the other connection, which sends a FIN (RFC 9293, section 3.6).",
    },
    Difference {
        programs: &["nginx", "nginx with half-close", "HAProxy", "socat", "ncat"],
        receives: &[
            ("the upstream resets", "client", Instead::Fin),
            ("the upstream resets behind unread bytes", "client", Instead::Fin),
        ],
        reason: "They close(2) the client's connection, which sends a FIN.",
    },
];

const ENDS_AT_A_FIN: &str = "With `--sh-exec`, up to version 7.95, it ends at the client's FIN. \
    Output of the command that it has not read by then is lost ([Nmap's issue \
    962](https://github.com/nmap/nmap/issues/962)).";
